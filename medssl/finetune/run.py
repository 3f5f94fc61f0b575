"""Stage finetune: from starting weights and few labels to predictions, for every starting point under one recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core import plugins, tables
from medssl.core.errors import PreemptedError, StudyError
from medssl.core.files import canonical_json, read_json, sha256_file, sha256_text, write_json, writing
from medssl.core.job import Job
from medssl.finetune.plan import SCRATCH, Fit, Start, plan
from medssl.finetune.recipe import Recipe
from medssl.finetune.subsets import Share, shares_of, subset, unit_order

DEFAULT_BACKBONE = "resnet18"
DEFAULT_SIZE = [64]
CACHE_BYTES = 4e9
MODEL_FORMAT = "medssl-model-1"


def run(job: Job) -> None:
    """Make every fit of a task that is not yet made, then join their predictions.

    Raises:
        StudyError: the source has no labels, an encoder does not fit it; with what to do.
        PreemptedError: stopped by a signal; finished fits are kept.
    """
    import torch

    torch.set_num_threads(job.threads)
    settings = job.spec.settings
    task = plugins.find("task", settings["task"]).load()(**settings["options"])
    starting = Starting.read(job)
    state = State(Path(job.spec.layout.state("finetune", f"{job.spec.hash}-{_inputs_hash(job, starting)}")))
    recipe = Recipe(**{field.name: settings[field.name] for field in dataclasses.fields(Recipe)})
    work = (SegmentationWork if settings["task"] == "segmentation" else ClassificationWork)(job, task, starting, recipe, device())
    fits = plan(starting.starts, settings["modes"], work.shares, settings["seeds"])
    waiting = [fit for fit in fits if not state.has(fit)]
    job.log(f"{len(fits)} fits, {len(fits) - len(waiting)} already made; {work.described}")
    with _stops_with_a_sentence(), job.progress("", len(fits), "fits") as bar:
        bar.advance(len(fits) - len(waiting))
        for fit in waiting:
            work.make(fit, state)
            bar.advance(note=fit.id)
    work.finish(fits, state)
    job.notes |= {"device": str(device()), "fits": len(fits), "resumed_fits": len(fits) - len(waiting)}
    job.write_receipt()
    shutil.rmtree(state.folder, ignore_errors=True)


def predict(
    model: Path, samples: Path, volumes: Path, out: Path, *, ingested: Path | None = None, threads: int = 1
) -> list[Path]:
    """Apply a fine-tuned model to a prepared source: a table of probabilities, or masks on the grids of the given images.

    Args:
        model: folder with `model.safetensors` and `contract.json`.
        samples, volumes: tables of the prepare stage; prepared as the contract's `prepare` says.
        out: `probabilities.tsv`, or `masks.tsv` and `masks/<volume_id>.nii.gz`, are written here.
        ingested: ingest's folder `volumes/`, which knows the source grids; without it masks are on the prepared grid.
        threads: of the processor.

    Returns:
        the files written.

    Raises:
        StudyError: no model of medssl there, or the source has other channels or windows than the model learnt from.
    """
    import torch

    from medssl.nn.backbone import build
    from medssl.nn.loading import read_samples
    from medssl.nn.weights import load_encoder

    if not (model / "contract.json").is_file():
        raise StudyError(
            f"{model} holds no contract.json: name the folder of a fine-tuned model, 5_finetune/<task>/models/<run>."
        )
    contract = read_json(model / "contract.json")
    if contract.get("format") != MODEL_FORMAT:
        raise StudyError(
            f"{model} is {contract.get('format')!r}, expected {MODEL_FORMAT!r}: an encoder alone predicts nothing. Fine-tune it."
        )
    torch.set_num_threads(threads)
    task = plugins.find("task", contract["task"]).load()(**contract["options"])
    backbone = build(contract["backbone"], contract["backbone_options"], contract["spatial_dims"], contract["in_channels"])
    known = read_samples([samples], [volumes], split=None)
    if known.num_channels != contract["in_channels"]:
        raise StudyError(_channels_sentence(samples.parent.name, known.num_channels, contract["in_channels"]))
    window = contract["window"]
    for volume in known.volumes:
        if not window["differs_by_volume"] and (list(volume.low), list(volume.high)) != (window["low"], window["high"]):
            raise StudyError(
                f"{volume.volume_id} was prepared with the window {list(volume.low)} to {list(volume.high)}, the model learnt "
                f"from {window['low']} to {window['high']}. Prepare the source as the model's contract.json says."
            )
    size = tuple(contract["input_size"])
    network = task.network(backbone, len(contract["classes"]) + ("mask_values" in contract))
    load_encoder(model / "model.safetensors", network)
    network.to(device()).eval()
    if contract["task"] == "classification":
        return [_predict_probabilities(task, network, known, tables.read_parquet(samples), volumes, contract, size, out)]
    return _predict_masks(task, network, known, tables.read_parquet(samples), volumes, contract, size, out, ingested)


def _predict_probabilities(
    task: Any,
    network: Any,
    known: Any,
    samples: pd.DataFrame,
    volumes: Path,
    contract: dict[str, Any],
    size: tuple[int, ...],
    out: Path,
) -> Path:
    from medssl.finetune.cases import Cases, unit_ids
    from medssl.finetune.predictions import aggregated, rows_of

    whole = contract["spatial_dims"] == 3
    rows = samples.assign(unit_id=unit_ids(samples, tables.read_tsv(volumes))).sort_values("sample_id", kind="stable")
    rows = rows.drop_duplicates("volume_id") if whole else rows
    place = {sample: row for row, sample in enumerate(known.ids)}
    chosen = np.array([place[sample] for sample in rows["sample_id"]], dtype=np.int64)
    texts = {name: rows[name].to_numpy(dtype=object) for name in ("volume_id", "unit_id", "unit", "split")}
    cases = Cases(
        **texts,
        case_id=rows["volume_id" if whole else "sample_id"].to_numpy(dtype=object),
        label=np.full(len(rows), "", dtype=object),
        classes=contract["classes"],
        targets=np.zeros((len(rows), len(contract["classes"])), dtype=np.uint8),
        images=(_volume_images if whole else _plane_images)(known, chosen, size),
    )
    everything = np.arange(len(cases))
    table = aggregated(rows_of(cases, everything, task.predict(network, cases, everything, device())), task.aggregate)
    names = [f"prob_{name}" for name in contract["classes"]]
    table["predicted"] = np.array(contract["classes"], dtype=object)[table[names].to_numpy().argmax(axis=1)]
    tables.write_tsv(out / "probabilities.tsv", table[["case_id", "unit_id", "unit", "predicted", *names]])
    return out / "probabilities.tsv"


def _predict_masks(
    task: Any,
    network: Any,
    known: Any,
    samples: pd.DataFrame,
    volumes: Path,
    contract: dict[str, Any],
    size: tuple[int, ...],
    out: Path,
    ingested: Path | None,
) -> list[Path]:
    from medssl.volume.cache import open_array

    axes = samples.drop_duplicates("volume_id").set_index("volume_id")["axis"]
    affines = tables.read_tsv(volumes, text=("affine",)).set_index("volume_id")["affine"]
    written, rows = [], []
    for volume in sorted(known.volumes, key=lambda volume: volume.volume_id):
        name = volume.volume_id
        scan = _scan(volume, affines[name], open_array(volume.array), None, int(axes[name]), contract["spatial_dims"])
        probabilities = task.probabilities(network, scan, size, device())
        grid = (scan.affine, scan.shape) if ingested is None else _source_grid(ingested, scan)
        mask, affine = _source_mask(task, probabilities, scan, contract["mask_values"], grid)
        path = out / "masks" / f"{name}.nii.gz"
        write_nifti(path, mask, affine)
        written.append(path)
        voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
        for value, label in zip(contract["mask_values"][1:], contract["classes"], strict=True):
            count = int((mask == value).sum())
            rows.append((name, f"masks/{name}.nii.gz", value, label, count, float(count * voxel_ml)))
    columns = ["volume_id", "mask", "value", "class", "voxels", "volume_ml"]
    tables.write_tsv(out / "masks.tsv", pd.DataFrame(rows, columns=columns))
    return [*written, out / "masks.tsv"]


@dataclass(frozen=True)
class Starting:
    """The starting points of a task, and their weights."""

    starts: list[Start]
    contracts: dict[str, dict[str, Any]]
    files: dict[str, Path]
    hashes: dict[str, str]
    _modules: dict[tuple[str, int], Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, job: Job) -> Starting:
        """The runs of the job's inputs, the weights that the study file names, and scratch.

        Raises:
            StudyError: nothing to start from, or weights that are missing.
        """
        settings, inputs = job.spec.settings, job.spec.inputs
        contracts = {run: read_json(job.read(path)) for run, path in sorted(inputs.get("contracts", {}).items())}
        files = {run: job.read(path) for run, path in sorted(inputs.get("encoders", {}).items())}
        starts = [Start.of_run(run, contracts[run]["backbone"]) for run in files]
        own = _own_contract(settings, contracts, len(_windows(job)["low"]))
        for name, path in sorted(settings["weights"].items()):
            file = Path(path)
            if not file.is_file():
                raise StudyError(f"finetune.{job.spec.name}.weights.{name}: there is no file {path}. Correct the path.")
            starts.append(Start(name, own["backbone"]))
            files[name], contracts[name] = file, own
        if settings["scratch"]:
            kinds = {_kind(contracts[start.run]): contracts[start.run] for start in starts} or {_kind(own): own}
            for number, contract in enumerate(kinds.values()):
                name = SCRATCH if number == 0 else f"{SCRATCH}-{contract['backbone']}-{number}"
                starts.append(Start(name, contract["backbone"]))
                contracts[name] = contract
        if not starts:
            raise StudyError(
                f"finetune.{job.spec.name} has nothing to start from: name a pre-training run in inits, or set scratch: true."
            )
        return cls(starts, contracts, files, {run: sha256_file(file) for run, file in files.items()})

    def is_random(self, start: Start) -> bool:
        """Whether a starting point is drawn anew for each seed."""
        return start.run not in self.files

    def backbone(self, start: Start, seed: int) -> Any:
        """A backbone with the starting weights; it is kept, so change a copy.

        Raises:
            StudyError: the weights are not those of the contract's backbone.
        """
        from medssl.finetune.training import seeded
        from medssl.nn.backbone import build
        from medssl.nn.weights import load_encoder

        key = (start.run, seed if self.is_random(start) else 0)
        if key not in self._modules:
            contract = self.contracts[start.run]
            with seeded(seed, SCRATCH):
                module = build(
                    contract["backbone"], contract["backbone_options"], contract["spatial_dims"], contract["in_channels"]
                )
            if start.run in self.files:
                load_encoder(self.files[start.run], module)
            if any(run != start.run for run, _ in self._modules):
                self._modules.clear()
            self._modules[key] = module
        return self._modules[key]

    @property
    def spatial_dims(self) -> int:
        """Rank of all networks of the task."""
        return int(self._common("spatial_dims"))

    @property
    def in_channels(self) -> int:
        """Channels of all networks of the task."""
        return int(self._common("in_channels"))

    @property
    def size(self) -> list[int]:
        """The largest input size of the contracts: the scale at which the features were learnt."""
        return max((list(self.contracts[start.run]["input_size"]) for start in self.starts), default=DEFAULT_SIZE)

    def _common(self, name: str) -> Any:
        found = {start.run: self.contracts[start.run][name] for start in self.starts}
        if len(set(found.values())) > 1:
            raise StudyError(
                f"the starting points of this task differ in {name}: {found}. One task compares like with like: list the runs "
                f"of one {name} in inits, and make a second task for the others."
            )
        return next(iter(found.values()))


@dataclass(frozen=True)
class State:
    """Finished fits, each in its folder; `fit.json` is written last and makes a fit count."""

    folder: Path

    def at(self, fit: Fit, name: str) -> Path:
        """A file of a fit."""
        return self.folder / "fits" / fit.id / name

    def has(self, fit: Fit) -> bool:
        """Whether a fit is finished."""
        return self.at(fit, "fit.json").is_file()

    def save(self, fit: Fit, predictions: pd.DataFrame, facts: dict[str, Any], curve: list[Any]) -> None:
        """Keep a finished fit."""
        tables.write_parquet(self.at(fit, "predictions.parquet"), predictions)
        clean = {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in facts.items()}
        rows = [[None if isinstance(v, float) and not np.isfinite(v) else v for v in row] for row in curve]
        write_json(self.at(fit, "fit.json"), {"facts": clean, "curve": rows})

    def facts(self, fit: Fit) -> dict[str, Any]:
        """A finished fit's row of fits.tsv."""
        return dict(read_json(self.at(fit, "fit.json"))["facts"])

    def curve(self, fit: Fit) -> list[Any]:
        """Steps, loss and validation score of a finished fit."""
        return list(read_json(self.at(fit, "fit.json"))["curve"])

    def predictions(self, fit: Fit) -> pd.DataFrame:
        """A finished fit's rows of predictions.parquet."""
        return tables.read_parquet(self.at(fit, "predictions.parquet"))

    def drop_worse_models(self, fits: list[Fit]) -> None:
        """Of fits that compete for one model, keep the best one's weights and drop the others'."""
        best = self.best(fits)
        for fit in fits:
            if fit is not best and self.has(fit):
                self.at(fit, "model.safetensors").unlink(missing_ok=True)

    def best(self, fits: list[Fit]) -> Fit | None:
        """The finished fit with the best validation score that has a network; the first of equals."""
        known = [(fit, self.facts(fit)) for fit in fits if self.has(fit)]
        scores = [
            (-np.inf if facts.get("val_score") is None else facts["val_score"], fit) for fit, facts in known if facts["network"]
        ]
        return max(scores, key=lambda pair: pair[0])[1] if scores else None


class Work:
    """The work of a task: label subsets, one fit at a time, predictions joined, the best models."""

    cases: Any
    described: str

    def __init__(self, job: Job, task: Any, starting: Starting, recipe: Recipe, device: Any) -> None:
        self.job, self.task, self.starting, self.recipe, self.device = job, task, starting, recipe, device
        self.size = _full_size(job.spec.settings["size"] or starting.size, starting.spatial_dims)
        self.cases = self.read()
        train = self.cases.where("train")
        self.orders, self.shares, self.subsets = _subsets(job.spec.settings, self.cases, train)
        counts = {split: len(self.cases.where(split)) for split in ("train", "val", "test")}
        self.described = f"{counts} cases, classes {self.cases.classes}, size {self.size}"

    def read(self) -> Any:
        """The labelled cases."""
        raise NotImplementedError

    def fit(self, fit: Fit, state: State, train: np.ndarray) -> tuple[pd.DataFrame, Any]:
        """One fit on the training cases `train`: its predictions, and what the task says of it."""
        raise NotImplementedError

    def steps(self, fit: Fit, train: np.ndarray) -> int | None:
        """Optimiser steps of a fit, None for probes."""
        raise NotImplementedError

    def fraction(self, share: Share) -> float:
        """A share as a fraction of the training units."""
        return share.fraction(len(next(iter(self.orders.values()))))

    def make(self, fit: Fit, state: State) -> None:
        """Make one fit and keep it."""
        from medssl.finetune.predictions import of_fit
        from medssl.nn.weights import save_encoder

        start_s = time.monotonic()
        train = self.subsets[fit.seed, fit.share]
        rows, fitted = self.fit(fit, state, train)
        facts = self._facts(fit, train) | fitted.facts | {"network": fitted.network is not None}
        competing = self._competing(fit)
        if fitted.network is not None and competing:
            save_encoder(state.at(fit, "model.safetensors"), fitted.network)
        predictions = of_fit(rows, fit, self.fraction(fit.share), len(train))
        state.save(fit, predictions, facts | {"seconds": round(time.monotonic() - start_s, 3)}, fitted.curve)
        if competing:
            state.drop_worse_models(competing)

    def finish(self, fits: list[Fit], state: State) -> None:
        """Write the tables and the best models."""
        from medssl.finetune.predictions import split_rows

        job = self.job
        tables.write_parquet(
            job.path("predictions.parquet"), pd.concat([state.predictions(fit) for fit in fits], ignore_index=True)
        )
        tables.write_tsv(job.path("fits.tsv"), fits_table([state.facts(fit) for fit in fits]))
        curves = [(fit.id, *row) for fit in fits for row in state.curve(fit)]
        tables.write_tsv(job.path("curves.tsv"), pd.DataFrame(curves, columns=["fit_id", "step", "loss", "val_score"]))
        chosen = {(seed, self.fraction(share)): train for (seed, share), train in self.subsets.items()}
        tables.write_parquet(job.path("splits.parquet"), split_rows(self.cases, self.orders, chosen))
        job.wrote(*(job.path(name) for name in ("predictions.parquet", "fits.tsv", "curves.tsv", "splits.parquet")))
        for start in self.starting.starts:
            best = state.best([fit for fit in fits if fit.start == start and fit.share == self.shares[-1]])
            if best is not None:
                model, contract = (
                    job.path("models", start.run, "model.safetensors"),
                    job.path("models", start.run, "contract.json"),
                )
                _copy(state.at(best, "model.safetensors"), model)
                write_json(contract, self._contract(best, state.facts(best)))
                job.wrote(model, contract)

    def _competing(self, fit: Fit) -> list[Fit]:
        """The fits among which the model of a starting point is chosen: all its fits with the most labels."""
        settings = self.job.spec.settings
        return plan([fit.start], settings["modes"], [fit.share], settings["seeds"]) if fit.share == self.shares[-1] else []

    def _facts(self, fit: Fit, train: np.ndarray) -> dict[str, Any]:
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

    def _contract(self, best: Fit, facts: dict[str, Any]) -> dict[str, Any]:
        encoder, settings = self.starting.contracts[best.start.run], self.job.spec.settings
        return {
            "format": MODEL_FORMAT,
            "task": settings["task"],
            "options": settings["options"],
            "classes": self.cases.classes,
            **{name: encoder[name] for name in ("backbone", "backbone_options", "spatial_dims", "in_channels")},
            "input_size": list(self.size),
            "orientation": "RAS+",
            "spacing_mm": _median_spacing(self.job),
            "window": _windows(self.job),
            "normalisation": "clip((value - low) / (high - low), 0, 1), one channel per window; no mean or standard deviation",
            "fit": {name: facts[name] for name in ("fit_id", "init", "pretrain_seed", "mode", "seed", "num_train", "val_score")},
            "recipe": dataclasses.asdict(self.recipe),
            "prepare": _prepare_settings(self.job),
            "encoder": encoder if not self.starting.is_random(best.start) else None,
            "encoder_sha256": self.starting.hashes.get(best.start.run),
            "spec": self.job.spec.hash,
        }


class ClassificationWork(Work):
    """Images in memory; probabilities of the validation and test cases."""

    def read(self) -> Any:
        """The labelled images."""
        self._features: dict[tuple[str, int], np.ndarray] = {}
        return read_cases(self.job, self.task, self.starting, self.size)

    def steps(self, fit: Fit, train: np.ndarray) -> int | None:
        """Optimiser steps; None for probes."""
        return self.recipe.steps(len(train)) if fit.mode in ("full", "gradual") else None

    def fit(self, fit: Fit, state: State, train: np.ndarray) -> tuple[pd.DataFrame, Any]:
        """Probabilities of every validation and test case."""
        from medssl.finetune.predictions import aggregated, rows_of

        asked = np.concatenate([self.cases.where("val"), self.cases.where("test")])
        backbone = self.starting.backbone(fit.start, fit.seed)
        features = self._features_of(fit, backbone) if fit.mode in ("linear", "knn") else None
        fitted = self.task.fit(fit.mode, backbone, self.cases, train, asked, self.recipe, fit.seed, self.device, features)
        return aggregated(rows_of(self.cases, asked, fitted.probabilities), self.task.aggregate), fitted

    def _features_of(self, fit: Fit, backbone: Any) -> np.ndarray:
        key = (fit.start.run, fit.seed if self.starting.is_random(fit.start) else 0)
        if key not in self._features:
            if any(run != fit.start.run for run, _ in self._features):
                self._features.clear()
            self._features[key] = self.task.features(backbone, self.cases, self.device)
        return self._features[key]


class SegmentationWork(Work):
    """Scans mapped from disk; masks of the test cases on the grids of their sources."""

    def read(self) -> Any:
        """The scans that have a mask."""
        self.ingested = Path(self.job.spec.layout.ingest(self.job.spec.settings["source"], "volumes"))
        self.scans, self.values, self.names, cases = read_scans(self.job, self.starting, self.ingested)
        return cases

    def steps(self, fit: Fit, train: np.ndarray) -> int | None:
        """Optimiser steps."""
        return self.recipe.steps(self.task.num_items([self.scans[n] for n in train], len(self.size)))

    def fit(self, fit: Fit, state: State, train: np.ndarray) -> tuple[pd.DataFrame, Any]:
        """A mask per test case, written beside the fit's state."""
        cases, scans = self.cases, self.scans
        rest = np.setdiff1d(cases.where("train"), train)
        groups = [[scans[n] for n in chosen] for chosen in (train, cases.where("val"), rest)]
        backbone = self.starting.backbone(fit.start, fit.seed)
        fitted = self.task.fit(fit.mode, backbone, *groups, self.values, self.size, self.recipe, fit.seed, self.device)
        rows = []
        for n in cases.where("test"):
            probabilities = self.task.probabilities(fitted.network, scans[n], self.size, self.device)
            mask, affine = _source_mask(self.task, probabilities, scans[n], self.values, _source_grid(self.ingested, scans[n]))
            write_nifti(state.at(fit, f"masks/{cases.case_id[n]}.nii.gz"), mask, affine)
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
                }
            )
        return pd.DataFrame(rows), fitted

    def finish(self, fits: list[Fit], state: State) -> None:
        """Masks of every fit and the reference masks, on the source grids, beside the tables."""
        job, cases = self.job, self.cases
        for n in cases.where("test"):
            path = job.path("masks", "reference", f"{cases.case_id[n]}.nii.gz")
            write_nifti(path, *_reference_mask(job, self.ingested, self.scans[n]))
            job.wrote(path)
            for fit in fits:
                path = job.path("masks", fit.id, f"{cases.case_id[n]}.nii.gz")
                _copy(state.at(fit, f"masks/{cases.case_id[n]}.nii.gz"), path)
                job.wrote(path)
        super().finish(fits, state)

    def _contract(self, best: Fit, facts: dict[str, Any]) -> dict[str, Any]:
        return super()._contract(best, facts) | {"mask_values": list(self.values), "slice_axis": "of the prepare stage"}


def fits_table(facts: list[dict[str, Any]]) -> pd.DataFrame:
    """A row per fit; columns that only some fits have are `n/a` in the others."""
    names = dict.fromkeys(name for row in facts for name in row if name != "network")
    table = pd.DataFrame([{name: row.get(name) for name in names} for row in facts], dtype=object)
    return table[[*(name for name in table if name != "seconds"), "seconds"]]


def read_cases(job: Job, task: Any, starting: Starting, size: tuple[int, ...]) -> Any:
    """The labelled cases of the job's source, their images in memory when they fit there.

    Raises:
        StudyError: no labels, or the source has another number of channels than the encoders.
    """
    from medssl.finetune.cases import Cases, class_names, encode, labelled, unit_ids
    from medssl.nn.loading import read_samples

    inputs, whole = job.spec.inputs, starting.spatial_dims == 3
    samples_path, volumes_path = job.read(inputs["samples"]), job.read(inputs["volumes"])
    table = tables.read_parquet(samples_path)
    table = table.assign(unit_id=unit_ids(table, tables.read_tsv(volumes_path)))
    rows = labelled(table, job.spec.settings["source"], multilabel=task.multilabel, whole_volumes=whole)
    samples = read_samples([samples_path], [volumes_path], split=None)
    if samples.num_channels != starting.in_channels:
        raise StudyError(_channels_sentence(job.spec.settings["source"], samples.num_channels, starting.in_channels))
    place = {sample: row for row, sample in enumerate(samples.ids)}
    chosen = np.array([place[sample] for sample in rows["sample_id"]], dtype=np.int64)
    for number in sorted(set(samples.volume[chosen].tolist())):
        job.read(samples.volumes[number].array)
    read = _volume_images(samples, chosen, size) if whole else _plane_images(samples, chosen, size)
    names = class_names(list(rows["label"]))
    return Cases(
        **{name: rows[name].to_numpy(dtype=object) for name in ("case_id", "volume_id", "unit_id", "unit", "split", "label")},
        classes=names,
        targets=encode(list(rows["label"]), names),
        images=_kept(read, len(rows), 4 * samples.num_channels * int(np.prod(size))),
    )


def _plane_images(samples: Any, chosen: np.ndarray, size: tuple[int, ...]) -> Callable[[np.ndarray], Any]:
    """Windowed slices resized to `size`, float32 `(n, c, *size)`, of the case numbers asked for."""
    import torch
    import torch.nn.functional as F

    from medssl.nn.loading import Reader, window

    reader = Reader(samples, shrink_to=max(size))

    def read(numbers: np.ndarray) -> Any:
        parts = []
        for row in chosen[numbers]:
            batch = reader[0, np.array([row])]
            image = window(batch.values, batch.low, batch.high)
            shrinks = image.shape[2] > size[0] or image.shape[3] > size[1]
            parts.append(
                F.interpolate(image, size=size, mode="bilinear", antialias=shrinks) if image.shape[2:] != size else image
            )
        return torch.cat(parts)

    return read


def _volume_images(samples: Any, chosen: np.ndarray, size: tuple[int, ...]) -> Callable[[np.ndarray], Any]:
    """Windowed volumes resized to `size`, float32 `(n, c, *size)`, of the case numbers asked for."""
    import torch
    import torch.nn.functional as F

    from medssl.nn.loading import window

    def read(numbers: np.ndarray) -> Any:
        parts = []
        for row in chosen[numbers]:
            volume = samples.volumes[samples.volume[row]]
            stored = np.array(np.load(volume.array, mmap_mode="r", allow_pickle=False), dtype=np.float32)
            values = torch.from_numpy(np.ascontiguousarray(stored))[None, None] * volume.slope + volume.intercept
            image = window(values, torch.tensor([volume.low]), torch.tensor([volume.high]))
            # area averages when shrinking: trilinear alone would skip voxels
            image = F.adaptive_avg_pool3d(image, [min(have, want) for have, want in zip(image.shape[2:], size, strict=True)])
            parts.append(F.interpolate(image, size=size, mode="trilinear") if image.shape[2:] != size else image)
        return torch.cat(parts)

    return read


def _kept(read: Callable[[np.ndarray], Any], count: int, bytes_each: int) -> Callable[[np.ndarray], Any]:
    """`read`, from memory when all cases fit there."""
    import torch

    if count * bytes_each > CACHE_BYTES:
        return read
    images = torch.cat([read(np.arange(first, min(first + 256, count))) for first in range(0, count, 256)])
    return lambda numbers: images[torch.from_numpy(np.asarray(numbers, dtype=np.int64))]


def read_scans(job: Job, starting: Starting, ingested: Path) -> tuple[list[Any], list[int], dict[str, str], Any]:
    """The scans with masks, the mask value of each class (0 first), value → class name, and their table.

    Raises:
        StudyError: no masks, no class in them, another number of channels, or an empty split.
    """
    from medssl.finetune.cases import MANY, Cases, unit_ids
    from medssl.nn.loading import read_samples
    from medssl.volume.cache import open_array

    source, inputs = job.spec.settings["source"], job.spec.inputs
    samples_path, volumes_path = job.read(inputs["samples"]), job.read(inputs["volumes"])
    table = tables.read_tsv(volumes_path, text=("array", "mask", "affine", "unit"))
    table = table[table["mask"].notna()] if "mask" in table else table.iloc[:0]
    if table.empty:
        raise StudyError(
            f"source {source!r} has no masks: a segmentation learns from voxel labels. Put a mask beside each image "
            f"(sources.{source}.ingest.masks), or fine-tune on another source."
        )
    samples = tables.read_parquet(samples_path)
    samples = (
        samples.assign(unit_id=unit_ids(samples, tables.read_tsv(volumes_path)))
        .drop_duplicates("volume_id")
        .set_index("volume_id")
    )
    volumes = {v.volume_id: v for v in read_samples([samples_path], [volumes_path], split=None).volumes}
    scans, found = [], []
    for row in table.sort_values("volume_id").to_dict("records"):
        volume = volumes[row["volume_id"]]
        if len(volume.low) != starting.in_channels:
            raise StudyError(_channels_sentence(source, len(volume.low), starting.in_channels))
        image, mask = (open_array(job.read(path)) for path in (volume.array, volumes_path.parent / row["mask"]))
        scans.append(_scan(volume, row["affine"], image, mask, int(samples["axis"][volume.volume_id]), starting.spatial_dims))
        found.append(set(np.unique(np.asarray(mask)).tolist()) - {0})
    values = [0, *sorted(set().union(*found))]
    if len(values) < 2:
        raise StudyError(f"source {source!r}: its {len(scans)} masks hold background only; there is no class to learn.")
    names = _mask_names(ingested / scans[0].case_id / "volume.json", values)
    ids = [scan.case_id for scan in scans]
    split = samples["split"].reindex(ids).to_numpy(dtype=object)
    for part in ("train", "test"):
        if not (split == part).any():
            raise StudyError(
                f"source {source!r}: no scan with a mask is in the {part} split ({pd.Series(split).value_counts().to_dict()}). "
                "Raise prepare.split.test_frac, or correct the split file."
            )
    cases = Cases(
        case_id=np.array(ids, dtype=object),
        volume_id=np.array(ids, dtype=object),
        unit_id=samples["unit_id"].reindex(ids).to_numpy(dtype=object),
        unit=samples["unit"].reindex(ids).to_numpy(dtype=object),
        split=split,
        label=np.array([MANY.join(names[str(value)] for value in sorted(has)) for has in found], dtype=object),
        classes=[names[str(value)] for value in values[1:]],
        targets=np.array([[value in has for value in values[1:]] for has in found], dtype=np.uint8),
        images=lambda _: None,  # type: ignore[arg-type, return-value]
    )
    return scans, values, names, cases


def _scan(volume: Any, affine: str | None, image: Any, mask: Any, axis: int, spatial_dims: int) -> Any:
    """A scan whose slices lie along the last axis, whatever axis they were cut along."""
    from medssl.finetune.scans import Scan

    to_ras = np.eye(4) if not isinstance(affine, str) else np.array(json.loads(affine), dtype=float)
    if spatial_dims == 2 and axis != 2:
        image, mask = (None if a is None else np.moveaxis(np.asarray(a), axis, 2) for a in (image, mask))
        to_ras = to_ras[:, [*(a for a in range(3) if a != axis), axis, 3]]
    return Scan(volume.volume_id, image, mask, volume.slope, volume.intercept, volume.low, volume.high, to_ras)


def _mask_names(path: Path, values: list[int]) -> dict[str, str]:
    """Mask value (as text) → class name: what ingest read beside the masks, else the value itself."""
    given = read_json(path).get("mask_labels") if path.is_file() else None
    known = {str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else {}
    return {str(value): known.get(str(value), str(value)) for value in values if value}


def _source_grid(ingested: Path, scan: Any) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine and shape of the image as it was given, from ingest's volume.json; the prepared grid where there is none."""
    path = ingested / scan.case_id / "volume.json"
    if not path.is_file():
        return scan.affine, scan.shape
    given = read_json(path)
    shape = tuple(int(extent) for extent in given["source_shape"])
    return np.array(given["source_affine"], dtype=float), shape  # type: ignore[return-value]


def _source_mask(task: Any, probabilities: np.ndarray, scan: Any, values: list[int], grid: Any) -> tuple[np.ndarray, np.ndarray]:
    """The mask of mask values on the source grid, and its affine."""
    from medssl.finetune.restoring import largest_components, restored_classes

    affine, shape = grid
    classes = restored_classes(probabilities, scan.affine, affine, shape)
    if task.largest_component:
        classes = largest_components(classes, len(values))
    return np.array(values, dtype=np.uint8 if max(values) < 256 else np.uint16)[classes], affine


def _reference_mask(job: Job, ingested: Path, scan: Any) -> tuple[np.ndarray, np.ndarray]:
    """The given mask on the source grid: ingest's own copy (never resampled), else the prepared one."""
    from medssl.finetune.restoring import restored_mask

    affine, shape = _source_grid(ingested, scan)
    folder = ingested / scan.case_id
    mask, own = scan.mask, scan.affine
    if (folder / "mask.npy").is_file():
        mask = np.load(job.read(folder / "mask.npy"), mmap_mode="r", allow_pickle=False)
        own = np.array(read_json(folder / "volume.json")["affine"], dtype=float)
    return restored_mask(np.asarray(mask), own, affine, shape), affine


def write_nifti(path: Path, mask: np.ndarray, affine: np.ndarray) -> None:
    """Write a mask as compressed NIfTI-1; equal masks are equal bytes."""
    import gzip

    import nibabel

    image = nibabel.Nifti1Image(np.asarray(mask), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    with writing(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def _copy(source: Path, target: Path) -> None:
    with writing(target) as temporary:
        shutil.copyfile(source, temporary)


def _channels_sentence(source: str, have: int, want: int) -> str:
    return (
        f"source {source!r} has {have} channels (one per window), its encoders take {want}. "
        f"Give the source as many windows: sources.{source}.prepare.window_hu."
    )


def _prepare_settings(job: Job) -> dict[str, Any] | None:
    """How the source was prepared (windows, spacing, slice axis), so that `predict` can prepare new images alike."""
    path = Path(job.spec.layout.spec("prepare", job.spec.settings["source"]))
    if not path.is_file():
        return None
    wanted = ("window_hu", "percentiles", "spacing_mm", "slice_axis")
    return {name: value for name, value in read_json(path)["settings"].items() if name in wanted}


def _median_spacing(job: Job) -> list[float] | None:
    """Median voxel size of the source's volumes in mm, None for images."""
    volumes = tables.read_tsv(job.spec.inputs["volumes"], text=("spacing_mm",))
    known = [json.loads(text) for text in volumes["spacing_mm"] if isinstance(text, str)]
    return [float(size) for size in np.median(known, axis=0)] if known else None


def _subsets(settings: dict[str, Any], cases: Any, train: np.ndarray) -> tuple[dict[int, list[str]], list[Share], dict]:
    """The order of the units per seed, the shares, and the training cases per (seed, share)."""
    drawn = {seed: unit_order(list(cases.unit_id[train]), cases.class_sets(train), seed) for seed in settings["seeds"]}
    shares = shares_of(settings["fractions"], settings["counts"], len(set(cases.unit_id[train])))
    chosen = {
        (seed, share): cases.of_units(subset(order, num_cover, share))
        for seed, (order, num_cover) in drawn.items()
        for share in shares
    }
    return {seed: order for seed, (order, _) in drawn.items()}, shares, chosen


def device() -> Any:
    """The first CUDA device, with deterministic algorithms, or the processor."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return torch.device("cuda")


def _own_contract(settings: dict[str, Any], contracts: dict[str, dict[str, Any]], in_channels: int) -> dict[str, Any]:
    """The contract of scratch and of given weights where no run sets it."""
    if settings["backbone"] is None and contracts:
        return next(iter(contracts.values()))
    chosen = settings["backbone"] or {"name": DEFAULT_BACKBONE, "options": {}}
    size = settings["size"] or DEFAULT_SIZE
    known = next(
        iter(contracts.values()), {"spatial_dims": 3 if len(size) == 3 else 2, "in_channels": in_channels, "input_size": size}
    )
    options = plugins.find("backbone", chosen["name"]).check(chosen["options"])
    return {
        "backbone": chosen["name"],
        "backbone_options": options,
        **{k: known[k] for k in ("spatial_dims", "in_channels", "input_size")},
    }


def _kind(contract: dict[str, Any]) -> str:
    return canonical_json([contract[name] for name in ("backbone", "backbone_options", "spatial_dims", "in_channels")])


def _full_size(size: list[int], spatial_dims: int) -> tuple[int, ...]:
    if len(size) not in (1, spatial_dims):
        raise StudyError(f"size {size} has {len(size)} numbers; give one, or {spatial_dims} (one per axis of the network).")
    return tuple(size * spatial_dims) if len(size) == 1 else tuple(size)


def _windows(job: Job) -> dict[str, Any]:
    """The windows of the source's volumes, in value units."""
    volumes = tables.read_tsv(job.spec.inputs["volumes"], text=("window_low", "window_high"))
    found = sorted(set(zip(volumes["window_low"], volumes["window_high"], strict=True)))
    low, high = (json.loads(text) for text in found[0])
    return {"low": low, "high": high, "differs_by_volume": len(found) > 1}


def _inputs_hash(job: Job, starting: Starting) -> str:
    """Hash of what the fits are made of: tables and receipt of the source (which hold the arrays' hashes), weights."""
    files = [Path(job.spec.inputs[name]) for name in ("samples", "volumes")]
    receipt = files[0].parent / "receipt.json"
    hashes = [sha256_file(path) for path in files]
    hashes += [sha256_text(canonical_json(read_json(receipt)["outputs"]))] if receipt.is_file() else []
    return sha256_text(canonical_json([hashes, starting.hashes]))[:16]


@contextlib.contextmanager
def _stops_with_a_sentence() -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 end the job with the exit code that asks for another try."""

    def stop(number: int, _: Any) -> None:
        raise PreemptedError(
            f"stopped by {signal.Signals(number).name}. Finished fits are saved; the same command goes on with the next one."
        )

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    except ValueError:  # not in the main thread: whoever started the thread handles signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
