"""Options of stage evaluate: intervals and tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from medssl.core import plugins
from medssl.core.bounds import Distinct, OneOrMore
from medssl.core.options import Metric, Options
from medssl.core.plugins import Plugin

BESIDE_SCORES = ("RANKS_CASES", "PAIRED_TEST", "CALIBRATION_BINS")
"""Constants of a metric that are used whether or not a study names it."""


class EvaluateOptions(Options):
    """Intervals and tests."""

    bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Draws of patients for intervals."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Level of the intervals."""
    positive: str | None = None
    """The positive class of tasks with two classes; by default the rarer one."""
    metrics: OneOrMore[Metric] | None = None
    """Metrics; by default all that fit the task."""
    holm_over: Literal["arms", "task"] = "arms"
    """The family of Holm's correction: the arms of one table, or all comparisons of a task."""
    seeds: Literal["interval", "beside"] = "interval"
    """Where the spread over three or more seeds goes: `interval`, into the interval, which then covers new seeds and new
    patients;
    `beside`, into its own column.
    """
    compare: Distinct[tuple[str, str]] = []
    """Pairs of pre-trainings, given weights or `scratch`: the first against the second, in addition to each against scratch."""

    @property
    def seeds_beside(self) -> bool:
        """Whether intervals are over units alone."""
        return self.seeds == "beside"

    def plugins(self) -> Iterator[Plugin]:
        """The metrics that are named, or all, and those needed for additional tables."""
        yield from super().plugins()
        for plugin in plugins.all_of("metric"):
            if self.metrics is None or any(plugin.constant(what, default=None) is not None for what in BESIDE_SCORES):
                yield plugin


class EvaluationOptions(EvaluateOptions):
    """The options of one job of the stage."""

    task: str
    """The kind of the task."""
    multilabel: bool | None = None
    """Whether a case may have several classes; null if the task has no such option."""
    controls: dict[str, list[str]] = {}
    """By reduction arm, the arms that keep as many slices and choose them without looking."""
    whole: list[str] = []
    """The reduction arms that keep every slice."""
    sole: bool = True
    """Whether the positive class can belong to no other task of the study."""
    classes: dict[str, str] | None = None
    """Class of each mask value, if the table of predictions does not have it."""

    def plugins(self) -> Iterator[Plugin]:
        """Without the metrics of other kinds of tasks that the study does not name."""
        named = set(plugins.names("metric")) if self.metrics is None else {metric.name for metric in self.metrics}
        own = plugins.find("task", self.task).constant("PREDICTS")
        yield from (
            plugin for plugin in super().plugins() if plugin.name in named or plugin.constant("PREDICTS", default=own) == own
        )
