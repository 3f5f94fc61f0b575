"""The number of dimensions of a task's networks."""

from __future__ import annotations

from typing import Any

from medssl.core import plugins
from medssl.finetune.options import INFLATED, FinetuneOptions, wrapper_of
from medssl.study.dag import Dag


def rank_of(dag: Dag, task: FinetuneOptions) -> int | None:
    """The rank of the networks of a task, 2 or 3; None if its starts do not state it or differ (another check reports it)."""
    ranks = {dag.study.pretrain[run.name].spatial_dims for _, run in dag.runs_for(task)}
    if deepens(task.encoder):
        return 3
    return ranks.pop() if len(ranks) == 1 else 3 if not ranks and len(task.size or []) == 3 else None


def deepens(encoder: str) -> bool:
    """Whether a word of `encoder` makes a 3-D network of a 2-D one."""
    wrapper = wrapper_of(encoder)
    return encoder == INFLATED or (wrapper is not None and without_part(wrapper).get("spatial_dims") == 3)


def without_part(wrapper: str) -> dict[str, Any]:
    """How a wrapping backbone uses a run without the part for it."""
    return dict(plugins.find("backbone", wrapper).constant("WITHOUT_PART", default={}))
