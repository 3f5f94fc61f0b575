"""The finetune section of a study file: completed from the task's own file, wrong words refused with a hint."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from medssl.core import plugins
from medssl.finetune.options import FinetuneOptions
from medssl.finetune.recipe import Recipe


@pytest.mark.parametrize("task", plugins.names("task"))
def test_a_task_brings_its_own_modes_and_options(task: str) -> None:
    settings = FinetuneOptions(source="a", task=task)
    plugin = plugins.find("task", task)
    assert settings.modes == plugin.constant("DEFAULT_MODES")
    assert settings.options == plugin.check({})
    assert FinetuneOptions(**settings.model_dump()) == settings


def test_defaults_of_the_recipe_are_those_of_the_study_file() -> None:
    settings = FinetuneOptions(source="a")
    assert {f.name: getattr(settings, f.name) for f in fields(Recipe)} == {f.name: f.default for f in fields(Recipe)}


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"task": "clasification"}, "Did you mean 'classification'"),
        ({"modes": ["liner"]}, "Did you mean 'linear'"),
        ({"modes": ["knn"], "task": "segmentation"}, "has no mode 'knn'"),
        ({"options": {"multilable": True}}, "Did you mean 'multilabel'"),
        ({"fractions": [0.0]}, "greater than 0"),
        ({"seeds": []}, "at least 1"),
        ({"mixup": -1}, "greater than or equal to 0"),
    ],
)
def test_wrong_words_and_values_are_refused(wrong: dict[str, Any], hint: str) -> None:
    with pytest.raises(ValidationError, match=hint):
        FinetuneOptions(source="a", **wrong)
