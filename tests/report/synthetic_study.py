"""A whole study's artefacts, made of nothing, as docs/reference/artefacts.md says: what the report stage reads."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medssl.artefacts.encoder import CURVE, EMBEDDINGS, Contract
from medssl.artefacts.fits import FITS
from medssl.artefacts.keep import KEEP, Curve, Summary
from medssl.artefacts.names import is_scratch
from medssl.artefacts.predictions import PREDICTIONS
from medssl.artefacts.receipt import Receipt
from medssl.artefacts.samples import SAMPLES, Fingerprint
from medssl.artefacts.series import REJECTED, SERIES
from medssl.artefacts.volumes import VOLUMES
from medssl.core import job as jobs
from medssl.core.job import Job, Spec
from medssl.core.rng import rng
from medssl.evaluate.options import EvaluationOptions
from medssl.report.options import PageOptions

CLASSES = ("bladder", "kidney", "liver", "lung", "spleen")
NUM_TRAIN, NUM_VAL = 150, 40
ARMS = {"scratch-resnet18": 0.9, "simclr-all": 1.55, "simclr-hash": 1.6}
MAX_WALL_S = {"ingest": 4.2, "prepare": 2.5, "reduce": 1.4, "pretrain": 184.0, "finetune": 95.0, "evaluate": 12.0}


def write_study(root: Path, *, tasks: bool = True, num_test: int = 120) -> dict[str, Any]:
    """Write the artefacts below `root`; returns the inputs of the report's spec."""
    ct = _volumes_source(root, "ct")
    organs = _images_source(root, "organs", num_test)
    inputs: dict[str, list[str]] = {name: [] for name in ["series", "rejected", "fingerprint", "volumes", "samples"]}
    for source in ("ct", "organs") if tasks else ("ct",):
        inputs["series"].append(str(root / f"1_ingest/{source}/series.tsv"))
        inputs["rejected"].append(str(root / f"1_ingest/{source}/rejected.tsv"))
        inputs["fingerprint"].append(str(root / f"2_prepare/{source}/fingerprint.json"))
        inputs["volumes"].append(str(root / f"2_prepare/{source}/volumes.tsv"))
        inputs["samples"].append(str(root / f"2_prepare/{source}/samples.parquet"))
    inputs["keeps"], inputs["summaries"] = _keeps(root, ct)
    runs = [_pretrain(root, arm, seed) for arm in ("all", "hash") for seed in (0, 1)]
    inputs["curves"] = [str(run / "curve.tsv") for run in runs]
    inputs["embeddings"] = [str(run / "embeddings.parquet") for run in runs]
    inputs["contracts"] = [str(run / "contract.json") for run in runs]
    inputs["views"] = [str(run / "views.png") for run in runs]
    if tasks:
        _finetune(root, organs)
        _evaluate(root)
        inputs["fits"] = [str(root / "5_finetune/organs/fits.tsv")]
        for name, file in {"scores": "scores.tsv", "comparisons": "comparisons.tsv", "cases": "cases.parquet"}.items():
            inputs[name] = [str(root / "6_evaluate/organs" / file)]
    return inputs


def spec(root: Path, inputs: dict[str, Any], page: str = "study", **settings: Any) -> Spec:
    """The report job's spec."""
    options = PageOptions(**{"study": STUDY, **settings}).model_dump(mode="json")
    return Spec("report", page, "demo", str(root), 0, "c0de", options, inputs, str(root / "7_report" / page))


STUDY = {
    "study": "demo",
    "seed": 0,
    "pretrain": {
        "simclr": {
            "objective": {"name": "simclr", "options": {"temperature": 0.1}}, "backbone": {"name": "resnet18", "options": {}},
            "epochs": 20, "batch_size": 64, "optimizer": "adamw", "lr": 0.001, "weight_decay": 0.0001, "precision": "fp32",
        }
    },
    "prepare": {
        "window_hu": [[-1000.0, 1000.0]], "percentiles": [0.5, 99.5], "spacing_mm": None,
        "split": {"val_frac": 0.1, "test_frac": 0.1, "file": None},
    },
    "evaluate": {"bootstrap": 200, "confidence": 0.95, "holm_over": "arms"},
}  # fmt: skip


SERIES_ROW: dict[str, Any] = dict.fromkeys(SERIES.names) | {
    "dtype": "int16", "slope": 1.0, "intercept": 0.0, "content_sha256": "c0de", "lossy": False, "resampled": False,
    "label": False, "warnings": [],
}  # fmt: skip
FITS_ROW: dict[str, Any] = dict.fromkeys(name for name in FITS.names if name != "fold") | {
    "train_ids_sha256": "1d5", "backbone": "resnet18", "parameters": 11_170_240, "size": [28, 28], "seconds": 2.0,
}  # fmt: skip
"""Columns of the tables that no test looks at."""


def contract(run: str = "ct/simclr-hash-seed0") -> Contract:
    """The contract of an encoder."""
    learnt = {"study": "demo", "num_volumes": 3, "num_subjects": 3, "num_samples": 85, "volume_ids": [], "licence": "none"}
    return Contract.check(
        {
            "backbone": "resnet18", "backbone_options": {}, "spatial_dims": 2, "in_channels": 1, "input_size": [64, 64],
            "format": "medssl-encoder-1", "medssl": "0.1", "num_tensors": 120, "orientation": "RAS+", "axes": "(i, j, k)",
            "slice_axes": [2], "spacing_mm": [3.4, 3.4, 5.0], "normalisation": "clip", "modalities": ["CT"],
            "window": {"low": [-1000.0], "high": [1000.0], "differs_by_volume": False}, "objective": "simclr",
            "objective_options": {}, "init_weights": False, "init_run": None, "ema": None, "spec": "5bec", "seed": 0,
            "data": learnt | {"run": run},
        }
    )  # fmt: skip


def receipt(**given: Any) -> Receipt:
    """A receipt of which only some things are said."""
    silent = {"stage": "", "name": "", "spec": "5bec", "code": "c0de", "seed": 0, "inputs": {}, "outputs": {}, "environment": {}}
    return Receipt.check(silent | given)


def job_of(root: Path, stage: str, name: str, folder: str) -> Job:
    """A finished job's receipt with a fixed wall time, so that two studies made alike are alike."""
    job = Job(Spec(stage, name, "demo", str(root), 0, "c0de", {}, {}, str(root / folder)), None, 2)
    job.notes["wall_s"] = MAX_WALL_S[stage] * (0.45 if "hash" in name else 1.0)
    return job


def anatomy(k: int, size: int = 96, shift: float = 0.0) -> np.ndarray:
    """A chest-like axial plane in HU that changes along k."""
    i, j = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    plane = np.full((size, size), -1000.0)
    plane[(i / 0.92) ** 2 + (j / 0.68) ** 2 < 1] = 40
    for side in (-1, 1):
        grow = 0.22 + 0.12 * np.sin(k / 5 + shift)
        plane[((i - side * 0.42) / (grow + 0.08)) ** 2 + ((j - 0.05) / (grow + 0.2)) ** 2 < 1] = -820
    plane[(i / 0.1) ** 2 + ((j + 0.45) / 0.12) ** 2 < 1] = 420
    plane[((i + 0.1) / 0.16) ** 2 + ((j - 0.12) / (0.1 + 0.06 * np.cos(k / 4))) ** 2 < 1] = 130
    return plane + rng(7, "noise", k, str(shift)).normal(0, 18, plane.shape)


def _volumes_source(root: Path, source: str) -> pd.DataFrame:
    series, volumes, samples = [], [], []
    prepare = root / f"2_prepare/{source}"
    (prepare / "arrays").mkdir(parents=True)
    for v, depth in enumerate((26, 31, 28, 24)):
        name, split = f"v-{v:012x}", ("train", "train", "train", "test")[v]
        array = np.stack([anatomy(k, shift=0.4 * v) for k in range(depth)], axis=-1).astype(np.int16)
        np.save(prepare / f"arrays/{name}.npy", np.asfortranarray(array))
        common = {
            "volume_id": name, "series_id": "s" + name[1:], "subject_id": "p" + name[1:], "unit": "patient", "kind": "volume",
            "modality": "CT", "shape": [96, 96, depth], "spacing_mm": [3.4, 3.4, 5.0],
            "affine": np.diag([3.4, 3.4, 5.0, 1]).tolist(),
        }  # fmt: skip
        series.append(
            SERIES_ROW
            | common
            | {
                "format": "dicom",
                "orientation_source": "LPS",
                "num_files": depth,
                "bytes": depth * 18_432,
                "resampled": v == 0,
                "manufacturer_code": "SIEMENS",
            }
        )
        more = {
            "array": f"arrays/{name}.npy",
            "mask": None,
            "slope": 1.0,
            "intercept": 0.0,
            "window_low": [-1000.0],
            "window_high": [1000.0],
        }
        volumes.append({**common, "split": split, **more})
        samples += [
            {
                "sample_id": f"{name}-{k:04d}", "volume_id": name, "subject_id": "p" + name[1:], "unit": "patient",
                "kind": "volume", "split": split, "array": f"arrays/{name}.npy", "axis": 2, "index": k,
                "position_mm": 5.0 * k, "label": None, "foreground_frac": 0.5,
            }
            for k in range(depth)
        ]  # fmt: skip
    rejected = [
        {
            "item_id": "s-0000000000aa",
            "code": "missing_slice",
            "sentence": "slices 11→12 are 10.00 mm apart, the others 5.00 mm.",
            "num_files": 23,
        },
        {
            "item_id": "s-0000000000ab",
            "code": "truncated",
            "sentence": "the pixel data end after 4426 of 8192 bytes.",
            "num_files": 1,
        },
        {"item_id": "s-0000000000ac", "code": "localizer", "sentence": "a localizer is no part of a volume.", "num_files": 2},
    ]
    _write_source(root, source, series, rejected, volumes, samples)
    return pd.DataFrame(samples)


def _images_source(root: Path, source: str, num_test: int) -> pd.DataFrame:
    prepare = root / f"2_prepare/{source}"
    (prepare / "arrays").mkdir(parents=True)
    counts = {"train": NUM_TRAIN, "val": NUM_VAL, "test": num_test}
    total, name = sum(counts.values()), "v-00000000f000"
    random = rng(3, "organs")
    labels = random.integers(0, len(CLASSES), total)
    array = np.stack([_organ(int(label), i) for i, label in enumerate(labels)], axis=-1).astype(np.int16)
    np.save(prepare / f"arrays/{name}.npy", np.asfortranarray(array))
    splits = [split for split, number in counts.items() for _ in range(number)]
    common = {
        "volume_id": name, "series_id": "s-00000000f000", "subject_id": None, "unit": "image", "kind": "images", "modality": "CT",
        "shape": [28, 28, total], "spacing_mm": None, "affine": None,
    }  # fmt: skip
    own = {"affine": np.eye(4).tolist(), "format": "npz", "num_files": 1, "bytes": 900_000, "label": True}
    series = [SERIES_ROW | common | own]
    more = {
        "array": f"arrays/{name}.npy",
        "mask": None,
        "slope": 1.0,
        "intercept": 0.0,
        "window_low": [0.0],
        "window_high": [255.0],
    }
    samples = [
        {
            "sample_id": f"{name}-{i:04d}", "volume_id": name, "subject_id": None, "unit": "image", "kind": "images",
            "split": splits[i],
            "array": f"arrays/{name}.npy", "axis": 2, "index": i, "position_mm": float("nan"), "label": CLASSES[labels[i]],
            "foreground_frac": 0.9,
        }
        for i in range(total)
    ]  # fmt: skip
    _write_source(root, source, series, [], [{**common, "split": None, **more}], samples)
    return pd.DataFrame(samples)


def _organ(label: int, place: int) -> np.ndarray:
    i, j = np.meshgrid(np.linspace(-1, 1, 28), np.linspace(-1, 1, 28), indexing="ij")
    random = rng(5, "organ", place)
    blob = ((i - 0.3 * np.cos(label)) / (0.3 + 0.1 * label)) ** 2 + ((j - 0.3 * np.sin(label)) / (0.7 - 0.08 * label)) ** 2 < 1
    return np.clip(60 + 120 * blob + random.normal(0, 14, i.shape), 0, 255)


def _write_source(root: Path, source: str, series: list, rejected: list, volumes: list, samples: list) -> None:
    ingest = job_of(root, "ingest", source, f"1_ingest/{source}")
    refusals = [{**row, "bytes": 4096, "stage_of_check": "header"} for row in rejected]
    SERIES.write_rows(ingest.path("series.tsv"), series)
    REJECTED.write_rows(ingest.path("rejected.tsv"), refusals)
    _finish(ingest, "series.tsv", "rejected.tsv")
    prepare = job_of(root, "prepare", source, f"2_prepare/{source}")
    VOLUMES.write_rows(prepare.path("volumes.tsv"), [{"series_id": None, **row} for row in volumes])
    types = {"axis": "int8", "index": "int32", "position_mm": "float32", "foreground_frac": "float32"}
    SAMPLES.write(prepare.path("samples.parquet"), pd.DataFrame(samples).sort_values("sample_id").astype(types))
    whole = {"source": source, "volumes": len(volumes), "samples": len(samples), "units": {}, "splits": {}}
    rest = {"subjects_in_two_splits": 0, "modalities": {}, "labels": {}, "cache": {}}
    Fingerprint(**whole, **rest).write(prepare.path("fingerprint.json"))
    _finish(prepare, "volumes.tsv", "samples.parquet", "fingerprint.json")


def _keeps(root: Path, samples: pd.DataFrame) -> tuple[list[str], list[str]]:
    train = samples[samples["split"] == "train"].reset_index(drop=True)
    for arm in ("all", "hash", "random_n"):
        keep = np.ones(len(train), dtype=bool)
        if arm == "hash":
            keep = rng(1, "keep").random(len(train)) < 0.55
            keep[train["index"] == 0] = True
        elif arm == "random_n":
            keep = rng(2, "keep").random(len(train)) < 0.55
        rows = train[["sample_id"]].assign(keep=keep)
        last, twins, distances = None, [], []
        for place, (sample, kept) in enumerate(zip(train["sample_id"], keep, strict=True)):
            last = sample if kept else last
            twins.append(None if kept or arm != "hash" else last)
            distances.append(np.float32(0 if kept else place % 7))
        reason = {"hash": "duplicate", "random_n": "budget", "all": "kept"}[arm]
        rows = rows.assign(reason=np.where(keep, "kept", reason), twin=twins, distance=np.array(distances, dtype=np.float32))
        job = job_of(root, "reduce", f"ct/{arm}", f"3_reduce/ct/{arm}")
        KEEP.write(job.path("keep.parquet"), rows)
        curve = {"threshold": [0.0, 2.0, 4.0, 6.0], "kept_frac": [0.98, 0.83, 0.66, 0.58]}
        Summary(
            reducer=arm,
            options={},
            traversal="greedy" if arm == "hash" else None,
            budget={},
            threshold=6 if arm == "hash" else None,
            count=None,
            slices=len(rows),
            volumes=3,
            kept=int(keep.sum()),
            kept_frac=float(keep.mean()),
            reasons=rows["reason"].value_counts().to_dict(),
            curve=Curve(**curve) if arm == "hash" else None,
        ).write(job.path("summary.json"))
        _finish(job, "keep.parquet", "summary.json")
    arms = [root / "3_reduce/ct" / arm for arm in ("all", "hash", "random_n")]
    return [str(arm / "keep.parquet") for arm in arms], [str(arm / "summary.json") for arm in arms]


def _pretrain(root: Path, arm: str, seed: int) -> Path:
    run = f"simclr-{arm}-seed{seed}"
    job = job_of(root, "pretrain", f"ct/{run}", f"4_pretrain/ct/{run}")
    epoch = np.arange(20)
    noise = rng(seed, "curve", arm)
    loss = 1.4 + 2.6 * np.exp(-epoch / (6 if arm == "all" else 7)) + noise.normal(0, 0.03, 20)
    rank = 38 * (1 - np.exp(-epoch / 5)) + 4 + noise.normal(0, 0.6, 20)
    curve = pd.DataFrame(
        {
            "epoch": epoch, "step": (epoch + 1) * (2 if arm == "all" else 1), "loss": loss,
            "lr": 1e-3 * np.cos(epoch / 20 * np.pi / 2),
            "images_per_s": 210.0 + noise.normal(0, 4, 20), "grad_norm": np.nan, "effective_rank": rank,
            "alignment": 0.9 * np.exp(-epoch / 9) + 0.3,
            "uniformity": -1.2 - 2 * (1 - np.exp(-epoch / 6)),
        }
    )  # fmt: skip
    CURVE.write(job.path("curve.tsv"), curve)
    contract(run=f"ct/{run}").write(job.path("contract.json"))
    EMBEDDINGS.write(job.path("embeddings.parquet"), _embeddings(root, arm, seed))
    job.path("encoder.safetensors").write_bytes(b"weights of " + run.encode())
    rows = [
        np.concatenate([np.clip((anatomy(3 * c + r) + 1000) / 8, 0, 255) for c in range(8)], axis=0).T[::-1] for r in range(2)
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows).astype(np.uint8)).save(buffer, format="PNG")
    job.path("views.png").write_bytes(buffer.getvalue())
    _finish(job, "curve.tsv", "embeddings.parquet", "contract.json", "encoder.safetensors", "views.png")
    return job.out


def _embeddings(root: Path, arm: str, seed: int) -> pd.DataFrame:
    """Features that turn with the place of a slice in its volume, and a little with the patient."""
    samples = SAMPLES.read(root / "2_prepare/ct/samples.parquet")
    train = samples[samples["split"] == "train"].sort_values("sample_id").iloc[::2]
    volume, index = pd.factorize(train["volume_id"])[0][:, None], train["index"].to_numpy()[:, None]
    steps = np.arange(1, 9)[None] / 14
    features = np.cos(steps * (index + 2 * volume)) + rng(seed, "features", arm).normal(0, 0.2, (len(train), 8))
    table = pd.DataFrame(features.astype(np.float32), columns=[f"f{number:04d}" for number in range(8)])
    table.insert(0, "sample_id", list(train["sample_id"]))
    return table


def _finetune(root: Path, samples: pd.DataFrame) -> None:
    test = samples[samples["split"] == "test"].sort_values("sample_id")
    truth = np.array([CLASSES.index(label) for label in test["label"]])
    hard = rng(11, "hard").normal(size=(len(test), len(CLASSES)))
    parts, fits = [], []
    for arm, strength in ARMS.items():
        for pretrain_seed in (None,) if is_scratch(arm) else (0, 1):
            init = arm if pretrain_seed is None else f"{arm}-seed{pretrain_seed}"
            for mode in ("linear", "full"):
                for fraction in (0.05, 0.1, 0.25, 1.0):
                    for seed in (0, 1, 2):
                        fit = f"{init}-{mode}-{fraction:g}-s{seed}".replace(".", "p")
                        noise = rng(seed, fit).normal(size=hard.shape) * 0.45
                        gap = strength + (0.5 * fraction if is_scratch(arm) else 0)
                        signal = gap * (0.55 + 0.45 * fraction**0.4) + (0.35 if mode == "full" else 0)
                        logits = 1.5 * signal * np.eye(len(CLASSES))[truth] + hard + noise
                        values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                        head = {"fit_id": fit, "init": init, "mode": mode, "fraction": fraction, "seed": seed}
                        part = pd.DataFrame(
                            {"case_id": test["sample_id"], "unit_id": test["sample_id"], "unit": "image", "target": test["label"]}
                        )
                        for c, label in enumerate(CLASSES):
                            part[f"prob_{label}"] = values[:, c]
                        parts.append(part.assign(**head, pretrain_seed=pretrain_seed, split="test"))
                        fits.append(
                            FITS_ROW
                            | head
                            | {
                                "pretrain_seed": pretrain_seed,
                                "num_train": int(NUM_TRAIN * fraction + 0.5),
                                "num_train_units": int(NUM_TRAIN * fraction + 0.5),
                                "num_units": NUM_TRAIN,
                                "num_val": NUM_VAL,
                                "selection": "validation macro AUC",
                                "num_test": len(test),
                                "lr": 0.001,
                                "epochs": 30,
                                "val_score": 0.8,
                            }
                        )
    job = job_of(root, "finetune", "organs", "5_finetune/organs")
    PREDICTIONS.write(job.path("predictions.parquet"), pd.concat(parts, ignore_index=True).astype({"pretrain_seed": "Int64"}))
    FITS.write(job.path("fits.tsv"), pd.DataFrame(fits).astype({"pretrain_seed": "Int64"}))
    _finish(job, "predictions.parquet", "fits.tsv")


def _evaluate(root: Path) -> None:
    from medssl.evaluate.run import run

    inputs = {
        name: str(root / "5_finetune/organs" / file)
        for name, file in {"predictions": "predictions.parquet", "fits": "fits.tsv"}.items()
    }
    inputs["masks"] = str(root / "5_finetune/organs/masks")
    options = EvaluationOptions(bootstrap=200, task="classification", whole=["all"]).model_dump(mode="json")
    made = Spec("evaluate", "organs", "demo", str(root), 0, "c0de", options, inputs, str(root / "6_evaluate/organs"))
    with jobs.job(made) as job:
        job.notes["wall_s"] = MAX_WALL_S["evaluate"]
        run(job)


def _finish(job: Job, *names: str) -> None:
    job.wrote(*[job.path(name) for name in names])
    job.write_receipt()
    receipt = job.path("receipt.json")
    receipt.write_text(json.dumps(json.loads(receipt.read_text()), indent=1, sort_keys=True))
