"""Everything the page may speak of, read once: tables and receipts of the stages, by the names of their folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medssl.artefacts.encoder import Contract
from medssl.artefacts.keep import Leaks, Summary
from medssl.artefacts.labels import LabelCounts
from medssl.artefacts.names import Arm, Run, in_cohort, is_scratch, reduction_of
from medssl.artefacts.receipt import Receipt
from medssl.artefacts.samples import Fingerprint
from medssl.core import plugins
from medssl.report.shown_study import ShownStudy

Named = dict[str, pd.DataFrame]
"""Tables by the name of their folder: `ct`, `ct/hash`, `ct/simclr-hash-seed0`, `organs`."""


@dataclass(frozen=True)
class Evidence:
    """What the stages left, as `medssl/artefacts` describes it. Empty where a stage did not run.

    `planes`: 8-bit slices by sample id; `study`: the options, for display; `pictures`: what a run's objective drew, by epoch;
    `scans`: wall time in s of steps that leave no receipt; `on_page`: the sections made so far that had something to say.
    """

    title: str
    series: Named = field(default_factory=dict)
    rejected: Named = field(default_factory=dict)
    label_counts: dict[str, LabelCounts] = field(default_factory=dict)
    label_rejected: Named = field(default_factory=dict)
    fingerprint: dict[str, Fingerprint] = field(default_factory=dict)
    volumes: Named = field(default_factory=dict)
    samples: Named = field(default_factory=dict)
    summaries: dict[str, Summary] = field(default_factory=dict)
    keeps: Named = field(default_factory=dict)
    curves: Named = field(default_factory=dict)
    embeddings: Named = field(default_factory=dict)
    contracts: dict[str, Contract] = field(default_factory=dict)
    views: dict[str, bytes] = field(default_factory=dict)
    pictures: dict[str, dict[int, bytes]] = field(default_factory=dict)
    fits: Named = field(default_factory=dict)
    fit_curves: Named = field(default_factory=dict)
    scores: Named = field(default_factory=dict)
    comparisons: Named = field(default_factory=dict)
    falls: Named = field(default_factory=dict)
    fall_comparisons: Named = field(default_factory=dict)
    cases: Named = field(default_factory=dict)
    calibration: Named = field(default_factory=dict)
    agreement: Named = field(default_factory=dict)
    risk_groups: Named = field(default_factory=dict)
    operating: Named = field(default_factory=dict)
    confusion: Named = field(default_factory=dict)
    subgroups: Named = field(default_factory=dict)
    empty: Named = field(default_factory=dict)
    overlays: Named = field(default_factory=dict)
    leaks: dict[str, Leaks] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    scans: dict[str, float] = field(default_factory=dict)
    planes: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    study: dict[str, Any] = field(default_factory=dict)
    on_page: frozenset[str] = frozenset()

    @cached_property
    def asked(self) -> ShownStudy:
        """What the options of the study ask for."""
        return ShownStudy.model_validate(self.study)

    def wall_s(self, job: str) -> float | None:
        """Wall time of a job by its receipt, in s."""
        receipt = self.receipts.get(job)
        return None if receipt is None else receipt.wall_s

    def keeps_all(self, arm: str) -> bool:
        """Whether a reduction arm (`ct/all`) keeps every slice, as its reducer says of itself; it is named like its arm unless
        the summary says.
        """
        summary = self.summaries.get(arm)
        return (in_cohort(arm)[1] if summary is None else summary.reducer) in _whole_reducers()

    def whole_run(self, folder: str) -> str | None:
        """The run of the same pre-training, seed and cohort on every slice; itself where it is that one."""
        own, cohort = run_of(folder), in_cohort(folder)[0]
        for other in sorted(self.curves):
            run = run_of(other)
            same = (run.name, run.seed, in_cohort(other)[0]) == (own.name, own.seed, cohort)
            if same and self.keeps_all(reduction_of(other)):
                return other
        return None


def run_of(folder: str) -> Run:
    """The pre-training run of a folder: `ct/simclr-hash-seed0`."""
    return Run.parse(in_cohort(folder)[1])


def arm_of(folder: str) -> str:
    """The arm of a run's folder, all its seeds together: `ct/simclr-hash-seed0` is `simclr-hash`."""
    return str(run_of(folder).start.arm)


def tones(arms: Iterable[str]) -> dict[str, str]:
    """A colour class per arm, the same in every figure: scratch is grey, arms on every slice come first."""
    names = sorted(set(arms))
    others = sorted((arm for arm in names if not is_scratch(arm)), key=lambda arm: (not _is_whole(arm), arm))
    controls = [arm for arm in names if is_scratch(arm)]
    return dict.fromkeys(controls, "ref") | {arm: f"c{i % 6}" for i, arm in enumerate(others)}


def _is_whole(arm: str) -> bool:
    """Whether an arm of runs (`simclr-all`) or of reduction (`ct/all`) bears the name of a reducer that keeps every slice."""
    parsed = Arm.parse(in_cohort(arm)[1])
    return (parsed.reduction or parsed.name) in _whole_reducers()


def _whole_reducers() -> set[str]:
    return {plugin.name for plugin in plugins.all_of("reducer") if plugin.constant("CONTROL", default=None) == "whole"}
