"""The file of a volume: slices land where the reorientation says, whatever it is; a full disk refuses no file."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from medssl.core.files import sha256_file
from medssl.ingest import reading_process
from medssl.ingest.array_file import WAITING, ArrayFile
from medssl.ingest.reading_pool import ReadingPool
from medssl.ingest.refusal import Answer, Request
from medssl.volume.geometry import Reorientation


@pytest.mark.parametrize("axes", permutations(range(3)))
def test_slices_in_any_order_make_the_turned_stack(axes: tuple[int, int, int], tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(-2000, 2000, (7, 5, 4)).astype(np.int16)
    for flips in product((False, True), repeat=3):
        turn = Reorientation(axes, flips)
        expected = turn.apply(stack)
        with ArrayFile(tmp_path / "a.npy", "int16", expected.shape, turn) as file:
            for k in (2, 0, 3, 1):
                file.put(k, stack[:, :, k])
        assert np.array_equal(np.load(tmp_path / "a.npy"), expected)
        assert np.load(tmp_path / "a.npy").flags.f_contiguous
        assert file.shape == expected.shape and file.sha256() == sha256_file(tmp_path / "a.npy")


@pytest.mark.parametrize("flips", product((False, True), repeat=3))
def test_many_threads_write_and_hash_the_same_file(flips: tuple[bool, bool, bool], tmp_path: Path) -> None:
    """More threads than planes may wait for hashing, each at its own speed."""
    stack = np.random.default_rng(1).integers(-2000, 2000, (64, 48, 200)).astype(np.int16)
    turn = Reorientation((1, 0, 2), flips)
    with ArrayFile(tmp_path / "a.npy", "int16", (48, 64, 200), turn) as file, ThreadPoolExecutor(2 * WAITING) as threads:
        list(threads.map(lambda k: file.put(k, stack[:, :, k]), file.order))
    assert file.sha256() == sha256_file(tmp_path / "a.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), turn.apply(stack))


def test_a_disk_without_room_is_found_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        ArrayFile(tmp_path / "a.npy", "int16", (4, 4, 4), Reorientation((0, 1, 2), (False, False, False)))


def test_a_full_disk_refuses_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading process says which error it was; its parent raises it instead of blaming the source."""

    def full(request: Request, key: bytes) -> Answer:
        raise OSError(errno.ENOSPC, "whatever a file name may say")

    monkeypatch.setitem(reading_process.TASKS, "scan", full)
    answer = reading_process.answer("scan", {}, b"k" * 32)
    assert answer == {"errno": errno.ENOSPC}
    with ReadingPool(b"k" * 32) as readers:
        monkeypatch.setattr(readers._processes[0], "_line", lambda process, timeout_s: b'{"errno": 28}')
        with pytest.raises(OSError, match="No space left") as caught:
            readers.ask("scan", {}, memory_mb=100, timeout_s=5)
    assert caught.value.errno == errno.ENOSPC
