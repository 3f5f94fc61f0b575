"""What a run's curve says of an epoch, and of its speed."""

from __future__ import annotations

import pandas as pd


def by_epoch(curve: pd.DataFrame) -> pd.DataFrame:
    """One row per epoch: the mean of each column over the epoch's rows, the last of step."""
    numbers = curve.select_dtypes("number")
    means = numbers.groupby("epoch", sort=True).mean()
    means["step"] = numbers.groupby("epoch", sort=True)["step"].max()
    return means.reset_index()


def images_per_s(curve: pd.DataFrame) -> float | None:
    """The median over the rows of a run's curve as it was written, so that a pause or the first steps do not weigh."""
    return float(curve["images_per_s"].median()) if "images_per_s" in curve else None
