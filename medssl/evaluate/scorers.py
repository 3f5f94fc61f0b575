"""The metrics of a job: which ones score what its task predicts, with what options, and what each declares."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medssl.core import plugins
from medssl.core.options import PluginChoice
from medssl.core.plugins import Plugin
from medssl.evaluate.intervals import Limits

Metric = Callable[..., Any]


@dataclass(frozen=True)
class Scorers:
    """The metrics that score a task's predictions: those of the study, and all of the folder with their defaults.

    chosen, known: by name, the options of a metric; known includes the chosen ones.
    """

    chosen: dict[str, dict[str, Any]]
    known: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, predicts: str, chosen: Sequence[PluginChoice] | None) -> Scorers:
        """The metrics whose `PREDICTS` is that of the task; all of the folder are chosen if the study names none."""
        known = {plugin.name: plugin.check({}) for plugin in plugins.all_of("metric") if plugin.constant("PREDICTS") == predicts}
        named = known if chosen is None else {choice.name: choice.options for choice in chosen if choice.name in known}
        return cls(named, known | named)

    @property
    def functions(self) -> dict[str, Metric]:
        """The chosen metrics with their options."""
        return {name: self._function(name) for name in self.chosen}

    @property
    def of_cases(self) -> dict[str, Metric]:
        """The metrics whose value for each case orders cases, whether or not the study names them."""
        return {name: self._function(name) for name in self.known if self._says(name, "RANKS_CASES", default=False)}

    @property
    def ranking(self) -> str | None:
        """The chosen metric that orders cases."""
        return next((name for name in self.of_cases if name in self.chosen), None)

    @property
    def areas(self) -> list[str]:
        """The metrics that are an area under the ROC curve, which DeLong's test compares."""
        return [name for name in self.known if self._says(name, "PAIRED_TEST", default=None) == "delong"]

    @property
    def over_classes(self) -> list[str]:
        """The metrics without a row for a class that are still means over classes."""
        return [name for name in self.known if self._says(name, "OVER_CLASSES", default=False)]

    @property
    def calibration_bins(self) -> int | None:
        """The number of bins of the calibration curve; None if no metric of the folder defines it."""
        options = {name: self._says(name, "CALIBRATION_BINS", default=None) for name in self.known}
        return next((int(self.known[name][option]) for name, option in options.items() if option is not None), None)

    @property
    def better(self) -> dict[str, str]:
        """By metric, `higher` or `lower`."""
        return {name: self._says(name, "BETTER") for name in self.known}

    @property
    def limits(self) -> dict[str, Limits]:
        """By metric, the smallest and largest value that it can have; None where it has none or does not say."""
        return {name: self._says(name, "LIMITS", default=(None, None)) for name in self.known}

    def _function(self, name: str) -> Metric:
        return functools.partial(_plugin(name).load(), **self.known[name])

    def _says(self, name: str, constant: str, **default: Any) -> Any:
        return _plugin(name).constant(constant, **default)


def _plugin(name: str) -> Plugin:
    return plugins.find("metric", name)
