"""`medssl predict`: a fine-tuned model applied to new images, its answers put in place together, with where each is from."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydantic import ValidationError

from medssl import __version__
from medssl.api.new_images import FILE_COLUMNS, NewImages, files_row, new_images
from medssl.artefacts.samples import SAMPLES
from medssl.artefacts.series import REJECTED
from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.core.files import folder_to_write, writing
from medssl.core.text_table import write_rows
from medssl.core.written import explained
from medssl.finetune.predicting import contract_of, sections_of
from medssl.finetune.run import predict as answer
from medssl.ingest.dicom.segmentation_object import Algorithm, segmentation_of
from medssl.ingest.options import IngestOptions

MASKS, SEGMENTATIONS, FILES, REFUSED = "masks", "segmentations", "files.tsv", "rejected.tsv"


def results() -> list[str]:
    """What lies in the folder of answers; with `overwrite` these are replaced, and nothing else that is there."""
    return [MASKS, SEGMENTATIONS, FILES, REFUSED, *(plugin.constant("TABLE") for plugin in plugins.all_of("task"))]


def predict(
    model: Path,
    source: Path,
    out: Path,
    *,
    class_names: Mapping[str, str] | None = None,
    subject_pattern: str | None = None,
    threads: int = 1,
    force: bool = False,
    overwrite: bool = False,
) -> tuple[list[Path], list[str]]:
    """Apply a model to new images; returns the files written, and sentences that a person should read.

    Masks are NIfTI on the grids of the given images; of DICOM series also Segmentation objects. `files.tsv` has which file each
    answer is of, and is as private as the source.

    Args:
        class_names: of classes in the Segmentation objects, instead of the words or values of the training masks.
        subject_pattern: a regular expression on a file's path, whose group is the patient; as `ingest.subject_pattern`.

    Raises:
        StudyError: the folder holds answers already and `overwrite` is off; the model lacks a class that is named; the pattern
            is not a regular expression or has no group; or see `medssl.finetune.run.predict`.
    """
    contract = contract_of(model)
    classes = _named(dict(zip(contract["classes"], contract.get("mask_values", [0])[1:], strict=False)), class_names or {})
    ingest, prepare = sections_of(contract)
    if subject_pattern is not None:
        ingest["subject_pattern"] = _checked(subject_pattern)
    there = [name for name in results() if (out / name).exists()]
    if there and not overwrite:
        raise StudyError(
            f"{out} holds answers already ({', '.join(there)}). Name another folder, or replace them with --overwrite."
        )
    with (
        _in_place(folder_to_write(out)) as folder,
        new_images(source, ingest, prepare, beside=folder, threads=threads, force=force) as new,
    ):
        samples, volumes = (new.prepared / name for name in ("samples.parquet", "volumes.tsv"))
        answer(model, samples, volumes, folder, ingested=new.volumes, threads=threads, force=force)
        algorithm = Algorithm(model.resolve().name, __version__, str(contract["spec"]))
        notes = _write_segmentations(new, folder, classes, algorithm)
        _write_files(new, folder, notes)
        REJECTED.write_rows(folder / REFUSED, new.rejected)
        said = _of_no_patient(contract, samples)
    said += [f"{number} volumes have no DICOM segmentation: {why}" for why, number in Counter(notes.values()).items()]
    if new.rejected:
        said.append(f"{sum(row['num_files'] for row in new.rejected)} files refused, see {out / REFUSED}")
    return [path for name in results() for path in [*sorted((out / name).glob("*")), out / name] if path.is_file()], said


def _checked(subject_pattern: str) -> str:
    """The pattern.

    Raises:
        StudyError: it is not a regular expression, or has no group.
    """
    try:
        IngestOptions(subject_pattern=subject_pattern)
    except ValidationError as error:
        raise StudyError(f"--subject-pattern: {explained(error.errors()[0])}.") from None
    return subject_pattern


def _named(values: dict[str, int], names: Mapping[str, str]) -> dict[str, int]:
    """The values of a mask by the names of its classes.

    Raises:
        StudyError: a name is for a class that is not there, or two classes would have one name.
    """
    unknown = [label for label in names if label not in values]
    if unknown:
        known = ", ".join(values) or "none in masks"
        raise StudyError(f"--class-name {unknown[0]}: the model has no such class. It has {known}.")
    named = [names.get(label, label) for label in values]
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        raise StudyError(f"--class-name: two classes would be called {twice[0]!r}. Give each a name of its own.")
    return dict(zip(named, values.values(), strict=True))


def _of_no_patient(contract: dict[str, Any], samples: Path) -> list[str]:
    """A sentence if a model that answers for patients got images of which no patient is known."""
    alone = int((SAMPLES.read(samples)["unit"] == "image").sum()) if contract["options"].get("aggregate") == "unit" else 0
    if alone < 2:
        return []
    return [
        f"{alone} images are of no known patient, so each has an answer of its own. The model was scored on patients, by the "
        "mean over their images: single images are predicted less well. Where paths name the patients, give --subject-pattern"
    ]


@contextlib.contextmanager
def _in_place(out: Path) -> Iterator[Path]:
    """A folder to write to; what is in it replaces the results in `out` when all of it is written."""
    with tempfile.TemporaryDirectory(prefix=".part-", dir=out) as temporary:
        yield Path(temporary)
        for name in results():
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink(missing_ok=True)
            if (Path(temporary) / name).exists():
                os.replace(Path(temporary) / name, out / name)


def _write_segmentations(new: NewImages, out: Path, classes: dict[str, int], algorithm: Algorithm) -> dict[str, str]:
    """A Segmentation object for each mask of a DICOM series; by volume, why there is none."""
    notes = {}
    for origin in new.origins:
        mask = out / MASKS / f"{origin.id}.nii.gz"
        if origin.format != "dicom" or not mask.is_file():
            continue
        try:
            files = [new.root / name for name in origin.files]
            write_segmentation(out / SEGMENTATIONS / f"{origin.id}.dcm", files, mask, classes, algorithm)
        except StudyError as error:
            notes[origin.id] = str(error)
    return notes


def write_segmentation(target: Path, files: list[Path], mask: Path, segments: dict[str, int], algorithm: Algorithm) -> None:
    """Write the mask of a NIfTI file as a DICOM Segmentation object of the series that it is of.

    Args:
        files: of the series; segments: by name of the class its value in the mask.

    Raises:
        StudyError: the files' pixels are not the mask's voxels one by one, or the object cannot be made; nothing was written.
    """
    image = nibabel.Nifti1Image.from_filename(mask)
    made = segmentation_of(files, np.asanyarray(image.dataobj), np.asarray(image.affine), segments, algorithm)
    with writing(target) as temporary:
        made.save_as(temporary)


def _write_files(new: NewImages, out: Path, notes: dict[str, str]) -> None:
    """Which file, or files, each answer is of."""
    rows = []
    for origin in new.origins:
        outputs = [f"{folder}/{origin.id}{ending}" for folder, ending in ((MASKS, ".nii.gz"), (SEGMENTATIONS, ".dcm"))]
        there: list[str | None] = [name if (out / name).is_file() else None for name in outputs]
        rows.append([*files_row(origin), *there, notes.get(origin.id)])
    write_rows(out / FILES, [*FILE_COLUMNS, "mask", "segmentation", "note"], rows)
