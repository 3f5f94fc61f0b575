"""Pictures on the page: which slices are shown, how they are windowed, and their bytes inside the file."""

from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

MOST_PAIRS = 18
LONGEST_PIXELS = 132
MOST_WIDE_PIXELS = 1400
TRUE_COLOUR = (79, 186, 193)
PREDICTED_COLOUR = (238, 138, 78)


def chosen_slices(keep: pd.DataFrame, most: int = MOST_PAIRS) -> pd.DataFrame:
    """Dropped slices at even steps through the order of their distance, each with its kept twin; never by eye.

    Where nothing was dropped, kept slices at even steps through the order of ids.
    """
    dropped = keep[~keep["keep"].astype(bool)]
    rows = dropped.sort_values(["distance", "sample_id"], kind="stable") if len(dropped) else keep.sort_values("sample_id")
    places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    return rows.iloc[places].reset_index(drop=True)


def to_gray(seen: NDArray[np.generic], *, is_volume: bool) -> NDArray[np.uint8]:
    """A plane through its window, in [0, 1], as 8-bit rows and columns: shrunk, and turned as radiologists look (right is left,
    front up).

    Images that are no volumes keep axis 0 across and axis 1 down.
    """
    values = np.asarray(seen, dtype=np.float32).T
    if is_volume:
        values = values[::-1, ::-1]
    step = _step(values.shape)
    return (values[::step, ::step] * 255).round().astype(np.uint8)


def overlay(seen: NDArray[np.generic], prediction: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A plane of a volume, through its window, with the outlines of the true mask (teal) and of the predicted one (orange).

    Of shape `(rows, columns, 3)`.
    """
    gray, masks = to_gray(seen, is_volume=True), [np.asarray(m).T[::-1, ::-1] for m in (target, prediction)]
    step = _step(masks[0].shape)
    grow = max(1, round(2 * LONGEST_PIXELS / max(gray.shape)))
    pixels = np.repeat(np.kron(gray, np.ones((grow, grow), np.uint8))[:, :, None], 3, axis=2)
    for mask, colour in zip(masks, (TRUE_COLOUR, PREDICTED_COLOUR), strict=True):
        for value in np.unique(mask[mask > 0]):
            pixels[_outline(np.kron(mask[::step, ::step] == value, np.ones((grow, grow), bool)))] = colour
    return pixels


def _step(shape: tuple[int, ...]) -> int:
    """Every how many pixels one is shown, so that a plane is small: a picture and the masks on it must agree."""
    return max(1, int(np.ceil(max(shape) / (2 * LONGEST_PIXELS))))


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of a mask with a neighbour outside it."""
    around = np.pad(mask, 1)
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return np.asarray(mask & ~inside)


def picture(pixels: NDArray[np.uint8], alt: str, *, kind: str = "slice", longest: int = LONGEST_PIXELS) -> Markup:
    """An `<img>` with its bytes inside (JPEG, at most `longest` pixels)."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest), Image.Resampling.BOX)
    return Markup('<img class="{}" width="{}" height="{}" alt="{}" src="{}">').format(
        kind, image.width, image.height, alt, _uri(_bytes(image, "JPEG", quality=84, subsampling=0), "image/jpeg")
    )


def sheet(png: bytes, alt: str) -> Markup:
    """A picture that a stage drew, at most 1400 pixels wide, inside the page."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.width > MOST_WIDE_PIXELS:
        image.thumbnail((MOST_WIDE_PIXELS, 10 * MOST_WIDE_PIXELS))
    return Markup('<img class="sheet" width="{}" height="{}" alt="{}" src="{}">').format(
        image.width, image.height, alt, _uri(_bytes(image, "JPEG", quality=85), "image/jpeg")
    )


def _bytes(image: object, format_: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)  # type: ignore[attr-defined]
    return buffer.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
