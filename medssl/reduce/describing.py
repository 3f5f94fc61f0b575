"""The descriptors of a volume's slices, chunk by chunk."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd

from medssl.reduce.cohort import Member
from medssl.reduce.descriptors import describe_slices
from medssl.reduce.options import DescribeOptions
from medssl.reduce.windows import Window

CHUNK_SLICES = 16


def described(member: Member, array: Any, options: DescribeOptions, pool: Executor) -> pd.DataFrame:
    """Descriptors of every slice of a volume, in order; `pool` computes several chunks in parallel."""

    def chunk(start: int) -> pd.DataFrame:
        stop = min(start + CHUNK_SLICES, len(member.index))
        planes = [member.plane(array, place) for place in range(start, stop)]
        return _columns(planes, member.window, options)

    return pd.concat(pool.map(chunk, range(0, len(member.index), CHUNK_SLICES)), ignore_index=True)


def no_descriptors(options: DescribeOptions) -> pd.DataFrame:
    """An empty table of descriptors with typed columns, for a shard without volumes."""
    return _columns([np.zeros((16, 16), np.int16)], Window(0, 1), options).iloc[:0]


def _columns(planes: list[np.ndarray], window: Window, options: DescribeOptions) -> pd.DataFrame:
    return pd.DataFrame(describe_slices(planes, window, sizes=tuple(options.hash_sizes), greys=tuple(options.greys)))
