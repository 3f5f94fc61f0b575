"""Options of stage prepare: the network's input."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from medssl.core.bounds import Fold, Several
from medssl.core.options import Options, Window
from medssl.core.written import PathText


class SplitOptions(Options):
    """Shares of patients kept for validation and test, or folds; `file`, if given, decides alone."""

    val_frac: Fold = 0.1
    """Share of the patients in the validation part; with folds, of those outside the fold that is tested."""
    test_frac: Fold = 0.1
    """Share of the patients in the test part; ignored with folds."""
    folds: Several | None = None
    """Number of folds of a cross-validation, each the test part once; all patients are then held out from pre-training."""
    file: PathText | None = None
    """TSV with the header `id<tab>split`: the part (train, val, test) of each patient or image, by medssl's ids. A third column
    `order` is that in which training patients are labelled (`label_order: listed`)."""

    @model_validator(mode="after")
    def _train_is_left(self) -> SplitOptions:
        if self.folds is not None and self.file is not None:
            raise ValueError("folds and file are both set: the file decides alone, so give one of them")
        if self.folds is None and self.val_frac + self.test_frac >= 1:
            raise ValueError(f"val_frac {self.val_frac} and test_frac {self.test_frac} leave nothing to train on")
        return self


class PrepareOptions(Options):
    """The network's input: windows (HU for CT, percentiles elsewhere), spacing, slices, split, cache."""

    window_hu: list[Window] = Field(default=[(-1000.0, 1000.0)], min_length=1)
    """Windows of CT as [low, high] in HU, one channel each."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Window of other modalities: percentiles of the foreground of each volume."""
    spacing_mm: list[float | None] | None = None
    """Spacing to resample to along i, j, k; null keeps an axis, or all of them."""
    slice_axis: Literal["auto", "i", "j", "k"] = "auto"
    """Axis that slices are cut along; `auto` is the axis of the largest acquired spacing."""
    cache: Literal["memmap", "blosc2"] = "memmap"
    """Form of the arrays: mapped from disk, or compressed in blocks."""
    split: SplitOptions = SplitOptions()
    """Which patients train, validate and test."""

    @field_validator("spacing_mm")
    @classmethod
    def _spacing(cls, spacing_mm: list[float | None] | None) -> list[float | None] | None:
        if spacing_mm is not None and len(spacing_mm) != 3:
            raise ValueError("takes three numbers (null keeps an axis), or null")
        if any(step is not None and not 0 < step < float("inf") for step in spacing_mm or []):
            raise ValueError(f"{spacing_mm}: every number is a distance above 0, in mm")
        return spacing_mm

    @field_validator("percentiles")
    @classmethod
    def _percentiles(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise ValueError(f"{list(percentiles)}: two ascending numbers from 0 to 100")
        return percentiles
