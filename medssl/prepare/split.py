"""The part of each patient, or of each image without a patient: train, val or test; or the fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from medssl.core.errors import StudyError, did_you_mean
from medssl.core.partition import PARTS, dealt_out, folds_of, strata_of, unit_draws
from medssl.prepare.options import SplitOptions

FEWEST_UNITS = 3
"""With fewer patients than this none can be held out."""

FEW_UNITS = 5
"""A part with fewer units carries little information, and the log warns of it."""

WORDS = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Split:
    """`part` of every row (`train`, `val`, `test`), its `fold` if there are folds, and warnings for the user."""

    part: pd.Series
    fold: pd.Series | None
    notes: list[str]


def split(units: pd.DataFrame, options: SplitOptions, *, seed: int, listed: Mapping[str, str] | None = None) -> Split:
    """Part or fold of every row of `units`: columns `unit_id` (what must stay together), `unit`, `scan_id` (the series or image),
    `official`, `label` and `modality`.

    A list from the user decides alone. With folds every unit is held out once: all are in the test part. Otherwise official parts
    are kept, and a validation part, if they name none, is drawn from train. Otherwise exact shares of the units are drawn,
    evenly over labels and modalities.

    Raises:
        StudyError: nothing is left to train on; many scans of too few patients to hold one out; fewer units than folds; the list
            omits a unit; an unknown part.
    """
    if listed is not None:
        part = _listed(units, listed)
        return Split(part, None, _notes(units, part, options, listed=True))
    official = units["official"]
    _refuse_unknown(set(official.dropna()), "the image set's own split")
    if options.folds is not None:
        fold = _folds(units, options.folds, options.val_frac, seed)
        part = pd.Series("test", index=units.index, dtype=object)
        return Split(part, fold, _notes_on_folds(units, fold, options.folds, options.val_frac))
    if not official.notna().any():
        _refuse_hidden_patients(units, options)
        part = _drawn(units, {"test": options.test_frac, "val": options.val_frac}, seed)
        return Split(part, None, _notes(units, part, options))
    part = official.fillna("train").astype(object)
    if options.val_frac and not (part == "val").any():
        part = part.copy()
        training = units[part == "train"]
        part.loc[training.index] = _drawn(training, {"val": options.val_frac}, seed)
    return Split(part, None, [*_torn(units, official), *_notes(units, part, options)])


def _drawn(units: pd.DataFrame, fractions: Mapping[str, float], seed: int) -> pd.Series:
    strata = _strata(units)
    total = len(strata)
    if total < FEWEST_UNITS:
        return pd.Series("train", index=units.index, dtype=object)
    counts = {part: round(frac * total) for part, frac in fractions.items()}
    if sum(counts.values()) >= total:
        asked = " and ".join(f"{part}_frac {frac}" for part, frac in fractions.items())
        raise StudyError(
            f"prepare.split: {asked} of {_number(units, total)} are {' and '.join(map(str, counts.values()))}, and nothing is "
            "left to train on. Lower them, or name every part in prepare.split.file."
        )
    part = dealt_out(strata, counts, unit_draws(list(strata), seed, "split"))
    return units["unit_id"].map(part).astype(object)


def _folds(units: pd.DataFrame, num_folds: int, val_frac: float, seed: int) -> pd.Series:
    strata = _strata(units)
    total = len(strata)
    if total < num_folds:
        raise StudyError(
            f"prepare.split.folds: {num_folds} folds of {_number(units, total)}; each fold needs one. Ask for fewer folds."
            + f" {_hidden_patients(units)}".rstrip()
        )
    fewest = total - -(-total // num_folds)
    if round(val_frac * fewest) >= fewest:
        raise StudyError(
            f"prepare.split: outside a fold there are {_number(units, fewest)}, and val_frac {val_frac} leaves nothing of them "
            "to train on. Lower it, or ask for more folds."
        )
    fold = folds_of(strata, num_folds, unit_draws(list(strata), seed, "split"))
    return units["unit_id"].map(fold).astype("int8")


def _refuse_hidden_patients(units: pd.DataFrame, options: SplitOptions) -> None:
    """Stop if parts would be empty although there are enough scans: perhaps one id stands for several people."""
    asked = [f"{name}_frac" for name in ("val", "test") if getattr(options, f"{name}_frac")]
    total, scans = int(units["unit_id"].nunique()), int(units["scan_id"].nunique())
    if asked and total < FEWEST_UNITS <= scans / total:
        raise StudyError(
            f"prepare.split: the source has {_number(units, total)}, and with fewer than {FEWEST_UNITS} nothing can be held out: "
            f"the parts of {' and '.join(asked)} would be empty. {_hidden_patients(units)} To train on all of them, set "
            f"{' and '.join(asked)} to 0."
        )


def _hidden_patients(units: pd.DataFrame) -> str:
    """What to do if there are more scans than patients; empty otherwise."""
    scans, total = int(units["scan_id"].nunique()), int(units["unit_id"].nunique())
    if scans <= total:
        return ""
    return (
        f"All {scans} scans are of {_number(units, total)}. If they are of more people, their names do not say so, or "
        "de-identification gave them one PatientID: name each person by ingest.subject_pattern (a regular expression on a path, "
        "whose group is the patient) or by a column `subject` of the label table."
    )


def _strata(units: pd.DataFrame) -> dict[str, str]:
    rows = units[["unit_id", "label", "modality"]].drop_duplicates()
    labels = rows["label"].astype(object).where(rows["label"].notna(), None)
    return strata_of(list(rows["unit_id"]), labels=list(labels), modalities=list(rows["modality"]))


def _listed(units: pd.DataFrame, listed: Mapping[str, str]) -> pd.Series:
    _refuse_unknown(set(listed.values()), "split.file")
    parts = units["unit_id"].map(dict(listed))
    missing = sorted(set(units["unit_id"][parts.isna()]))
    if missing:
        raise StudyError(
            f"split.file has no row for {len(missing)} of {units['unit_id'].nunique()} units (a unit is a "
            f"{units['unit'].iloc[0]}), the first is {missing[0]}. Add a row `id<tab>train|val|test` for each; the ids are those "
            "of series.tsv or images.parquet of stage ingest."
        )
    return parts.astype(object)


def _refuse_unknown(found: set[str], where: str) -> None:
    for part in sorted(found - set(PARTS)):
        raise StudyError(f"{where} holds a part {part!r}; parts are train, val and test.{did_you_mean(part, PARTS)}")


# Warnings


def _notes(units: pd.DataFrame, part: pd.Series, options: SplitOptions, *, listed: bool = False) -> list[str]:
    """A sentence for each requested part that is empty or tiny."""
    total = int(units["unit_id"].nunique())
    counts = units["unit_id"].groupby(part).nunique()
    notes = []
    for name, frac in (("val", options.val_frac), ("test", options.test_frac)):
        count = int(counts.get(name, 0))
        if frac and not count:
            notes.append(f"The {WORDS[name]} part is empty: {_why_empty(units, name, frac, total, listed=listed)}.")
        elif frac and count < FEW_UNITS:
            notes.append(f"The {WORDS[name]} part holds {_number(units, count)} only, of {total}: its results will say little.")
    if notes and total < FEWEST_UNITS and (hint := _hidden_patients(units)):
        notes.append(hint)
    return notes


def _torn(units: pd.DataFrame, official: pd.Series) -> list[str]:
    """The warning that the source's own split has a patient in two parts: training and test data then overlap."""
    counts = official.groupby(units["unit_id"]).nunique()
    torn = int((counts > 1).sum())
    if not torn:
        return []
    return [
        f"The source's own split has {torn} of {_number(units, len(counts))} in two parts, so that scores may be too good. Give "
        "each one part in the label table, or all of them in prepare.split.file."
    ]


def _why_empty(units: pd.DataFrame, part: str, frac: float, total: int, *, listed: bool) -> str:
    if listed:
        return "prepare.split.file puts nothing in it"
    if part == "test" and units["official"].notna().any():
        return "the image set's own split has none, and none is drawn beside it"
    if total < FEWEST_UNITS:
        return f"the source has {_number(units, total)}, and with fewer than {FEWEST_UNITS} nothing is held out"
    return f"{part}_frac {frac:g} of {_number(units, total)} is less than one"


def _notes_on_folds(units: pd.DataFrame, fold: pd.Series, num_folds: int, val_frac: float) -> list[str]:
    notes = []
    sizes = units["unit_id"].groupby(fold).nunique()
    fewest, outside = int(sizes.min()), int(sizes.sum() - sizes.max())
    if fewest < FEW_UNITS:
        notes.append(f"The smallest of {num_folds} folds holds {_number(units, fewest)} only: its results alone will say little.")
    if val_frac and (count := round(val_frac * outside)) < FEW_UNITS:
        only = f"{_number(units, count)} only" if count else "nothing"
        notes.append(f"Outside a fold the validation part holds {only}, of {outside}: what it chooses says little.")
    if units["official"].notna().any():
        notes.append("The image set's own parts are not used: the folds hold every unit out once.")
    return notes


def _number(units: pd.DataFrame, count: int) -> str:
    """`3 patients`, `1 image`; where a source has both: `3 patients or images`."""
    kinds = sorted(set(units["unit"]), reverse=True)
    return f"{count} " + " or ".join(kind if count == 1 else f"{kind}s" for kind in kinds)
