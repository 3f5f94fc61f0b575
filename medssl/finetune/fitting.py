"""The fits of a task, one at a time: their inputs, what they depend on, and what they report."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medssl.artefacts.fits import MODEL_FORMAT, ModelContract
from medssl.artefacts.names import FitId, Start
from medssl.artefacts.samples import SAMPLES, axes_of
from medssl.artefacts.training_images import TrainingImages, Window
from medssl.artefacts.volumes import read_volumes
from medssl.core import plugins
from medssl.core.code import PACKAGE, code_hash
from medssl.core.errors import NotFiniteError, StudyError
from medssl.core.files import canonical_json, sha256_text
from medssl.core.job import Job
from medssl.core.partition import PARTS
from medssl.core.workers import Report
from medssl.finetune.cases import Cases
from medssl.finetune.folds import Division, Divisions
from medssl.finetune.labelled_data import median_spacing_mm
from medssl.finetune.options import TaskOptions
from medssl.finetune.plan import plan
from medssl.finetune.predictions import fit_columns
from medssl.finetune.recipe import Recipe
from medssl.finetune.starting import BUILDS, Starting
from medssl.finetune.task import Fitted, Labelled, NetworkInput, Setup, Source, Task
from medssl.nn.stepping import precision_on

OF_RECIPE = ("batch_size", "weight_decay", "warmup_frac", "layer_decay", "mixup", "calibration_batches")
"""Options of training in fits.tsv; missing for fits that are not trained in steps."""
FROM_RESULT = ("trained_parameters", "lr", "steps", "best_step", "inverse_penalty", "val_score")
"""Columns of fits.tsv that every fit has, whatever the task reports."""


class Work:
    """The fits of a task under one recipe; nothing here writes a file."""

    def __init__(self, job: Job, options: TaskOptions, starting: Starting, device: torch.device) -> None:
        self.job, self.options, self.starting, self.device = job, options, starting, device
        self.plugin = plugins.find("task", options.task)
        self.task: Task = self.plugin.load()(**options.options)
        self.continues: list[str] = self.plugin.constant("CONTINUES", default=[])
        self.recipe = Recipe(**{name: getattr(options, name) for name in Recipe.model_fields})
        size = _full_size(options.size or starting.size, starting.spatial_dims)
        self.expected = NetworkInput(starting.spatial_dims, starting.in_channels, size, starting.cuts_slices)
        self.data: Labelled = self.task.read(Source.of(job, options.source), self.expected)
        self.divisions = Divisions.of(
            self.data.cases,
            seeds=options.seeds,
            fractions=options.fractions,
            counts=options.counts,
            per_class=options.counts_per_class,
            listed=options.label_order == "listed",
            val_frac=options.val_frac,
            seed=job.spec.seed,
        )
        starts, shares, folds = starting.starts, self.divisions.shares, self.divisions.folds
        self.fits = plan(starts, options.modes, shares, options.seeds, folds, pair_seeds=options.pair_seeds)
        self._outputs = self.task.contract(self.data)
        self._seen = {fold: self._seen_by_all(division.cases) for fold, division in self.divisions.by_fold.items()}
        self._scores = {fold: self.task.selection(self.data_of(one)) for fold, one in self.divisions.by_fold.items()}
        self._code_hashes = {start: self._code_hash(start) for start in starts}
        self._check_rates()

    @property
    def described(self) -> str:
        """What the task trains on, for the log."""
        cases = next(iter(self.divisions.by_fold.values())).cases
        counts = {split: len(cases.where(split)) for split in ("train", "val", "test")}
        folds = "" if self.divisions.folds == [None] else f", the first of {len(self.divisions.folds)} folds"
        classes = f", classes {cases.classes}" if cases.classes else ""
        return f"{counts} cases{folds}{classes}, size {self.expected.size}"

    def folder(self, fit: FitId) -> str:
        """The folder of a fit's masks, which is its id in tables; folds share it."""
        return str(dataclasses.replace(fit, fold=None))

    def names(self, fit: FitId) -> dict[str, Any]:
        """The columns that identify a row's fit."""
        return {"fit_id": self.folder(fit)} | ({} if fit.fold is None else {"fold": fit.fold})

    def division(self, fit: FitId) -> Division:
        """The parts of the cases on which a fit trains, chooses and is tested."""
        return self.divisions.by_fold[fit.fold]

    def data_of(self, division: Division) -> Labelled:
        """The task's data in the parts of a division."""
        return dataclasses.replace(self.data, cases=division.cases)  # type: ignore[type-var]

    def train(self, fit: FitId) -> np.ndarray:
        """Indices of the training cases of a fit."""
        return self.division(fit).subsets[fit.seed, fit.share]

    def competes(self, fit: FitId) -> bool:
        """Whether a fit may become the model of its starting point; only those with the most labels may."""
        return fit.share == self.divisions.shares[-1].word

    def fit(self, fit: FitId, report: Report) -> Fitted:
        """One fit; if the recipe has several rates, the one with the best validation score, the first on a tie.

        Raises:
            NotFiniteError: it diverges with every rate.
        """
        best: Fitted | None = None
        diverged: NotFiniteError | None = None
        for recipe in self._recipes(fit):
            try:
                fitted = self._fit(fit, recipe, report)
            except NotFiniteError as error:
                diverged = error
                continue
            if best is None or fitted.facts.get("val_score", -math.inf) > best.facts.get("val_score", -math.inf):
                best = fitted
        if best is None:
            raise diverged or ValueError("a recipe has at least one rate")
        return best

    def _recipes(self, fit: FitId) -> list[Recipe]:
        """A recipe for each rate; only one if nothing is trained in steps."""
        recipe = self.recipe_of(fit)
        return [recipe] if self.num_steps(fit) is None else recipe.one_for_each_rate()

    def recipe_of(self, fit: FitId) -> Recipe:
        """The recipe of a fit. Random weights have no layer decay: nothing of them is worth keeping."""
        return self.recipe.model_copy(update={"layer_decay": 1.0}) if self.starting.is_random(fit.start) else self.recipe

    def _check_rates(self) -> None:
        """Check that every fit with several rates can choose among them.

        Raises:
            StudyError: a fit has no validation case with a label.
        """
        for fit in self.fits:
            if len(self._recipes(fit)) > 1 and self._scores[fit.fold] is None:
                raise StudyError(
                    f"finetune.lr has {len(self.recipe.lr)} rates, and nothing chooses among them: {fit} has no validation case "
                    "with a label. Give one rate, or a larger prepare.split.val_frac."
                )

    def _fit(self, fit: FitId, recipe: Recipe, report: Report) -> Fitted:
        setup = Setup(
            mode=fit.mode,
            backbone=self.starting.backbone(fit.start, fit.seed),
            train=self.train(fit),
            recipe=recipe,
            seed=fit.seed,
            device=self.device,
            pretrained=self.starting.pretrained(fit.start, self.continues),
            chooses=self._chooses(fit),
            data=self.options.data,
            workers=self.options.workers,
            state=(self.unfinished(fit) / f"lr-{recipe.lr[0]:g}", self.options.checkpoint_every_s),
            report=report,
        )
        fitted = self.task.fit(self.data_of(self.division(fit)), setup)
        fitted.facts["lr"] = recipe.lr[0] if self.num_steps(fit) is not None else None
        fitted.facts["parameters"] = sum(parameter.numel() for parameter in setup.backbone.parameters())
        return fitted

    def unfinished(self, fit: FitId) -> Path:
        """The folder of a fit's state until it is finished; separate for each task, as another may run the same fit meanwhile."""
        return Path(self.job.spec.layout.state("finetune", "unfinished")) / f"{self.key(fit)}-{self.job.spec.name}"

    def network_of(self, fit: FitId) -> tuple[str, int, int | None]:
        """Equal for fits whose frozen networks give the same features of the same cases."""
        return str(fit.start), self.starting.drawn_by(fit.start, fit.seed), fit.fold

    def num_steps(self, fit: FitId) -> int | None:
        """Optimiser steps of a fit; None if it is not trained in steps, so that the recipe does not apply."""
        return self.task.num_steps(self.data_of(self.division(fit)), fit.mode, self.train(fit), self.recipe)

    def length(self, fit: FitId) -> int:
        """A fit's share of the progress bar: its steps with each rate in each round, and the work after them."""
        trainings = 1 + int(getattr(self.task, "self_training_rounds", 0))
        return (self.num_steps(fit) or 0) * len(self.recipe.lr) * trainings + 1

    def key(self, fit: FitId) -> str:
        """Hash of exactly what a fit depends on: fits with equal keys need not be repeated."""
        content = {
            "start": self.starting.identity(fit.start, fit.seed, self.continues),
            "task": [self.options.task, self.options.options],
            "recipe": None if self.num_steps(fit) is None else self.recipe_of(fit).model_dump(mode="json"),
            "chooses": self.num_steps(fit) is not None and self._chooses(fit),
            "mode": fit.mode,
            "seed": fit.seed,
            "size": self.expected.size,
            "device": self.device.type,
            "threads": self.options.threads_per_fit,
            "outputs": self._outputs,
            "seen": self._seen[fit.fold],
            "learns": _with_truth(self.division(fit).cases, self.train(fit)),
            "code": self._code_hashes[fit.start],
        }
        return sha256_text(canonical_json(content))[:32]

    def _seen_by_all(self, cases: Cases) -> str:
        """Hash of what all fits of a division see: the images of each part, and the labels of the part that chooses.

        A fit predicts the test part without its labels, and sees only its own subset of the training part.
        """
        parts = {part: cases.where(part) for part in PARTS}
        images = {part: list(zip(cases.case_id[at], cases.content[at], strict=True)) for part, at in parts.items()}
        return sha256_text(canonical_json([images, _with_truth(cases, cases.where("val"))]))

    def _code_hash(self, start: Start) -> str:
        """Hash of the code that a fit from a starting point can run."""
        contract = self.starting.contracts[str(start)]
        backbone = plugins.with_used("backbone", contract["backbone"], contract["backbone_options"])
        return code_hash(PACKAGE / "finetune" / "run.py", self.plugin.path, *(plugin.path for plugin in backbone))

    def rows(self, fit: FitId, predicted: np.ndarray | None) -> pd.DataFrame:
        """The rows of predictions.parquet of a fit; of a fold only its test part, as each case is tested once."""
        division = self.division(fit)
        rows = self.task.rows(self.data_of(division), predicted)
        if "prediction" in rows:
            rows["prediction"] = [f"masks/{self.folder(fit)}/{name}" for name in rows["prediction"]]
        if fit.fold is not None:
            rows = rows[rows["split"] == "test"].reset_index(drop=True)
        return fit_columns(rows, fit, self.divisions.fraction(fit.share), len(self.train(fit)))

    def facts(self, fit: FitId, result: dict[str, Any]) -> dict[str, Any]:
        """The row of fits.tsv of a fit, from what it reports: enough to see that starting points were treated equally."""
        division, train = self.division(fit), self.train(fit)
        cases, num_val = division.cases, len(division.cases.where("val"))
        steps, recipe = self.num_steps(fit), self.recipe_of(fit)
        facts = {
            **self.names(fit),
            "init": str(fit.start.arm),
            "pretrain_seed": fit.start.seed,
            "mode": fit.mode,
            "fraction": self.divisions.fraction(fit.share),
            "seed": fit.seed,
            "num_train": len(train),
            "num_train_units": len(set(cases.unit_id[train])),
            "num_units": division.num_units,
            "num_val": num_val,
            "num_test": len(cases.where("test")),
            "train_ids_sha256": sha256_text("\n".join(sorted(cases.case_id[train])))[:16],
            "backbone": self.starting.contracts[str(fit.start)]["backbone"],
            "encoder_sha256": (self.starting.hashes.get(str(fit.start)) or "")[:16] or None,
            "size": list(self.expected.size),
            "selection": self._selection(fit, num_val, trained=steps is not None),
            **{name: None if steps is None else getattr(recipe, name) for name in OF_RECIPE},
            "augment": None if steps is None else recipe.augment is not None,
            "precision": None if steps is None else precision_on(self.device, recipe.precision),
            **dict.fromkeys(FROM_RESULT),
            "steps": steps,
        }
        return dict(sorted((facts | result).items()))

    def _num_choosing(self, fit: FitId) -> int:
        """How many validation patients, or images without a patient, a fit has."""
        return self.division(fit).cases.num_units("val")

    def _chooses(self, fit: FitId) -> bool:
        """Whether there are enough of them to choose among the steps of a fit."""
        return self._num_choosing(fit) >= self.recipe.choose_from

    def _selection(self, fit: FitId, num_val: int, *, trained: bool) -> str:
        """How a step or penalty of a fit was chosen, and what `val_score` holds."""
        score, units = self._scores[fit.fold], self._num_choosing(fit)
        if score is not None and trained and not self._chooses(fit):
            rate = ", which chose the rate" if len(self._recipes(fit)) > 1 else ""
            return f"last step ({units} of at least {self.recipe.choose_from} validation units; val_score is {score}{rate})"
        if score is not None:
            return f"validation {score}"
        unknown = "no validation case has a class" if self.data.cases.numbers is None else "no two validation cases have an order"
        why = unknown if num_val else "no validation cases"
        return f"{'last step' if trained else 'fixed settings'} ({why})"

    def contract(self, fit: FitId, facts: dict[str, Any]) -> ModelContract:
        """What `medssl predict` needs besides the weights of a fit."""
        start, options = str(fit.start), self.options
        network, volumes = self.starting.contracts[start], read_volumes(self.job.spec.inputs["volumes"])
        axes = axes_of(SAMPLES.read(self.job.spec.inputs["samples"]))
        of_fit = ("fit_id", "init", "pretrain_seed", "mode", "seed", "num_train", "val_score", "fold")
        content = {
            "format": MODEL_FORMAT,
            "task": options.task,
            "options": options.options,
            **{name: network[name] for name in BUILDS},
            "input_size": list(self.expected.size),
            "orientation": "RAS+",
            "spacing_mm": median_spacing_mm(volumes),
            "window": Window.of(volumes).plain(),
            "normalisation": "clip((value - low) / (high - low), 0, 1), one channel per window; no mean or standard deviation",
            "learnt": TrainingImages.of(volumes, axes).plain(),
            "fit": {name: facts[name] for name in of_fit if name in facts},
            "recipe": self.recipe_of(fit).model_dump(mode="json"),
            "ingest": options.ingest,
            "prepare": options.prepare,
            "encoder": None if self.starting.is_random(fit.start) else network,
            "encoder_sha256": self.starting.hashes.get(start),
            "spec": self.job.spec.hash,
            **self.task.contract(self.data_of(self.division(fit))),
        }
        return ModelContract.check(content)


def _with_truth(cases: Cases, indices: np.ndarray) -> list[list[str]]:
    """Ids and labels of some cases, by id."""
    return sorted([str(case), str(truth)] for case, truth in zip(cases.case_id[indices], cases.truth[indices], strict=True))


def _full_size(size: list[int], spatial_dims: int) -> tuple[int, ...]:
    if len(size) not in (1, spatial_dims):
        raise StudyError(f"size {size} has {len(size)} numbers; give one, or {spatial_dims} (one per axis of the network).")
    return tuple(size * spatial_dims) if len(size) == 1 else tuple(size)
