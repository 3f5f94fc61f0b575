"""The array cache: one plane or one 3-D patch of an array on disk, without reading the array.

Two forms with one reading interface. `.npy` is memory mapped: fastest, and planes and patches are views. `.b2nd` (blosc2,
zstd) is about half the size; what is read is decompressed block by block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from medssl.core.errors import CorruptArtefactError
from medssl.core.files import writing
from medssl.core.shapes import Shaped

SUFFIX = {"memmap": ".npy", "blosc2": ".b2nd"}
"""File name ending of each form."""

CHUNK_PLANES, BLOCK_SIDE = 16, 128
"""A blosc2 chunk is 16 whole planes; a block, the smallest unit of decompression, is 128×128 of one plane (32 kB of int16)."""

RUN_BYTES = 32 * 2**20
"""Rough size of each array that `runs` yields."""


@runtime_checkable
class Array(Protocol):
    """The result of `open_array`: shape, dtype and slicing; only the requested part is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""

    @property
    def dtype(self) -> Any:
        """Type of the stored numbers."""

    def __getitem__(self, key: Any) -> Any: ...


def open_array(path: Path | str) -> Array:
    """Open a cached array read-only: a view of the memory map (`.npy`) or `Compressed` (`.b2nd`).

    Raises:
        CorruptArtefactError: the file is not an array of numbers.
    """
    path = Path(path)
    try:
        if path.suffix == SUFFIX["blosc2"]:
            import blosc2

            array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
            if not isinstance(array, blosc2.NDArray):
                raise ValueError("not an array")
            return Compressed(array)
        # a plain view: slicing a numpy.memmap costs some microseconds more
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (ValueError, RuntimeError, EOFError, KeyError) as error:
        raise CorruptArtefactError(
            f"{path} is not a readable array ({error}). Delete the receipt of its folder and run the same command again."
        ) from error


class Compressed:
    """A blosc2 array, read in the order of its axes although the file may hold them reversed (the last one first).

    blosc2 copies runs along the file's last axis, so a plane must not lie across it.
    """

    def __init__(self, stored: Any) -> None:
        self._stored = stored
        self._reversed = stored.schunk.meta["medssl"]["axes"] == "reversed"
        self.shape: tuple[int, ...] = tuple(stored.shape[::-1] if self._reversed else stored.shape)
        self.dtype = np.dtype(stored.dtype)

    def __getitem__(self, key: Any) -> Shaped[np.ndarray, "..."]:
        """The part that `key` selects, decompressed."""
        key = key if isinstance(key, tuple) else (key,)
        key = (*key, *[slice(None)] * (len(self.shape) - len(key)))
        return np.asarray(self._stored[key[::-1]]).T if self._reversed else np.asarray(self._stored[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Shaped[np.ndarray, "..."]:
        """The whole array, decompressed."""
        return np.asarray(self[()], dtype=dtype)


def read_plane(array: Array, axis: int, index: int) -> Shaped[np.ndarray, "_ _"]:
    """Plane `index` along `axis` of a 3-D array, 2-D with the other axes in order; a view where memory mapped.

    Raises:
        IndexError: there is no such plane (negative numbers do not count from the end).
    """
    if not 0 <= index < array.shape[axis]:
        raise IndexError(f"plane {index} along axis {axis} of an array {tuple(array.shape)} does not exist")
    return np.asarray(array[(slice(None),) * axis + (int(index),)])


def read_patch(array: Array, start: Sequence[int], size: Sequence[int]) -> Shaped[np.ndarray, "_ _ _"]:
    """The block of `size` voxels whose first voxel is `start`; a view if memory mapped.

    Raises:
        IndexError: the block is not wholly inside the array; padding is up to the caller.
    """
    inside = all(a >= 0 and n > 0 and a + n <= whole for a, n, whole in zip(start, size, array.shape, strict=True))
    if not inside:
        raise IndexError(f"a patch of {tuple(size)} at {tuple(start)} leaves the array {tuple(array.shape)}")
    return np.asarray(array[tuple(slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))])


def runs(array: Array, axis: int) -> Iterator[tuple[slice, Shaped[np.ndarray, "_ _ _"]]]:
    """The whole array in runs of neighbouring planes along `axis`, each small enough for memory."""
    plane_bytes = max(1, np.dtype(array.dtype).itemsize * int(np.prod(array.shape)) // max(1, array.shape[axis]))
    # whole chunks, so that no blosc2 block is decompressed twice
    step = max(CHUNK_PLANES, RUN_BYTES // plane_bytes // CHUNK_PLANES * CHUNK_PLANES)
    for first in range(0, array.shape[axis], step):
        planes = slice(first, min(first + step, array.shape[axis]))
        yield planes, np.asarray(array[(slice(None),) * axis + (planes,)])


def write_array(target: Path, array: Shaped[np.ndarray, "i j k"], *, axis: int, form: Literal["memmap", "blosc2"]) -> None:
    """Write a 3-D array all or nothing, laid out so that planes along `axis` are read fast.

    A `.npy` is in Fortran order (a plane along the last axis is one run of bytes), or in C order when `axis` is the first.
    """
    with writing(target) as temporary:
        if form == "memmap":
            with open(temporary, "wb") as file:
                np.save(file, np.ascontiguousarray(array) if axis == 0 else np.asfortranarray(array), allow_pickle=False)
        else:
            _write_blosc2(temporary, array, axis)


def _write_blosc2(target: Path, array: np.ndarray, axis: int) -> None:
    import blosc2

    axes = "reversed" if axis == array.ndim - 1 else "same"
    if axes == "reversed":
        array, axis = array.T, 0
    chunks, blocks = list(array.shape), [min(BLOCK_SIDE, n) for n in array.shape]
    chunks[axis], blocks[axis] = min(CHUNK_PLANES, array.shape[axis]), 1
    blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=tuple(chunks),
        blocks=tuple(blocks),
        urlpath=str(target),
        mode="w",
        meta={"medssl": {"axes": axes}},
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.BITSHUFFLE], "nthreads": 1},
    )
