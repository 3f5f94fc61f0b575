"""Turns a NIfTI, NRRD or MetaImage file into a volume for each of its time points; its mask goes with the first."""

from __future__ import annotations

import json

from medssl.core.file_names import GRID_FORMATS, is_mask, names_a_mask
from medssl.core.listing import minted, minted_patient
from medssl.ingest.data_files import data_request, with_data_files
from medssl.ingest.inventory import nifti_modality
from medssl.ingest.ledger import Row, volume_row
from medssl.ingest.outcome import Outcome
from medssl.ingest.refusal import Refusal
from medssl.ingest.source import BASE_MEMORY_MB, NewFile, Source


def convert_nifti(rows: list[Row], source: Source, new_file: NewFile, outcome: Outcome) -> None:
    """Convert the images of a group, and their masks."""
    images = [row for row in rows if row["role"] == "image" and row["format"] in GRID_FORMATS]
    masks = [row for row in rows if row["role"] == "mask" and row["format"] in GRID_FORMATS]
    for image in images:
        _convert_image(image, masks, rows, source, new_file, outcome)
    if not outcome.volumes and masks:
        refusal = Refusal("mask_without_image")
        outcome.reject(refusal.code, refusal.sentence, with_data_files(masks, rows), "labels")


def _convert_image(image: Row, masks: list[Row], group: list[Row], source: Source, new_file: NewFile, outcome: Outcome) -> None:
    files = with_data_files([image], group)
    header = json.loads(image["header"])
    shape = header["shape"]
    if min(shape[2:3]) < source.options.min_slices:
        refusal = Refusal("few_slices", f"{shape[2]} of at least {source.options.min_slices}")
        outcome.reject(refusal.code, refusal.sentence, files, "series")
        return
    num_points = shape[3] if len(shape) > 3 else 1
    series_id = minted(source.own_key, "s", image["name"])
    volume_ids = [minted(source.own_key, "v", series_id, f"time{n}" if num_points > 1 else "") for n in range(num_points)]
    modality = nifti_modality(image["name"], source.options, header.get("modality", ""))
    request = {
        "file": source.file(image),
        "data": data_request(image, source.root),
        "mask": False,
        "modality": modality,
        "offset_hu": source.options.offset_hu if modality == "CT" else 0.0,
        "named_as_mask": names_a_mask(image["name"]) or is_mask(image["name"]) or header.get("labels", False),
        "tilt": source.options.tilt,
        "no_space": source.options.no_space,
        "targets": [str(new_file(volume_id, "image.npy")) for volume_id in volume_ids],
    }
    memory_mb = BASE_MEMORY_MB + 6e-6 * header["bytes"] + 20e-6 * shape[0] * shape[1] * shape[2]
    answer = source.readers.ask("nifti", request, memory_mb=memory_mb, timeout_s=60 + 1e-6 * header["bytes"])
    if "code" in answer:
        outcome.reject(answer["code"], answer["sentence"], files, "series")
        return
    subject = minted_patient(source.key, image["subject"])
    for point, part in enumerate(answer["points"]):
        row = volume_row(volume_ids[point], part) | {
            "series_id": series_id,
            "subject_id": subject,
            "unit": "patient",
            "kind": "volume",
            "format": image["format"],
            "modality": modality,
            "tilt_deg": round(part["tilt_deg"], 4),
            "resampled": part["tilt_deg"] > 0,
            "time_index": point if num_points > 1 else None,
        }
        outcome.accept(row, part, files)
    for mask in masks:
        _convert_mask(with_data_files([mask], group), mask, header, answer["points"][0], volume_ids, source, new_file, outcome)


def _convert_mask(
    files: list[Row],
    mask: Row,
    header: Row,
    part: Row,
    volume_ids: list[str],
    source: Source,
    new_file: NewFile,
    outcome: Outcome,
) -> None:
    mask_header = json.loads(mask["header"])
    if len(mask_header["shape"]) > 3:
        refusal = Refusal("mask_mismatch", f"mask {mask_header['shape']}, image {header['shape']} voxels")
        outcome.reject(refusal.code, refusal.sentence, files, "labels")
        return
    request = {
        "file": source.file(mask),
        "data": data_request(mask, source.root),
        "mask": True,
        "no_space": source.options.no_space,
        "image_shape": part["source_shape"],
        "image_affine": part["source_affine"],
        "straighten": part["tilt_deg"] > 0,
        "targets": [str(new_file(volume_ids[0], "mask.npy"))],
    }
    answer = source.readers.ask("nifti", request, memory_mb=BASE_MEMORY_MB + 30e-6 * mask_header["bytes"], timeout_s=120)
    if "code" in answer:
        outcome.reject(answer["code"], answer["sentence"], files, "labels")
        return
    outcome.volumes[0].add_mask(answer, files)
