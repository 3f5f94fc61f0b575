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


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    import yaml

    load_study(yaml.safe_load(path.read_text()), [str(path)])
