"""A cohort: the slices of some parts of its sources in anatomical order, and their volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int, Shaped

from medssl.artefacts.volumes import Volume
from medssl.core.errors import StudyError
from medssl.core.rng import key
from medssl.reduce.windows import Window
from medssl.volume.cache import open_array, read_plane


@dataclass(frozen=True)
class Member:
    """A volume (or image set) of a cohort: its planes `index` (n,) along `axis` are the `rows` (n,) of the cohort's table."""

    volume: Volume
    axis: int
    index: np.ndarray
    rows: np.ndarray

    @cached_property
    def window(self) -> Window:
        """The window of the first channel."""
        return Window.of(self.volume)

    def plane(self, array: Any, place: int) -> Shaped[np.ndarray, "h w"]:
        """Stored plane [row, col] of the volume's slice number `place`: transposed, not flipped."""
        return read_plane(array, self.axis, int(self.index[place])).T

    def seen(self, array: Any, place: int) -> Float32[np.ndarray, "h w"]:
        """The same in 0..1, float32."""
        return self.window.unit(self.plane(array, place)).astype(np.float32)


@dataclass(frozen=True)
class Cohort:
    """`table`: rows of samples.parquet sorted by (volume id, index); `members` in that order."""

    table: pd.DataFrame
    members: list[Member]

    def reader(self, rows: Int[np.ndarray, "n"]) -> Callable[[int], Float32[np.ndarray, "h w"]]:
        """Read slice number i of `rows` (n,) of the table as float32 [row, col] in 0..1."""
        owner = np.empty(sum(len(member.rows) for member in self.members), np.int64)
        place = np.empty_like(owner)
        for number, member in enumerate(self.members):
            owner[member.rows], place[member.rows] = number, np.arange(len(member.rows))
        last: dict[int, Any] = {}

        def plane(index: int) -> np.ndarray:
            row = rows[index]
            member = self.members[owner[row]]
            if owner[row] not in last:
                last.clear()
                last[owner[row]] = open_array(member.volume.array)
            return member.seen(last[owner[row]], int(place[row]))

        return plane

    def shard(self, number: int, shards: int) -> Cohort:
        """The volumes whose id falls into a shard, and their rows."""
        if shards == 1:
            return self
        mine = [member for member in self.members if key(0, member.volume.volume_id) % shards == number]
        rows = np.sort(np.concatenate([member.rows for member in mine])) if mine else np.empty(0, np.int64)
        moved = [replace(member, rows=np.searchsorted(rows, member.rows)) for member in mine]
        return Cohort(self.table.iloc[rows].reset_index(drop=True), moved)


def cohort_of(sources: Sequence[tuple[pd.DataFrame, Sequence[Volume]]], parts: Sequence[str]) -> tuple[Cohort, int]:
    """The rows of some parts of sources (samples, volumes), and how many slices were skipped because an earlier source has them.

    Raises:
        StudyError: a volume of the samples is not among the volumes.
    """
    tables = [samples[samples["split"].isin(parts)].assign(source=number) for number, (samples, _) in enumerate(sources)]
    table = pd.concat(tables, ignore_index=True).sort_values(["volume_id", "index"], kind="stable", ignore_index=True)
    again = table["sample_id"].duplicated()
    table = table[~again].reset_index(drop=True)
    known = [{volume.volume_id: volume for volume in volumes} for _, volumes in sources]
    members = []
    for volume_id, rows in table.groupby("volume_id", sort=True):
        first = rows.iloc[0]
        volume = known[first["source"]].get(str(volume_id))
        if volume is None:
            raise StudyError(f"{volume_id} is in samples.parquet and not in volumes.tsv beside it. Prepare its source again.")
        members.append(Member(volume, int(first["axis"]), rows["index"].to_numpy(), rows.index.to_numpy()))
    return Cohort(table, members), int(again.sum())


def refuse_empty_pool(cohort: Cohort, sources: Sequence[pd.DataFrame], name: str) -> None:
    """Refuse a cohort without a training slice.

    Raises:
        StudyError: there is none; why, and what to do.
    """
    if len(cohort.table):
        return
    if all("fold" in samples for samples in sources):
        raise StudyError(
            f"cohort of {name!r} has nothing to pre-train on: its sources are split into folds (prepare.split.folds), and every "
            "patient of a fold is held out for a test. Pre-train on another source, or leave folds out for this one."
        )
    raise StudyError(
        f"cohort of {name!r} has no training slices: every volume went to validation or test, or was refused. "
        "Lower val_frac and test_frac, or add a source."
    )
