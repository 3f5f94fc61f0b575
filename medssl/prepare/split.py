"""Which part a patient (or, where there are none, an image) belongs to: train, val or test."""

from __future__ import annotations

import pandas as pd

from medssl.core.errors import StudyError, did_you_mean
from medssl.core.rng import ids_to_keys, key, uniforms

PARTS = ("train", "val", "test")
FEWEST_UNITS = 3
"""With fewer patients than this there is nothing to hold out."""


def split(
    units: pd.DataFrame, *, seed: int, val_frac: float, test_frac: float, listed: dict[str, str] | None = None
) -> pd.Series:
    """The part of every row of `units`: columns `unit_id` (what must stay together), `unit` and `official`.

    A list given by the user decides alone. Otherwise official parts are kept, and what they leave open (rows without a part;
    a validation part, if they name none) is filled from train. Otherwise each unit's own number in [0, 1), a function of the
    seed and its id, is compared with the fractions: a new patient moves no other.

    Raises:
        StudyError: the list leaves some unit out or holds an unknown part; an official part is unknown.
    """
    if listed is not None:
        return _listed(units, listed)
    official = units["official"]
    _refuse_unknown(set(official.dropna()), "the image set's own split")
    if not official.notna().any():
        return _hashed(units, seed, val_frac, test_frac)
    parts = official.fillna("train").astype(object)
    if val_frac and not (parts == "val").any():
        training = units[parts == "train"]
        held_out = _hashed(training, seed, val_frac, 0.0)
        parts.loc[training.index] = held_out
    return parts


def unit_draws(unit_ids: list[str], seed: int) -> pd.Series:
    """A number in [0, 1) for each id, from the seed and the id alone."""
    return pd.Series(uniforms(key(seed, "split"), ids_to_keys(unit_ids), 1)[:, 0], index=unit_ids)


def _hashed(units: pd.DataFrame, seed: int, val_frac: float, test_frac: float) -> pd.Series:
    ids = sorted(set(units["unit_id"]))
    draw = unit_draws(ids, seed)
    part = pd.Series("train", index=ids, dtype=object)
    part[draw < test_frac + val_frac] = "val"
    part[draw < test_frac] = "test"
    if len(ids) < FEWEST_UNITS or not (part == "train").any():
        part[:] = "train"
    return units["unit_id"].map(part)


def _listed(units: pd.DataFrame, listed: dict[str, str]) -> pd.Series:
    _refuse_unknown(set(listed.values()), "split.file")
    parts = units["unit_id"].map(listed)
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
