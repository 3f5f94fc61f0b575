"""Everything the page may speak of, read once: tables and receipts of the stages, by the names of their folders."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Named = dict[str, pd.DataFrame]
"""Tables by the name of their folder: `ct`, `ct/hash`, `ct/simclr-hash-seed0`, `organs`."""

STAGES = {1: "ingest", 2: "prepare", 3: "reduce", 4: "pretrain", 5: "finetune", 6: "evaluate", 7: "report"}


@dataclass(frozen=True)
class Evidence:
    """What the stages left. Empty where a stage did not run.

    `planes`: 8-bit slices by sample id; `study`: the options; `pictures`: what a run's objective drew, by epoch; `untold`: wall
    time in s of steps that leave no receipt; `on_page`: the sections made so far that had something to say.
    """

    title: str
    series: Named = field(default_factory=dict)
    rejected: Named = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    volumes: Named = field(default_factory=dict)
    samples: Named = field(default_factory=dict)
    summaries: dict[str, Any] = field(default_factory=dict)
    keeps: Named = field(default_factory=dict)
    curves: Named = field(default_factory=dict)
    contracts: dict[str, Any] = field(default_factory=dict)
    views: dict[str, bytes] = field(default_factory=dict)
    pictures: dict[str, dict[int, bytes]] = field(default_factory=dict)
    fits: Named = field(default_factory=dict)
    scores: Named = field(default_factory=dict)
    comparisons: Named = field(default_factory=dict)
    cases: Named = field(default_factory=dict)
    calibration: Named = field(default_factory=dict)
    confusion: Named = field(default_factory=dict)
    subgroups: Named = field(default_factory=dict)
    empty: Named = field(default_factory=dict)
    overlays: Named = field(default_factory=dict)
    leaks: dict[str, Any] = field(default_factory=dict)
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    untold: dict[str, float] = field(default_factory=dict)
    planes: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    study: dict[str, Any] = field(default_factory=dict)
    on_page: frozenset[str] = frozenset()


def stage_and_name(path: PurePath) -> tuple[str, str]:
    """The stage and the folder name of an artefact: `…/3_reduce/ct/hash/keep.parquet` is (`reduce`, `ct/hash`)."""
    for place, part in enumerate(path.parts[:-1]):
        match = re.fullmatch(r"([1-7])_([a-z]+)", part)
        if match and STAGES[int(match[1])] == match[2]:
            return match[2], "/".join(path.parts[place + 1 : -1])
    return "", path.parent.name


def arm_of_run(run: str) -> str:
    """The reduction arm's part of a run: `ct/simclr-hash-seed0` is `ct/hash`; empty if the name has another form."""
    match = re.fullmatch(r"(?:(.+)/)?([^/]+?)-([^/-]+)-seed\d+", run)
    return f"{match[1]}/{match[3]}" if match and match[1] else (match[3] if match else "")


def is_scratch(arm: str) -> bool:
    """Whether an arm starts from random weights: `scratch`, and `scratch-resnet50-1` where a task has several networks."""
    return re.fullmatch(r"scratch(-[a-z0-9_]+-\d+)?", arm) is not None


def tones(arms: list[str]) -> dict[str, str]:
    """A colour class per arm, the same in every figure: scratch is grey, `all` arms come first."""
    others = sorted((arm for arm in arms if not is_scratch(arm)), key=lambda arm: (not arm.endswith("all"), arm))
    controls = ["scratch", *sorted(arm for arm in arms if is_scratch(arm) and arm != "scratch")]
    return dict.fromkeys(controls, "ref") | {arm: f"c{i % 6}" for i, arm in enumerate(others)}
