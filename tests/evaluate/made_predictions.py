"""Predictions with a known truth: scores of two or more classes drawn around the target, better for some arms."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medssl.artefacts.fits import FITS
from medssl.artefacts.names import share_word
from medssl.core.rng import rng

ARMS = {"scratch-resnet18": 0.8, "simclr-all-seed0": 1.4, "simclr-hash-seed0": 1.5}


def predictions(
    *,
    classes: tuple[str, ...] = ("liver", "spleen", "kidney"),
    num_cases: int = 90,
    cases_per_unit: int = 1,
    seeds: tuple[int, ...] = (0, 1, 2),
    fractions: tuple[float, ...] = (0.1, 1.0),
    modes: tuple[str, ...] = ("linear", "full"),
    arms: dict[str, float] = ARMS,
    seed: int = 0,
) -> pd.DataFrame:
    """A predictions table as finetune leaves it; `arms` gives the strength of the signal."""
    random = rng(seed, "truth")
    truth = random.integers(0, len(classes), num_cases)
    hard = random.normal(size=(num_cases, len(classes)))
    parts = []
    for arm, strength in arms.items():
        for mode in modes:
            for fraction in fractions:
                for fit_seed in seeds:
                    noise = rng(seed, arm, mode, str(fraction), fit_seed).normal(size=hard.shape) * 0.4
                    signal = strength * (0.6 + 0.4 * fraction) + (0.3 if mode == "full" else 0.0)
                    logits = signal * np.eye(len(classes))[truth] + 0.7 * hard + noise
                    values = np.exp(logits)
                    values /= values.sum(axis=1, keepdims=True)
                    part = pd.DataFrame(
                        {
                            "fit_id": f"{arm}-{mode}-{share_word(fraction, 'fraction')}-s{fit_seed}",
                            "init": arm,
                            "mode": mode,
                            "fraction": fraction,
                            "seed": fit_seed,
                            "split": "test",
                            "case_id": [f"v-{i:012x}-0000" for i in range(num_cases)],
                            "unit_id": [f"v-{i // cases_per_unit:012x}" for i in range(num_cases)],
                            "unit": "image" if cases_per_unit == 1 else "patient",
                            "target": [classes[index] for index in truth],
                        }
                    )
                    for index, name in enumerate(classes):
                        part[f"prob_{name}"] = values[:, index]
                    parts.append(part)
    return pd.concat(parts, ignore_index=True)


def in_folds(table: pd.DataFrame, num_folds: int) -> pd.DataFrame:
    """The same predictions as those of a cross-validation: every case is of the fold that held its unit out."""
    units = {name: place % num_folds for place, name in enumerate(sorted(set(table["unit_id"])))}
    return table.assign(fold=table["unit_id"].map(units).astype("int64"))


def fits_of(table: pd.DataFrame) -> pd.DataFrame:
    """The table of fits that goes with predictions: a row per fit, or per fit and fold."""
    keys = [name for name in ("fit_id", "fold") if name in table]
    fits = table.drop_duplicates(keys)[[*keys, *(name for name in ("init", "mode", "fraction", "seed") if name not in keys)]]
    rest = {name: None for name in FITS.names if name not in ("fold", *fits)}
    known = {"num_train": 9, "num_train_units": 9, "num_units": 9, "num_val": 3, "num_test": 3, "train_ids_sha256": "1d5"}
    known |= {"backbone": "resnet18", "parameters": 9, "size": [28, 28], "selection": "validation", "seconds": 1.0}
    rows = fits.to_dict("records")
    made = pd.DataFrame([rest | known | {"pretrain_seed": None} | row for row in rows])
    return made.astype({"pretrain_seed": "Int64"})
