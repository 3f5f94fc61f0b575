"""Class probabilities of whole scans: overlapping windows, batched across scans, blended on the device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor, nn

from medssl.finetune.scans import Scan
from medssl.nn.layout import laid_out
from medssl.nn.resident import ROOM

VOXELS = 2**20
"""Approximate number of voxels in a batch of windows on a GPU."""
SIGMA = 0.125
"""Standard deviation of the weights of a window, as a share of its side (nnU-Net's)."""


Place = tuple[Any, ...]
"""A window in a stack of images: the image, all channels, and a slice for each axis."""


@dataclass
class _Whole:
    """A scan as a stack of images `(n, c, *size)`, and the sum of its logits so far."""

    scan: Scan
    images: Tensor
    windows: list[Place]
    """Windows that are still to be predicted."""
    waiting: int
    """how many answers are outstanding"""
    logits: Tensor | None = None
    weight: Tensor | None = None


class Inference:
    """Applies a network to scans.

    Args:
        network: gives logits `(n, classes, *size)` of images `(n, c, *size)`.
        size: of a window, a number for each axis of the network; 2-D networks see the slices along the last axis.
        overlap: of neighbouring windows, as a share of their size.
        flips: predict each window in all its mirrors, and take the mean of the logits.
    """

    def __init__(self, network: nn.Module, size: tuple[int, ...], device: torch.device, *, overlap: float, flips: bool) -> None:
        self.network, self.size, self.device, self.overlap = network, size, device, overlap
        axes = range(2, 2 + len(size))
        self.mirrors = [chosen for n in range(len(size) + 1 if flips else 1) for chosen in itertools.combinations(axes, n)]
        self.batch_size = 16 if device.type == "cpu" else max(1, VOXELS // math.prod(size))
        if len(size) == 3 and device.type == "cpu":
            self.batch_size = 2
        self.importance = compute_importance_map(size, mode="gaussian", sigma_scale=SIGMA, device=device, dtype=torch.float32)

    @torch.inference_mode()
    def probabilities(self, scans: Iterable[Scan]) -> Iterator[tuple[Scan, Float32[Tensor, "classes i j k"]]]:
        """The probabilities of each scan on its prepared grid, in their order; on the device if they fit there."""
        self.network.eval()
        wholes: list[_Whole] = []
        for scan in scans:
            wholes.append(self._opened(scan))
            while sum(len(whole.windows) for whole in wholes) >= self.batch_size:
                self._answer(wholes)
            while wholes and not wholes[0].waiting:
                yield self._finished(wholes.pop(0))
        while wholes:
            self._answer(wholes)
            while wholes and not wholes[0].waiting:
                yield self._finished(wholes.pop(0))

    def _opened(self, scan: Scan) -> _Whole:
        """A scan and its windows; a scan smaller than a window is centred in one and padded with the value outside."""
        seen = scan.seen(self.device)
        images = seen.movedim(-1, 0) if len(self.size) == 2 else seen[None]
        room = self._room(images)
        if any(room):
            beyond = F.pad(torch.zeros_like(images[:, :1]), room, value=1.0)
            images = torch.where(beyond > 0, scan.outside(self.device).view(1, -1, *[1] * len(self.size)), F.pad(images, room))
        sides = tuple(images.shape[2:])
        interval = tuple(
            side if side == want else max(1, int(want * (1 - self.overlap))) for side, want in zip(sides, self.size, strict=True)
        )
        places = dense_patch_slices(sides, self.size, interval)
        windows: list[Place] = [(number, slice(None), *place) for place in places for number in range(len(images))]
        return _Whole(scan, images, windows, len(windows))

    def _room(self, images: Tensor) -> list[int]:
        """Voxels before and after each axis, the last axis first."""
        missing = [max(want - have, 0) for have, want in zip(images.shape[2:], self.size, strict=True)]
        return [half for short in reversed(missing) for half in (short // 2, short - short // 2)]

    def _answer(self, wholes: list[_Whole]) -> None:
        """Predict the next batch of windows, from the first scans that have any left."""
        asked: list[tuple[_Whole, Place]] = []
        for whole in wholes:
            taken = self.batch_size - len(asked)
            asked += [(whole, place) for place in whole.windows[:taken]]
            whole.windows = whole.windows[taken:]
        images = torch.stack([whole.images[place] for whole, place in asked])
        logits: Any = 0
        for axes in self.mirrors:
            seen = self.network(laid_out(images.flip(axes) if axes else images, self.network)).float()
            logits = logits + (seen.flip(axes) if axes else seen)
        for (whole, place), answer in zip(asked, logits / len(self.mirrors), strict=True):
            if whole.logits is None or whole.weight is None:
                shape = len(whole.images), len(answer), *whole.images.shape[2:]
                home = self._home(math.prod(shape))
                whole.logits = torch.zeros(shape, device=home)
                whole.weight = torch.zeros((shape[0], 1, *shape[2:]), device=home)
            whole.logits[place] += (answer * self.importance).to(whole.logits.device)
            whole.weight[place] += self.importance.to(whole.logits.device)
            whole.waiting -= 1

    def _home(self, numbers: int) -> torch.device:
        """The device on which so many logits are summed: the network's if it has room for them and their probabilities."""
        if self.device.type == "cpu" or 12 * numbers < ROOM * torch.cuda.mem_get_info(self.device)[0]:
            return self.device
        return torch.device("cpu")

    def _finished(self, whole: _Whole) -> tuple[Scan, Tensor]:
        """The probabilities of a scan after its last window."""
        if whole.logits is None or whole.weight is None:
            raise ValueError(f"{whole.scan.case_id} has no voxel")
        shares = (whole.logits / whole.weight).softmax(dim=1)
        shape = whole.scan.shape[: len(self.size)]
        first = [(padded - side) // 2 for padded, side in zip(shares.shape[2:], shape, strict=True)]
        inner: Place = (..., *(slice(start, start + side) for start, side in zip(first, shape, strict=True)))
        shares = shares[inner]
        return whole.scan, shares.movedim(0, -1) if len(self.size) == 2 else shares[0]
