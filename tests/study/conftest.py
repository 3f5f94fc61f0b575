"""A working folder with sources of every kind, and the check of a study on them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from medssl.core.errors import StudyError
from medssl.study import check_weights
from medssl.study.checks import check_study
from medssl.study.dag import Dag
from medssl.study.file import read_study

Notes = Callable[..., list[str]]
Refusal = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DICOM-like files, an NPZ, flat pictures, pictures in class folders with and without parts, NIfTI with and without masks."""
    monkeypatch.chdir(tmp_path)
    files = [f"scans/{n}.dcm" for n in range(4)] + [f"pictures/{n}.png" for n in range(4)]
    files += [f"sorted/{part}/{label}/{n}.png" for part in ("train", "test") for label in ("cat", "dog") for n in range(2)]
    files += [f"classes/{label}/{label}{n}.jpg" for label in ("cat", "dog") for n in range(2)]
    files += [f"nifti/pt_{n}_ct.nii.gz" for n in range(3)] + [
        f"masked/pt_{n}_{w}.nii.gz" for n in range(3) for w in ("ct", "seg")
    ]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "organs").mkdir()
    with zipfile.ZipFile(tmp_path / "organs" / "set.npz", "w") as archive:
        archive.writestr("train_images.npy", b"")
    return tmp_path


@pytest.fixture(autouse=True)
def _weights_without_content(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of weights fit their networks, as no test has whole ones but those that ask for `fitting_weights`."""
    if "fitting_weights" not in request.fixturenames:
        monkeypatch.setattr(check_weights, "answers", lambda starts: [""] * len(starts))


@pytest.fixture
def fitting_weights() -> None:
    """Asks for the check of weights against networks."""


@pytest.fixture
def notes(folder: Path) -> Notes:
    """The notes of a sound study file, of targets."""

    def of(text: str, *targets: str) -> list[str]:
        Path("mine.yaml").write_text(text)
        study, places = read_study(files=["mine.yaml"])
        return check_study(Dag(study), places, targets).notes

    return of


@pytest.fixture
def refusal(notes: Notes) -> Refusal:
    """The sentences that a study file is refused with."""

    def of(text: str, *targets: str) -> str:
        with pytest.raises(StudyError) as caught:
            notes(text, *targets)
        return str(caught.value)

    return of
