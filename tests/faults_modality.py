"""Faults of modality and of whose images these are: what a source says of itself twice, or leaves out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from faults import Expected
from phantoms import MR_CLASS, datasets, random_phantom, save
from pydicom.dataset import FileDataset

from medssl.core.rng import rng

PT_CLASS = "1.2.840.10008.5.1.4.1.1.128"
HARMLESS = ("modality_word_differs_in_one", "modalities_side_by_side", "placeholder_patients")
"""Classes with which nothing is wrong."""


def _become(one: FileDataset, modality: str, sop_class: str) -> None:
    one.Modality = modality
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = sop_class


def modality_word_differs_in_one(folder: Path, seed: int) -> Expected:
    """One slice of a CT series says MR in its word for the modality, while its class (PS3.4 B.5) is that of CT: it is CT."""
    phantom = random_phantom(seed)
    made = datasets(phantom)
    made[int(rng(seed, "which").integers(0, len(made)))].Modality = "MR"
    save(made, folder)
    return Expected([phantom], must_be_right=True)


def modality_differs_in_one(folder: Path, seed: int) -> Expected:
    """One slice of a CT series is an MR image. Modality is of the series (PS3.3 C.7.3.1)."""
    phantom = random_phantom(seed)
    made = datasets(phantom)
    _become(made[int(rng(seed, "which").integers(0, len(made)))], "MR", MR_CLASS)
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("mixed_modality",))


def modalities_side_by_side(folder: Path, seed: int) -> Expected:
    """A CT and an MR series in one folder are two volumes."""
    ct = random_phantom(seed)
    mr = replace(ct, modality="MR", constant=900.0)
    others = datasets(mr, series="b", study="b")
    save(datasets(ct) + others, folder)
    return Expected([ct, mr], must_be_right=True)


def placeholder_patients(folder: Path, seed: int) -> Expected:
    """Three studies of three people under one PatientID: three volumes, and a remark (tests/ingest/test_ingest_subjects.py)."""
    truths = [replace(random_phantom(seed), constant=100.0 + 10 * n) for n in range(3)]
    made = [one for n, truth in enumerate(truths) for one in datasets(truth, series=f"s{n}", study=f"t{n}")]
    for one in made:
        one.PatientID = "ANONYMOUS"
    save(made, folder)
    return Expected(truths, must_be_right=True)


def modality_half_and_half(folder: Path, seed: int) -> Expected:
    """The two halves of a CT series are CT and PT images."""
    phantom = random_phantom(seed)
    made = datasets(phantom)
    for one in made[len(made) // 2 :]:
        _become(one, "PT", PT_CLASS)
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("mixed_modality",))


MODALITY_FAULTS: dict[str, Callable[[Path, int], Expected]] = {
    f.__name__: f
    for f in (
        modality_word_differs_in_one,
        modality_differs_in_one,
        modality_half_and_half,
        modalities_side_by_side,
        placeholder_patients,
    )
}
