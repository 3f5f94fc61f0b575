"""Predictions with a known truth: scores of two or more classes drawn around the target, better for some arms."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medssl.core.rng import rng

ARMS = {"scratch": 0.8, "simclr-all-seed0": 1.4, "simclr-hash-seed0": 1.5}


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
                            "fit_id": f"{arm}-{mode}-{fraction:g}-{fit_seed}",
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
