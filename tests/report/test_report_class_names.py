"""A class has the name that the study file gives it, in every table of the page."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from medssl.report.class_names import OF_TASKS, with_class_names
from medssl.report.shown_study import ShownStudy
from medssl.study.options import SourceOptions

STUDY = {
    "sources": {"organs": {"class_names": {"0": "liver", "10": "lung"}}, "others": {}},
    "finetune": {"a": {"source": "organs"}, "b": {"source": "others"}},
}


def named(**tables: dict[str, pd.DataFrame]) -> dict[str, dict[str, pd.DataFrame]]:
    found: dict[str, dict[str, Any]] = {kind: {} for kind in ("samples", "overlays", *OF_TASKS)} | tables
    return with_class_names(found, ShownStudy.model_validate(STUDY))


@pytest.mark.parametrize("kind", OF_TASKS)
def test_every_table_of_a_task_speaks_of_names(kind: str) -> None:
    table = pd.DataFrame({"class": ["0", "10", "macro"], "target": ["0|10", "1", None], "predicted": ["10", "0", "1"], "n": 3})
    made = named(**{kind: {"a": table, "b": table}})[kind]
    assert made["a"]["class"].tolist() == ["liver", "lung", "macro"]
    assert made["a"]["target"].fillna("-").tolist() == ["liver|lung", "1", "-"]
    assert made["a"]["predicted"].tolist() == ["lung", "liver", "1"]
    assert made["b"] is table, "another source's classes are others"
    assert table["class"].tolist() == ["0", "10", "macro"]


def test_labels_and_masks_have_the_same_names() -> None:
    samples = pd.DataFrame({"label": ["10", None], "sample_id": ["10", "0"]})
    overlays = pd.DataFrame({"classes": [{"1": "0", "2": "spine"}]})
    made = named(samples={"organs": samples, "others": samples}, overlays={"a": overlays})
    assert made["samples"]["organs"]["label"].fillna("-").tolist() == ["lung", "-"]
    assert made["samples"]["organs"]["sample_id"].tolist() == ["10", "0"]
    assert made["samples"]["others"]["label"].fillna("-").tolist() == ["10", "-"]
    assert made["overlays"]["a"]["classes"].tolist() == [{"1": "liver", "2": "spine"}]


def test_a_study_file_names_classes_by_number_or_word() -> None:
    assert SourceOptions(path="x", class_names={6: "liver", "a": "lung"}).class_names == {"6": "liver", "a": "lung"}
    for wrong, words in (
        ({0: "liver", 1: "liver"}, "two classes are named 'liver'"),
        ({0: "liver|lung"}, "cannot name a class"),
        ({0: " "}, "cannot name a class"),
        ({0: "macro"}, "cannot name a class"),
        ({True: "liver"}, "valid string"),
    ):
        with pytest.raises(ValidationError, match=words.replace("|", r"\|")):
            SourceOptions(path="x", class_names=wrong)
