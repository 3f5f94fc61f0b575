"""A prepared source, an encoder and a finetune job, small enough for seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_receipts import receipt

from medssl.core import tables
from medssl.core.files import write_json
from medssl.core.job import Spec, job
from medssl.finetune.options import TaskOptions

SIDE = 16
CLASSES = ("bladder", "femur", "liver")
NARROW = {"stem": "small", "width": 0.125}


def blobs(count: int, seed: int = 0, side: int = SIDE, noise: float = 60.0) -> tuple[np.ndarray, np.ndarray]:
    """Images `(side, side, count)` int16 in 0…255 with a bright spot whose place is the class, and the classes."""
    generator = np.random.default_rng(seed)
    classes = np.arange(count) % len(CLASSES)
    i, j = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    centres = np.array([[0.3, 0.3], [0.7, 0.35], [0.5, 0.75]]) * side
    images = np.empty((side, side, count), np.float32)
    for n, name in enumerate(classes):
        at = centres[name] + generator.normal(0, 0.8, 2)
        images[..., n] = 160 * np.exp(-((i - at[0]) ** 2 + (j - at[1]) ** 2) / (0.02 * side**2))
    images += generator.normal(40, noise, images.shape)
    return np.asfortranarray(np.clip(images, 0, 255).astype(np.int16)), classes


@pytest.fixture
def image_source(tmp_path: Path) -> Path:
    """A prepared image set of three classes: 60 train, 30 val, 45 test images without patients."""
    return write_image_source(tmp_path / "study" / "2_prepare" / "organs", {"train": 60, "val": 30, "test": 45})


def write_image_source(folder: Path, counts: dict[str, int], *, per_unit: int = 1, labelled: bool = True) -> Path:
    """An image source; with `per_unit` above 1, images belong to patients of one class each."""
    images, classes = blobs(sum(counts.values()))
    (folder / "arrays").mkdir(parents=True)
    np.save(folder / "arrays" / "v-00.npy", images)
    ids = [f"v-00-{n:04d}" for n in range(len(classes))]
    split = np.repeat(list(counts), list(counts.values()))
    rank = np.zeros(len(classes), int)
    for s in counts:
        for c in range(len(CLASSES)):
            chosen = (split == s) & (classes == c)
            rank[chosen] = np.arange(chosen.sum()) // per_unit
    subjects = [f"p-{s}-{c}-{r}" for s, c, r in zip(split, classes, rank, strict=True)]
    samples = pd.DataFrame(
        {
            "sample_id": ids,
            "volume_id": "v-00",
            "subject_id": subjects if per_unit > 1 else None,
            "unit": "patient" if per_unit > 1 else "image",
            "kind": "images",
            "split": split,
            "array": "arrays/v-00.npy",
            "axis": np.int8(2),
            "index": np.arange(len(ids), dtype=np.int32),
            "position_mm": np.float32("nan"),
            "label": [CLASSES[c] for c in classes] if labelled else None,
            "foreground_frac": np.float32(1),
            "unit_id": subjects if per_unit > 1 else ids,
        }
    )
    tables.write_parquet(folder / "samples.parquet", samples)
    volume = {
        **{"volume_id": "v-00", "series_id": "s-00", "subject_id": None, "unit": "image", "kind": "images", "modality": "OT"},
        **{"split": None, "array": "arrays/v-00.npy", "mask": None, "shape": list(images.shape), "spacing_mm": None},
        **{"affine": np.eye(4).tolist(), "slope": 1.0, "intercept": 0.0, "window_low": [0.0], "window_high": [255.0]},
    }
    tables.write_tsv(folder / "volumes.tsv", pd.DataFrame([volume]))
    receipt(folder, "prepare")
    return folder


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A pre-trained (here: random, seed 7) narrow ResNet-18 with its contract, as the run simclr-hash-seed0."""
    return write_encoder(tmp_path / "study" / "4_pretrain" / "ct" / "simclr-hash-seed0")


def write_encoder(folder: Path, *, spatial_dims: int = 2, seed: int = 7) -> Path:
    import torch

    from medssl.nn.backbone import build
    from medssl.nn.weights import save_encoder, save_tensors

    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    save_encoder(folder / "encoder.safetensors", build("resnet18", NARROW, spatial_dims, 1))
    save_tensors(folder / "parts.safetensors", {})
    contract: dict[str, Any] = {
        **{"format": "medssl-encoder-1", "backbone": "resnet18", "backbone_options": NARROW},
        **{"spatial_dims": spatial_dims, "in_channels": 1, "input_size": [SIDE] * spatial_dims},
    }
    write_json(folder / "contract.json", contract)
    receipt(folder, "pretrain")
    return folder


def finetune_spec(source: Path, *encoders: Path, seed: int = 0, **settings: Any) -> Spec:
    """The spec that a study file would resolve to."""
    small: dict[str, Any] = {"fractions": [0.2, 1.0], "seeds": [0], "max_steps": 3, "batch_size": 16, "evaluations": 2}
    small["backbone"] = {"resnet18": NARROW}
    root = source.parent.parent
    options = TaskOptions(source=source.name, **(small | settings))
    images = root / "1_ingest" / source.name / "volumes"
    return Spec(
        stage="finetune",
        name="organs",
        study="study",
        root=str(root),
        seed=seed,
        code="0",
        options=options.model_dump(mode="json"),
        inputs={
            "samples": str(source / "samples.parquet"),
            "volumes": str(source / "volumes.tsv"),
            "arrays": str(source / "arrays"),
            **({"images": str(images)} if images.is_dir() else {}),
            "encoders": {path.name: str(path / "encoder.safetensors") for path in encoders},
            "parts": {path.name: str(path / "parts.safetensors") for path in encoders},
            "contracts": {path.name: str(path / "contract.json") for path in encoders},
        },
        out=str(root / "5_finetune" / "organs"),
    )


def finetune(spec: Spec) -> Path:
    """Run the stage; the output folder."""
    from medssl.finetune.run import run

    with job(spec) as work:
        run(work)
    return Path(spec.out)


@pytest.fixture(name="finetune")
def _finetune() -> Any:
    return finetune


@pytest.fixture(name="spec_of")
def _spec_of() -> Any:
    return finetune_spec


@pytest.fixture
def write_source() -> Any:
    return write_image_source


@pytest.fixture(name="write_encoder")
def _write_encoder() -> Any:
    return write_encoder
