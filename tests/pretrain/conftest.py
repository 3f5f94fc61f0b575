"""A plan of a few seconds: a narrow network on a phantom cohort, in this process or in one that can be killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prepared import write_prepared
from pretraining import TINY, backbone_of, recorded

torch.set_num_threads(1)


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Any]:
    """A plan with other options, its cohort written once for the test; `state` names its state folder."""
    cohorts: dict[str, Any] = {}

    def make(state: str = "state", cohort: dict[str, Any] | None = None, seed: int = 0, **options: Any) -> Any:
        from medssl.nn.loading import read_samples
        from medssl.pretrain.options import TrainingOptions
        from medssl.pretrain.plan import Plan

        named = repr(cohort)
        if named not in cohorts:
            cohorts[named] = write_prepared(tmp_path / f"cohort{len(cohorts)}", **(cohort or {}))
        inputs = cohorts[named]
        samples = read_samples(inputs["samples"], inputs["volumes"], keep=inputs["keep"])
        samples = recorded(samples)
        chosen = options.get("objective", "simclr")
        fitting = {"backbone": backbone_of(chosen if isinstance(chosen, str) else next(iter(chosen)))}
        return Plan(TrainingOptions(**(TINY | fitting | options)), seed, samples, tmp_path / state)

    return make
