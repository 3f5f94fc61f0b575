"""A picture of the network's input: one column per sample, one row per view."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

GAP = 2


def grid(rows: Sequence[Float[Tensor, "n c ..."]], *, side: int = 160) -> UInt8[np.ndarray, "_ _"]:
    """Rows `(n, c, *size)` of images in [0, 1] as an 8-bit picture; of channels the first, of 3-D images the middle slice.

    Images are drawn in radiological orientation: the first axis to the right, the second upwards.
    """
    drawn = [np.concatenate([_tile(image[0], side) for image in row], axis=1) for row in rows]
    width = max(row.shape[1] for row in drawn)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1])), constant_values=255) for row in drawn])


def _tile(image: Tensor, side: int) -> np.ndarray:
    plane = image if image.ndim == 2 else image[..., image.shape[-1] // 2]
    pixels = np.asarray(plane.float().cpu().numpy() * 255, dtype=np.uint8).T[::-1]
    factor = max(1, side // max(pixels.shape))
    large = np.kron(pixels, np.ones((factor, factor), dtype=np.uint8))
    return np.pad(large, ((0, GAP), (0, GAP)), constant_values=255)
