"""In the reading process: pictures and NPZ archives as stacks of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.core.files import sha256_file
from medssl.ingest.mask_values import mask_values
from medssl.ingest.opening import open_listed
from medssl.ingest.picture import npz_array, npz_labels, npz_sets, picture
from medssl.ingest.refusal import Answer, Refusal, Request

SAMPLED = 64
"""Pictures of a set whose values show together whether they may be masks."""


def pictures(request: Request, key: bytes) -> Answer:
    """Decode pictures of one shape into an array file `(i, j, n)`; damaged ones are refused one by one."""
    columns, rows = request["shape"]
    named_as_masks = set(request["named_as_masks"])
    stack = np.empty((columns, rows, len(request["files"])), np.dtype(request["dtype"]), order="F")
    refused: list[Answer] = []
    kept: list[int] = []
    for number, file in enumerate(request["files"]):
        try:
            pixels = picture(open_listed(file))
            if pixels.shape != (columns, rows) or pixels.dtype != stack.dtype:
                raise Refusal("changed")
            if number in named_as_masks and (found := mask_values([pixels], named_as_mask=True)):
                raise Refusal("picture_mask", found)
        except Refusal as refusal:
            refused.append({"number": number, **refusal.answer()})
            continue
        stack[:, :, len(kept)] = pixels
        kept.append(number)
    sampled = range(0, len(kept), max(1, len(kept) // SAMPLED))
    warnings = ["few_values"] if mask_values(stack[:, :, n] for n in sampled) else []
    return {
        "kept": kept,
        "refused": refused,
        "warnings": warnings,
        **_write_images(stack[:, :, : len(kept)], Path(request["target"])),
    }


def npz(request: Request, key: bytes) -> Answer:
    """Write the image arrays of an NPZ that have one shape into an array file `(i, j, n)`; labels as numbers."""
    data = open_listed(request["file"])
    sets = [s for s in npz_sets(data) if s["name"] in request["names"]]
    arrays = [npz_array(data, s["name"]).reshape(s["shape"]).transpose(2, 1, 0) for s in sets]
    labels = [npz_labels(data, s["labels"]) if s["labels"] else [None] * s["shape"][0] for s in sets]
    written = _write_images(np.concatenate(arrays, axis=2), Path(request["target"]))
    return {"labels": labels, "splits": [s["split"] for s in sets], **written}


def _write_images(stack: np.ndarray, target: Path) -> Answer:
    """Images as uint8 or int16 if they fit, otherwise float32."""
    if stack.dtype != np.uint8:
        fits = stack.size == 0 or (stack.min() >= -32768 and stack.max() <= 32767)
        stack = stack.astype(np.int16 if fits else np.float32)
    with open(target, "wb") as file:
        np.lib.format.write_array(file, np.asfortranarray(stack), allow_pickle=False)
    return {"dtype": str(stack.dtype), "sha256": sha256_file(target)}
