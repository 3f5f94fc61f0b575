"""Images or whole volumes of labelled cases at the networks' input size: read once, and as batches on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int, Int64, Shaped
from torch import Tensor

from medssl.finetune.task import NetworkInput
from medssl.nn.loading import Batch, Reader, Samples, load
from medssl.nn.options import DataPlace
from medssl.nn.resident import lies_on
from medssl.volume.cache import open_array

KEPT_BYTES = 4e9
"""Images up to this size are kept in memory."""
CHUNK = 256


@dataclass(frozen=True)
class CaseImages:
    """The images of cases in the order of `rows`; `images(numbers)` gives network inputs.

    Args:
        samples: of the source.
        rows: the sample of each case.
        expected: size and rank of the images.
    """

    samples: Samples
    rows: Int64[np.ndarray, "cases"]
    expected: NetworkInput
    _whole: dict[str, Batch] = field(default_factory=dict)
    """All cases as one batch, by device, if they are kept there."""

    def __call__(self, numbers: Int[np.ndarray, "n"]) -> Float32[Tensor, "n c *size"]:
        """Some cases, unchanged, in [0, 1]."""
        return self[0, numbers].seen

    def __getitem__(self, request: tuple[int, Int[np.ndarray, "n"]]) -> Batch:
        """The batch of a step, on the processor."""
        step, numbers = request
        kept = self._whole.get("cpu")
        return kept.at(numbers, step) if kept is not None else self._batch(np.asarray(numbers, dtype=np.int64), step)

    def batches(
        self, requests: Iterable[tuple[int, np.ndarray]], device: torch.device, *, data: DataPlace = "auto", workers: int = 0
    ) -> Iterator[Batch]:
        """The batches of (step, case numbers), on the device; from images stored there if `data` says so."""
        if lies_on(device, data, self.num_bytes, "finetune.data"):
            whole = self._on(device)
            yield from (whole.at(numbers, step) for step, numbers in requests)
        else:
            yield from load(self, requests, workers=0 if "cpu" in self._whole else workers, device=device)

    def keep(self) -> CaseImages:
        """The same images, read now and kept in memory if they are small enough."""
        if self.num_bytes <= KEPT_BYTES:
            self._on(torch.device("cpu"))
        return self

    @property
    def num_bytes(self) -> int:
        """Of all images."""
        return len(self.rows) * int(np.prod(self.expected.size)) * self._dtype.itemsize

    @cached_property
    def _dtype(self) -> torch.dtype:
        """Their type: 16 bits if they are stored so."""
        used = {self.samples.volumes[number].array for number in np.unique(self.samples.volume[self.rows])}
        return torch.int16 if all(open_array(path).dtype == np.int16 for path in used) else torch.float32

    def _on(self, device: torch.device) -> Batch:
        if device.type not in self._whole:
            whole = self._whole.get("cpu")
            if whole is None:
                everything = np.arange(len(self.rows))
                whole = self._batch(everything, 0, on=device)
            self._whole[device.type] = whole.to(device)
        return self._whole[device.type]

    def _batch(self, numbers: Int64[np.ndarray, "n"], step: int, on: torch.device | None = None) -> Batch:
        """The batch of some cases, read from disk; `on`: the device that receives the pixels directly."""
        rows = self.rows[numbers]
        volumes = [self.samples.volumes[number] for number in self.samples.volume[rows]]
        stored = torch.cat([self._read(rows[at : at + CHUNK]).to(on or "cpu") for at in range(0, len(rows), CHUNK)])
        windows: dict[str, Any] = {
            name: torch.tensor([getattr(volume, name) for volume in volumes], dtype=torch.float32)
            for name in ("slope", "intercept", "low", "high")
        }
        return Batch(
            stored=stored,
            extent=torch.tensor([stored.shape[2:]] * len(rows)),
            rows=torch.from_numpy(numbers),
            volume=torch.from_numpy(self.samples.volume[rows]),
            axis=self.samples.axis[rows],
            keys=self.samples.keys[rows],
            epoch=step,
            **windows,
        )

    def _read(self, rows: Int64[np.ndarray, "n"]) -> Shaped[Tensor, "n 1 *size"]:
        """Stored numbers, resized; integers stay integers."""
        stored = torch.cat([self._volume(int(row)) for row in rows]) if self.expected.spatial_dims == 3 else self._planes(rows)
        return stored.round_().to(torch.int16) if self._dtype == torch.int16 else stored

    def _planes(self, rows: Int64[np.ndarray, "n"]) -> Float32[Tensor, "n 1 h w"]:
        """Images of one shape are resized together."""
        size, reader = self.expected.size, Reader(self.samples, shrink_to=max(self.expected.size))
        pieces = [reader.piece(0, int(row)) for row in rows]
        planes = torch.empty(len(rows), 1, *size)
        for shape in dict.fromkeys(piece.shape for piece in pieces):
            alike = [number for number, piece in enumerate(pieces) if piece.shape == shape]
            stored = torch.from_numpy(np.stack([pieces[number] for number in alike])[:, None]).float()
            if shape != size:
                shrinks = shape[0] > size[0] or shape[1] > size[1]
                stored = F.interpolate(stored, size=size, mode="bilinear", antialias=shrinks)
            planes[alike] = stored
        return planes

    def _volume(self, row: int) -> Float32[Tensor, "1 1 i j k"]:
        size = self.expected.size
        whole = np.array(open_array(self.samples.volumes[self.samples.volume[row]].array), dtype=np.float32)
        if self.expected.cuts_slices:
            whole = np.ascontiguousarray(np.moveaxis(whole, self.samples.axis[row], 2))
        stored = torch.from_numpy(whole)[None, None]
        # area averages when shrinking: trilinear alone would skip voxels
        i, j, k = map(min, stored.shape[2:], size)
        stored = F.adaptive_avg_pool3d(stored, (i, j, k))
        return F.interpolate(stored, size=size, mode="trilinear") if stored.shape[2:] != size else stored
