"""All samples of a run on its device, as stored numbers: a batch is a gather, and nothing is read during training.

The bits are those of `loading.Reader`. Slices lie on one canvas each, volumes unchanged.
"""

from __future__ import annotations

import numpy as np
import psutil
import torch
from jaxtyping import Int, Int64, Shaped
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.nn.loading import Batch, Reader
from medssl.nn.options import DataPlace

ROOM = 0.4
"""Share of the free memory of a device that images may take."""
CHUNK = 256
"""Slices that are read and moved at a time."""


def lies_on(device: torch.device, asked: DataPlace, num_bytes: int, option: str) -> bool:
    """Whether images of so many bytes are stored on a device: if requested, or for `auto` on a GPU with enough room.

    option: the key in the study file, for the message.

    Raises:
        StudyError: `device` is requested, and they do not fit.
    """
    if asked == "loader" or (asked == "auto" and device.type == "cpu"):
        return False
    room = ROOM * _free_bytes(device)
    if num_bytes > room and asked == "device":
        raise StudyError(
            f"{option} is device, and the images need {num_bytes / 2**30:.1f} GiB of {room / 2**30:.1f} GiB that they may take "
            f"there. Set {option} to auto or loader."
        )
    return num_bytes <= room


def resident(reader: Reader, device: torch.device, asked: DataPlace) -> Reader | Resident:
    """The batches of a run: from the samples on the device if `lies_on` says so and all are of one type, else from the reader.

    Raises:
        StudyError: `device` is requested, and they do not fit, or are of two types.
    """
    dtypes = _dtypes(reader)
    if not lies_on(device, asked, _needed_bytes(reader, dtypes), "pretrain.data"):
        return reader
    if len(dtypes) == 1:
        return Resident(reader, device)
    if asked == "auto":
        return reader
    raise StudyError(
        f"pretrain.data is device, and the samples are of two types ({' and '.join(sorted(map(str, dtypes)))}). "
        "Set pretrain.data to auto or loader."
    )


class Resident:
    """Batches like `Reader`'s, from samples on a device; see `resident`."""

    def __init__(self, reader: Reader, device: torch.device) -> None:
        self.reader, self.samples, self.device = reader, reader.samples, device
        rows = np.arange(len(self.samples))
        self._shapes = [reader.piece_shape(row) for row in range(len(rows))]
        self._volumes: dict[int, Shaped[Tensor, "i j k"]] = {}
        stored = torch.empty(len(rows), 1, 0)
        if reader.patch is None:
            canvas = tuple(np.max(self._shapes, axis=0))
            stored = torch.cat([self._read(rows[at : at + CHUNK], canvas) for at in range(0, len(rows), CHUNK)])
        else:
            self._volumes = {
                int(number): torch.from_numpy(np.array(reader.array(self.samples.volumes[number]))).to(device)
                for number in np.unique(self.samples.volume)
            }
        self._whole = reader.batch(stored, self._shapes, rows, 0).to(device)
        """All samples; for patches everything but their numbers."""

    def __getitem__(self, request: tuple[int, Int[np.ndarray, "n"]]) -> Batch:
        epoch, rows = request
        rows = np.asarray(rows, dtype=np.int64)
        canvas = tuple(int(side) for side in np.max([self._shapes[row] for row in rows], axis=0))
        batch = self._whole.at(rows, epoch)
        if self._volumes:
            batch.stored = self._patches(epoch, rows, canvas)
        else:
            batch.stored = batch.stored[:, :, : canvas[0], : canvas[1]].contiguous()
        return batch

    def _read(self, rows: Int64[np.ndarray, "m"], canvas: tuple[int, ...]) -> Shaped[Tensor, "m 1 h w"]:
        pieces = [self.reader.piece(0, int(row)) for row in rows]
        return torch.from_numpy(self.reader.stacked(pieces, rows, canvas)).to(self.device)

    def _patches(self, epoch: int, rows: Int64[np.ndarray, "n"], canvas: tuple[int, ...]) -> Shaped[Tensor, "n 1 i j k"]:
        stored = next(iter(self._volumes.values())).new_empty((len(rows), 1, *canvas))
        for place, row in zip(stored[:, 0], rows, strict=True):
            number = int(self.samples.volume[row])
            start, shape = self.reader.patch_place(epoch, int(row))
            if tuple(shape) != canvas:
                place.fill_(self.reader.empty(number, integers=not stored.is_floating_point()))
            piece = self._volumes[number][tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
            place[tuple(slice(0, n) for n in shape)] = piece
        return stored


def _dtypes(reader: Reader) -> set[np.dtype]:
    """Types of the pieces: planes that are reduced while they are read are float32."""
    found = {number: np.dtype(reader.array(reader.samples.volumes[number]).dtype) for number in np.unique(reader.samples.volume)}
    if reader.patch is not None:
        return set(found.values())
    kinds = {
        (int(volume), int(axis)): row
        for row, (volume, axis) in enumerate(zip(reader.samples.volume, reader.samples.axis, strict=True))
    }
    return {np.dtype(np.float32) if reader.shrinks(row) else found[volume] for (volume, _), row in kinds.items()}


def _needed_bytes(reader: Reader, dtypes: set[np.dtype]) -> int:
    item = max(dtype.itemsize for dtype in dtypes)
    if reader.patch is None:
        canvas = np.max([reader.piece_shape(row) for row in range(len(reader.samples))], axis=0)
        return int(len(reader.samples) * np.prod(canvas) * item)
    return int(sum(np.prod(reader.samples.volumes[number].shape) for number in np.unique(reader.samples.volume)) * item)


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else int(psutil.virtual_memory().available)
