"""The studies of `make study-<name>` load, each in two sizes that ask the same question."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medssl.study.dag import Dag
from medssl.study.file import load_study
from medssl.study.options import Study

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "studies"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.endswith("_full"))


def load(name: str) -> Study:
    path = FOLDER / f"{name}.yaml"
    return load_study(yaml.safe_load(path.read_text()), [str(path)])


@pytest.mark.parametrize("name", NAMES)
def test_both_sizes_compare_the_same(name: str) -> None:
    small, full = load(name), load(f"{name}_full")
    assert (small.study, full.study) == (name, f"{name}_full"), "their results lie apart"
    assert set(small.pretrain) == set(full.pretrain)
    assert set(small.reduce.with_controls()) == set(full.reduce.with_controls())
    assert set(small.finetune) <= set(full.finetune), "the full size may ask more"
    for study in (small, full):
        seeds = [(len(run.seeds), len(task.seeds)) for run in study.pretrain.values() for task in study.finetune.values()]
        assert all(pretrained * tuned >= 3 for pretrained, tuned in seeds), "three seeds at least, of one kind or the other"
        assert all(Dag(study).runs_for(task) for task in study.finetune.values()), "every task starts from some run"
