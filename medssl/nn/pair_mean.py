"""The mean over blocks of 2 × 2 × 2, for which torch's own layer is not deterministic on a GPU."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PairMean3d(nn.Module):
    """`(n, c, *size)` halved along three axes: the values of `nn.AvgPool3d(2, ceil_mode=keep_rest)`.

    If a size is odd, its last plane is dropped, or with `keep_rest` kept as it is. The backward pass of torch's layer adds in any
    order on a GPU, and is refused under deterministic algorithms.
    """

    def __init__(self, *, keep_rest: bool = False) -> None:
        super().__init__()
        self.keep_rest = keep_rest

    def forward(self, x: Float[Tensor, "n c i j k"]) -> Float[Tensor, "n c _ _ _"]:
        """Half the size."""
        for axis in (2, 3, 4):
            even = x.shape[axis] // 2 * 2
            if even < x.shape[axis]:
                x = torch.cat([x, x.narrow(axis, even, 1)], axis) if self.keep_rest else x.narrow(axis, 0, even)
        return x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5, 7))
