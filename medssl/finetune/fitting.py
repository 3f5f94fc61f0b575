"""The fits of a task, one at a time: label subsets, what a fit says of itself, and what it predicts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medssl.core.errors import StudyError
from medssl.core.files import sha256_text
from medssl.core.job import Job
from medssl.finetune.cases import Cases
from medssl.finetune.plan import Fit, plan
from medssl.finetune.predicting import MODEL_FORMAT, source_mask
from medssl.finetune.predictions import aggregated, rows_of
from medssl.finetune.reading import (
    median_spacing_mm,
    read_cases,
    read_scans,
    reference_mask,
    source_grid,
    stage_settings,
    windows_of,
)
from medssl.finetune.recipe import Recipe
from medssl.finetune.starting import Starting
from medssl.finetune.subsets import Share, shares_of, subset, unit_order

KeepMask = Callable[[str, np.ndarray, np.ndarray], None]
"""Takes a case id, a mask and its affine, and puts them where the fit's results are kept."""


class Work:
    """The fits of a task under one recipe: nothing here writes a file."""

    cases: Cases
    described: str

    def __init__(self, job: Job, task: Any, starting: Starting, recipe: Recipe, device: torch.device) -> None:
        self.job, self.task, self.starting, self.recipe, self.device = job, task, starting, recipe, device
        self.size = _full_size(job.spec.settings["size"] or starting.size, starting.spatial_dims)
        self.cases = self.read()
        train = self.cases.where("train")
        self.orders, self.shares, self.subsets = _subsets(job.spec.settings, self.cases, train)
        counts = {split: len(self.cases.where(split)) for split in ("train", "val", "test")}
        self.described = f"{counts} cases, classes {self.cases.classes}, size {self.size}"

    def read(self) -> Cases:
        """The labelled cases."""
        raise NotImplementedError

    def fit(self, fit: Fit, train: np.ndarray, keep_mask: KeepMask) -> tuple[pd.DataFrame, Any]:
        """One fit on the training cases `train`: its predictions, and what the task says of it; masks go to `keep_mask`."""
        raise NotImplementedError

    def steps(self, fit: Fit, train: np.ndarray) -> int | None:
        """Optimiser steps of a fit, None for probes."""
        raise NotImplementedError

    def references(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Case id, given mask and its affine of every test case, on the source grids; nothing where labels are classes."""
        yield from ()

    def fraction(self, share: Share) -> float:
        """A share as a fraction of the training units."""
        return share.fraction(len(next(iter(self.orders.values()))))

    def competing(self, fit: Fit) -> list[Fit]:
        """The fits among which the model of a starting point is chosen: all its fits with the most labels."""
        settings = self.job.spec.settings
        return plan([fit.start], settings["modes"], [fit.share], settings["seeds"]) if fit.share == self.shares[-1] else []

    def facts(self, fit: Fit, train: np.ndarray) -> dict[str, Any]:
        """What fits.tsv says of a fit before its results: enough to see that starting points were treated alike."""
        backbone, recipe, cases = self.starting.backbone(fit.start, fit.seed), self.recipe, self.cases
        steps = self.steps(fit, train)
        of_recipe = ("batch_size", "lr", "weight_decay", "warmup_frac", "layer_decay", "augment", "mixup", "calibration_batches")
        return {
            "fit_id": fit.id,
            "init": fit.start.name,
            "pretrain_seed": fit.start.pretrain_seed,
            "mode": fit.mode,
            "fraction": self.fraction(fit.share),
            "seed": fit.seed,
            "num_train": len(train),
            "num_train_units": len(set(cases.unit_id[train])),
            "num_units": len(next(iter(self.orders.values()))),
            "num_val": len(cases.where("val")),
            "num_test": len(cases.where("test")),
            "train_ids_sha256": sha256_text("\n".join(sorted(cases.case_id[train])))[:16],
            "backbone": fit.start.backbone,
            "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "encoder_sha256": (self.starting.hashes.get(fit.start.run) or "")[:16] or None,
            "size": list(self.size),
            "selection": f"validation {self.task.selection}" if len(cases.where("val")) else "last step (no validation cases)",
            **{name: None if steps is None else getattr(recipe, name) for name in of_recipe},
            "steps": steps,
            "best_step": None,
            "inverse_penalty": None,
            "val_score": None,
        }

    def contract(self, best: Fit, facts: dict[str, Any]) -> dict[str, Any]:
        """What `medssl predict` needs beside the weights of a fit."""
        encoder, settings = self.starting.contracts[best.start.run], self.job.spec.settings
        return {
            "format": MODEL_FORMAT,
            "task": settings["task"],
            "options": settings["options"],
            "classes": self.cases.classes,
            **{name: encoder[name] for name in ("backbone", "backbone_options", "spatial_dims", "in_channels")},
            "input_size": list(self.size),
            "orientation": "RAS+",
            "spacing_mm": median_spacing_mm(self.job),
            "window": windows_of(self.job.spec.inputs["volumes"]),
            "normalisation": "clip((value - low) / (high - low), 0, 1), one channel per window; no mean or standard deviation",
            "fit": {name: facts[name] for name in ("fit_id", "init", "pretrain_seed", "mode", "seed", "num_train", "val_score")},
            "recipe": dataclasses.asdict(self.recipe),
            **{stage: stage_settings(self.job, stage) for stage in ("ingest", "prepare")},
            "encoder": encoder if not self.starting.is_random(best.start) else None,
            "encoder_sha256": self.starting.hashes.get(best.start.run),
            "spec": self.job.spec.hash,
        }


class ClassificationWork(Work):
    """Images in memory; probabilities of the validation and test cases."""

    def read(self) -> Cases:
        """The labelled images."""
        self._features: dict[tuple[str, int], np.ndarray] = {}
        return read_cases(self.job, self.task, self.starting, self.size)

    def steps(self, fit: Fit, train: np.ndarray) -> int | None:
        """Optimiser steps; None for probes."""
        return self.recipe.steps(len(train)) if fit.mode in ("full", "gradual") else None

    def fit(self, fit: Fit, train: np.ndarray, keep_mask: KeepMask) -> tuple[pd.DataFrame, Any]:
        """Probabilities of every validation and test case."""
        asked = np.concatenate([self.cases.where("val"), self.cases.where("test")])
        backbone = self.starting.backbone(fit.start, fit.seed)
        features = self._features_of(fit, backbone) if fit.mode in ("linear", "knn") else None
        fitted = self.task.fit(fit.mode, backbone, self.cases, train, asked, self.recipe, fit.seed, self.device, features)
        return aggregated(rows_of(self.cases, asked, fitted.probabilities), self.task.aggregate), fitted

    def _features_of(self, fit: Fit, backbone: torch.nn.Module) -> np.ndarray:
        key = (fit.start.run, self.starting.drawn_by(fit.start, fit.seed))
        if key not in self._features:
            if any(run != fit.start.run for run, _ in self._features):
                self._features.clear()
            self._features[key] = self.task.features(backbone, self.cases, self.device)
        return self._features[key]


class SegmentationWork(Work):
    """Scans mapped from disk; masks of the test cases on the grids of their sources."""

    def read(self) -> Cases:
        """The scans that have a mask."""
        self.ingested = Path(self.job.spec.layout.ingest(self.job.spec.settings["source"], "volumes"))
        self.scans, self.values, self.names, cases = read_scans(self.job, self.starting, self.ingested)
        return cases

    def steps(self, fit: Fit, train: np.ndarray) -> int | None:
        """Optimiser steps."""
        return self.recipe.steps(self.task.num_items([self.scans[n] for n in train], len(self.size)))

    def fit(self, fit: Fit, train: np.ndarray, keep_mask: KeepMask) -> tuple[pd.DataFrame, Any]:
        """A mask per test case, on the grid of its source."""
        cases, scans = self.cases, self.scans
        rest = np.setdiff1d(cases.where("train"), train)
        groups = [[scans[n] for n in chosen] for chosen in (train, cases.where("val"), rest)]
        start = self.starting.backbone(fit.start, fit.seed), self.starting.decoder(fit.start)
        fitted = self.task.fit(fit.mode, *start, *groups, self.values, self.size, self.recipe, fit.seed, self.device)
        rows = []
        for n in cases.where("test"):
            probabilities = self.task.probabilities(fitted.network, scans[n], self.size, self.device)
            mask, affine = source_mask(self.task, probabilities, scans[n], self.values, source_grid(self.ingested, scans[n]))
            keep_mask(cases.case_id[n], mask, affine)
            rows.append(
                {
                    "split": "test",
                    "case_id": cases.case_id[n],
                    "unit_id": cases.unit_id[n],
                    "unit": cases.unit[n],
                    "target": f"masks/reference/{cases.case_id[n]}.nii.gz",
                    "prediction": f"masks/{fit.id}/{cases.case_id[n]}.nii.gz",
                    "classes": json.dumps(self.names),
                    "spacing_mm": json.dumps([float(size) for size in np.linalg.norm(affine[:3, :3], axis=0)]),
                    **{name: values[n] for name, values in cases.groups.items()},
                }
            )
        return pd.DataFrame(rows), fitted

    def references(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """The given masks of the test cases."""
        for n in self.cases.where("test"):
            yield self.cases.case_id[n], *reference_mask(self.job, self.ingested, self.scans[n])

    def contract(self, best: Fit, facts: dict[str, Any]) -> dict[str, Any]:
        """The contract with the mask value of each class."""
        return super().contract(best, facts) | {"mask_values": list(self.values), "slice_axis": "of the prepare stage"}


def _subsets(settings: dict[str, Any], cases: Cases, train: np.ndarray) -> tuple[dict[int, list[str]], list[Share], dict]:
    """The order of the units per seed, the shares, and the training cases per (seed, share)."""
    drawn = {seed: unit_order(list(cases.unit_id[train]), cases.class_sets(train), seed) for seed in settings["seeds"]}
    shares = shares_of(settings["fractions"], settings["counts"], len(set(cases.unit_id[train])))
    chosen = {
        (seed, share): cases.of_units(subset(order, num_cover, share))
        for seed, (order, num_cover) in drawn.items()
        for share in shares
    }
    return {seed: order for seed, (order, _) in drawn.items()}, shares, chosen


def _full_size(size: list[int], spatial_dims: int) -> tuple[int, ...]:
    if len(size) not in (1, spatial_dims):
        raise StudyError(f"size {size} has {len(size)} numbers; give one, or {spatial_dims} (one per axis of the network).")
    return tuple(size * spatial_dims) if len(size) == 1 else tuple(size)
