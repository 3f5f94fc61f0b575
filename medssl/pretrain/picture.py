"""A picture of what the network sees: one row per sample, one column per view."""

from __future__ import annotations

import numpy as np
from torch import Tensor

GAP = 2


def grid(views: list[Tensor], *, side: int = 160) -> np.ndarray:
    """Views `(n, c, *size)` in [0, 1] as an 8-bit picture; of channels the first, of 3-D views the middle slice.

    Images are drawn as a radiologist holds them: the first axis to the right, the second upwards.
    """
    rows = []
    for sample in range(len(views[0])):
        rows.append(np.concatenate([_tile(view[sample, 0], side) for view in views], axis=1))
    return np.concatenate(rows, axis=0)


def _tile(image: Tensor, side: int) -> np.ndarray:
    plane = image if image.ndim == 2 else image[..., image.shape[-1] // 2]
    pixels = np.asarray(plane.float().cpu().numpy() * 255, dtype=np.uint8).T[::-1]
    factor = max(1, side // max(pixels.shape))
    large = np.kron(pixels, np.ones((factor, factor), dtype=np.uint8))
    return np.pad(large, ((0, GAP), (0, GAP)), constant_values=255)
