"""Stage prepare: read ingest's volumes, write arrays, slices, split and fingerprint. The only file here that touches disk."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.files import require_free_space, write_json, writing
from medssl.core.job import RECEIPT, Job
from medssl.core.tables import read_parquet, read_tsv, write_parquet, write_tsv
from medssl.prepare.fingerprint import PERCENTILES, fingerprint
from medssl.prepare.grid import positions_mm, slice_axis, target_spacing
from medssl.prepare.samples import COLUMNS, identified, joined, planes
from medssl.prepare.split import split
from medssl.prepare.window import window
from medssl.volume.cache import SUFFIX, open_array, runs, write_array
from medssl.volume.intensity import Counts, counts_of, moments_of, number_above, percentiles_of, quantise
from medssl.volume.spacing import resample_to_spacing

ARRAYS = "arrays"
VOLUME_COLUMNS = [
    *("volume_id", "series_id", "subject_id", "unit", "kind", "modality", "split", "array", "mask", "shape", "spacing_mm"),
    *("affine", "slope", "intercept", "window_low", "window_high"),
]


@dataclass(frozen=True)
class Stored:
    """An array in the cache; `sha256` where it has the bytes of a verified input."""

    name: str
    linked: bool
    sha256: str | None
    slope: float
    intercept: float


@dataclass(frozen=True)
class Prepared:
    """What one row of `series.tsv` became: a row of `volumes.tsv`, rows of samples, their units, its values in short."""

    volume: dict[str, Any]
    samples: pd.DataFrame
    units: pd.DataFrame
    values: dict[str, Any]
    stored: tuple[Stored, ...]


def run(job: Job) -> None:
    """Prepare a source: `inputs["series"]` is ingest's table; the volumes lie in `volumes/` beside it.

    Raises:
        CorruptArtefactError: a volume is not the one that ingest wrote.
        StudyError: the user's split does not fit the source.
    """
    settings = job.spec.settings
    table = Path(job.spec.inputs["series"])
    series = _read_series(job.read(table))
    listed = _read_split(settings["split"]["file"])
    # a receipt of an earlier run must not vouch for arrays that are about to change
    job.path(RECEIPT).unlink(missing_ok=True)
    job.path(ARRAYS).mkdir(parents=True, exist_ok=True)
    require_free_space(job.out, _bytes_to_write(series, settings))

    prepared = _prepare_all(job, series, table.parent / "volumes")
    units = pd.concat([p.units for p in prepared], ignore_index=True)
    fractions = {name: settings["split"][name] for name in ("val_frac", "test_frac")}
    parts = split(units, seed=job.spec.seed, listed=listed, **fractions)

    samples = joined([p.samples for p in prepared], split=parts, unit_id=units["unit_id"])
    volumes = _volumes_table([p.volume for p in prepared], samples)
    values = pd.DataFrame([p.values for p in prepared])
    arrays = {job.path(stored.name): stored for p in prepared for stored in p.stored}
    cache = {
        "form": settings["cache"],
        "files": len(arrays),
        "linked": sum(stored.linked for stored in arrays.values()),
        "bytes": sum(path.stat().st_size for path in arrays),
    }
    summary = fingerprint(job.spec.name, volumes, samples, values, cache)

    _remove_strangers(job.path(ARRAYS), set(arrays))
    write_tsv(job.path("volumes.tsv"), volumes)
    write_parquet(job.path("samples.parquet"), samples[COLUMNS])
    write_json(job.path("fingerprint.json"), summary)
    for path, stored in arrays.items():
        job.wrote(path, sha256=stored.sha256)
    job.wrote(job.path("volumes.tsv"), job.path("samples.parquet"), job.path("fingerprint.json"))
    job.log("prepared " + ", ".join(f"{n} {part}" for part, n in samples["split"].value_counts().sort_index().items()))
    job.write_receipt()


def _read_series(path: Path) -> pd.DataFrame:
    series = read_tsv(path, text=("unit", "kind", "modality", "dtype"))
    if series.empty:
        raise StudyError(f"{path} holds no volume: there is nothing to prepare. See rejected.tsv beside it for the reasons.")
    for name in ("shape", "spacing_mm", "affine"):
        series[name] = [json.loads(cell) if isinstance(cell, str) else None for cell in series[name]]
    return series.sort_values("volume_id", ignore_index=True)


def _read_split(path: str | None) -> dict[str, str] | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise StudyError("prepare.split.file does not exist. Correct the path (it is relative to where snakemake runs).")
    rows = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, comment="#")
    if rows.shape[1] != 2 or rows.columns[1] != "split" or rows.iloc[:, 0].duplicated().any():
        raise StudyError(
            "prepare.split.file must be tab separated with the header `id<tab>split` and one row per id; "
            f"got the columns {list(rows.columns)} and {int(rows.iloc[:, 0].duplicated().sum())} ids named twice."
        )
    return dict(zip(rows.iloc[:, 0], rows["split"], strict=True))


def _bytes_to_write(series: pd.DataFrame, settings: dict[str, Any]) -> int:
    total = 0
    rows: list[Any] = list(series.itertuples())
    for row in rows:
        target = _target(row, settings)
        scale = 1.0 if target is None else float(np.prod(np.divide(row.spacing_mm, target)))
        if target is not None or row.dtype == "float32" or settings["cache"] != "memmap":
            total += int(np.prod(row.shape) * scale) * 2
    return total


def _target(row: Any, settings: dict[str, Any]) -> tuple[float, ...] | None:
    if row.kind == "images" or row.spacing_mm is None:
        return None
    return target_spacing(row.spacing_mm, settings["spacing_mm"])


def _prepare_all(job: Job, series: pd.DataFrame, folder: Path) -> list[Prepared]:
    rows: list[Any] = list(series.itertuples(index=False))
    prepared: list[Prepared] = []
    total = int(sum(row.shape[2] for row in rows))
    with job.progress("", total, "slices") as bar, ThreadPoolExecutor(job.threads) as pool:
        waiting = [pool.submit(_prepare, job, row, folder / row.volume_id) for row in rows]
        try:
            for row, future in zip(rows, waiting, strict=True):
                prepared.append(future.result())
                bar.advance(row.shape[2])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return prepared


def _prepare(job: Job, row: Any, folder: Path) -> Prepared:
    settings = job.spec.settings
    target = _target(row, settings)
    affine = np.eye(4) if row.affine is None else np.array(row.affine, dtype=np.float64)
    spacing = row.spacing_mm if target is None else target
    # as it was acquired, whatever the new spacing: in-plane detail stays in the plane
    axis = 2 if row.kind == "images" else slice_axis(row.spacing_mm, settings["slice_axis"])

    stored, new_affine = _store_image(job, row, folder, affine, target, axis)
    mask = _store_mask(job, row, folder, affine, target, axis)
    array = open_array(job.path(stored.name))
    counts = counts_of((part for _, part in runs(array, axis)), stored.slope, stored.intercept)
    low, high = window(
        counts,
        modality=row.modality,
        kind=row.kind,
        dtype=np.dtype(array.dtype),
        slope=stored.slope,
        intercept=stored.intercept,
        window_hu=settings["window_hu"],
        percentiles=settings["percentiles"],
    )
    above = [number_above(part, stored.slope, stored.intercept, min(low), axis=axis) for _, part in runs(array, axis)]
    num_planes = array.shape[axis]
    slices = planes(
        row.volume_id,
        unit=row.unit,
        kind=row.kind,
        array=stored.name,
        axis=axis,
        position_mm=np.full(num_planes, np.nan) if row.kind == "images" else positions_mm(new_affine, axis, num_planes),
        foreground_frac=np.concatenate(above) * num_planes / np.prod(array.shape),
    )
    slices, units = _identify(job, row, folder, slices)
    volume = {name: getattr(row, name) for name in ("volume_id", "series_id", "subject_id", "unit", "kind", "modality")} | {
        "array": stored.name,
        "mask": mask.name if mask else None,
        "shape": [int(n) for n in array.shape],
        "spacing_mm": None if spacing is None else [float(n) for n in spacing],
        "affine": None if row.affine is None else new_affine.tolist(),
        "slope": stored.slope,
        "intercept": stored.intercept,
        "window_low": low,
        "window_high": high,
    }
    return Prepared(volume, slices, units, _values(row.volume_id, counts), (stored, mask) if mask else (stored,))


def _store_image(
    job: Job, row: Any, folder: Path, affine: np.ndarray, target: tuple[float, ...] | None, axis: int
) -> tuple[Stored, np.ndarray]:
    """Link the verified array where nothing changes; otherwise resample or quantise it and write int16."""
    form = job.spec.settings["cache"]
    source = job.read(folder / "image.npy")
    name = f"{ARRAYS}/{row.volume_id}{SUFFIX[form]}"
    array = np.asarray(open_array(source))
    _refuse_other_shape(array, row, source)
    slope, intercept = float(row.slope), float(row.intercept)
    if target is not None:
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
    elif target is None and _is_laid_out(array, axis, form):
        return Stored(name, _link(source, job.path(name)), job.hash_of(source), slope, intercept), affine
    write_array(job.path(name), array, axis=axis, form=form)
    return Stored(name, False, None, slope, intercept), affine


def _store_mask(
    job: Job, row: Any, folder: Path, affine: np.ndarray, target: tuple[float, ...] | None, axis: int
) -> Stored | None:
    form = job.spec.settings["cache"]
    if not (folder / "mask.npy").is_file():
        return None
    source = job.read(folder / "mask.npy")
    name = f"{ARRAYS}/{row.volume_id}-mask{SUFFIX[form]}"
    array = np.asarray(open_array(source))
    _refuse_other_shape(array, row, source)
    if target is None and _is_laid_out(array, axis, form):
        return Stored(name, _link(source, job.path(name)), job.hash_of(source), 1.0, 0.0)
    if target is not None:
        array = resample_to_spacing(array, affine, target, order=0)[0].astype(array.dtype)
    write_array(job.path(name), array, axis=axis, form=form)
    return Stored(name, False, None, 1.0, 0.0)


def _refuse_other_shape(array: np.ndarray, row: Any, path: Path) -> None:
    if list(array.shape) != list(row.shape):
        raise CorruptArtefactError(
            f"{path} has shape {list(array.shape)} and series.tsv says {row.shape}. "
            "Delete the receipt of stage ingest and run the same command again."
        )


def _is_laid_out(array: np.ndarray, axis: int, form: str) -> bool:
    return form == "memmap" and (array.flags.c_contiguous if axis == 0 else array.flags.f_contiguous)


def _link(source: Path, target: Path) -> bool:
    """Give the file a second name (no bytes are copied), or copy it where the file system cannot; True if linked."""
    linked = True
    with writing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            linked = False
    return linked


def _identify(job: Job, row: Any, folder: Path, slices: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Slices with patient and label, and for each the unit that must stay together with the part it officially has."""
    if row.kind != "images":
        count = len(slices)
        unit_id = row.subject_id or row.series_id or row.volume_id
        units = pd.DataFrame({"unit_id": [unit_id] * count, "unit": row.unit, "official": [None] * count})
        return identified(slices, subject_id=[row.subject_id] * count, label=[None] * count), units
    path = folder / "images.parquet"
    images = read_parquet(job.read(path)).sort_values("index", ignore_index=True)
    if images["index"].tolist() != list(range(len(slices))):
        raise CorruptArtefactError(
            f"{path} must have a row for each of the {len(slices)} images, got {len(images)}. "
            "Delete the receipt of stage ingest and run the same command again."
        )
    columns = {
        name: images[name].astype(object).where(images[name].notna(), None)
        for name in ("subject_id", "label", "split", "image_id")
    }
    unit_id = columns["subject_id"].fillna(columns["image_id"])
    units = pd.DataFrame({"unit_id": unit_id, "unit": row.unit, "official": columns["split"]})
    return identified(slices, subject_id=list(columns["subject_id"]), label=list(columns["label"])), units


def _values(volume_id: str, counts: Counts) -> dict[str, Any]:
    mean, sd = moments_of(counts)
    percentiles = zip(PERCENTILES, percentiles_of(counts, PERCENTILES), strict=True)
    return {"volume_id": volume_id, "mean": mean, "sd": sd} | {f"p{percent:g}": value for percent, value in percentiles}


def _volumes_table(rows: list[dict[str, Any]], samples: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    parts = samples.groupby("volume_id")["split"].unique()
    table["split"] = [parts[name][0] if len(parts[name]) == 1 else None for name in table["volume_id"]]
    return table.astype(object).where(table.notna(), None)[VOLUME_COLUMNS].sort_values("volume_id", ignore_index=True)


def _remove_strangers(folder: Path, arrays: set[Path]) -> None:
    """Arrays of volumes that the source no longer has."""
    for path in set(folder.iterdir()) - arrays:
        path.unlink()
