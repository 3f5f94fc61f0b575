"""Prepared sources made of noise and shapes, and the stages' own entry points on them: no section needs a file or a network."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medssl.artefacts.keep import KEEP
from medssl.artefacts.records import RECORD
from medssl.artefacts.samples import SAMPLES
from medssl.artefacts.volumes import Volume, write_volumes
from medssl.core import tables
from medssl.core.files import sha256_file, write_json
from medssl.core.job import Spec, job
from medssl.core.store import RECEIPT
from medssl.finetune import run as finetuning
from medssl.finetune.options import TaskOptions
from medssl.pretrain import run as pretraining
from medssl.pretrain.options import RunOptions

Found = Iterator[tuple[str, dict[str, Any]]]
"""What a section yields, as it comes: the name of what was tried, and its figures."""
COMPILE = "reduce-overhead"
"""The fullest that the option `compile` can be: with CUDA graphs."""
NARROW = {"resnet18": {"width": 0.125, "stem": "small"}}
"""A backbone for which a processor needs no second."""


@dataclass(frozen=True)
class Place:
    """Where a section works, and whether only in small."""

    folder: Path
    """empty, for this section alone"""
    small: bool
    device: str
    """`cuda` or `cpu`"""
    limit_s: float
    """after which the section is killed"""

    @property
    def threads(self) -> int:
        """Of a job; with `--small` one, as whatever runs the sections may have no more."""
        return self.either(1, min(16, len(os.sched_getaffinity(0))))

    def either(self, small: Any, whole: Any) -> Any:
        """A size of this run."""
        return small if self.small else whole


# Data


@dataclass(frozen=True)
class Array:
    """One array of a source: a volume of a patient, or images of one shape."""

    values: np.ndarray
    """int16 `(i, j, k)`"""
    split: str | Sequence[str]
    """of the volume, or of each image"""
    patient: str | None = None
    """None: images"""
    label: str | Sequence[str] | None = None
    mask: np.ndarray | None = None


def write_source(root: Path, name: str, arrays: Sequence[Array], *, modality: str, window: tuple[float, float]) -> Path:
    """A source as stage prepare leaves it, `root`/2_prepare/`name`, with its receipt."""
    folder = root / "2_prepare" / name
    (folder / "arrays").mkdir(parents=True)
    volumes, rows, files = [], [], dict[int, Path]()
    for number, array in enumerate(arrays):
        volume_id, of_patient = f"v-{number:012x}", array.patient is not None
        saved = [None if values is None else _saved(folder / "arrays", values, files) for values in (array.values, array.mask)]
        assert saved[0] is not None
        shared = {"subject_id": array.patient, "unit": "patient" if of_patient else "image"}
        shared["kind"] = "volume" if of_patient else "images"
        i, j, k = array.values.shape
        volumes.append(
            Volume(
                volume_id=volume_id, series_id=f"s-{number:012x}", modality=modality, array=saved[0], shape=(i, j, k),
                split=array.split if isinstance(array.split, str) else None,
                mask=saved[1],
                spacing_mm=(1.5, 1.5, 8.0) if of_patient else None,
                affine=((1.5, 0, 0, 0), (0, 1.5, 0, 0), (0, 0, 8.0, 0), (0, 0, 0, 1)) if of_patient else None,
                slope=1.0, intercept=0.0, low=window[:1], high=window[1:], **shared,
            )
        )  # fmt: skip
        splits, labels = ([said] * k if said is None or isinstance(said, str) else said for said in (array.split, array.label))
        rows += [
            {
                "sample_id": f"{volume_id}-{at:04d}", "volume_id": volume_id, **shared, "split": splits[at],
                "array": f"arrays/{saved[0].name}", "axis": 2, "index": at, "position_mm": 8.0 * at if of_patient else math.nan,
                "label": labels[at], "foreground_frac": 0.5,
            }
            for at in range(k)
        ]  # fmt: skip
    write_volumes(folder / "volumes.tsv", volumes)
    types = {"axis": np.int8, "index": np.int32, "position_mm": np.float32, "foreground_frac": np.float32}
    SAMPLES.write(folder / "samples.parquet", pd.DataFrame(rows).astype(types))
    write_receipt(folder, "prepare")
    return folder


def _saved(folder: Path, values: np.ndarray, files: dict[int, Path]) -> Path:
    """The file of an array, written once; files: by the identity of arrays that are still there."""
    if id(values) not in files:
        files[id(values)] = folder / f"a-{len(files):04d}.npy"
        np.save(files[id(values)], np.asfortranarray(values))
    return files[id(values)]


def write_receipt(folder: Path, stage: str) -> None:
    """A receipt of all that a folder holds."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    listed = {str(path.relative_to(folder)): {"sha256": sha256_file(path), "size": path.stat().st_size} for path in files}
    write_json(folder / RECEIPT, {"stage": stage, "outputs": listed})


def write_pool(root: Path, *, volumes: int, shape: tuple[int, int, int], copies: int = 1) -> dict[str, Any]:
    """CT volumes of two kinds of patient, all of their slices kept: the inputs of a pre-training. The array of each is that of
    `copies` volumes, so that many slices take little disk."""
    made = []
    for number in range(volumes):
        once = Array(ct_volume(number, shape), "train", label=("healthy", "diseased")[number % 2])
        made += [replace(once, patient=f"p-{number + copy * volumes:012x}") for copy in range(copies)]
    prepared, kept = write_source(root, "pool", made, modality="CT", window=(-1000.0, 1000.0)), root / "3_reduce" / "pool" / "all"
    kept.mkdir(parents=True)
    ids = SAMPLES.read(prepared / "samples.parquet")["sample_id"]
    rows = {"sample_id": ids, "keep": True, "reason": "kept", "twin": None, "distance": np.nan}
    KEEP.write(kept / KEEP.file, pd.DataFrame(rows).astype({"distance": np.float32}))
    write_receipt(kept, "reduce")
    names = {"samples": "samples.parquet", "volumes": "volumes.tsv", "arrays": "arrays"}
    return {what: [str(prepared / name)] for what, name in names.items()} | {"keep": str(kept / KEEP.file)}


def write_records(root: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a pre-training with an age and a sex of each volume of the pool."""
    (samples,) = inputs["samples"]
    volumes = sorted(SAMPLES.read(samples)["volume_id"].unique())
    values = {
        "age": ("number", [str(50 + n % 40) for n in range(len(volumes))]),
        "sex": ("category", ["fm"[n % 2] for n in range(len(volumes))]),
    }
    paths = {}
    for name, (kind, cells) in values.items():
        place = root / "records" / name
        place.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame({"volume_id": volumes, "index": None, "kind": kind, "value": cells}).astype({"index": "Int32"})
        RECORD.write(place / RECORD.file, table)
        write_receipt(place, "ingest")
        paths[name] = str(place / RECORD.file)
    return inputs | {"records": {Path(samples).parent.name: paths}}


def ct_volume(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """A body with organs that change along k, and the noise of CT: int16 in HU."""
    random = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, side, dtype=np.float32) for side in shape], indexing="ij", sparse=True)
    values = np.where((i / 0.9) ** 2 + (j / 0.7) ** 2 < 1, np.float32(40), np.float32(-1000)) + 0 * k
    for _ in range(6):
        (x, y, z), radius = random.uniform(-0.6, 0.6, 3), random.uniform(0.1, 0.4)
        inside = (i - x) ** 2 + (j - y) ** 2 + (0.4 * (k - z)) ** 2 < radius**2
        values[inside] = random.uniform(-900, 900)
    return (values + random.normal(0, 20, shape).astype(np.float32)).astype(np.int16)


def write_hearts(root: Path, *, patients: dict[str, int], shape: tuple[int, int, int]) -> Path:
    """Short-axis cardiac MR with its three structures, two volumes a patient; patients by part."""
    made = []
    for patient, split in enumerate(name for name, count in patients.items() for _ in range(count)):
        for phase in range(2):
            values, mask = heart(2 * patient + phase, shape, squeezed=0.75 if phase else 1.0)
            made.append(Array(values, split, f"p-{patient:012x}", mask=mask))
    return write_source(root, "hearts", made, modality="MR", window=(0.0, 255.0))


def heart(seed: int, shape: tuple[int, int, int], squeezed: float) -> tuple[np.ndarray, np.ndarray]:
    """A left ventricle (3) in its wall (2) with a right one (1) beside: int16 values in 0…255, uint8 mask."""
    random = np.random.default_rng(seed)
    side = min(shape[:2])
    i, j, k = np.meshgrid(*[np.arange(extent, dtype=np.float32) for extent in shape], indexing="ij", sparse=True)
    x, y = (extent / 2 + random.uniform(-0.1, 0.1) * side for extent in shape[:2])
    radius = side * (0.12 - 0.06 * k / shape[2]) * random.uniform(0.9, 1.1)
    away = np.sqrt((i - x) ** 2 + (j - y) ** 2)
    mask = np.zeros(shape, np.uint8)
    mask[np.sqrt((i - x + 1.7 * radius) ** 2 + ((j - y) / 1.6) ** 2) < squeezed * radius] = 1
    mask[away < 1.4 * radius] = 2
    mask[away < squeezed * radius] = 3
    grey = np.array([70, 160, 90, 190], np.float32)[mask] + random.normal(0, 15, shape).astype(np.float32)
    return np.clip(grey, 0, 255).astype(np.int16), mask


def write_spots(root: Path, *, count: int, side: int) -> Path:
    """Grey images with a bright spot whose place is their class; half of them train."""
    random, classes = np.random.default_rng(0), np.arange(count) % 3
    at = np.array([[0.3, 0.3], [0.7, 0.35], [0.5, 0.75]])[classes] * side + random.normal(0, side / 20, (count, 2))
    i, j = np.meshgrid(*[np.arange(side, dtype=np.float32)] * 2, indexing="ij")
    away = (i[..., None] - at[:, 0].astype(np.float32)) ** 2 + (j[..., None] - at[:, 1].astype(np.float32)) ** 2
    images = 160 * np.exp(-away / (0.02 * side**2)) + random.normal(40, 40, (side, side, count)).astype(np.float32)
    part = np.array(["train", "train", "val", "test"])[np.arange(count) // 3 % 4]
    whole = Array(
        np.clip(images, 0, 255).astype(np.int16), part.tolist(), label=[("bladder", "femur", "liver")[name] for name in classes]
    )
    return write_source(root, "spots", [whole], modality="OT", window=(0.0, 255.0))


# The stages


@dataclass(frozen=True)
class Trained:
    """What a pre-training left."""

    out: Path
    seconds: float
    peak_mb: float | None
    """of the GPU's memory, by tensors; None on a processor"""

    @property
    def curve(self) -> pd.DataFrame:
        """Its rows but for those of the clock."""
        return tables.read_tsv(self.out / "curve.tsv").drop(columns="images_per_s")

    @property
    def digest(self) -> str:
        """Of its weights."""
        return sha256_file(self.out / "encoder.safetensors")


def pretrain(place: Place, inputs: dict[str, Any], name: str, **options: Any) -> Trained:
    """A pre-training by the stage's own entry point, as Snakemake calls it."""
    spec = pretrain_spec(place, inputs, name, **options)
    free_memory()
    start_s = time.perf_counter()
    with job(spec, threads=place.threads, log_path=place.folder / "logs" / f"{name}.log") as work:
        pretraining.run(work)
    return Trained(Path(spec.out), time.perf_counter() - start_s, peak_mb())


def pretrain_spec(place: Place, inputs: dict[str, Any], name: str, **options: Any) -> Spec:
    """What a study file would resolve to; saved states only at the end, and nothing beside the results."""
    usual = {"seed": 0, "device": place.device, "checkpoint_every_s": 1e6}
    values = RunOptions(**usual | options).model_dump(mode="json")
    root = place.folder / "results"
    out = str(root / "4_pretrain" / "pool" / name)
    return Spec("pretrain", f"pool/{name}", "bench", str(root), 0, "", values, inputs, out, watch={"tensorboard": False})


def finetune(place: Place, source: Path, name: str, **options: Any) -> tuple[Path, float]:
    """A task by the stage's own entry point, from random weights; its folder, and its seconds."""
    usual = {"source": source.name, "device": place.device, "seeds": [0], "fractions": [1.0]}
    values = TaskOptions(**usual | options).model_dump(mode="json")
    root, names = source.parent.parent, {"samples": "samples.parquet", "volumes": "volumes.tsv", "arrays": "arrays"}
    inputs: dict[str, Any] = {what: str(source / file) for what, file in names.items()}
    inputs |= {"encoders": {}, "parts": {}, "contracts": {}}
    spec = Spec("finetune", name, "bench", str(root), 0, "", values, inputs, str(root / "5_finetune" / name))
    free_memory()
    start_s = time.perf_counter()
    with job(spec, threads=max(2, place.threads), log_path=place.folder / "logs" / f"{name}.log") as work:
        finetuning.run(work)
    return Path(spec.out), time.perf_counter() - start_s


def free_memory() -> None:
    """Give the GPU's memory back and begin to watch its peak."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mb() -> float | None:
    """The most memory that tensors had on the GPU since `free_memory`."""
    return round(torch.cuda.max_memory_allocated() / 2**20, 1) if torch.cuda.is_available() else None


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Figures, or why there are none: one try that fails leaves the others of its section alone."""
    try:
        return work()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]}
