"""Patches of scans with enough foreground, and of their masks: cut on the processor, or gathered from scans on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64, Integer
from torch import Tensor

from medssl.artefacts.volumes import Volume
from medssl.core.rng import rng
from medssl.finetune.scans import Places, Scan
from medssl.nn.loading import Batch, load
from medssl.nn.options import DataPlace
from medssl.nn.resident import lies_on

Voxel = tuple[int, int, int]


class Patch(NamedTuple):
    """A place in a scan: the scan's number, and the first voxel, which may lie before the scan's own."""

    scan: int
    start: Int64[np.ndarray, "3"]


class Patches:
    """Batches of patches of random scans with their margins, a function of seed and step.

    Places outside a scan have the low end of its first window, and are background.

    Args:
        scans: with masks, and all with the same number of windows.
        places: of each class in them.
        values: mask value of each class, the background 0 first; batches hold the number of the class.
        size: of a patch in voxels; 1 along the last axis for slices.
        margin: voxels read beyond each side of a patch, which grows by twice that.
        count: patches of a batch.
        foreground_frac: share of them (rounded up) that is centred near a voxel of a class. The class is drawn among those of the
            scan, so that a small class occurs as often as a large one.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        places: Sequence[Places],
        values: Sequence[int],
        size: Voxel,
        margin: Voxel,
        *,
        count: int,
        foreground_frac: float,
        seed: int,
    ) -> None:
        self.scans, self.places, self.size, self.margin = scans, places, size, margin
        self.count, self.foreground_frac, self.seed = count, foreground_frac, seed
        self.volumes: list[Volume] = [scan.volume for scan in scans]
        self.num_channels = scans[0].volume.num_channels
        self.class_of = np.zeros(max(values) + 1, dtype=np.uint8 if len(values) <= 256 else np.int16)
        self.class_of[list(values)] = np.arange(len(values))
        numbers = {name: [getattr(volume, name) for volume in self.volumes] for name in ("slope", "intercept", "low", "high")}
        self._windows = {name: torch.tensor(rows, dtype=torch.float32) for name, rows in numbers.items()}
        outside = (self._windows["low"][:, 0] - self._windows["intercept"]) / self._windows["slope"]
        self.outside: Float32[Tensor, "scans"] = outside

    @property
    def canvas(self) -> Voxel:
        """The voxels of a patch with its margins."""
        i, j, k = (side + 2 * more for side, more in zip(self.size, self.margin, strict=True))
        return i, j, k

    @property
    def num_bytes(self) -> int:
        """Of all scans and masks."""
        voxels = [int(np.prod(scan.shape)) for scan in self.scans]
        return sum(voxels) * (self.class_of.itemsize + max(np.asarray(scan.image[:1, :1, :1]).itemsize for scan in self.scans))

    def batches(
        self, steps: Iterable[int], device: torch.device, *, data: DataPlace = "auto", workers: int = 0
    ) -> Iterator[Batch]:
        """The batches of steps on the device; from scans stored there if `data` says so, with equal bits."""
        if lies_on(device, data, self.num_bytes, "finetune.data"):
            here = _OnDevice(self, device)
            yield from (here[step] for step in steps)
        else:
            yield from load(self, ((step, np.zeros(0, np.int64)) for step in steps), workers=workers, device=device)

    def drawn(self, step: int) -> list[Patch]:
        """The patches of a step: shifted inside the scan if it is large enough, otherwise centred."""
        generator = rng(self.seed, "patches", step)
        num_foreground = int(np.ceil(self.foreground_frac * self.count))
        found = []
        for number in range(self.count):
            chosen = int(generator.integers(len(self.scans)))
            shape, by_class = np.array(self.scans[chosen].shape), self.places[chosen].by_class
            centre = np.array([generator.integers(extent) for extent in shape])
            if number < num_foreground and by_class:
                voxels = by_class[int(generator.integers(len(by_class)))]
                jitter = np.array([generator.integers(-(side // 4), side // 4 + 1) for side in self.size])
                centre = voxels[int(generator.integers(len(voxels)))] + jitter * (np.array(self.size) > 1)
                centre = np.clip(centre, 0, shape - 1)
            found.append(Patch(chosen, self._start(centre, shape) - np.array(self.margin)))
        return found

    def __getitem__(self, request: tuple[int, Int64[np.ndarray, "_"]]) -> Batch:
        """The batch of a step, on the processor."""
        patches = self.drawn(request[0])
        stored = np.empty((self.count, 1, *self.canvas), dtype=np.float32)
        mask = np.zeros((self.count, 1, *self.canvas), dtype=self.class_of.dtype)
        for image, classes, (number, start) in zip(stored[:, 0], mask[:, 0], patches, strict=True):
            scan = self.scans[number]
            first, last = np.maximum(start, 0), np.minimum(start + self.canvas, scan.shape)
            source = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
            target = tuple(slice(a - s, b - s) for a, b, s in zip(first, last, start, strict=True))
            image.fill(self.outside[number])
            image[target] = scan.image[source]
            classes[target] = self.class_of[np.asarray(scan.mask[source])]
        return self.batch(torch.from_numpy(stored), torch.from_numpy(mask), patches, request[0])

    def batch(
        self, stored: Float32[Tensor, "n 1 i j k"], mask: Integer[Tensor, "n 1 i j k"], patches: list[Patch], step: int
    ) -> Batch:
        """A batch of patches; those of slices lose their last axis."""
        device, scans = stored.device, torch.tensor([patch.scan for patch in patches])
        if self.size[2] == 1:
            stored, mask = stored[..., 0], mask[..., 0]
        return Batch(
            stored=stored,
            mask=mask,
            extent=torch.tensor([stored.shape[2:]] * len(patches), device=device),
            **{name: rows[scans].to(device, non_blocking=True) for name, rows in self._windows.items()},
            rows=scans,
            volume=scans,
            axis=np.array([self.scans[patch.scan].axis for patch in patches]),
            keys=np.arange(len(patches), dtype=np.uint64),
            epoch=step,
        )

    def _start(self, centre: Int64[np.ndarray, "3"], have: Int64[np.ndarray, "3"]) -> Int64[np.ndarray, "3"]:
        want = np.array(self.size)
        return np.where(have >= want, np.clip(centre - want // 2, 0, np.maximum(have - want, 0)), -((want - have) // 2))


class _OnDevice:
    """The scans of some patches on a device, concatenated into one vector, and batches gathered from it."""

    def __init__(self, patches: Patches, device: torch.device) -> None:
        self.patches, self.device = patches, device
        images = [torch.from_numpy(np.ascontiguousarray(scan.image).reshape(-1)) for scan in patches.scans]
        one_type = len({image.dtype for image in images}) == 1
        self._stored = torch.cat([(image if one_type else image.float()).to(device) for image in images])
        masks = [patches.class_of[np.asarray(scan.mask).reshape(-1)] for scan in patches.scans]
        self._mask = torch.cat([torch.from_numpy(mask).to(device) for mask in masks])
        sizes = [image.numel() for image in images]
        self._first = torch.tensor([0, *np.cumsum(sizes)[:-1].tolist()])
        self._shape = torch.tensor([scan.shape for scan in patches.scans])
        self._outside = patches.outside.to(device)

    def __getitem__(self, step: int) -> Batch:
        patches = self.patches.drawn(step)
        scans = torch.tensor([patch.scan for patch in patches])
        starts = torch.from_numpy(np.stack([patch.start for patch in patches]))
        # one copy to the device for all draws
        numbers = torch.cat([self._first[scans, None], self._shape[scans], starts], dim=1).to(self.device, non_blocking=True)
        first, shape, starts = numbers[:, :1], numbers[:, 1:4], numbers[:, 4:]
        inside, place = torch.ones((), dtype=torch.bool, device=self.device), first.view(-1, 1, 1, 1)
        stride = torch.stack([shape[:, 1] * shape[:, 2], shape[:, 2], torch.ones_like(shape[:, 2])], dim=1)
        for axis, side in enumerate(self.patches.canvas):
            wide = [-1, 1, 1, 1]
            wide[1 + axis] = side
            at = starts[:, axis, None] + torch.arange(side, device=self.device)
            inside = inside & ((at >= 0) & (at < shape[:, axis, None])).view(wide)
            place = place + (at.clamp_min(0).minimum(shape[:, axis, None] - 1) * stride[:, axis, None]).view(wide)
        outside = self._outside[scans.to(self.device)].view(-1, 1, 1, 1)
        stored = torch.where(inside, self._stored[place].float(), outside)
        return self.patches.batch(stored[:, None], (self._mask[place] * inside)[:, None], patches, step)
