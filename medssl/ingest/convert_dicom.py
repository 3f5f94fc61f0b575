"""Turns a DICOM series into volumes, and its label object into the mask of the matching volume."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from medssl.core.listing import minted
from medssl.ingest.dicom.assembly import StackPlan
from medssl.ingest.dicom.header import Header
from medssl.ingest.dicom.slices import Slice
from medssl.ingest.dicom.stacks import Refused, Stack, stacks_of_series
from medssl.ingest.ledger import Row, volume_row
from medssl.ingest.outcome import Outcome
from medssl.ingest.refusal import Refusal
from medssl.ingest.source import BASE_MEMORY_MB, NewFile, Source


def convert_series(rows: list[Row], source: Source, new_file: NewFile, outcome: Outcome) -> None:
    """Convert the files of one series and the label objects that describe it."""
    images = [row for row in rows if row["role"] == "image" and row["format"] == "dicom"]
    labels = [row for row in rows if row["role"] == "mask" and row["format"] == "dicom"]
    headers = {n: Header.from_json(json.loads(row["header"])) for n, row in enumerate(images)}
    if any(row["tainted"] for row in images) and not _is_complete(list(headers.values())):
        tainted = next(row for row in images if row["tainted"])
        sentence = Refusal("damaged_neighbour", tainted["tainted"]).sentence
        said = {row["name"]: f"{sentence} It is among: {tainted['damaged']}." for row in images}
        outcome.reject("damaged_neighbour", sentence, images, "series", said)
        images, headers = [], {}

    def digest(piece: Slice) -> str:
        request = {"file": source.file(images[piece.file]), "frame": piece.frame}
        answer = source.readers.ask("digest", request, memory_mb=_memory_mb(piece.header, 4), timeout_s=60)
        if "code" in answer:
            raise Refusal(answer["code"])
        return f"{answer['digest']}-{piece.tile}"

    def sample(piece: Slice) -> np.ndarray:
        request = {"file": source.file(images[piece.file]), "frame": piece.frame}
        answer = source.readers.ask("sample", request, memory_mb=_memory_mb(piece.header, 4), timeout_s=60)
        if "code" in answer:
            raise Refusal(answer["code"])
        return np.array(answer["pixels"], float) * piece.slope + piece.intercept

    stacks, refused = stacks_of_series(list(headers.items()), source.options, digest, sample)
    taken: set[str] = set()
    for stack in stacks:
        first = stack.slices[0].header
        files = sorted({s.file for s in stack.slices})
        volume_id = _volume_id(source.key, rows[0]["group"], stack, taken)
        plan = StackPlan.of(stack, {file: n for n, file in enumerate(files)})
        request = {
            "plan": asdict(plan),
            "files": [source.file(images[file]) for file in files],
            "target": str(new_file(volume_id, "image.npy")),
            "threads": source.threads,
        }
        voxels = plan.shape[0] * plan.shape[1] * plan.shape[2]
        unpacked = max(max(h.layout.frames for h in headers.values()) * first.layout.rows * first.layout.columns * 4, 0)
        answer = source.readers.ask(
            "volume", request, memory_mb=BASE_MEMORY_MB + 14e-6 * voxels + 2e-6 * unpacked, timeout_s=60 + 0.5 * plan.shape[2]
        )
        if "code" in answer:
            refused.append(Refused(answer["code"], answer["sentence"], set(files)))
            continue
        answer["warnings"] = [*stack.warnings, *answer["warnings"]]
        row = _dicom_row(volume_id, first, answer) | {
            "series_id": rows[0]["group"],
            "tilt_deg": round(stack.tilt_deg, 4),
            "resampled": stack.straighten,
            "time_index": stack.time_index,
            "lossy": answer["lossy"],
        }
        outcome.accept(row, answer, [images[file] for file in files])
    for refusal in refused:
        files = sorted(refusal.files)
        said = {images[n]["name"]: refusal.said[n] for n in files if n in refusal.said}
        outcome.reject(refusal.code, refusal.sentence, [images[n] for n in files], "series", said)
    if labels:
        _convert_labels(labels, source, new_file, outcome)


def _convert_labels(labels: list[Row], source: Source, new_file: NewFile, outcome: Outcome) -> None:
    """The DICOM label object (SEG, RTSTRUCT) of this series, on the grid of the matching volume."""
    refusal = Refusal("mask_without_image")
    if outcome.volumes and len(labels) > 1:
        refusal = Refusal("several_masks", f"{len(labels)} label objects for one series; list the others under `skip`")
    elif outcome.volumes:
        answer: Row = {}
        for volume in outcome.volumes:
            if volume.row["resampled"]:
                answer = Refusal("mask_mismatch", "its image was straightened").answer()
                continue
            voxels = 1
            for n in volume.extra["source_shape"]:
                voxels *= n
            request = {
                "file": source.file(labels[0]),
                "image_shape": volume.extra["source_shape"],
                "image_affine": volume.extra["source_affine"],
                "targets": [str(new_file(volume.row["volume_id"], "mask.npy"))],
            }
            memory_mb = 3 * BASE_MEMORY_MB + 40e-6 * voxels + 60e-6 * int(labels[0]["size"])
            answer = source.readers.ask("label", request, memory_mb=memory_mb, timeout_s=300)
            if "code" not in answer:
                volume.add_mask(answer, labels)
                return
        outcome.reject(answer["code"], answer["sentence"], labels, "labels")
        return
    outcome.reject(refusal.code, refusal.sentence, labels, "labels")


def _volume_id(key: bytes, series: str, stack: Stack, taken: set[str]) -> str:
    """The id of a series' only volume, or of one of several by its images; never one that is in use."""
    names = [] if stack.alone else ["of", *stack.instances]
    count = 0
    while (volume_id := minted(key, "v", series, *names, *([str(count)] if count else []))) in taken:
        count += 1
    taken.add(volume_id)
    return volume_id


def _is_complete(headers: list[Header]) -> bool:
    """Whether a series states how many images it has and all are here (or it is one multi-frame file)."""
    if len(headers) == 1 and (headers[0].per_frame or headers[0].tiles):
        return True
    return any(header.declared_images == len(headers) for header in headers)


def _memory_mb(header: Header, times: int) -> float:
    return BASE_MEMORY_MB + times * header.layout.rows * header.layout.columns * header.layout.frames * 2e-6


def _dicom_row(volume_id: str, header: Header, answer: Row) -> Row:
    return volume_row(volume_id, answer) | {
        "subject_id": header.subject,
        "unit": "patient",
        "kind": "volume",
        "format": "dicom",
        "modality": header.modality,
        "kernel": header.kernel,
        "kvp": header.kvp,
        "slice_thickness_mm": header.slice_thickness,
        "manufacturer_code": header.maker,
        "age_years": header.age_years,
        "sex": header.sex,
        "label": False,
    }
