"""Fits in parallel: one per core on processors, as many as fit into memory on a GPU; results equal those of a serial run.

A fit runs on `threads_per_fit` threads however many run beside it, so that its bits do not depend on them.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil
import torch

from medssl.artefacts.names import FitId
from medssl.core.workers import Report, Workers
from medssl.finetune.options import TaskOptions
from medssl.finetune.saving import Steps

FILLED = 0.8
"""Share of the free memory that fits may fill."""
FIRST, ASSUMED_MB = 2, 4000
"""How many fits start on processors before the memory of one is known, and the assumed need of each."""
MB = 2**20


@dataclass(frozen=True)
class Peak:
    """The peak memory of a fit's process."""

    ram_mb: float
    gpu_mb: float

    @classmethod
    def here(cls) -> Peak:
        """The peak of this process."""
        gpu = torch.cuda.max_memory_reserved() / MB if torch.cuda.is_initialized() else 0.0
        return cls(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, gpu)


@dataclass
class Room:
    """How many fits may run in parallel: as the study says, or as cores and memory allow."""

    options: TaskOptions
    threads: int
    """of the job"""
    device: torch.device
    free_mb: Peak
    """when the job began"""
    peaks: list[Peak] = field(default_factory=list)
    """of the fits that have ended"""

    @classmethod
    def of(cls, options: TaskOptions, threads: int, device: torch.device) -> Room:
        """The room before the first fit."""
        gpu = torch.cuda.mem_get_info(device)[0] / MB if device.type == "cuda" else 0.0
        return cls(options, threads, device, Peak(psutil.virtual_memory().available / MB, gpu))

    def most(self) -> int:
        """At least one; with `auto` only few until the first fit has ended, as its memory is unknown before."""
        if self.options.parallel != "auto":
            return self.options.parallel
        cores = max(1, self.threads // self.options.threads_per_fit)
        if not self.peaks:
            has_room = self.device.type == "cpu" and self.free_mb.ram_mb > FIRST * ASSUMED_MB
            return min(FIRST if has_room else 1, cores)
        by_ram = FILLED * self.free_mb.ram_mb / max(peak.ram_mb for peak in self.peaks)
        by_gpu = cores if self.device.type == "cpu" else FILLED * self.free_mb.gpu_mb / max(1.0, *(p.gpu_mb for p in self.peaks))
        return max(1, int(min(cores, by_ram, by_gpu)))


def start_method(options: TaskOptions, device: torch.device) -> str:
    """How a process for fits starts: a fork is free, but inherits neither the parent's GPU nor its thread pools."""
    return "fork" if device.type == "cpu" and options.threads_per_fit == 1 else "forkserver"


def side_by_side(
    fits: Sequence[FitId],
    room: Room,
    make: Callable[[FitId, Report], None],
    heard: Callable[[FitId, Steps], None],
    kin: Callable[[FitId], Any],
    begin: Callable[..., Callable[[FitId, Report], Peak]],
    *given: Any,
) -> Iterator[FitId]:
    """Run fits, in this process (`make`) if one runs at a time, else each in its own; yield them as they end.

    heard: called with a fit and its steps since its last report.
    kin: equal for fits that one process should make, as they share frozen features.
    begin: called in such a process with `given`; returns the function that runs a fit.
    """
    too_few_cores = room.options.parallel == "auto" and room.threads < 2 * room.options.threads_per_fit
    if room.options.parallel == 1 or len(fits) < 2 or too_few_cores:
        for fit in fits:
            make(fit, partial(heard, fit))
            yield fit
        return
    with Workers(start_method(room.options, room.device), begin, *given) as workers:
        for fit, peak in workers.each(fits, room.most, heard, kin):
            room.peaks.append(peak)
            yield fit
