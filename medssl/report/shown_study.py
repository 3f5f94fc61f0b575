"""The options of a study as a page shows them, read where its sentences need one; the names of options are in this file alone."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Shown(BaseModel):
    """Some options of the study file; others are left alone, and one that is not there is None or empty."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ShownChoice(Shown):
    """A plug-in and its options."""

    name: str = ""
    options: dict[str, Any] = {}


class ShownPretraining(Shown):
    """How one encoder was trained."""

    objective: ShownChoice = ShownChoice()
    backbone: ShownChoice = ShownChoice()
    init_run: str | None = None
    init_weights: str | None = None
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    lr: float | None = None
    weight_decay: float | None = None
    precision: str | None = None


class ShownSplit(Shown):
    """How a source was divided."""

    file: str | None = None
    folds: int | None = None


class ShownPrepare(Shown):
    """What the network sees. Of a source: only what differs from the study."""

    window_hu: list[tuple[float, float]] = []
    percentiles: tuple[float, float] | None = None
    spacing_mm: list[float | None] | None = None
    split: ShownSplit | None = None


class ShownSource(Shown):
    """A source's own options."""

    licence: str | None = None
    label_as_feature: bool = False
    class_names: dict[str, str] = {}
    prepare: ShownPrepare | None = None


class ShownFinetuning(Shown):
    """How one task was fitted."""

    task: str = ""
    source: str = ""
    options: dict[str, Any] = {}
    label_order: str | None = None

    @property
    def measured_in(self) -> str:
        """The unit of its labels; empty where it has none."""
        return str(self.options.get("measured_in") or "")


class ShownEvaluate(Shown):
    """Intervals and tests."""

    bootstrap: int | None = None
    holm_over: str | None = None
    compare: list[tuple[str, str]] = []


class ShownStudy(Shown):
    """What the sentences of a page read of the study file."""

    sources: dict[str, ShownSource] = {}
    prepare: ShownPrepare | None = None
    pretrain: dict[str, ShownPretraining] = {}
    finetune: dict[str, ShownFinetuning] = {}
    evaluate: ShownEvaluate = ShownEvaluate()

    def own(self, source: str) -> ShownPrepare:
        """What a source says of itself beside the study's `prepare`."""
        found = self.sources.get(source, ShownSource()).prepare
        return found or ShownPrepare()

    def spacing_of(self, source: str) -> list[float | None] | None:
        """Voxel size that a source was resampled to, in mm; None for an axis, or for all, that kept its own."""
        own = self.own(source)
        if "spacing_mm" in own.model_fields_set or self.prepare is None:
            return own.spacing_mm
        return self.prepare.spacing_mm

    def split_of(self, source: str) -> ShownSplit | None:
        """How a source was divided; None where no option says."""
        given = [part.split for part in (self.prepare, self.own(source)) if part is not None and part.split is not None]
        values = [split.model_dump(exclude_unset=True) for split in given]
        return ShownSplit(**{key: value for one in values for key, value in one.items()}) if given else None
