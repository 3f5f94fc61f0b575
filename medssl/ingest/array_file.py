"""The array file of one volume while its slices come in: its room is taken at once, a slice is one write."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from medssl.volume.geometry import Reorientation


class ArrayFile:
    """A `.npy` in Fortran order of `shape`, filled by source slices that `turn` puts into their place. Use as a context.

    Slices that are planes along the last axis are written with one call, which spares a page fault for every 4 kB of a
    memory map; other orientations go through the map.

    Raises:
        OSError: there is no room on the disk; nothing was decoded yet.
    """

    def __init__(self, target: Path, dtype: str, shape: tuple[int, ...], turn: Reorientation) -> None:
        self._array = np.lib.format.open_memmap(target, "w+", np.dtype(dtype), shape, fortran_order=True)
        self._offset, self._turn = int(self._array.offset), turn
        self._is_plane = turn.axes[2] == 2
        self._descriptor = os.open(target, os.O_WRONLY)
        try:
            # a map of a file that has no blocks kills the process when the disk is full
            os.posix_fallocate(self._descriptor, 0, self._offset + self._array.nbytes)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                os.close(self._descriptor)
                raise

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    def put(self, k: int, values: np.ndarray) -> None:
        """Slice `k` of the source stack, `(i, j)` of the source."""
        if not self._is_plane:
            self._turn.restore(self._array)[:, :, k] = values
            return
        flips: Any = tuple(slice(None, None, -1 if flip else 1) for flip in self._turn.flips[:2])
        plane = np.asfortranarray(values.transpose(self._turn.axes[:2])[flips], self._array.dtype)
        place = self._array.shape[2] - 1 - k if self._turn.flips[2] else k
        rest, offset = memoryview(plane.T).cast("B"), self._offset + place * plane.nbytes  # type: ignore[arg-type]
        while rest:
            written = os.pwrite(self._descriptor, rest, offset)
            rest, offset = rest[written:], offset + written
