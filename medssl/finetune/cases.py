"""The labelled cases of a source: ids, units, splits, 0/1 targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from medssl.core.errors import StudyError
from medssl.core.label_table import MANY, classes_of


@dataclass(frozen=True)
class Cases:
    """Cases in a fixed order."""

    case_id: np.ndarray
    volume_id: np.ndarray
    unit_id: np.ndarray
    unit: np.ndarray
    split: np.ndarray
    label: np.ndarray
    classes: list[str]
    targets: np.ndarray
    content: np.ndarray
    """hash of each case's image as a fit sees it, and of the conversion from numbers to inputs"""
    truth: np.ndarray
    """each case's label as a fit sees it: the class, or a hash of the mask"""
    fold: np.ndarray | None = None
    """the fold that tests each case, if the source has folds"""
    label_order: np.ndarray | None = None
    """the place of each case's unit in the split file's order of labelling, if there is one; NaN outside training"""
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    """`group_<name>` → value of each case (None if unknown), for the scores of subgroups"""
    numbers: np.ndarray | None = None
    """labels that are numbers, float64 `(n, columns)`: a value, or a time and whether its event happened (1 or 0)"""

    def __len__(self) -> int:
        return len(self.case_id)

    def with_split(self, split: np.ndarray) -> Cases:
        """The same cases in other parts."""
        return replace(self, split=split)

    def where(self, split: str) -> np.ndarray:
        """Indices of the cases of a split."""
        return np.flatnonzero(self.split == split)

    def require_one_label(self, by: Literal["case", "volume", "unit"]) -> None:
        """Require the cases of each volume or unit to have one label, where predictions are of these.

        Raises:
            StudyError: some differ.
        """
        ids = {"case": self.case_id, "volume": self.volume_id, "unit": self.unit_id}[by].tolist()
        labels: dict[str, set[str]] = {}
        for name, label in zip(ids, self.truth.tolist(), strict=True):
            labels.setdefault(name, set()).add(label)
        torn = sum(len(found) > 1 for found in labels.values())
        if torn:
            raise StudyError(several_labels(torn, len(labels), by))

    def num_units(self, split: str) -> int:
        """How many patients, or images without a patient, a split has."""
        return len(set(self.unit_id[self.where(split)].tolist()))

    def of_units(self, units: Sequence[str]) -> np.ndarray:
        """Indices of the training cases of some units."""
        wanted = set(units)  # numpy's isin compares each unit with all others, as they are objects
        return np.flatnonzero((self.split == "train") & np.array([unit in wanted for unit in self.unit_id.tolist()], dtype=bool))

    @property
    def strata(self) -> list[str]:
        """What a validation part is drawn evenly over: the label of each case, or of numbers only its classes."""
        if self.numbers is None:
            return [str(label) for label in self.label]
        return [MANY.join(sorted(names)) for names in self.class_sets(np.arange(len(self)))]

    def class_sets(self, indices: np.ndarray) -> list[frozenset[str]]:
        """The classes of each case."""
        return [frozenset(self.classes[k] for k in np.flatnonzero(row)) for row in self.targets[indices]]


def several_labels(torn: int, of_all: int, by: str) -> str:
    """The message if cases of one volume or unit differ in their label, where predictions are of these."""
    return (
        f"{torn} of {of_all} {by}s hold cases of different labels, so they have no label of their own. Set "
        "finetune.<task>.options.aggregate to case."
    )


def class_names(labels: Sequence[str]) -> list[str]:
    """Distinct class names: numbers in their order, else alphabetically; `a|b` counts for a and for b, `|` for none."""
    return sorted(classes_of(labels), key=lambda name: (0, int(name), name) if name.isdigit() else (1, 0, name))


def _stripped(label: str) -> str:
    """`a | b` as `a|b`."""
    return MANY.join(name.strip() for name in label.split(MANY))


def encode(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """0/1 targets `(n, classes)`, uint8."""
    place = {name: k for k, name in enumerate(classes)}
    targets = np.zeros((len(labels), len(classes)), dtype=np.uint8)
    for row, label in enumerate(labels):
        for name in label.split(MANY):
            if name:
                targets[row, place[name]] = 1
    return targets


def unit_ids(samples: pd.DataFrame, volumes: pd.DataFrame) -> pd.Series:
    """What must stay together: the subject; without one, a slice belongs to its series, and an image is its own unit."""
    subject = samples["subject_id"].astype(object)
    subject = subject.where(subject.notna() & (subject != "n/a"))
    series = volumes.get("series_id", volumes["volume_id"])
    series_of = dict(zip(volumes["volume_id"], series.where(series.notna(), volumes["volume_id"]), strict=True))
    own = samples["sample_id"].astype(object).where(samples["kind"] == "images", samples["volume_id"].map(series_of))
    return subject.where(subject.notna(), own)


def volume_ids(rows: pd.DataFrame) -> np.ndarray:
    """The volume of each slice; a picture counts as a volume, although pictures of one shape are stored together."""
    own = rows["sample_id"].astype(object)
    return own.where(rows["kind"] == "images", rows["volume_id"]).to_numpy(dtype=object)


def labelled(samples: pd.DataFrame, source: str, *, multilabel: bool, whole_volumes: bool) -> pd.DataFrame:
    """The rows of samples.parquet that a classification can use, a row per case: `case_id, unit_id, …, label`.

    Args:
        samples: the table of the prepare stage, with `unit_id`.
        source: its name, for the errors.
        multilabel: a case may have several classes (`a|b`), or none (`|`); without a label it is left out.
        whole_volumes: a case is a volume (3-D networks) instead of a slice.

    Raises:
        StudyError: there are no labels, only one class, several classes per case without `multilabel`, or an empty part.
    """
    stripped = samples.assign(label=samples["label"].map(_stripped, na_action="ignore"))
    rows = rows_of_cases(stripped, source, whole_volumes=whole_volumes, what="class labels")
    if not multilabel and rows["label"].str.contains(MANY, regex=False).any():
        raise StudyError(
            f"source {source!r}: some cases have several classes (joined by {MANY!r}). "
            "Set finetune.<task>.options.multilabel: true."
        )
    names = class_names(list(rows["label"]))
    if len(names) < (1 if multilabel else 2):
        raise StudyError(
            f"source {source!r}: all {len(rows)} labelled cases are of class {names[0] if names else 'n/a'!r}; "
            "a classification needs two classes."
        )
    require_parts(rows, source)
    return rows


def rows_of_cases(samples: pd.DataFrame, source: str, *, whole_volumes: bool, what: str) -> pd.DataFrame:
    """The labelled rows of samples.parquet by sample, a row per case with its `case_id`; arguments as in `labelled`.

    Args:
        samples, source, whole_volumes: see `labelled`.
        what: the labels in words, for the errors.

    Raises:
        StudyError: there are no labels, or the slices of a volume differ in them.
    """
    rows = samples[samples["label"].notna()]
    if rows.empty:
        raise StudyError(
            f"source {source!r} has no {what}: the column `label` of its samples.parquet is empty in all {len(samples)} rows. "
            f"Give it labels (sources.{source}.labels: a table of id and label, or `folders` for a folder per class; or an NPZ "
            "with labels), or fine-tune on another source."
        )
    rows = rows.sort_values("sample_id", kind="stable")
    if whole_volumes:
        differ = rows.groupby("volume_id")["label"].nunique()
        if (differ > 1).any():
            raise StudyError(
                f"source {source!r}: {int((differ > 1).sum())} volumes hold slices of different labels, so a volume has "
                "no label of its own. Use a 2-D encoder (pretrain spatial_dims: 2), whose cases are slices."
            )
        rows = rows.drop_duplicates("volume_id")
    return rows.assign(case_id=rows["volume_id"] if whole_volumes else rows["sample_id"]).reset_index(drop=True)


def require_parts(rows: pd.DataFrame, source: str) -> None:
    """Require labelled cases in training and test, unless folds make these parts.

    Raises:
        StudyError: a part has none.
    """
    counts = rows["split"].value_counts()
    for split in ("train", "test"):
        if "fold" not in rows and not counts.get(split):
            raise StudyError(
                f"source {source!r}: no labelled case is in the {split} split ({counts.to_dict()}). "
                "Label more patients, raise prepare.split.test_frac, or correct the split file."
            )
