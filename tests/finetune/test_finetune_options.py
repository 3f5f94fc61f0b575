"""The finetune section of a study file: completed from the task's own file, wrong words refused with a hint."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from medssl.core import plugins
from medssl.finetune.options import FinetuneOptions


@pytest.mark.parametrize("task", plugins.names("task"))
def test_a_task_brings_its_own_modes_and_options(task: str) -> None:
    settings = FinetuneOptions(source="a", task=task)
    plugin = plugins.find("task", task)
    assert settings.modes == plugin.constant("DEFAULT_MODES")
    assert settings.options == plugin.check({})
    assert FinetuneOptions(**settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"task": "clasification"}, "Did you mean 'classification'"),
        ({"modes": ["liner"]}, "Did you mean 'linear'"),
        ({"modes": ["knn"], "task": "segmentation"}, "has no mode 'knn'"),
        ({"options": {"multilable": True}}, "Did you mean 'multilabel'"),
        ({"modes": ["aligned"], "task": "survival"}, "It is a mode of classification"),
        ({"modes": ["knn", "aligned"], "options": {"multilabel": True}}, "mode 'aligned' excludes the option multilabel"),
        ({"modes": ["nearest_mean"], "options": {"multilabel": True}}, "mode 'nearest_mean' excludes the option multilabel"),
        ({"options": {"prior": [0.5, 0]}}, "expected support, equal, or a list with a number above 0 for each class"),
        ({"options": {"prior": "eqal"}}, "expected support, equal, or a list"),
        ({"options": {"passes": 0}}, "a number of 1 or more"),
        ({"counts_per_class": [0]}, "greater than or equal to 1"),
        ({"counts_per_class": [1, 1]}, "stands twice"),
        ({"counts_per_class": [1], "options": {"multilabel": True}}, "cases without any would never be chosen"),
        *(
            ({"counts_per_class": [1], "task": task}, f"task '{task}' predicts .*, so its cases are not of one class each")
            for task in ("regression", "survival", "segmentation")
        ),
        ({"fractions": [0.0]}, "greater than 0"),
        ({"seeds": []}, "at least 1"),
        ({"mixup": -1}, "greater than or equal to 0"),
    ],
)
def test_wrong_words_and_values_are_refused(wrong: dict[str, Any], hint: str) -> None:
    with pytest.raises(ValidationError, match=hint):
        FinetuneOptions(source="a", **wrong)


def test_what_predicts_cases_together_is_never_without_its_twin() -> None:
    assert FinetuneOptions(source="a", modes=["aligned"]).modes == ["aligned", "nearest_mean"]
    assert FinetuneOptions(source="a", modes=["nearest_mean", "aligned"]).modes == ["nearest_mean", "aligned"]
    assert FinetuneOptions(source="a", modes=["linear"]).modes == ["linear"]
