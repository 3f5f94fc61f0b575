"""Partitions of a volume along its slices, which give a slice's part of the body without registration, and batches of them.

Source: Chaitanya et al., arXiv 2006.10511, §3.1. Theirs never drew the last N mod S slices of a volume; here every slice has
its partition.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.nn.loading import Samples


def partitions_of(samples: Samples, count: int, by: str) -> Int64[np.ndarray, "n"]:
    """The partition of each sample, int64 `(n,)` from 0 to `count` − 1.

    By `index`: the volume's whole extent along its slices, cut into `count` equal parts. Dropped slices move no border, so slices
    at one depth stay in one partition. By `position_mm`: place along the slices' normal in scanner millimetres, cut where the
    whole
    cohort has equal shares; for cohorts whose origins agree.

    Raises:
        StudyError: fewer than two partitions; samples that are not slices of a volume, or have no position.
    """
    if count < 2:
        raise StudyError(f"partitions is {count}; a volume is cut into 2 or more, so that slices can be distinguished.")
    loose = sorted({samples.volumes[v].volume_id for v in set(samples.volume.tolist()) if samples.volumes[v].kind == "images"})
    if loose:
        raise StudyError(
            f"{loose[0]} is a set of images, not a volume: its images have no order along the body, so no partitions. "
            "Leave such sources out of the cohort, or take an objective without partitions (simclr)."
        )
    if by == "position_mm":
        position = samples.position_mm.astype(np.float64)
        if not np.isfinite(position).all():
            first = samples.ids[int(np.flatnonzero(~np.isfinite(position))[0])]
            raise StudyError(f"slice {first} has no position in millimetres: set partition_by: index.")
        edges = np.quantile(position, np.arange(1, count) / count)
        return np.searchsorted(edges, position, side="right").astype(np.int64)
    depth = np.array([samples.volumes[v].shape[axis] for v, axis in zip(samples.volume, samples.axis, strict=True)], np.int64)
    # the middle of each slice: with fewer slices than partitions, each keeps its own place
    return (2 * samples.index.astype(np.int64) + 1) * count // (2 * depth)


def partition_batches(
    volume: Int64[np.ndarray, "n"],
    partition: Int64[np.ndarray, "n"],
    count: int,
    batch_size: int,
    random: np.random.Generator,
    *,
    least: int = 1,
) -> list[Int64[np.ndarray, "{batch_size}"]]:
    """The batches of an epoch, each with equally many slices of every partition, laid out `[partitions 0 … S−1][0 … S−1]…`.

    The slices of a partition form a ring: each once per turn, those of one volume spread evenly, so that neighbours are of
    different volumes wherever possible. If all volumes are equal, each `[0 … S−1]` is of one volume.

    least: slices of each partition that a batch must have; 2 if a slice is attracted to the next one of its partition.

    Raises:
        StudyError: the batch size is not a multiple of the partitions, too small, or takes more of a partition than it has.
    """
    places, rest = divmod(batch_size, count)
    if not rest and places < least:
        raise StudyError(
            f"a batch of {batch_size} holds {places} slice of each of {count} partitions, and each is to be drawn to another of "
            f"its partition. Set batch_size to {least * count} or more."
        )
    if rest:
        raise StudyError(
            f"a batch of {batch_size} does not hold equally many slices of {count} partitions. "
            f"Set batch_size to a multiple of {count}, such as {max(least, places) * count}."
        )
    sizes = np.bincount(partition, minlength=count)
    if sizes.min() < places:
        raise StudyError(
            f"partition {int(sizes.argmin())} of {count} has {sizes.min()} slices, and a batch of {batch_size} takes {places} of "
            "each. Lower batch_size or the option partitions, or keep more slices."
        )
    num_batches = len(volume) // batch_size
    phase = random.random(int(volume.max()) + 1)
    chosen = np.empty((num_batches, places, count), dtype=np.int64)
    for s in range(count):
        rows = random.permutation(np.flatnonzero(partition == s))
        amount = np.bincount(volume[rows], minlength=len(phase))[volume[rows]]
        ring = rows[np.argsort((rank_within(volume[rows]) + phase[volume[rows]]) / amount, kind="stable")]
        chosen[:, :, s] = ring[np.arange(num_batches * places) % len(ring)].reshape(num_batches, places)
    return list(chosen.reshape(num_batches, -1))


def next_in_partition(partition: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
    """For each place of a batch the next one of its partition, the last followed by the first, int64 `(n,)`."""
    order = torch.argsort(partition, stable=True)
    sorted_partition = partition[order]
    first = torch.searchsorted(sorted_partition, sorted_partition)
    last = torch.searchsorted(sorted_partition, sorted_partition, right=True) - 1
    at = torch.arange(len(order), device=order.device)
    following = torch.empty_like(order)
    following[order] = order[torch.where(at == last, first, at + 1)]
    return following


def rank_within(group: Int[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """How many members of its group precede each."""
    order = np.argsort(group, kind="stable")
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(group[order], group[order], side="left")
    return rank
