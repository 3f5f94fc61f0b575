"""`medssl reduce --preview`: a decision about a source, looked at before any study."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from medssl.cli import app
from medssl.core.errors import StudyError


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    """A volume of ten different slices, each there twice."""
    slices = np.random.default_rng(0).normal(size=(24, 24, 10)).repeat(2, axis=2)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(slices.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / "in" / "a_t1.nii.gz")
    return tmp_path / "in"


def test_twins_are_counted_and_pictured(doubled: Path, tmp_path: Path) -> None:
    out = tmp_path / "look"
    done = CliRunner().invoke(app, ["reduce", str(doubled), "--preview", str(out), "--threshold", "0"])
    assert done.exit_code == 0, done.output
    assert "10 of 20 slices kept" in done.output
    assert {path.name for path in out.iterdir()} == {"contact.png", "curve.svg", "similarity.png", "where.svg"}


def test_an_unknown_reducer_is_a_sentence(doubled: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["reduce", str(doubled), "--preview", str(tmp_path / "look"), "--reducer", "hahs"])
    assert isinstance(done.exception, StudyError) and "hash" in str(done.exception)
