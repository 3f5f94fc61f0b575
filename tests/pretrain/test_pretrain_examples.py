"""Every annotated example is a study that loads, and every objective has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl.core import plugins
from medssl.study.file import load_study

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "examples"


@pytest.mark.parametrize("name", plugins.names("objective"))
def test_an_example_is_a_study_of_its_method(name: str) -> None:
    import yaml

    path = FOLDER / f"{name}.yaml"
    study = load_study(yaml.safe_load(path.read_text()), [str(path)])
    assert name in {run.objective.name for run in study.pretrain.values()}


def test_no_test_patient_of_the_acdc_study_is_pretrained_on() -> None:
    folder = FOLDER.parent / "studies"
    pool, heart = (
        dict(line.split("\t") for line in (folder / name).read_text().splitlines()[1:])
        for name in ("acdc_pool_split.tsv", "acdc_split.tsv")
    )
    assert pool.keys() == heart.keys()
    of = {part: {patient for patient in heart if heart[patient] == part} for part in ("train", "val", "test")}
    assert {part: len(patients) for part, patients in of.items()} == {"train": 22, "val": 2, "test": 16}
    assert {patient for patient in pool if pool[patient] == "train"} == of["train"] | of["val"]
