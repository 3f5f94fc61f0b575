"""From the prepared tables to cases in memory and scans mapped from disk, and the grids that masks go back to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.artefacts.labels import group_columns, with_given_labels
from medssl.core import tables
from medssl.core.errors import StudyError
from medssl.core.files import read_json
from medssl.core.job import Job
from medssl.finetune.cases import MANY, Cases, class_names, encode, labelled, unit_ids, volume_ids
from medssl.finetune.restoring import restored_mask
from medssl.finetune.scans import Scan
from medssl.nn.loading import Reader, read_samples, window
from medssl.volume.cache import open_array

CACHE_BYTES = 4e9
CONCERNS_NEW_IMAGES = {
    "ingest": ("tilt", "uneven", "derived", "no_space", "modality", "min_slices"),
    "prepare": ("window_hu", "percentiles", "spacing_mm", "slice_axis"),
}


class Expected(Protocol):
    """What images must be like for the networks of a task."""

    @property
    def spatial_dims(self) -> int:
        """2 for slices, 3 for volumes."""

    @property
    def cuts_slices(self) -> bool:
        """Whether the axis across the slices comes last."""

    @property
    def in_channels(self) -> int:
        """One per window."""


def read_cases(job: Job, task: Any, network: Expected, size: tuple[int, ...]) -> Cases:
    """The labelled cases of the job's source, their images in memory when they fit there.

    Raises:
        StudyError: no labels, or the source has another number of channels than the encoders.
    """
    inputs, whole = job.spec.inputs, network.spatial_dims == 3
    samples_path, volumes_path = job.read(inputs["samples"]), job.read(inputs["volumes"])
    table = tables.read_parquet(samples_path)
    if "labels" in inputs:
        table = with_given_labels(table, tables.read_parquet(job.read(inputs["labels"])))
    table = table.assign(unit_id=unit_ids(table, tables.read_tsv(volumes_path)))
    rows = labelled(table, job.spec.settings["source"], multilabel=task.multilabel, whole_volumes=whole)
    samples = read_samples([samples_path], [volumes_path], split=None)
    if samples.num_channels != network.in_channels:
        raise StudyError(channels_sentence(job.spec.settings["source"], samples.num_channels, network.in_channels))
    place = {sample: row for row, sample in enumerate(samples.ids)}
    chosen = np.array([place[sample] for sample in rows["sample_id"]], dtype=np.int64)
    for number in sorted(set(samples.volume[chosen].tolist())):
        job.read(samples.volumes[number].array)
    read = volume_images(samples, chosen, size, network.cuts_slices) if whole else plane_images(samples, chosen, size)
    names = class_names(list(rows["label"]))
    return Cases(
        **{name: rows[name].to_numpy(dtype=object) for name in ("case_id", "unit_id", "unit", "split", "label")},
        volume_id=volume_ids(rows),
        classes=names,
        targets=encode(list(rows["label"]), names),
        images=_kept(read, len(rows), 4 * samples.num_channels * int(np.prod(size))),
        groups={name: rows[name].to_numpy(dtype=object) for name in group_columns(rows)},
    )


def plane_images(samples: Any, chosen: np.ndarray, size: tuple[int, ...]) -> Callable[[np.ndarray], Tensor]:
    """Windowed slices resized to `size`, float32 `(n, c, *size)`, of the case numbers asked for."""
    reader = Reader(samples, shrink_to=max(size))

    def read(numbers: np.ndarray) -> Tensor:
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


def volume_images(
    samples: Any, chosen: np.ndarray, size: tuple[int, ...], slices_last: bool = False
) -> Callable[[np.ndarray], Tensor]:
    """Windowed volumes resized to `size`, float32 `(n, c, *size)`, of the case numbers asked for."""

    def read(numbers: np.ndarray) -> Tensor:
        parts = []
        for row in chosen[numbers]:
            volume = samples.volumes[samples.volume[row]]
            stored = np.array(np.load(volume.array, mmap_mode="r", allow_pickle=False), dtype=np.float32)
            stored = np.moveaxis(stored, samples.axis[row], 2) if slices_last else stored
            values = torch.from_numpy(np.ascontiguousarray(stored))[None, None] * volume.slope + volume.intercept
            image = window(values, torch.tensor([volume.low]), torch.tensor([volume.high]))
            # area averages when shrinking: trilinear alone would skip voxels
            image = F.adaptive_avg_pool3d(image, [min(have, want) for have, want in zip(image.shape[2:], size, strict=True)])
            parts.append(F.interpolate(image, size=size, mode="trilinear") if image.shape[2:] != size else image)
        return torch.cat(parts)

    return read


def _kept(read: Callable[[np.ndarray], Tensor], count: int, bytes_each: int) -> Callable[[np.ndarray], Tensor]:
    """`read`, from memory when all cases fit there."""
    if count * bytes_each > CACHE_BYTES:
        return read
    images = torch.cat([read(np.arange(first, min(first + 256, count))) for first in range(0, count, 256)])
    return lambda numbers: images[torch.from_numpy(np.asarray(numbers, dtype=np.int64))]


def read_scans(job: Job, network: Expected, ingested: Path) -> tuple[list[Scan], list[int], dict[str, str], Cases]:
    """The scans with masks, the mask value of each class (0 first), value → class name, and their table.

    Raises:
        StudyError: no masks, no class in them, another number of channels, or an empty split.
    """
    source, inputs = job.spec.settings["source"], job.spec.inputs
    samples_path, volumes_path = job.read(inputs["samples"]), job.read(inputs["volumes"])
    table = tables.read_tsv(volumes_path, text=("array", "mask", "affine", "unit"))
    given = GivenMasks.read(job)
    table = table[table["mask"].notna() | table["volume_id"].isin(given.files)]
    if table.empty:
        raise StudyError(
            f"source {source!r} has no masks: a segmentation learns from voxel labels. Put a mask beside each image, "
            f"name a folder of masks (sources.{source}.labels), or fine-tune on another source."
        )
    samples = tables.read_parquet(samples_path)
    if "labels" in inputs:
        samples = with_given_labels(samples, tables.read_parquet(job.read(inputs["labels"])))
    samples = (
        samples.assign(unit_id=unit_ids(samples, tables.read_tsv(volumes_path)))
        .drop_duplicates("volume_id")
        .set_index("volume_id")
    )
    volumes = {v.volume_id: v for v in read_samples([samples_path], [volumes_path], split=None).volumes}
    scans, found = [], []
    for row in table.sort_values("volume_id").to_dict("records"):
        volume = volumes[row["volume_id"]]
        if len(volume.low) != network.in_channels:
            raise StudyError(channels_sentence(source, len(volume.low), network.in_channels))
        image = open_array(job.read(volume.array))
        if volume.volume_id in given.files:
            mask: Any = given.mask_on(job, ingested, volume.volume_id, row["affine"], image.shape)
        else:
            mask = open_array(job.read(volumes_path.parent / row["mask"]))
        scans.append(scan_of(volume, row["affine"], image, mask, int(samples["axis"][volume.volume_id]), network.cuts_slices))
        found.append(set(np.unique(np.asarray(mask)).tolist()) - {0})
    values = [0, *sorted(set().union(*found))]
    if len(values) < 2:
        raise StudyError(f"source {source!r}: its {len(scans)} masks hold background only; there is no class to learn.")
    names = {str(value): given.names.get(str(value), str(value)) for value in values[1:]}
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
        groups={name: samples[name].reindex(ids).to_numpy(dtype=object) for name in group_columns(samples)},
    )
    return scans, values, names, cases


def scan_of(volume: Any, affine: str | None, image: Any, mask: Any, axis: int, slices_last: bool) -> Scan:
    """A scan; with `slices_last` its slices lie along the last axis, whatever axis they were cut along."""
    to_ras = np.eye(4) if not isinstance(affine, str) else np.array(json.loads(affine), dtype=float)
    if slices_last and axis != 2:
        image, mask = (None if a is None else np.moveaxis(np.asarray(a), axis, 2) for a in (image, mask))
        to_ras = to_ras[:, [*(a for a in range(3) if a != axis), axis, 3]]
    return Scan(volume.volume_id, image, mask, volume.slope, volume.intercept, volume.low, volume.high, to_ras)


@dataclass(frozen=True)
class GivenMasks:
    """Masks of a label folder, on the grids of ingest's volumes: they stand before those that came beside the images."""

    files: dict[str, Path]
    """by volume id"""
    names: dict[str, str]
    """mask value → class name, where the label folder names its classes"""

    @classmethod
    def read(cls, job: Job) -> GivenMasks:
        """The masks among the label files of the job's source; none where it has no label files."""
        if "labels" not in job.spec.inputs:
            return cls({}, {})
        path = Path(job.spec.inputs["labels"])
        table = tables.read_parquet(job.read(path))
        table = table[table["mask"].notna()]
        files = {str(name): path.parent / str(mask) for name, mask in zip(table["volume_id"], table["mask"], strict=True)}
        return cls(files, dict(read_json(job.read(path.parent / "labels.json"))["names"]))

    def mask(self, job: Job, ingested: Path, volume_id: str) -> tuple[np.ndarray, np.ndarray]:
        """The mask of a volume and its affine."""
        affine = np.array(read_json(job.read(ingested / volume_id / "volume.json"))["affine"], dtype=float)
        return np.load(job.read(self.files[volume_id]), mmap_mode="r", allow_pickle=False), affine

    def mask_on(self, job: Job, ingested: Path, volume_id: str, affine: str, shape: tuple[int, ...]) -> np.ndarray:
        """The mask of a volume on its prepared grid (affine as JSON)."""
        i, j, k = shape
        return restored_mask(*self.mask(job, ingested, volume_id), np.array(json.loads(affine), dtype=float), (i, j, k))


def source_grid(ingested: Path, scan: Scan) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine and shape of the image as it was given, from ingest's volume.json; the prepared grid where there is none."""
    path = ingested / scan.case_id / "volume.json"
    if not path.is_file():
        return scan.affine, scan.shape
    given = read_json(path)
    shape = tuple(int(extent) for extent in given["source_shape"])
    return np.array(given["source_affine"], dtype=float), shape  # type: ignore[return-value]


def reference_mask(job: Job, ingested: Path, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """The given mask on the source grid: a label file's or ingest's own copy (never resampled), else the prepared one."""
    affine, shape = source_grid(ingested, scan)
    folder = ingested / scan.case_id
    mask, own = scan.mask, scan.affine
    given = GivenMasks.read(job)
    if scan.case_id in given.files:
        mask, own = given.mask(job, ingested, scan.case_id)
    elif (folder / "mask.npy").is_file():
        mask = np.load(job.read(folder / "mask.npy"), mmap_mode="r", allow_pickle=False)
        own = np.array(read_json(folder / "volume.json")["affine"], dtype=float)
    return restored_mask(np.asarray(mask), own, affine, shape), affine


def windows_of(volumes_path: Path | str) -> dict[str, Any]:
    """The windows of a source's volumes, in value units."""
    volumes = tables.read_tsv(volumes_path, text=("window_low", "window_high"))
    found = sorted(set(zip(volumes["window_low"], volumes["window_high"], strict=True)))
    low, high = (json.loads(text) for text in found[0])
    return {"low": low, "high": high, "differs_by_volume": len(found) > 1}


def stage_settings(job: Job, stage: str) -> dict[str, Any] | None:
    """How a stage treated the source's images (see `CONCERNS_NEW_IMAGES`), so that `predict` can treat new ones alike."""
    path = Path(job.spec.layout.spec(stage, job.spec.settings["source"]))
    if not path.is_file():
        return None
    return {name: value for name, value in read_json(path)["settings"].items() if name in CONCERNS_NEW_IMAGES[stage]}


def median_spacing_mm(job: Job) -> list[float] | None:
    """Median voxel size of the source's volumes in mm, None for images."""
    volumes = tables.read_tsv(job.spec.inputs["volumes"], text=("spacing_mm",))
    known = [json.loads(text) for text in volumes["spacing_mm"] if isinstance(text, str)]
    return [float(size) for size in np.median(known, axis=0)] if known else None


def channels_sentence(source: str, have: int, want: int) -> str:
    """What to say where images and networks differ in channels."""
    return (
        f"source {source!r} has {have} channels (one per window), its encoders take {want}. "
        f"Give the source as many windows: sources.{source}.prepare.window_hu."
    )
