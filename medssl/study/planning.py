"""Estimates the cost of a study from a trial on a small piece: lines through two measurements, and steps times seconds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

from medssl.artefacts.names import Run
from medssl.finetune.options import FinetuneOptions
from medssl.pretrain.options import TrainingOptions

MB = 1e6
CLEAR_MB = 32.0
"""A larger difference of two memory peaks comes from their batches. Peaks of equal processes differ by up to 4.4 MB (13 tries of
a pre-training on a CPU), which changes the largest batch by a factor of two at most."""


@dataclass(frozen=True)
class Measured:
    """Measurements of one job: bytes of its source, seconds, peak memory, size of its results."""

    size: float
    wall_s: float
    peak_mb: float
    disk_mb: float


@dataclass(frozen=True)
class Cost:
    """The estimated cost of a job; None if it is not planned, and `gpu_mb` is 0 without a GPU."""

    stage: str
    name: str
    hours: float | None
    node_hours: float | None
    ram_mb: float | None
    disk_mb: float | None
    gpu_mb: float = 0.0


def grown(small: Measured, large: Measured, size: float) -> Measured:
    """The cost of a job of `size` on the line through two jobs; if both are one job, in proportion above its size."""

    def at(low: float, high: float) -> float:
        span = large.size - small.size
        slope = max(0.0, (high - low) / span) if span > 0 else high / large.size
        return high + slope * (size - large.size) if size > large.size else high

    return Measured(
        size,
        at(small.wall_s, large.wall_s),
        at(small.peak_mb, large.peak_mb) if small is not large else large.peak_mb,
        at(small.disk_mb, large.disk_mb),
    )


def steps(settings: TrainingOptions, num_samples: float) -> int:
    """Optimiser steps of a run over `num_samples` samples."""
    batch = min(settings.batch_size, max(2, int(num_samples)))
    return settings.max_steps or settings.epochs * max(1, int(num_samples // batch))


def peak_at(batch: float, batches: Sequence[int], peaks_mb: Sequence[float]) -> float:
    """Memory at a batch on the line through two measured batches; if both are one, in proportion above it."""
    if batches[0] == batches[1]:
        return peaks_mb[1] * max(1.0, batch / batches[1])
    return peaks_mb[1] + max(0.0, peaks_mb[1] - peaks_mb[0]) / (batches[1] - batches[0]) * (batch - batches[1])


@dataclass(frozen=True)
class LargestBatch:
    """The largest batch that fits a device; `or_more` if larger ones may fit."""

    size: int
    or_more: bool = False

    def __str__(self) -> str:
        """`64`, or `8 or more`."""
        return f"{self.size} or more" if self.or_more else str(self.size)


def largest_batch(batches: Sequence[int], peaks_mb: Sequence[float], room_mb: float) -> LargestBatch:
    """The largest power of two whose memory, on the line through two measured batches, leaves a tenth of the room free.

    If their peaks hardly differ, no batch above the larger one is estimated.
    """
    per_sample_mb = peak_at(1, batches, peaks_mb) - peak_at(0, batches, peaks_mb)
    if batches[0] == batches[1] or peaks_mb[1] - peaks_mb[0] < CLEAR_MB:
        return LargestBatch(max(batches), or_more=True)
    fits = (0.9 * room_mb - peak_at(0, batches, peaks_mb)) / per_sample_mb
    return LargestBatch(2 ** int(math.log2(fits)) if fits >= 1 else 0)


def num_started(settings: FinetuneOptions, runs: Sequence[Run], *, num_networks: int = 1, num_folds: int = 1) -> int:
    """Fits of a task in one mode, with one amount of labels and one rate: starting points × seeds × folds.

    runs: that it starts from; with `pair_seeds` each is fitted with its own seed alone. num_networks: different ones among them:
    each has its scratch, drawn as often as a run is pre-trained.
    """
    seeds, run_seeds = set(settings.seeds), {run.seed for run in runs}
    started = sum(run.seed in seeds if settings.pair_seeds else len(seeds) for run in runs)
    started += len(settings.weights) * len(seeds)
    if settings.scratch:
        draws = len(run_seeds) if len(seeds) < len(run_seeds) else 1
        started += num_networks * draws * len(seeds)
    return started * num_folds


def images_of_fits(settings: FinetuneOptions, probes: Container[str], labelled: float, val: float, test: float) -> float:
    """Images that go through the network for each of `num_started`, over modes, amounts of labels and rates.

    A probe takes every image once. Other modes take a batch in each step, the validation part at each evaluation, and the test
    part at the end. An amount in patients or per class counts as all labels.

    Args:
        settings: of the task.
        probes: its modes without steps.
        labelled: images of the training part.
        val: images of the validation part.
        test: images of the test part.
    """
    amounts = [share * labelled for share in settings.fractions]
    amounts += [labelled] * (len(settings.counts) + len(settings.counts_per_class))
    trainings = len(settings.lr) * (1 + settings.options.get("self_training_rounds", 0))
    found = 0.0
    for mode, amount in itertools.product(settings.modes, amounts):
        if mode in probes:
            found += labelled + val + test
            continue
        num_steps = settings.steps(max(1, int(amount)))
        trained = num_steps * min(settings.batch_size, max(1.0, amount))
        found += trainings * (trained + min(settings.evaluations, num_steps) * val) + test
    return found


def table(costs: Sequence[Cost], free_mb: float, num_jobs: int) -> str:
    """The plan as a table: a line per job, and the sum."""
    lines = [f"{'stage':<10} {'job':<36} {'hours':>8} {'node-h':>8} {'RAM MB':>8} {'GPU MB':>8} {'disk MB':>9}"]
    for cost in costs:
        if cost.hours is None:
            lines.append(f"{cost.stage:<10} {cost.name:<36} {'not planned':>17}")
            continue
        gpu = f"{cost.gpu_mb:8.0f}" if cost.gpu_mb else f"{'-':>8}"
        time = f"{cost.hours:8.3f} {cost.node_hours:8.3f}"
        disk = f"{'unknown':>9}" if cost.disk_mb is None else f"{cost.disk_mb:9.1f}"
        lines.append(f"{cost.stage:<10} {cost.name:<36} {time} {cost.ram_mb:8.0f} {gpu} {disk}")
    disk_mb = sum(cost.disk_mb or 0 for cost in costs)
    hours, node_hours = sum(cost.hours or 0 for cost in costs), sum(cost.node_hours or 0 for cost in costs)
    what = f"{num_jobs} jobs, one after the other"
    lines.append(f"{'all':<10} {what:<36} {hours:8.3f} {node_hours:8.3f} {'':>17} {disk_mb:9.1f}")
    lines.append(f"free where the results go: {free_mb:.0f} MB" + (" — too little" if free_mb < 1.05 * disk_mb else ""))
    return "\n".join(lines)
