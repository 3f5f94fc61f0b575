"""Labelled sources, encoders and jobs of stage finetune, small enough for seconds; what tests ask of a finished task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prepared import receipt

from medssl.artefacts.volumes import Volume
from medssl.core import tables
from medssl.core.files import write_json
from medssl.core.job import Spec, job
from medssl.finetune.options import TaskOptions
from medssl.finetune.scans import Scan

SIDE = 16
CLASSES = ("bladder", "femur", "liver")
NARROW = {"stem": "small", "width": 0.125}
NARROW_VIT = {"width": 24, "blocks": 2, "heads": 2, "patch": 4}
SMALL = {"task": "segmentation", "size": [16], "batch_size": 8, "seeds": [0], "fractions": [0.5, 1.0], "evaluations": 1}
"""A segmentation that takes a second."""


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


def write_image_source(folder: Path, counts: dict[str, int], *, per_unit: int = 1, labelled: bool = True) -> Path:
    """An image source; with `per_unit` above 1, images belong to patients of one class each."""
    images, classes = blobs(sum(counts.values()))
    split = np.repeat(list(counts), list(counts.values()))
    rank = np.zeros(len(classes), int)
    for s in counts:
        for c in range(len(CLASSES)):
            chosen = (split == s) & (classes == c)
            rank[chosen] = np.arange(chosen.sum()) // per_unit
    subjects = [f"p-{s}-{c}-{r}" for s, c, r in zip(split, classes, rank, strict=True)] if per_unit > 1 else None
    return write_images(folder, images, split, subjects=subjects, label=[CLASSES[c] for c in classes] if labelled else None)


def write_images(folder: Path, images: np.ndarray, split: np.ndarray, *, subjects: Any = None, label: Any = None) -> Path:
    """A prepared image set of given images `(i, j, n)`."""
    (folder / "arrays").mkdir(parents=True)
    np.save(folder / "arrays" / "v-00.npy", images)
    samples = pd.DataFrame(
        {
            "sample_id": [f"v-00-{n:04d}" for n in range(len(split))],
            "volume_id": "v-00",
            "subject_id": subjects,
            "unit": "patient" if subjects is not None else "image",
            "kind": "images",
            "split": split,
            "array": "arrays/v-00.npy",
            "axis": np.int8(2),
            "index": np.arange(len(split), dtype=np.int32),
            "position_mm": np.float32("nan"),
            "label": label,
            "foreground_frac": np.float32(1),
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


def discs(count: int, seed: int = 0, side: int = SIDE, noise: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Images `(side, side, count)` int16 in 0…255 with a bright sphere, cut through its middle; and its radius."""
    generator = np.random.default_rng(seed)
    radii = generator.uniform(1.5, 6.0, count)
    i, j = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    at = side / 2 + generator.uniform(-1.5, 1.5, (2, count))
    distance = np.hypot(i[..., None] - at[0], j[..., None] - at[1])
    images = 60 + 120 * np.clip(radii - distance + 0.5, 0, 1) + generator.normal(0, noise, distance.shape)
    return np.asfortranarray(np.clip(images, 0, 255).astype(np.int16)), radii


def follow_up(radii: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Times to an event whose hazard grows with the radius, about a third of them censored; and whether it happened."""
    generator = np.random.default_rng([seed, 1])
    times = generator.exponential(100 / np.exp(1.5 * (radii - radii.mean())))
    ends = generator.exponential(200, len(radii))
    return np.minimum(times, ends).round(3) + 0.001, times <= ends


def write_discs(root: Path, counts: dict[str, int], *, followed: bool = False, per_unit: int = 1, said: Any = None) -> Path:
    """A prepared image set with a table of labels: the radius; or with `followed` the time to an event and whether it happened.

    With `per_unit` above 1, so many images in a row are of one patient and have the label of the first. `said`: the label of a
    radius, if it is not the radius itself.
    """
    images, radii = discs(sum(counts.values()))
    split = np.repeat(list(counts), list(counts.values()))
    first = np.arange(len(radii)) // per_unit * per_unit
    subjects = [f"p-{n:04d}" for n in first] if per_unit > 1 else None
    times, happened = follow_up(radii)
    values = times if followed else radii if said is None else said(radii)
    label = [f"{number:.4f}" for number in values[first]]
    events = {"event": ["1" if one else "0" for one in happened[first]]} if followed else {}
    index = pd.array(range(len(radii)), dtype="Int32")
    rows = pd.DataFrame({"volume_id": "v-00", "index": index, "label": label, "mask": None, **events})
    given = root / "1_ingest" / "discs" / "labels"
    given.mkdir(parents=True)
    tables.write_parquet(given / "labels.parquet", rows)
    write_json(given / "labels.json", {"items": len(label), "labelled": len(label), "strangers": 0, "names": {}})
    receipt(given, "ingest")
    return write_images(root / "2_prepare" / "discs", images, split, subjects=subjects)


def scan(seed: int = 0, shape: tuple[int, int, int] = (20, 18, 12)) -> Scan:
    """A bright box (1) and a dark ball (3) in noise."""
    generator = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    i, j, k = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    at = generator.integers(-2, 3, 3)
    mask[(abs(i - 6 - at[0]) < 4) & (abs(j - 6 - at[1]) < 4) & (abs(k - 6) < 4)] = 1
    mask[((i - 14) ** 2 + (j - 12 - at[2]) ** 2 + (k - 6) ** 2) < 12] = 3
    image = 100 + 80.0 * (mask == 1) - 80.0 * (mask == 3) + generator.normal(0, 12, shape)
    stored = np.asfortranarray(image.astype(np.int16))
    return Scan(volume(f"v-{seed:02d}", shape, 0.0, 200.0), stored, np.asfortranarray(mask), np.eye(4))


def write_scans(root: Path, count: int = 8, *, masks: bool = True, axis: int = 2) -> Path:
    """Ingest's and prepare's folders of phantoms that were given in oblique LPS-like orientation."""
    ingest, prepare = root / "1_ingest" / "hearts", root / "2_prepare" / "hearts"
    (prepare / "arrays").mkdir(parents=True)
    rows, volumes = [], []
    for n in range(count):
        whole, volume_id = scan(n), f"v-{n:02d}"
        affine = np.diag([1.5, 1.25, 4.0, 1.0])
        affine[:3, 3] = [-20, 5, n]
        source = affine @ np.array([[-1, 0, 0, 19], [0, 0, -1, 17], [0, 1, 0, 0], [0, 0, 0, 1.0]])
        np.save(prepare / "arrays" / f"{volume_id}.npy", whole.image)
        np.save(prepare / "arrays" / f"{volume_id}-mask.npy", whole.mask)
        (ingest / "volumes" / volume_id).mkdir(parents=True)
        np.save(ingest / "volumes" / volume_id / "mask.npy", whole.mask)
        geometry = {"shape": [20, 18, 12], "affine": affine.tolist()}
        write_json(
            ingest / "volumes" / volume_id / "volume.json",
            {**geometry, "source_shape": [20, 12, 18], "source_affine": source.tolist()},
        )
        ids = {"volume_id": volume_id, "subject_id": f"p-{n // 2}", "unit": "patient", "kind": "volume"}
        split = {"split": ["train", "train", "test", "val"][n // 2], "array": f"arrays/{volume_id}.npy"}
        extent = whole.shape[axis]
        rows += [
            {**ids, **split, "sample_id": f"{volume_id}-{k:04d}", "axis": axis, "index": k, "label": None} for k in range(extent)
        ]
        volumes.append(
            {
                **{**ids, **split, **geometry, "series_id": f"s-{n}", "modality": "MR", "spacing_mm": [1.5, 1.25, 4.0]},
                **{"mask": f"arrays/{volume_id}-mask.npy" if masks else None, "slope": 1.0, "intercept": 0.0},
                **{"window_low": [0.0], "window_high": [200.0]},
            }
        )
    tables.write_parquet(prepare / "samples.parquet", typed(pd.DataFrame(rows)))
    tables.write_tsv(prepare / "volumes.tsv", pd.DataFrame(volumes))
    receipt(ingest, "ingest")
    receipt(prepare, "prepare")
    return prepare


def write_encoder(
    folder: Path, *, spatial_dims: int = 2, seed: int = 7, backbone: tuple[str, dict[str, Any]] = ("resnet18", NARROW)
) -> Path:
    import torch

    from medssl.nn.backbone import build
    from medssl.nn.weights import save_encoder, save_tensors

    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    name, options = backbone
    save_encoder(folder / "encoder.safetensors", build(name, options, spatial_dims, 1))
    save_tensors(folder / "parts.safetensors", {})
    contract: dict[str, Any] = {
        **{"format": "medssl-encoder-1", "backbone": name, "backbone_options": options},
        **{"spatial_dims": spatial_dims, "in_channels": 1, "input_size": [SIDE] * spatial_dims},
    }
    write_json(folder / "contract.json", contract)
    receipt(folder, "pretrain")
    return folder


def finetune_spec(source: Path, *encoders: Path, seed: int = 0, **settings: Any) -> Spec:
    """The spec that a study file would resolve to."""
    small: dict[str, Any] = {"fractions": [0.2, 1.0], "seeds": [0], "max_steps": 3, "batch_size": 16, "evaluations": 2}
    small |= {"backbone": {"resnet18": NARROW}, "calibration_batches": 2}
    root = source.parent.parent
    options = TaskOptions(source=source.name, **(small | settings))
    images, labels = (root / "1_ingest" / source.name / name for name in ("volumes", "labels/labels.parquet"))
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
            **({"labels": str(labels)} if labels.is_file() else {}),
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


def scratch_model(out: Path) -> Path:
    """The model folder of the one scratch of a task."""
    (folder,) = (out / "models").glob("scratch-*")
    return folder


def typed(samples: pd.DataFrame) -> pd.DataFrame:
    """Rows of samples.parquet in the types of the table; positions and foreground are made up."""
    more = {"position_mm": np.float32(0), "foreground_frac": np.float32(1)}
    return samples.assign(**more).astype({"axis": np.int8, "index": np.int32})


def volume(volume_id: str, shape: tuple[int, int, int], low: float, high: float, affine: np.ndarray | None = None) -> Volume:
    """A prepared MR volume whose stored numbers are its values."""
    rows = tuple(map(tuple, (np.eye(4) if affine is None else affine).tolist()))
    return Volume(
        *(volume_id, None, None, "patient", "volume", "MR", "train", Path(volume_id), None, shape),
        *((1.0, 1.0, 1.0), rows, 1.0, 0.0, (low,), (high,)),
    )  # fmt: skip


def one_scan(image: np.ndarray) -> Any:
    """A segmentation's data of one training scan, windowed from -2 to 2, whose values above 1 are the class."""
    from medssl.finetune.cases import Cases
    from medssl.finetune.labelled_data import GivenMasks, Scans
    from medssl.finetune.scans import Scan
    from medssl.finetune.task import Source

    scan = Scan(volume("a", image.shape, -2.0, 2.0), image, (image > 1).astype(np.uint8), np.eye(4))
    names = np.array(["a"], dtype=object)
    cases = Cases(*[names] * 4, np.array(["train"], dtype=object), names, ["1"], np.ones((1, 1), np.uint8), names, names)
    return Scans(cases, [scan], [0, 1], {"1": "1"}, Source("a", Path("s"), Path("v")), GivenMasks({}, {}), (16, 16), True)
