"""Pictures of one shape, or the arrays of an NPZ archive, become one volume of kind `images`."""

from __future__ import annotations

import json
from collections import Counter

from medssl.artefacts.series import SERIES
from medssl.core.errors import StudyError, did_you_mean
from medssl.core.file_names import folder_labels, is_mask, names_a_mask, without_suffix
from medssl.core.listing import minted, minted_patient
from medssl.core.partition import PARTS
from medssl.core.patient_names import subject_of
from medssl.ingest.ledger import Row
from medssl.ingest.outcome import Converted, Outcome, by_code
from medssl.ingest.source import BASE_MEMORY_MB, NewFile, Source


def convert_pictures(rows: list[Row], source: Source, new_file: NewFile, outcome: Outcome) -> None:
    """All pictures of one shape and depth as one volume of kind `images`."""
    rows = sorted(rows, key=lambda row: row["name"])
    header = json.loads(rows[0]["header"])
    columns, height = header["shape"]
    volume_id = minted(source.own_key, "v", rows[0]["group"])
    target = new_file(volume_id, "image.npy")
    request = {
        "shape": [columns, height],
        "dtype": header["dtype"],
        "files": [source.file(row) for row in rows],
        "named_as_masks": [n for n, row in enumerate(rows) if _says_a_mask(row["name"])],
        "target": str(target),
    }
    memory_mb = BASE_MEMORY_MB + 4e-6 * columns * height * (len(rows) + 16)
    answer = source.readers.ask("pictures", request, memory_mb=memory_mb, timeout_s=60 + 0.5 * len(rows))
    if "code" in answer:
        outcome.reject(answer["code"], answer["sentence"], rows, "series")
        return
    kept = [rows[n] for n in answer["kept"]]
    for code, group in by_code(
        {**rows[r["number"]], "code": r["code"], "sentence": r["sentence"]} for r in answer["refused"]
    ).items():
        outcome.reject(code, group[0]["sentence"], group, "series")
    if not kept:
        return
    images = []
    for index, row in enumerate(kept):
        name = row["name"]
        label, split = source.folders.get(name, (None, None))
        pattern = source.options.subject_pattern
        subject = source.labels.subject_at(name) or (subject_of(name, pattern) if pattern else None)
        images.append(
            {
                "index": index,
                "image_id": minted(source.own_key, "i", name),
                "label": label,
                "split": _part(source.labels.split.get(name, split)),
                "subject_id": minted_patient(source.key, subject) if subject else None,
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


def _says_a_mask(name: str) -> bool:
    return names_a_mask(name) or is_mask(without_suffix(name))


def _part(said: str | None) -> str | None:
    """The part of a picture, from the label table or its folder.

    Raises:
        StudyError: there is no such part.
    """
    if said not in (None, *PARTS):
        hint = did_you_mean(str(said), PARTS)
        raise StudyError(f"labels: the split {said!r} of the table is none of {', '.join(PARTS)}.{hint}")
    return said


def convert_npz(row: Row, source: Source, new_file: NewFile, outcome: Outcome) -> None:
    """The image arrays of an NPZ, one volume of kind `images` for each distinct shape."""
    sets = json.loads(row["header"])["sets"]
    shapes = Counter((tuple(s["shape"][1:]), s["dtype"]) for s in sets)
    for (height, columns), dtype in shapes:
        names = [s["name"] for s in sets if (tuple(s["shape"][1:]), s["dtype"]) == ((height, columns), dtype)]
        count = sum(s["shape"][0] for s in sets if s["name"] in names)
        volume_id = minted(source.own_key, "v", row["group"], f"{columns}x{height}", dtype)
        request = {"file": source.file(row), "names": names, "dtype": dtype, "target": str(new_file(volume_id, "image.npy"))}
        memory_mb = BASE_MEMORY_MB + 8e-6 * columns * height * count * 2 + 2e-6 * int(row["size"])
        answer = source.readers.ask("npz", request, memory_mb=memory_mb, timeout_s=60 + 1e-6 * columns * height * count)
        if "code" in answer:
            outcome.reject(answer["code"], answer["sentence"], [row], "series")
            continue
        images: list[Row] = []
        parts: dict[str, str] = {}
        for name, split, labels in zip(names, answer["splits"], answer["labels"], strict=True):
            for position, label in enumerate(labels):
                images.append(
                    {
                        "index": len(images),
                        "image_id": minted(source.own_key, "i", row["name"], name, str(position)),
                        "label": None if label is None else str(label),
                        "split": split,
                        "subject_id": None,
                    }
                )
                parts[images[-1]["image_id"]] = f"{name}[{position}]"
        size = {"columns": columns, "rows": height}
        _accept_images(outcome, volume_id, row["group"], "npz", answer | size, images, [row]).parts = parts


def _accept_images(
    outcome: Outcome, volume_id: str, series_id: str, form: str, answer: Row, images: list[Row], files: list[Row]
) -> Converted:
    subjects = {image["subject_id"] for image in images}
    row: Row = dict.fromkeys(SERIES.names)
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
        "warnings": answer.get("warnings", []),
    }
    volume = outcome.accept(row, answer, files)
    volume.images = images
    return volume


def picture_labels(rows: list[Row]) -> dict[str, tuple[str, str | None]]:
    """Class and split of an inventory's pictures from their folders, if these are unambiguous."""
    return folder_labels([row["name"] for row in rows if row["format"] == "png"])
