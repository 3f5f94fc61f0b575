"""Which fits a task makes: starting points × modes × label subsets × seeds, each with an id that is a name."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from medssl.finetune.subsets import Share

SCRATCH = "scratch"


@dataclass(frozen=True)
class Start:
    """A starting point: `simclr-hash-seed0` is run 0 of `simclr-hash`; `scratch` and given weights have no pre-training seed.

    paired: it is fine-tuned with the seed that it was pre-trained with, and no other.
    """

    name: str
    backbone: str
    pretrain_seed: int | None = None
    paired: bool = False

    @classmethod
    def of_run(cls, run: str, backbone: str, *, paired: bool = False) -> Start:
        """The starting point of a pre-training run."""
        stem, _, seed = run.rpartition("-seed")
        return cls(stem, backbone, int(seed), paired) if stem and seed.isdigit() else cls(run, backbone)

    @property
    def run(self) -> str:
        """The name of the run, with its seed."""
        return self.name if self.pretrain_seed is None else f"{self.name}-seed{self.pretrain_seed}"


@dataclass(frozen=True)
class Fit:
    """One training of one network (or probe) on one label subset."""

    start: Start
    mode: str
    share: Share
    seed: int

    @property
    def id(self) -> str:
        """`simclr-hash-seed0-full-0p05-s2`: letters, digits and `-` only, so that it can be a folder."""
        return f"{self.start.run}-{self.mode}-{self.share.name}-s{self.seed}".replace("_", "-")


def plan(starts: Sequence[Start], modes: Sequence[str], shares: Sequence[Share], seeds: Sequence[int]) -> list[Fit]:
    """All fits of a task, grouped by starting point and mode."""
    fits = itertools.starmap(Fit, itertools.product(starts, dict.fromkeys(modes), shares, dict.fromkeys(seeds)))
    return [fit for fit in fits if not fit.start.paired or fit.seed == fit.start.pretrain_seed]
