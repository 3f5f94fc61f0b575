"""Pictures on the page: which slices are shown, how they are windowed, and their bytes inside the file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

MOST_PAIRS = 12
LONGEST_PIXELS = 192
MOST_WIDE_PIXELS = 1400
OUTLINES = 190
"""How many outlines lie beside one another across a picture: one is as thick as is seen when the picture is shown small."""


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

    Images that are not volumes keep axis 0 across and axis 1 down.
    """
    values = np.asarray(seen, dtype=np.float32).T
    if is_volume:
        values = values[::-1, ::-1]
    step = _step(values.shape)
    return (values[::step, ::step] * 255).round().astype(np.uint8)


def overlay(seen: NDArray[np.generic], mask: NDArray[np.uint8], colours: Mapping[int, tuple[int, int, int]]) -> NDArray[np.uint8]:
    """A plane of a volume, through its window, with the outline of each value of a mask in the value's colour.

    Of shape `(rows, columns, 3)`; a value without a colour is white.
    """
    gray, turned = to_gray(seen, is_volume=True), np.asarray(mask).T[::-1, ::-1]
    step = _step(turned.shape)
    grow = max(1, round(2 * LONGEST_PIXELS / max(gray.shape)))
    pixels = np.repeat(np.kron(gray, np.ones((grow, grow), np.uint8))[:, :, None], 3, axis=2)
    for value in np.unique(turned[turned > 0]):
        inside = np.kron(turned[::step, ::step] == value, np.ones((grow, grow), bool))
        pixels[_outline(inside, max(1, round(max(inside.shape) / OUTLINES)))] = colours.get(int(value), (255, 255, 255))
    return pixels


def _step(shape: tuple[int, ...]) -> int:
    """Every how many pixels one is shown, so that a plane is small: a picture and the masks on it must agree."""
    return max(1, int(np.ceil(max(shape) / (2 * LONGEST_PIXELS))))


def _outline(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """Pixels of a mask that are fewer than `thickness` steps from one outside it."""
    inside = mask
    for _ in range(thickness):
        around = np.pad(inside, 1)
        inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return np.asarray(mask & ~inside)


@dataclass(frozen=True)
class Picture:
    """Pixels with a text for those who cannot see them; `kind` is its class on the page, `uri` holds its bytes."""

    uri: str
    width: int
    height: int
    alt: str
    kind: str = "slice"

    def __html__(self) -> str:
        """An `<img>` with its bytes inside."""
        return Markup('<img class="{}" width="{}" height="{}" alt="{}" src="{}">').format(
            self.kind, self.width, self.height, self.alt, self.uri
        )


def picture(pixels: NDArray[np.uint8], alt: str, *, longest: int = LONGEST_PIXELS) -> Picture:
    """Pixels as JPEG, at most `longest` on a side."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest), Image.Resampling.BOX)
    return Picture(_uri(_bytes(image, "JPEG", quality=84, subsampling=0), "image/jpeg"), image.width, image.height, alt)


def sheet(png: bytes, alt: str) -> Picture:
    """A picture that a stage drew, at most 1400 pixels wide, inside the page."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.width > MOST_WIDE_PIXELS:
        image.thumbnail((MOST_WIDE_PIXELS, 10 * MOST_WIDE_PIXELS))
    return Picture(_uri(_bytes(image, "JPEG", quality=85), "image/jpeg"), image.width, image.height, alt, "sheet")


def _bytes(image: object, format_: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)  # type: ignore[attr-defined]
    return buffer.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
