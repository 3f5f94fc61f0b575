"""From the tables of a source to labelled cases in memory and scans mapped from disk, with the grids of their masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts.labels import LABELS, LabelCounts, group_columns, with_given_labels
from medssl.artefacts.samples import SAMPLES
from medssl.artefacts.volumes import VOLUMES, Volume, read_volumes
from medssl.core.errors import StudyError
from medssl.core.files import canonical_json, read_json, sha256_text
from medssl.core.label_numbers import plain_number
from medssl.core.label_table import MANY
from medssl.finetune.cases import Cases, class_names, encode, labelled, unit_ids, volume_ids
from medssl.finetune.images import CaseImages
from medssl.finetune.numbers import HAS_EVENT, Reader
from medssl.finetune.restoring import restored_mask
from medssl.finetune.scans import Scan
from medssl.finetune.task import Mask, NetworkInput, Source
from medssl.nn.loading import read_samples
from medssl.volume.cache import open_array


def samples_of(source: Source) -> pd.DataFrame:
    """The table of samples with `unit_id`, and with the labels and groups of label files if the source has any."""
    table = SAMPLES.read(source.verified(source.samples))
    if source.labels is not None:
        table = with_given_labels(table, LABELS.read(source.verified(source.labels)))
    return table.assign(unit_id=unit_ids(table, VOLUMES.read(source.verified(source.volumes))))


# Images with labels


def read_images(source: Source, expected: NetworkInput, *, multilabel: bool) -> tuple[Cases, CaseImages]:
    """The cases with a class label, and their images, in memory if they fit there.

    Raises:
        StudyError: no labels, or the source has another number of channels than the networks.
    """
    rows = labelled(samples_of(source), source.name, multilabel=multilabel, whole_volumes=expected.spatial_dims == 3)
    names = class_names(list(rows["label"]))
    return _cases_and_images(source, expected, rows, rows["label"], names, encode(list(rows["label"]), names))


def read_numbers(source: Source, expected: NetworkInput, reader: Reader) -> tuple[Cases, CaseImages]:
    """The cases with a number as label, and their images, in memory if they fit there.

    Args:
        source: with labels.
        expected: of the networks.
        reader: `numbers.measured` or `numbers.timed`.

    Raises:
        StudyError: see the reader; or the source has another number of channels than the networks.
    """
    rows, numbers = reader(samples_of(source), source.name, whole_volumes=expected.spatial_dims == 3)
    truth = ["/".join(map(plain_number, row)) for row in numbers]
    names = [HAS_EVENT] if numbers.shape[1] > 1 else []
    cases, images = _cases_and_images(source, expected, rows, truth, names, numbers[:, 1:].astype(np.uint8))
    return replace(cases, numbers=numbers), images


def _cases_and_images(
    source: Source, expected: NetworkInput, rows: pd.DataFrame, truth: Iterable[str], classes: list[str], targets: np.ndarray
) -> tuple[Cases, CaseImages]:
    samples = read_samples([source.samples], [source.volumes], split=None)
    if samples.num_channels != expected.in_channels:
        raise StudyError(channels_sentence(source.name, samples.num_channels, expected.in_channels))
    place = {sample: row for row, sample in enumerate(samples.ids)}
    chosen = np.array([place[sample] for sample in rows["sample_id"]], dtype=np.int64)
    cases = Cases(
        **{name: rows[name].to_numpy(dtype=object) for name in ("case_id", "unit_id", "unit", "split", "label")},
        volume_id=volume_ids(rows),
        classes=classes,
        targets=targets,
        content=_contents(source, samples, chosen, expected),
        truth=np.array(list(truth), dtype=object),
        fold=_folds(rows),
        label_order=_label_order(rows),
        groups={name: rows[name].to_numpy(dtype=object) for name in group_columns(rows)},
    )
    return cases, CaseImages(samples, chosen, expected).keep()


def new_images(source: Source, expected: NetworkInput, classes: Sequence[str]) -> tuple[Cases, CaseImages]:
    """A case for each image, or for each volume if networks take whole volumes, without labels."""
    samples, whole = read_samples([source.samples], [source.volumes], split=None), expected.spatial_dims == 3
    rows = samples_of(source).sort_values("sample_id", kind="stable")
    rows = rows.drop_duplicates("volume_id") if whole else rows
    place = {sample: row for row, sample in enumerate(samples.ids)}
    chosen = np.array([place[sample] for sample in rows["sample_id"]], dtype=np.int64)
    nothing = np.full(len(rows), "", dtype=object)
    cases = Cases(
        unit_id=rows["unit_id"].to_numpy(dtype=object),
        unit=rows["unit"].to_numpy(dtype=object),
        split=rows["split"].to_numpy(dtype=object),
        volume_id=volume_ids(rows),
        case_id=rows["volume_id" if whole else "sample_id"].to_numpy(dtype=object),
        label=nothing,
        classes=list(classes),
        targets=np.zeros((len(rows), len(classes)), dtype=np.uint8),
        content=nothing,
        truth=nothing,
    )
    return cases, CaseImages(samples, chosen, expected)


def _contents(source: Source, samples: Any, chosen: np.ndarray, expected: NetworkInput) -> np.ndarray:
    """A hash for each case of its network input; the arrays are verified on the way."""
    known = {number: _image_content(source, samples.volumes[number]) for number in sorted(set(samples.volume[chosen].tolist()))}
    index = [None if expected.spatial_dims == 3 else int(samples.index[row]) for row in chosen]
    places = zip(samples.volume[chosen].tolist(), samples.axis[chosen].tolist(), index, strict=True)
    return np.array([_hash([known[number], axis, at]) for number, axis, at in places], dtype=object)


def _image_content(source: Source, volume: Any) -> list[Any]:
    """The bytes of a volume's array, and the conversion from its numbers to network input."""
    return [source.sha256(volume.array), volume.slope, volume.intercept, list(volume.low), list(volume.high)]


def _folds(rows: pd.DataFrame) -> np.ndarray | None:
    """The fold that tests each case; None if the source has no folds."""
    return rows["fold"].to_numpy(dtype=np.int64) if "fold" in rows else None


def _label_order(rows: pd.DataFrame) -> np.ndarray | None:
    """The place of each case's unit in the order of labelling; None if the split file has no order."""
    return rows["label_order"].to_numpy(dtype=np.float64, na_value=np.nan) if "label_order" in rows else None


def _hash(value: Any) -> str:
    return sha256_text(canonical_json(value))[:16]


# Scans with masks


@dataclass(frozen=True)
class Scans:
    """The scans with a mask, in the order of their cases.

    Args:
        cases: with the classes of each mask as labels.
        scans: mapped from disk.
        values: mask value of each class, the background 0 first.
        names: mask value as text → name of the class.
        source, given: the location of reference masks.
        size: of a patch, one number per axis of the networks.
        slices_last: the slices of all scans lie along the last axis.
    """

    cases: Cases
    scans: list[Scan]
    values: list[int]
    names: dict[str, str]
    source: Source
    given: GivenMasks
    size: tuple[int, ...]
    slices_last: bool


def read_scans(source: Source, expected: NetworkInput) -> Scans:
    """The scans with masks.

    Raises:
        StudyError: no masks, no class in them, another number of channels, or an empty split.
    """
    samples = samples_of(source).drop_duplicates("volume_id").set_index("volume_id")
    given = GivenMasks.read(source)
    volumes = [v for v in read_volumes(source.volumes) if v.mask is not None or v.volume_id in given.files]
    if not volumes:
        raise StudyError(
            f"source {source.name!r} has no masks: a segmentation learns from voxel labels. Put a mask beside each image, "
            f"name a folder of masks (sources.{source.name}.labels), or fine-tune on another source."
        )
    scans, found, contents, truths = [], [], [], []
    for volume in sorted(volumes, key=lambda volume: volume.volume_id):
        if volume.num_channels != expected.in_channels:
            raise StudyError(channels_sentence(source.name, volume.num_channels, expected.in_channels))
        image_content = _image_content(source, volume)
        image = open_array(volume.array)
        axis = int(samples["axis"][volume.volume_id])
        mask, mask_content = _mask_of(source, given, volume, image.shape)
        scans.append(scan_of(volume, image, mask, axis, expected.cuts_slices))
        found.append(set(np.unique(np.asarray(mask)).tolist()) - {0})
        affine, shape = source_grid(source, scans[-1])
        grids = [scans[-1].affine.tolist(), affine.tolist(), list(shape)]
        contents.append(_hash([image_content, axis, grids]))
        truths.append(_hash(mask_content))
    values = [0, *sorted(set().union(*found))]
    if len(values) < 2:
        raise StudyError(f"source {source.name!r}: its {len(scans)} masks hold background only; there is no class to learn.")
    names = {str(value): given.names.get(str(value), str(value)) for value in values[1:]}
    rows = samples.reindex([scan.case_id for scan in scans])
    for part in ("train", "test"):
        if "fold" not in rows and not (rows["split"] == part).any():
            raise StudyError(
                f"source {source.name!r}: no scan with a mask is in the {part} split ({rows['split'].value_counts().to_dict()}). "
                "Raise prepare.split.test_frac, or correct the split file."
            )
    ids = np.array([scan.case_id for scan in scans], dtype=object)
    cases = Cases(
        **{name: rows[name].to_numpy(dtype=object) for name in ("unit_id", "unit", "split")},
        case_id=ids,
        volume_id=ids,
        label=np.array([MANY.join(names[str(value)] for value in sorted(has)) for has in found], dtype=object),
        classes=[names[str(value)] for value in values[1:]],
        targets=np.array([[value in has for value in values[1:]] for has in found], dtype=np.uint8),
        content=np.array(contents, dtype=object),
        truth=np.array(truths, dtype=object),
        fold=_folds(rows),
        label_order=_label_order(rows),
        groups={name: rows[name].to_numpy(dtype=object) for name in group_columns(rows)},
    )
    return Scans(cases, scans, values, names, source, given, expected.size, expected.cuts_slices)


def new_scans(source: Source, expected: NetworkInput) -> list[Scan]:
    """Every volume of a source, without masks, by volume id."""
    axes = SAMPLES.read(source.samples).drop_duplicates("volume_id").set_index("volume_id")["axis"]
    volumes = sorted(read_volumes(source.volumes), key=lambda volume: volume.volume_id)
    return [scan_of(v, open_array(v.array), None, int(axes[v.volume_id]), expected.cuts_slices) for v in volumes]


def scan_of(volume: Volume, image: Any, mask: Any, axis: int, slices_last: bool) -> Scan:
    """A scan; with `slices_last` its slices lie along the last axis, whatever their original axis."""
    to_ras = volume.to_ras
    if slices_last and axis != 2:
        image, mask = (None if a is None else np.moveaxis(np.asarray(a), axis, 2) for a in (image, mask))
        to_ras = to_ras[:, [*(a for a in range(3) if a != axis), axis, 3]]
    return Scan(volume, image, mask, to_ras, axis)


def _mask_of(source: Source, given: GivenMasks, volume: Volume, shape: tuple[int, ...]) -> tuple[Any, list[Any]]:
    """The mask of a volume on its prepared grid, and its sources."""
    if volume.volume_id in given.files:
        mask, affine = given.mask(source, volume.volume_id)
        i, j, k = shape
        content = [source.sha256(given.files[volume.volume_id]), affine.tolist()]
        return restored_mask(mask, affine, volume.to_ras, (i, j, k)), content
    if volume.mask is None:
        raise ValueError(f"{volume.volume_id} has no mask")
    content = [source.sha256(volume.mask)]
    return open_array(volume.mask), content


@dataclass(frozen=True)
class GivenMasks:
    """Masks of a label folder, on the grids of ingest's volumes; they override masks that came with the images."""

    files: dict[str, Path]
    """by volume id"""
    names: dict[str, str]
    """mask value → class name, if the label folder names its classes"""

    @classmethod
    def read(cls, source: Source) -> GivenMasks:
        """The masks among the label files of a source; empty without label files."""
        if source.labels is None:
            return cls({}, {})
        table, folder = LABELS.read(source.verified(source.labels)), source.labels.parent
        table = table[table["mask"].notna()]
        files = {str(name): folder / str(mask) for name, mask in zip(table["volume_id"], table["mask"], strict=True)}
        return cls(files, LabelCounts.read(source.verified(folder / LabelCounts.FILE)).names)

    def mask(self, source: Source, volume_id: str) -> tuple[np.ndarray, np.ndarray]:
        """The mask of a volume and its affine."""
        affine = np.array(read_json(source.verified(_geometry(source, volume_id)))["affine"], dtype=float)
        return np.load(source.verified(self.files[volume_id]), mmap_mode="r", allow_pickle=False), affine


def source_grid(source: Source, scan: Scan) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine and shape of the original image, from ingest's volume.json; of the prepared grid without that file."""
    path = None if source.images is None else _geometry(source, scan.case_id)
    if path is None or not path.is_file():
        return scan.affine, scan.shape
    given = read_json(path)
    i, j, k = (int(extent) for extent in given["source_shape"])
    return np.array(given["source_affine"], dtype=float), (i, j, k)


def reference_mask(source: Source, given: GivenMasks, scan: Scan) -> Mask:
    """The given mask on the source grid: a label file's or ingest's own copy (never resampled), else the prepared one."""
    affine, shape = source_grid(source, scan)
    own_copy = None if source.images is None else source.images / scan.case_id / "mask.npy"
    mask, own = scan.mask, scan.affine
    if scan.case_id in given.files:
        mask, own = given.mask(source, scan.case_id)
    elif own_copy is not None and own_copy.is_file():
        mask = np.load(source.verified(own_copy), mmap_mode="r", allow_pickle=False)
        own = np.array(read_json(_geometry(source, scan.case_id))["affine"], dtype=float)
    return Mask(scan.case_id, restored_mask(np.asarray(mask), own, affine, shape), affine)


def _geometry(source: Source, volume_id: str) -> Path:
    if source.images is None:
        raise StudyError(f"source {source.name!r}: masks of label files need ingest's volumes, which know the grid they are on.")
    return source.images / volume_id / "volume.json"


# What a contract says of a source


def median_spacing_mm(volumes: Sequence[Volume]) -> list[float] | None:
    """Median voxel size of a source's volumes in mm, None for images."""
    known = [volume.spacing_mm for volume in volumes if volume.spacing_mm is not None]
    return [float(size) for size in np.median(known, axis=0)] if known else None


def channels_sentence(source: str, have: int, want: int) -> str:
    """The message if images and networks differ in channels."""
    return (
        f"source {source!r} has {have} channels (one per window), its encoders take {want}. "
        f"Give the source as many windows: sources.{source}.prepare.window_hu."
    )
