"""People whose identifiers a program removed, or replaced by constants.

Each class is as those of `faults.py`. `HARMLESS` names those that are sound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from faults import Expected
from faults_slices import CONTRAST, GENTLE, Fault, moved, scans, shuffled
from phantoms import datasets, random_phantom, save
from pydicom.dataset import FileDataset


def _nameless(made: Sequence[FileDataset], uid: str) -> None:
    for ds in made:
        ds.PatientID = ds.PatientName = ""
        ds.SeriesInstanceUID = ds.StudyInstanceUID = ds.FrameOfReferenceUID = uid
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid


def _constant(seed: int) -> str:
    return ("0", "0.0.0.0", "1.2.3.4.5", "1.1.1")[seed % 4]


def constant_identifiers(folder: Path, seed: int) -> Expected:
    """All UIDs are one constant, and no patient is named: one scan."""
    phantom = random_phantom(seed)
    made = datasets(phantom)
    _nameless(made, _constant(seed))
    save(shuffled(made, seed), folder)
    return Expected([phantom], must_be_right=True)


def constant_identifiers_two_folders(folder: Path, seed: int) -> Expected:
    """Two people in two folders, all of whose UIDs are one constant; the one lies above the other, between, or in place."""
    one = random_phantom(seed, slope_per_mm=GENTLE)
    other = moved(one, (one.slices, 0.5, 0.0)[seed % 3] * one.step, one.constant + CONTRAST)
    for name, phantom in (("a", one), ("b", other)):
        made = datasets(phantom)
        _nameless(made, _constant(seed))
        save(shuffled(made, seed), folder / name)
    return Expected([one, other], must_be_right=True)


def _people(change: Callable[[FileDataset, int], None], *, constant: bool) -> Fault:
    """Two people in one folder and, by their identifiers, one series."""

    def fault(folder: Path, seed: int) -> Expected:
        one = random_phantom(seed, slope_per_mm=GENTLE)
        other = moved(one, (one.slices, 0.5)[seed % 2] * one.step, one.constant + CONTRAST)
        made = scans([one, other], lambda ds, t, number: None)
        for n, ds in enumerate(made):
            if constant:
                _nameless([ds], _constant(seed))
            ds.PatientID = ("", "ANONYMOUS")[seed // 2 % 2]
            change(ds, int(n >= one.slices))
        save(shuffled(made, seed), folder)
        return Expected([one, other])

    return fault


def _named(ds: FileDataset, t: int) -> None:
    ds.PatientName = ("One^Person", "Other^Person")[t]


def _born(ds: FileDataset, t: int) -> None:
    ds.PatientName, ds.PatientBirthDate = "Anonymous", ("19500101", "19610203")[t]


def _sexed(ds: FileDataset, t: int) -> None:
    ds.PatientName, ds.PatientSex = "", "MF"[t]


PEOPLE_FAULTS: dict[str, Fault] = {
    **{
        f"people_of_one_series_{name}{'_constant' if constant else ''}": _people(change, constant=constant)
        for name, change in (("named", _named), ("born", _born), ("sexed", _sexed))
        for constant in (False, True)
    },
    **{
        f.__name__: f
        for f in (
            constant_identifiers,
            constant_identifiers_two_folders,
        )
    },
}
HARMLESS = ("constant_identifiers", "constant_identifiers_two_folders")
