"""Shares of labels: what a study asks for, what its subsets really took, and the words for both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from medssl.artefacts.names import FitId, share_of
from medssl.report.section import counted, percent

WHY_MORE = "so that each class has one"
"""Why a subset takes more than it is asked to: it is never smaller than a cover of the classes."""


@dataclass(frozen=True)
class Taken:
    """What a share came to.

    `asked`: `5 %`, or `3 patients`, `3 patients per class` where the study counts units; `units`: `11 images`; `of_all`: `25 %`
    of all units, also as `fraction`; `more`: whether that is more than was asked for; `twin`: the share that stands for all that
    are the same units.
    """

    asked: str
    units: str
    of_all: str
    is_count: bool
    more: bool
    fraction: float
    twin: float

    @property
    def tick(self) -> str:
        """`25 %`, `3 patients`."""
        return self.units if self.is_count else self.of_all

    @property
    def name(self) -> str:
        """`5 %`, `3 patients`, `25 % (11 images)` where that is more than was asked for."""
        return f"{self.of_all} ({self.units})" if self.more and not self.is_count else self.tick

    @property
    def phrase(self) -> str:
        """`5 % of the labels`, `labels of 3 patients`, `25 % of the labels (11 images, so that each class has one)`."""
        if self.is_count:
            return f"labels of {self.units}" + (f" ({WHY_MORE})" if self.more else "")
        return f"{self.of_all} of the labels" + (f" ({self.units}, {WHY_MORE})" if self.more else "")


Labels = dict[float, Taken]
"""What each share of a task came to; empty where no table of fits says it."""


def labels_of(fits: pd.DataFrame | None, scores: pd.DataFrame | None) -> Labels:
    """What the shares of a task came to.

    fits: of the task; the name of a fit says whether its share was a count. scores: a table of the task with its `unit`.
    """
    if fits is None or not {"fit_id", "num_train_units"} <= set(fits):
        return {}
    unit = "unit" if scores is None else str(scores["unit"].iloc[0])
    known = fits[fits["num_train_units"].notna() & (fits["fraction"] <= 1)]
    num_units, twins = _num_units(known), _twins(known)
    parts = known.groupby("fraction", sort=True)
    return {float(share): _taken(float(share), part, num_units, unit, twins) for share, part in parts}  # type: ignore[arg-type]


def share_name(fraction: float, labels: Labels | None = None) -> str:
    """`5 %` of the labels, or `3 patients` or `40 cases` where a count was asked for; what was taken where that is more."""
    if labels and fraction in labels:
        return labels[fraction].name
    return percent(fraction) if fraction <= 1 else f"{fraction:.0f} cases"


def share_phrase(fraction: float, labels: Labels | None = None) -> str:
    """`5 % of the labels`, `labels of 3 patients`."""
    if labels and fraction in labels:
        return labels[fraction].phrase
    return f"labels of {share_name(fraction)}" if fraction > 1 else f"{share_name(fraction)} of the labels"


def share_words(fraction: float, labels: Labels | None = None) -> str:
    """`With 5 % of the labels`, `With all labels`, `With labels of 3 patients`, `With 40 labelled cases`."""
    if fraction == 1:
        return "With all labels"
    return f"With {fraction:.0f} labelled cases" if fraction > 1 else f"With {share_phrase(fraction, labels)}"


def share_place(fraction: float, labels: Labels) -> float:
    """Where a share stands on an axis: as a fraction of all units that was taken."""
    return labels[fraction].fraction if fraction in labels else fraction


def ordered_shares(fractions: pd.Series) -> list[float]:
    """Shares from few labels to all: counts, then fractions."""
    return sorted(set(fractions), key=lambda share: (share <= 1, share))


def distinct(rows: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """The rows without those whose share is the very same units as another one's that is there."""
    present = set(rows["fraction"])
    twins = {share: labels[share].twin if share in labels else share for share in present}
    return rows[[twins[share] not in present - {share} for share in rows["fraction"]]]


def shares_alike(labels: Labels) -> list[str]:
    """A sentence for each group of shares that are the very same units."""
    sentences = []
    for twin in sorted({taken.twin for taken in labels.values()}):
        asked = [taken.asked for taken in labels.values() if taken.twin == twin]
        if len(asked) > 1:
            listed = f"{', '.join(asked[:-1])} and {asked[-1]}"
            sentences.append(f"{listed} of the labels are the same {labels[twin].units}, {WHY_MORE}: they are reported once.")
    return sentences


def _num_units(fits: pd.DataFrame) -> int | None:
    """How many training units there are: by the column, in an older table by the fits with all labels."""
    found = fits["num_units"].dropna() if "num_units" in fits else pd.Series(dtype=float)
    found = found if len(found) else fits.loc[fits["fraction"] == 1, "num_train_units"]
    return int(found.max()) if len(found) else None


def _twins(fits: pd.DataFrame) -> dict[float, float]:
    """By share, the one that stands for all with the same units in every seed: all labels, else the smallest."""
    keys = [name for name in ("seed", "num_train_units", "train_ids_sha256") if name in fits]
    groups: dict[frozenset[tuple[str, ...]], list[float]] = {}
    for share, part in fits.groupby("fraction", sort=True):
        taken = frozenset(part[keys].astype(str).itertuples(index=False, name=None))
        groups.setdefault(taken, []).append(float(share))  # type: ignore[arg-type]
    return {share: 1.0 if 1.0 in group else group[0] for group in groups.values() for share in group}


def _taken(share: float, part: pd.DataFrame, num_units: int | None, unit: str, twins: dict[float, float]) -> Taken:
    least, most = int(part["num_train_units"].min()), int(part["num_train_units"].max())
    asked_for = [share_of(FitId.parse(str(name)).share) for name in part["fit_id"].unique()]
    each = next((int(amount) for amount, kind in asked_for if kind == "per_class"), None) if share < 1 else None
    if each is not None:
        named = f"{counted(each, unit)} per class"
        return Taken(named, named, percent(share), True, False, share, twins[share])
    count = next((int(amount) for amount, kind in asked_for if kind == "units"), None) if share < 1 else None
    fewest = count if count is not None else math.floor(share * num_units + 0.5) if num_units else most
    more, fraction, of_all = most > fewest, share, percent(share)
    if more and num_units:
        fraction = float(part["num_train_units"].mean()) / num_units
        of_all = " to ".join(dict.fromkeys(percent(number / num_units) for number in (least, most)))
    asked = percent(share) if count is None else counted(count, unit)
    named = counted(most, unit) if least == most else f"{least} to {counted(most, unit)}"
    return Taken(asked, named, of_all, count is not None, more, fraction, twins[share])
