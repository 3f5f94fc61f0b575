"""Stage prepare: read ingest's volumes, write arrays, slices, split and fingerprint. The only file here that touches disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts.samples import SAMPLES
from medssl.artefacts.series import IMAGES, read_series
from medssl.artefacts.volumes import Volume, write_volumes
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.files import require_free_space
from medssl.core.job import RECEIPT, Job
from medssl.core.split_file import read_split_file
from medssl.core.store import link
from medssl.prepare.fingerprint import PERCENTILES, fingerprint
from medssl.prepare.grid import positions_mm, slice_axis, target_spacing
from medssl.prepare.mixture import mixture
from medssl.prepare.options import PrepareOptions
from medssl.prepare.samples import identified, joined, planes
from medssl.prepare.split import split
from medssl.prepare.window import is_of_percentiles, window
from medssl.volume.cache import SUFFIX, open_array, runs, write_array
from medssl.volume.intensity import Counts, counts_of, moments_of, number_above, ordinary_range, percentiles_of, quantise
from medssl.volume.spacing import resample_to_spacing

ARRAYS = "arrays"
UNIT_COLUMNS = ["unit_id", "unit", "scan_id", "official", "label", "modality"]
"""What the split needs to know of each sample."""


@dataclass(frozen=True)
class Stored:
    """An array in the cache; `sha256` if it has the bytes of a verified input."""

    name: str
    linked: bool
    sha256: str | None
    slope: float
    intercept: float


@dataclass(frozen=True)
class Prepared:
    """The result of one row of `series.tsv`: a volume, rows of samples, their units, a summary of its values."""

    volume: Volume
    samples: pd.DataFrame
    units: pd.DataFrame
    values: dict[str, Any]
    stored: tuple[Stored, ...]


def run(job: Job) -> None:
    """Prepare a source: `inputs["series"]` is ingest's table, `inputs["images"]` the folder of its volumes.

    Raises:
        CorruptArtefactError: a volume differs from the one that ingest wrote.
        StudyError: the split does not fit the source.
    """
    options = job.options(PrepareOptions)
    series = _read_series(job.read(job.spec.inputs["series"]))
    listed = read_split_file(job.spec.inputs["split"]) if "split" in job.spec.inputs else None
    # a receipt of an earlier run must not vouch for arrays that are about to change
    job.path(RECEIPT).unlink(missing_ok=True)
    job.path(ARRAYS).mkdir(parents=True, exist_ok=True)
    require_free_space(job.out, _bytes_to_write(series, options))

    prepared = _prepare_all(job, options, series, Path(job.spec.inputs["images"]))
    units = pd.concat([p.units for p in prepared], ignore_index=True)
    found = split(units, options.split, seed=job.spec.seed, listed=listed.parts if listed else None)
    order = units["unit_id"].map(listed.order) if listed and listed.order else None

    samples = joined([p.samples for p in prepared], split=found.part, fold=found.fold, order=order, unit_id=units["unit_id"])
    volumes = _with_parts([p.volume for p in prepared], samples)
    values = pd.DataFrame([p.values for p in prepared])
    notes = [*mixture(job.spec.name, volumes, samples), *found.notes]
    arrays = {job.path(stored.name): stored for p in prepared for stored in p.stored}
    cache = {
        "form": options.cache,
        "files": len(arrays),
        "linked": sum(stored.linked for stored in arrays.values()),
        "bytes": sum(path.stat().st_size for path in arrays),
    }
    summary = fingerprint(job.spec.name, volumes, samples, values, cache, options.split, notes)

    _remove_strangers(job.path(ARRAYS), set(arrays))
    write_volumes(job.path("volumes.tsv"), volumes)
    SAMPLES.write(job.path("samples.parquet"), samples.drop(columns="unit_id"))
    summary.write(job.path("fingerprint.json"))
    for path, stored in arrays.items():
        job.wrote(path, sha256=stored.sha256)
    job.wrote(job.path("volumes.tsv"), job.path("samples.parquet"), job.path("fingerprint.json"))
    job.log("prepared " + ", ".join(f"{n} {part}" for part, n in samples["split"].value_counts().sort_index().items()))
    for note in notes:
        job.remark(note)
    job.write_receipt()


def _read_series(path: Path) -> list[dict[str, Any]]:
    series = read_series(path)
    if not series:
        raise StudyError(f"{path} holds no volume: there is nothing to prepare. See rejected.tsv beside it for the reasons.")
    return series


def _bytes_to_write(series: list[dict[str, Any]], options: PrepareOptions) -> int:
    total = 0
    for row in series:
        target = _target(row, options)
        scale = 1.0 if target is None else float(np.prod(np.divide(row["spacing_mm"], target)))
        if target is not None or row["dtype"] == "float32" or options.cache != "memmap":
            total += int(np.prod(row["shape"]) * scale) * 2
    return total


def _target(row: dict[str, Any], options: PrepareOptions) -> tuple[float, ...] | None:
    if row["kind"] == "images" or row["spacing_mm"] is None:
        return None
    return target_spacing(row["spacing_mm"], options.spacing_mm)


def _prepare_all(job: Job, options: PrepareOptions, series: list[dict[str, Any]], images: Path) -> list[Prepared]:
    prepared: list[Prepared] = []
    total = int(sum(row["shape"][2] for row in series))
    with job.progress("", total, "slices") as bar, ThreadPoolExecutor(job.threads) as pool:
        waiting = [pool.submit(_prepare, job, options, row, images / row["volume_id"]) for row in series]
        try:
            for row, future in zip(series, waiting, strict=True):
                prepared.append(future.result())
                bar.advance(row["shape"][2])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return prepared


def _prepare(job: Job, options: PrepareOptions, row: dict[str, Any], folder: Path) -> Prepared:
    target = _target(row, options)
    affine = np.array(row["affine"], dtype=np.float64)
    spacing = row["spacing_mm"] if target is None else target
    # as acquired, whatever the new spacing: in-plane detail stays in the plane
    axis = 2 if row["kind"] == "images" else slice_axis(row["spacing_mm"], options.slice_axis)

    stored, new_affine = _store_image(job, options, row, folder, affine, target, axis)
    mask = _store_mask(job, options, row, folder, affine, target, axis)
    array = open_array(job.path(stored.name))
    counts = counts_of((part for _, part in runs(array, axis)), stored.slope, stored.intercept)
    low, high = window(
        counts,
        modality=row["modality"],
        kind=row["kind"],
        dtype=np.dtype(array.dtype),
        slope=stored.slope,
        intercept=stored.intercept,
        window_hu=options.window_hu,
        percentiles=options.percentiles,
    )
    own_window = is_of_percentiles(modality=row["modality"], kind=row["kind"], dtype=np.dtype(array.dtype))
    above = [number_above(part, stored.slope, stored.intercept, min(low), axis=axis) for _, part in runs(array, axis)]
    num_planes = array.shape[axis]
    slices = planes(
        row["volume_id"],
        unit=row["unit"],
        kind=row["kind"],
        array=stored.name,
        axis=axis,
        position_mm=np.full(num_planes, np.nan) if row["kind"] == "images" else positions_mm(new_affine, axis, num_planes),
        foreground_frac=np.concatenate(above) * num_planes / np.prod(array.shape),
    )
    slices, units = _identify(job, row, folder, slices)
    i, j, k = (int(n) for n in array.shape)
    volume = Volume(
        **{name: row[name] for name in ("volume_id", "series_id", "subject_id", "unit", "kind", "modality")},
        split=None,
        array=job.path(stored.name),
        mask=job.path(mask.name) if mask else None,
        shape=(i, j, k),
        spacing_mm=None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        affine=tuple(tuple(line) for line in new_affine.tolist()),
        slope=stored.slope,
        intercept=stored.intercept,
        low=tuple(low),
        high=tuple(high),
        percentiles=options.percentiles if own_window else None,
    )
    return Prepared(volume, slices, units, _values(row["volume_id"], counts), (stored, mask) if mask else (stored,))


def _store_image(
    job: Job,
    options: PrepareOptions,
    row: dict[str, Any],
    folder: Path,
    affine: np.ndarray,
    target: tuple[float, ...] | None,
    axis: int,
) -> tuple[Stored, np.ndarray]:
    """Link the verified array if nothing changes; otherwise resample or quantise it and write int16."""
    source = job.read(folder / "image.npy")
    name = f"{ARRAYS}/{row['volume_id']}{SUFFIX[options.cache]}"
    array = np.asarray(open_array(source))
    _refuse_other_shape(array, row, source)
    slope, intercept = float(row["slope"]), float(row["intercept"])
    if target is not None:
        if array.dtype == np.float32 and (ordinary := ordinary_range(array)).outliers:
            # before outliers leak into their neighbours
            array = array.clip(ordinary.low, ordinary.high)
        resampled, affine = resample_to_spacing(array, affine, target, order=1)
        array = resampled * np.float32(slope) + np.float32(intercept)
        slope, intercept = 1.0, 0.0
    if array.dtype not in (np.int16, np.uint8, np.uint16):
        try:
            array, step, middle = quantise(array)
        except ValueError as error:
            raise CorruptArtefactError(f"{source}: {error}. Delete the receipt of stage ingest and run it again.") from error
        # value = slope × (step × q + middle) + intercept
        slope, intercept = slope * step, slope * middle + intercept
    elif target is None and _is_laid_out(array, axis, options.cache):
        return Stored(name, link(source, job.path(name)), job.hash_of(source), slope, intercept), affine
    write_array(job.path(name), array, axis=axis, form=options.cache)
    return Stored(name, False, None, slope, intercept), affine


def _store_mask(
    job: Job,
    options: PrepareOptions,
    row: dict[str, Any],
    folder: Path,
    affine: np.ndarray,
    target: tuple[float, ...] | None,
    axis: int,
) -> Stored | None:
    if not (folder / "mask.npy").is_file():
        return None
    source = job.read(folder / "mask.npy")
    name = f"{ARRAYS}/{row['volume_id']}-mask{SUFFIX[options.cache]}"
    array = np.asarray(open_array(source))
    _refuse_other_shape(array, row, source)
    if target is None and _is_laid_out(array, axis, options.cache):
        return Stored(name, link(source, job.path(name)), job.hash_of(source), 1.0, 0.0)
    if target is not None:
        array = resample_to_spacing(array, affine, target, order=0)[0].astype(array.dtype)
    write_array(job.path(name), array, axis=axis, form=options.cache)
    return Stored(name, False, None, 1.0, 0.0)


def _refuse_other_shape(array: np.ndarray, row: dict[str, Any], path: Path) -> None:
    if list(array.shape) != row["shape"]:
        raise CorruptArtefactError(
            f"{path} has shape {list(array.shape)} and series.tsv says {row['shape']}. "
            "Delete the receipt of stage ingest and run the same command again."
        )


def _is_laid_out(array: np.ndarray, axis: int, form: str) -> bool:
    return form == "memmap" and (array.flags.c_contiguous if axis == 0 else array.flags.f_contiguous)


def _identify(job: Job, row: dict[str, Any], folder: Path, slices: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Slices with patient and label, and for each what the split needs to know."""
    shared = {"unit": row["unit"], "modality": row["modality"]}
    if row["kind"] != "images":
        count = len(slices)
        own = {"unit_id": row["subject_id"] or row["series_id"], "scan_id": row["series_id"] or row["volume_id"], **shared}
        units = pd.DataFrame({"official": [None] * count, "label": [None] * count}).assign(**own)[UNIT_COLUMNS]
        return identified(slices, subject_id=[row["subject_id"]] * count, label=[None] * count), units
    path = folder / "images.parquet"
    images = IMAGES.read(job.read(path))
    if images["index"].tolist() != list(range(len(slices))):
        raise CorruptArtefactError(
            f"{path} must have a row for each of the {len(slices)} images, got {len(images)}. "
            "Delete the receipt of stage ingest and run the same command again."
        )
    known = images.astype(object).where(images.notna(), None)
    unit_id = known["subject_id"].fillna(known["image_id"])
    units = known.assign(unit_id=unit_id, scan_id=known["image_id"], official=known["split"], **shared)[UNIT_COLUMNS]
    return identified(slices, subject_id=list(known["subject_id"]), label=list(known["label"])), units


def _values(volume_id: str, counts: Counts) -> dict[str, Any]:
    mean, sd = moments_of(counts)
    percentiles = zip(PERCENTILES, percentiles_of(counts, PERCENTILES), strict=True)
    return {"volume_id": volume_id, "mean": mean, "sd": sd} | {f"p{percent:g}": value for percent, value in percentiles}


def _with_parts(volumes: list[Volume], samples: pd.DataFrame) -> list[Volume]:
    """Each volume with its part; without one if its images are in several."""
    parts = samples.groupby("volume_id")["split"].unique()
    return [replace(one, split=str(own[0]) if len(own := parts[one.volume_id]) == 1 else None) for one in volumes]


def _remove_strangers(folder: Path, arrays: set[Path]) -> None:
    """Remove arrays of volumes that the source no longer has."""
    for path in set(folder.iterdir()) - arrays:
        path.unlink()
