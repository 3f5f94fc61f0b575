"""Labels that come after the images: matching them with images, and resampling masks onto their volumes' grids."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.core.errors import StudyError
from medssl.core.file_names import GRID_FORMATS
from medssl.core.label_table import EVENT
from medssl.core.record_table import gives_the_label_away
from medssl.ingest.data_files import claim_data_files, data_request
from medssl.ingest.label_files import Given, LabelTarget, meant_by
from medssl.ingest.ledger import Row
from medssl.ingest.reading_pool import ReadingPool
from medssl.ingest.refusal import NAME_IT, Answer, Refusal, several_meant
from medssl.ingest.source import BASE_MEMORY_MB

if TYPE_CHECKING:
    import pandas as pd

NO_LABELS = ("not_an_image", "dicomdir", "archive")
"""Codes of files beside masks that never were masks: tables of names, notes."""


def label_rows(items: list[LabelTarget], given: dict[int, Given]) -> list[Row]:
    """Rows of `labels.parquet` from the entries for the items, by number."""
    return [
        {
            **{"volume_id": items[number].volume_id, "index": items[number].index, "label": said.label, "mask": None},
            **({} if said.event is None else {EVENT: said.event}),
            **{f"group_{name}": value for name, value in said.groups.items()},
        }
        for number, said in sorted(given.items())
    ]


def pair_with_volumes(rows: list[Row], volumes: list[LabelTarget], pattern: str | None) -> dict[str, list[Row]]:
    """The label files of each volume: NIfTI, NRRD and MetaImage by name, DICOM label objects by the series they refer to."""
    claim_data_files(rows)
    by_name = {row["name"]: row for row in rows}
    files = {volume.volume_id: volume.files for volume in volumes}
    meant = meant_by(files, [row["name"] for row in rows if row["format"] in GRID_FORMATS], pattern)
    by_words: dict[str, list[str]] = {}
    for name, owners in meant.items():
        if len(owners) == 1:
            by_words.setdefault(owners[0], []).append(name)
        elif owners:
            by_name[name] |= several_meant(owners, NAME_IT).answer()
    pairs = {volume_id: [by_name[name] for name in names] for volume_id, names in by_words.items()}
    of_series = {
        name: volume.volume_id for volume in sorted(volumes, key=lambda v: v.volume_id, reverse=True) for name in volume.ids
    }
    for row in rows:
        if row["format"] == "dicom" and '"role":"label"' in row["header"]:
            references = json.loads(row["header"])["references"]
            for volume_id in sorted({of_series[name] for name in references if name in of_series}):
                pairs.setdefault(volume_id, []).append(row)
    return pairs


def unplaced(rows: list[Row], pairs: dict[str, list[Row]]) -> list[tuple[str, str, Row]]:
    """Label files without a volume, as (code, sentence, row): unmatched or unreadable; files that are not labels are skipped."""
    paired = {mask["name"] for masks in pairs.values() for mask in masks}
    left = [row for row in rows if row["name"] not in paired and row["code"] not in NO_LABELS]
    stranger = "a label file whose image is not in this source"
    known = (*GRID_FORMATS, "dicom")
    return [
        (row["code"], row["sentence"], row) if row["code"] else ("mask_without_image", stranger, row)
        for row in left
        if row["code"] or row["format"] in known
    ]


def refused_in_words(rejected: list[Row]) -> str:
    """`2 label files refused: mask_values 1, mask_without_image 1`; empty if none was."""
    counts: Counter[str] = Counter()
    for row in rejected:
        counts[row["code"]] += int(row["num_files"])
    codes = ", ".join(f"{code} {number}" for code, number in sorted(counts.items()))
    number = sum(counts.values())
    return f"{number} label file{'' if number == 1 else 's'} refused: {codes}" if rejected else ""


def refuse_given_away(source: str, labels: pd.DataFrame, column: str, record: pd.DataFrame) -> None:
    """Check records beside labels when both mean images, whatever ids their tables use.

    Args:
        source: name of both.
        labels: a table `LABELS`.
        column: name of the record.
        record: a table `RECORD`.

    Raises:
        StudyError: the record determines the label.
    """
    both = labels.dropna(subset="label").merge(record, on=["volume_id", "index"])
    values = [(str(number), text) for number, text in enumerate(both["value"])]
    if gives_the_label_away(values, {str(number): label for number, label in enumerate(both["label"])}):
        raise StudyError(
            f"sources.{source}.records: {column!r} gives the label away: its values determine the label of each image that has "
            f"both. Take it out of the objective's options, or set sources.{source}.label_as_feature: true."
        )


def is_first(row: Row) -> bool:
    """Whether a row is a volume, the first of its time points, which masks are for."""
    return row["kind"] == "volume" and row["time_index"] in (None, 0)


def place_mask(mask: Row, root: Path, volume: Row, readers: ReadingPool, no_space: str, target: Path) -> Answer:
    """Write a mask that came separately from its image on that volume's grid; the readers' answer, or a refusal.

    Args:
        mask: its row of the inventory (NIfTI, NRRD, MetaImage, or a DICOM label object).
        root: of its relative name.
        volume: the `volume.json` of the image.
        readers: the reading processes.
        no_space: what to do with a NIfTI without a space.
        target: the `.npy` file to write.
    """
    voxels = math.prod(volume["source_shape"])
    memory_mb = 3 * BASE_MEMORY_MB + 40e-6 * voxels + 60e-6 * int(mask["size"])
    request = {
        "file": {"path": str(root / mask["name"]), "size": int(mask["size"]), "mtime_ns": int(mask["mtime_ns"])},
        **{"image_shape": volume["source_shape"], "image_affine": volume["source_affine"], "targets": [str(target)]},
    }
    if mask["format"] in GRID_FORMATS:
        header = json.loads(mask["header"])
        if len(header["shape"]) > 3:
            return Refusal("mask_mismatch", f"mask {header['shape']}, image {volume['source_shape']} voxels").answer()
        memory_mb += 30e-6 * header["bytes"]
        request |= {"data": data_request(mask, root)}
        request |= {"mask": True, "no_space": no_space, "straighten": bool(volume["resampled"])}
        return readers.ask("nifti", request, memory_mb=memory_mb, timeout_s=120)
    if volume["resampled"]:
        return Refusal("mask_mismatch", "its image was straightened").answer()
    return readers.ask("label", request, memory_mb=memory_mb, timeout_s=300)
