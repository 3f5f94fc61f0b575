"""Parts of a source: training, validation and test, or the folds of a cross-validation."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from medssl.report.shown_study import ShownStudy

PARTS = ("train", "val", "test")
FOLD = "fold "


def is_folded(table: pd.DataFrame) -> bool:
    """Whether a table of samples or fits is of a source that was cut into folds."""
    return "fold" in table and bool(table["fold"].notna().any())


def num_folds(table: pd.DataFrame) -> int:
    """How many folds there are; 0 where there are none."""
    return int(table["fold"].nunique()) if is_folded(table) else 0


def part_of(samples: pd.DataFrame) -> pd.Series:
    """Of each sample its part: `train`, `val`, `test`, or `fold 0` where the source was cut into folds."""
    own = samples["split"].astype(object)
    if not is_folded(samples):
        return own
    folds = [f"{FOLD}{int(fold)}" if pd.notna(fold) else split for fold, split in zip(samples["fold"], own, strict=True)]
    return pd.Series(folds, index=samples.index, dtype=object)


def ordered_parts(names: Iterable[str]) -> list[str]:
    """Training, validation and test, then folds by number; what is none of these is left out."""
    found = set(names)
    folds = sorted((name for name in found if str(name).startswith(FOLD)), key=lambda name: int(name.removeprefix(FOLD)))
    return [name for name in PARTS if name in found] + folds


def num_subjects(series: pd.DataFrame, samples: pd.DataFrame) -> int:
    """How many patients there are, as far as they are known; of an image set each image has its own, which its row has not."""
    known = [table["subject_id"].dropna() for table in (series, samples) if "subject_id" in table]
    return len(set().union(*known))


def way_of_split(source: str, samples: pd.DataFrame, study: ShownStudy) -> str:
    """`by patient`, `by a given list`, `into 5 folds by patient`: how a source was divided; empty where it was not, or the
    options are not known.

    An image set may name parts of its own, which then stand: no table that the page reads says whether it did.
    """
    split = study.split_of(source)
    if split is None or not {"split", "kind", "unit"} <= set(samples) or part_of(samples).nunique() < 2:
        return ""
    if split.file:
        return "by a given list"
    if folds := num_folds(samples):
        return f"into {folds} folds by {' and '.join(sorted(set(samples['unit'].astype(str))))}"
    found = sorted(set(zip(samples["kind"].astype(str), samples["unit"].astype(str), strict=True)))
    return " and ".join(f"{'as the source names parts, else ' if kind == 'images' else ''}by {unit}" for kind, unit in found)
