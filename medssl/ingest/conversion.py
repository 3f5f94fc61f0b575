"""From one group of files to requests for the readers, and from their answers to rows of the ledger."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medssl.core.listing import minted
from medssl.ingest.assembly import Plan
from medssl.ingest.header import Header
from medssl.ingest.inventory import Labels, folder_labels, nifti_modality, nifti_subject
from medssl.ingest.readers import Readers
from medssl.ingest.refusal import Refusal
from medssl.ingest.stacks import Refused, Rules, Slice, stacks_of_series

SERIES_COLUMNS = [
    "volume_id", "series_id", "subject_id", "unit", "kind", "format", "modality", "shape", "spacing_mm", "affine", "dtype",
    "slope", "intercept", "orientation_source", "num_files", "bytes", "content_sha256", "lossy", "tilt_deg", "resampled",
    "time_index", "kernel", "kvp", "slice_thickness_mm", "manufacturer_code", "age_years", "sex", "label", "warnings",
]  # fmt: skip
REJECTED_COLUMNS = ["item_id", "code", "sentence", "num_files", "bytes", "stage_of_check"]
BASE_MEMORY_MB = 200.0

Row = dict[str, Any]


@dataclass
class Volume:
    """An accepted volume: its row, what `volume.json` adds, its image table, the files it came from."""

    row: Row
    extra: Row
    files: set[str]
    images: list[Row] | None = None


@dataclass
class Outcome:
    """What became of a group of files. Every file name is in one volume or one rejection."""

    volumes: list[Volume] = field(default_factory=list)
    rejected: list[Row] = field(default_factory=list)
    refused_files: dict[str, str] = field(default_factory=dict)
    """file name → item id, for the private table"""


@dataclass(frozen=True)
class Source:
    """What the conversion of any group needs."""

    root: Path
    key: bytes
    readers: Readers
    settings: dict[str, Any]
    labels: Labels
    folders: dict[str, tuple[str, str | None]]
    """class and split of pictures, where their folders say so"""
    threads: int = 1

    def file(self, row: Row) -> Row:
        """A file as the readers want it."""
        return {"path": str(self.root / row["name"]), "size": int(row["size"])}


NewFile = Callable[[str, str], Path]
"""(volume id, file name) → a path below that volume's unfinished folder."""


def convert_group(rows: list[Row], source: Source, new_file: NewFile) -> Outcome:
    """Convert one group of the inventory: a DICOM series with its label objects, a NIfTI with its mask, pictures of one shape."""
    outcome = Outcome()
    good = [row for row in rows if not row["code"]]
    for code, group in _by_code(row for row in rows if row["code"]).items():
        _reject(outcome, source, code, group[0]["sentence"], group, "scan")
    skip = set(source.settings.get("skip", []))
    if good and good[0]["group"] in skip:
        _reject(outcome, source, "skipped", Refusal("skipped").sentence, good, "scan")
        return outcome
    formats = {row["format"] for row in good}
    if "dicom" in formats:
        _convert_series(good, source, new_file, outcome)
    if "nifti" in formats:
        _convert_nifti(good, source, new_file, outcome)
    if "png" in formats:
        _convert_pictures(good, source, new_file, outcome)
    if "npz" in formats:
        _convert_npz(good[0], source, new_file, outcome)
    return outcome


def _by_code(rows: Any) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["code"]].append(row)
    return dict(sorted(found.items()))


def _reject(outcome: Outcome, source: Source, code: str, sentence: str, rows: list[Row], stage: str) -> None:
    """One row for files refused together; files that a volume already counts are not counted again."""
    counted = {name for volume in outcome.volumes for name in volume.files} | set(outcome.refused_files)
    fresh = [row for row in rows if row["name"] not in counted]
    item = minted(source.key, "i", code, *sorted(row["name"] for row in rows))
    if any(row["item_id"] == item for row in outcome.rejected):
        return
    outcome.rejected.append(
        {
            "item_id": item,
            "code": code,
            "sentence": sentence,
            "num_files": len(fresh),
            "bytes": sum(int(row["size"]) for row in fresh),
            "stage_of_check": stage,
        }
    )
    outcome.refused_files |= {row["name"]: item for row in fresh}


# ---- DICOM


def _convert_series(rows: list[Row], source: Source, new_file: NewFile, outcome: Outcome) -> None:
    images = [row for row in rows if row["role"] == "image" and row["format"] == "dicom"]
    labels = [row for row in rows if row["role"] == "mask" and row["format"] == "dicom"]
    headers = {n: Header.from_json(json.loads(row["header"])) for n, row in enumerate(images)}
    if any(row["tainted"] for row in images) and not _is_complete(list(headers.values())):
        _reject(outcome, source, "damaged_neighbour", Refusal("damaged_neighbour").sentence, images, "series")
        images, headers = [], {}
    rules = Rules(
        **{name: source.settings[name] for name in ("tilt", "uneven", "derived", "min_slices") if name in source.settings}
    )

    def digest(piece: Slice) -> str:
        request = {"file": source.file(images[piece.file]), "frame": piece.frame}
        answer = source.readers.ask("digest", request, memory_mb=_memory_mb(piece.header, 4), timeout_s=60)
        if "code" in answer:
            raise Refusal(answer["code"])
        return f"{answer['digest']}-{piece.tile}"

    stacks, refused = stacks_of_series(list(headers.items()), rules, digest)
    for stack in stacks:
        first = stack.slices[0].header
        files = sorted({s.file for s in stack.slices})
        volume_id = minted(source.key, "v", first.series, *stack.names)
        plan = Plan.of(stack, {file: n for n, file in enumerate(files)})
        request = {
            "plan": asdict(plan),
            "files": [source.file(images[file]) for file in files],
            "target": str(new_file(volume_id, "image.npy")),
            "threads": source.threads,
        }
        planes = plan.shape[0] * plan.shape[1] * plan.shape[2]
        unpacked = max(max(h.layout.frames for h in headers.values()) * first.layout.rows * first.layout.columns * 4, 0)
        answer = source.readers.ask(
            "volume", request, memory_mb=BASE_MEMORY_MB + 14e-6 * planes + 2e-6 * unpacked, timeout_s=60 + 0.5 * plan.shape[2]
        )
        if "code" in answer:
            refused.append(Refused(answer["code"], answer["sentence"], set(files)))
            continue
        row = _dicom_row(volume_id, first, answer) | {
            "tilt_deg": round(stack.tilt_deg, 4),
            "resampled": stack.straighten,
            "time_index": stack.time_index,
            "lossy": answer["lossy"],
        }
        _accept(outcome, row, answer, [images[file] for file in files])
    for refusal in refused:
        _reject(outcome, source, refusal.code, refusal.sentence, [images[n] for n in sorted(refusal.files)], "series")
    if labels:
        _convert_labels(labels, source, new_file, outcome)


def _convert_labels(labels: list[Row], source: Source, new_file: NewFile, outcome: Outcome) -> None:
    """The DICOM label object (SEG, RTSTRUCT) of this series, on the grid of the volume that it fits."""
    refusal = Refusal("mask_without_image")
    if outcome.volumes and len(labels) > 1:
        refusal = Refusal("several_masks", f"{len(labels)} label objects for one series; list the others under `skip`")
    elif outcome.volumes:
        answer: Row = {}
        for volume in outcome.volumes:
            if volume.row["resampled"]:
                answer = {"code": "mask_mismatch", "sentence": Refusal("mask_mismatch", "its image was straightened").sentence}
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
                _accept_mask(volume, labels[0], answer)
                return
        _reject(outcome, source, answer["code"], answer["sentence"], labels, "labels")
        return
    _reject(outcome, source, refusal.code, refusal.sentence, labels, "labels")


def _accept_mask(volume: Volume, mask: Row, answer: Row) -> None:
    """A mask belongs to its volume's row: its file is counted there."""
    volume.row["label"] = True
    volume.row["num_files"] += 1
    volume.row["bytes"] += int(mask["size"])
    volume.files.add(mask["name"])
    volume.extra["mask_labels"] = answer["labels"]
    if answer.get("overlap"):
        volume.row["warnings"] = [*volume.row["warnings"], "overlapping_labels"]


def _is_complete(headers: list[Header]) -> bool:
    """Whether a series says how many images it has and all are here (or it is one multi-frame file)."""
    if len(headers) == 1 and (headers[0].per_frame or headers[0].tiles):
        return True
    return any(header.declared_images == len(headers) for header in headers)


def _memory_mb(header: Header, times: int) -> float:
    return BASE_MEMORY_MB + times * header.layout.rows * header.layout.columns * header.layout.frames * 2e-6


def _dicom_row(volume_id: str, header: Header, answer: Row) -> Row:
    return _grid_row(volume_id, answer) | {
        "series_id": header.series,
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


def _grid_row(volume_id: str, answer: Row) -> Row:
    row: Row = dict.fromkeys(SERIES_COLUMNS)
    return row | {
        "volume_id": volume_id,
        "shape": answer["shape"],
        "spacing_mm": [round(s, 6) for s in answer["spacing_mm"]],
        "affine": answer["affine"],
        "dtype": answer["dtype"],
        "slope": answer["slope"],
        "intercept": answer["intercept"],
        "orientation_source": answer["source_codes"],
        "content_sha256": answer["sha256"],
        "lossy": False,
        "resampled": False,
        "label": False,
        "warnings": answer.get("warnings", []),
    }


def _accept(outcome: Outcome, row: Row, answer: Row, files: list[Row]) -> Volume:
    """A volume; a file that an earlier volume of the group counts is not counted again."""
    counted = {name for volume in outcome.volumes for name in volume.files}
    fresh = [file for file in files if file["name"] not in counted]
    row["num_files"], row["bytes"] = len(fresh), sum(int(file["size"]) for file in fresh)
    extra: Row = {
        name: answer[name] for name in ("source_shape", "source_affine", "source_codes", "padded_voxels") if name in answer
    }
    volume = Volume(row, extra, {file["name"] for file in fresh})
    outcome.volumes.append(volume)
    return volume


# ---- NIfTI


def _convert_nifti(rows: list[Row], source: Source, new_file: NewFile, outcome: Outcome) -> None:
    images = [row for row in rows if row["role"] == "image" and row["format"] == "nifti"]
    masks = [row for row in rows if row["role"] == "mask" and row["format"] == "nifti"]
    for image in images:
        _convert_nifti_image(image, masks, source, new_file, outcome)
    if not outcome.volumes and masks:
        _reject(outcome, source, "mask_without_image", Refusal("mask_without_image").sentence, masks, "labels")


def _convert_nifti_image(image: Row, masks: list[Row], source: Source, new_file: NewFile, outcome: Outcome) -> None:
    header = json.loads(image["header"])
    shape = header["shape"]
    if min(shape[2:3]) < int(source.settings.get("min_slices", 3)):
        refusal = Refusal("few_slices", f"{shape[2]} of at least {source.settings.get('min_slices', 3)}")
        _reject(outcome, source, refusal.code, refusal.sentence, [image], "series")
        return
    num_points = shape[3] if len(shape) > 3 else 1
    series_id = minted(source.key, "s", image["name"])
    volume_ids = [minted(source.key, "v", series_id, f"time{n}" if num_points > 1 else "") for n in range(num_points)]
    request = {
        "file": source.file(image),
        "mask": False,
        "tilt": source.settings.get("tilt", "resample"),
        "no_space": source.settings.get("no_space", "refuse"),
        "targets": [str(new_file(volume_id, "image.npy")) for volume_id in volume_ids],
    }
    memory_mb = BASE_MEMORY_MB + 6e-6 * header["bytes"] + 20e-6 * shape[0] * shape[1] * shape[2]
    answer = source.readers.ask("nifti", request, memory_mb=memory_mb, timeout_s=60 + 1e-6 * header["bytes"])
    if "code" in answer:
        _reject(outcome, source, answer["code"], answer["sentence"], [image], "series")
        return
    subject = minted(source.key, "p", nifti_subject(image["name"], source.settings, source.labels))
    for point, part in enumerate(answer["points"]):
        row = _grid_row(volume_ids[point], part) | {
            "series_id": series_id,
            "subject_id": subject,
            "unit": "patient",
            "kind": "volume",
            "format": "nifti",
            "modality": nifti_modality(image["name"], source.settings),
            "tilt_deg": round(part["tilt_deg"], 4),
            "resampled": part["tilt_deg"] > 0,
            "time_index": point if num_points > 1 else None,
        }
        _accept(outcome, row, part, [image])
    for mask in masks:
        _convert_nifti_mask(mask, image, header, answer["points"][0], volume_ids, source, new_file, outcome)


def _convert_nifti_mask(
    mask: Row, image: Row, header: Row, part: Row, volume_ids: list[str], source: Source, new_file: NewFile, outcome: Outcome
) -> None:
    mask_header = json.loads(mask["header"])
    if len(mask_header["shape"]) > 3:
        refusal = Refusal("mask_mismatch", f"mask {mask_header['shape']}, image {header['shape']} voxels")
        _reject(outcome, source, refusal.code, refusal.sentence, [mask], "labels")
        return
    request = {
        "file": source.file(mask),
        "mask": True,
        "no_space": source.settings.get("no_space", "refuse"),
        "image_shape": part["source_shape"],
        "image_affine": part["source_affine"],
        "straighten": part["tilt_deg"] > 0,
        "targets": [str(new_file(volume_ids[0], "mask.npy"))],
    }
    answer = source.readers.ask("nifti", request, memory_mb=BASE_MEMORY_MB + 30e-6 * mask_header["bytes"], timeout_s=120)
    if "code" in answer:
        _reject(outcome, source, answer["code"], answer["sentence"], [mask], "labels")
        return
    _accept_mask(outcome.volumes[0], mask, answer)


def place_mask(mask: Row, root: Path, volume: Row, readers: Readers, no_space: str, target: Path) -> Row:
    """Write a mask that came apart from its image on that volume's grid; the answer of the readers, or a refusal.

    Args:
        mask: its row of the inventory (NIfTI, or a DICOM label object).
        root: of its relative name.
        volume: the `volume.json` of the image.
        readers: the reading processes.
        no_space: what to do with a NIfTI without a space.
        target: the `.npy` file to write.
    """
    voxels = math.prod(volume["source_shape"])
    memory_mb = 3 * BASE_MEMORY_MB + 40e-6 * voxels + 60e-6 * int(mask["size"])
    request = {
        "file": {"path": str(root / mask["name"]), "size": int(mask["size"])},
        **{"image_shape": volume["source_shape"], "image_affine": volume["source_affine"], "targets": [str(target)]},
    }
    if mask["format"] == "nifti":
        request |= {"mask": True, "no_space": no_space, "straighten": bool(volume["resampled"])}
        return readers.ask("nifti", request, memory_mb=memory_mb, timeout_s=120)
    if volume["resampled"]:
        refusal = Refusal("mask_mismatch", "its image was straightened")
        return {"code": refusal.code, "sentence": refusal.sentence}
    return readers.ask("label", request, memory_mb=memory_mb, timeout_s=300)


# ---- image sets


def _convert_pictures(rows: list[Row], source: Source, new_file: NewFile, outcome: Outcome) -> None:
    """All pictures of one shape and depth as one volume of kind `images`."""
    rows = sorted(rows, key=lambda row: row["name"])
    header = json.loads(rows[0]["header"])
    columns, height = header["shape"]
    volume_id = minted(source.key, "v", rows[0]["group"])
    target = new_file(volume_id, "image.npy")
    request = {
        "shape": [columns, height],
        "dtype": header["dtype"],
        "files": [source.file(row) for row in rows],
        "target": str(target),
    }
    memory_mb = BASE_MEMORY_MB + 4e-6 * columns * height * (len(rows) + 16)
    answer = source.readers.ask("pictures", request, memory_mb=memory_mb, timeout_s=60 + 0.5 * len(rows))
    if "code" in answer:
        _reject(outcome, source, answer["code"], answer["sentence"], rows, "series")
        return
    kept = [rows[n] for n in answer["kept"]]
    for code, group in _by_code(
        {**rows[r["number"]], "code": r["code"], "sentence": r["sentence"]} for r in answer["refused"]
    ).items():
        _reject(outcome, source, code, group[0]["sentence"], group, "series")
    if not kept:
        return
    images = []
    for index, row in enumerate(kept):
        name = row["name"]
        label, split = source.folders.get(name, (None, None))
        subject = source.labels.subject.get(name)
        images.append(
            {
                "index": index,
                "image_id": minted(source.key, "i", name),
                "label": label,
                "split": source.labels.split.get(name, split),
                "subject_id": minted(source.key, "p", subject) if subject else None,
            }
        )
    _accept_images(
        outcome,
        volume_id,
        rows[0]["group"],
        "png",
        answer | {"columns": columns, "rows": height, "lossy": header["lossy"]},
        images,
        kept,
    )


def _convert_npz(row: Row, source: Source, new_file: NewFile, outcome: Outcome) -> None:
    """The image arrays of an NPZ, one volume of kind `images` for each distinct shape."""
    sets = json.loads(row["header"])["sets"]
    shapes = Counter((tuple(s["shape"][1:]), s["dtype"]) for s in sets)
    for (height, columns), dtype in shapes:
        names = [s["name"] for s in sets if (tuple(s["shape"][1:]), s["dtype"]) == ((height, columns), dtype)]
        count = sum(s["shape"][0] for s in sets if s["name"] in names)
        volume_id = minted(source.key, "v", row["group"], f"{columns}x{height}", dtype)
        request = {"file": source.file(row), "names": names, "dtype": dtype, "target": str(new_file(volume_id, "image.npy"))}
        memory_mb = BASE_MEMORY_MB + 8e-6 * columns * height * count * 2 + 2e-6 * int(row["size"])
        answer = source.readers.ask("npz", request, memory_mb=memory_mb, timeout_s=60 + 1e-6 * columns * height * count)
        if "code" in answer:
            _reject(outcome, source, answer["code"], answer["sentence"], [row], "series")
            continue
        images: list[Row] = []
        for name, split, labels in zip(names, answer["splits"], answer["labels"], strict=True):
            for position, label in enumerate(labels):
                images.append(
                    {
                        "index": len(images),
                        "image_id": minted(source.key, "i", row["name"], name, str(position)),
                        "label": None if label is None else str(label),
                        "split": split,
                        "subject_id": None,
                    }
                )
        _accept_images(outcome, volume_id, row["group"], "npz", answer | {"columns": columns, "rows": height}, images, [row])


def _accept_images(
    outcome: Outcome, volume_id: str, series_id: str, form: str, answer: Row, images: list[Row], files: list[Row]
) -> None:
    subjects = {image["subject_id"] for image in images}
    row: Row = dict.fromkeys(SERIES_COLUMNS)
    row |= {
        "volume_id": volume_id,
        "series_id": series_id,
        "unit": "patient" if None not in subjects else "image",
        "kind": "images",
        "format": form,
        "modality": "OT",
        "shape": [answer["columns"], answer["rows"], len(images)],
        "affine": [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        "dtype": answer["dtype"],
        "slope": 1.0,
        "intercept": 0.0,
        "content_sha256": answer["sha256"],
        "lossy": answer.get("lossy", False),
        "resampled": False,
        "label": any(image["label"] is not None for image in images),
        "warnings": [],
    }
    volume = _accept(outcome, row, answer, files)
    volume.images = images


def picture_labels(rows: list[Row]) -> dict[str, tuple[str, str | None]]:
    """Class and split of the pictures of an inventory from their folders, where these leave no doubt."""
    return folder_labels([row["name"] for row in rows if row["format"] == "png"])
