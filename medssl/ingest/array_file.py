"""The array file of one volume while its slices arrive: space is reserved at the start, each slice is one write, hashed on the
way.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from medssl.core.files import sha256_file
from medssl.volume.geometry import Reorientation

WAITING = 16
"""Planes that may wait for hashing before the decoding threads wait too."""


class ArrayFile:
    """A `.npy` in Fortran order of `shape`, filled with source slices that `turn` puts into their places. Use as a context.

    Slices that are planes along the last axis are written with one call, which avoids a page fault for every 4 kB of a memory
    map,
    and hashed from memory. Other orientations go through the map, and the file is hashed at the end.

    Raises:
        OSError: the disk has no room; nothing was decoded yet.
    """

    def __init__(self, target: Path, dtype: str, shape: tuple[int, ...], turn: Reorientation) -> None:
        self._array = np.lib.format.open_memmap(target, "w+", np.dtype(dtype), shape, fortran_order=True)
        self._target, self._offset, self._turn = target, int(self._array.offset), turn
        self._is_plane = turn.axes[2] == 2
        with open(target, "rb") as head:
            self._digest = hashlib.sha256(head.read(self._offset))
        self._waiting: dict[int, memoryview] = {}
        self._hashed, self._hashing = 0, threading.Lock()
        self._descriptor = os.open(target, os.O_WRONLY)
        try:
            # a map of a file without blocks kills the process when the disk is full
            os.posix_fallocate(self._descriptor, 0, self._offset + self._array.nbytes)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                os.close(self._descriptor)
                raise

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the array."""
        i, j, k = self._array.shape
        return i, j, k

    @property
    def order(self) -> range:
        """The source slices in the order of the file; in this order they are hashed soonest."""
        axis = self._turn.axes.index(2)
        return range(self._array.shape[axis])[:: -1 if self._turn.flips[axis] else 1]

    def put(self, k: int, values: np.ndarray) -> None:
        """Write slice `k` of the source stack, `(i, j)` of the source. Several threads may write slices."""
        if not self._is_plane:
            self._turn.restore(self._array)[:, :, k] = values
            return
        flips: Any = tuple(slice(None, None, -1 if flip else 1) for flip in self._turn.flips[:2])
        plane = np.asfortranarray(values.transpose(self._turn.axes[:2])[flips], self._array.dtype)
        place = self._array.shape[2] - 1 - k if self._turn.flips[2] else k
        whole = memoryview(plane.T).cast("B")  # type: ignore[arg-type]
        rest, offset = whole, self._offset + place * plane.nbytes
        while rest:
            written = os.pwrite(self._descriptor, rest, offset)
            rest, offset = rest[written:], offset + written
        self._hash(place, whole)

    def _hash(self, place: int, plane: memoryview) -> None:
        """Hash the planes that are next in order, in one thread at a time; the others keep decoding."""
        self._waiting[place] = plane
        while self._hashed in self._waiting and self._hashing.acquire(blocking=len(self._waiting) > WAITING):
            try:
                while (now := self._waiting.pop(self._hashed, None)) is not None:
                    self._digest.update(now)
                    self._hashed += 1
            finally:
                self._hashing.release()

    def sha256(self) -> str:
        """Hash of the whole file, once all slices are in it."""
        return self._digest.hexdigest() if self._is_plane else sha256_file(self._target)
