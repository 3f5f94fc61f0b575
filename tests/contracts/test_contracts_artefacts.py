"""What docs/reference/artefacts.md promises of every folder of a study, whichever stage wrote it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.core.files import read_json, sha256_file
from medssl.core.tables import read_parquet, read_tsv
from medssl.volume.cache import open_array

ID = {prefix: re.compile(rf"{prefix}-[0-9a-f]{{12}}") for prefix in "psvi"}
SAMPLE = re.compile(r"v-[0-9a-f]{12}-\d{4,}")
PARTS = {"train", "val", "test"}


def folders(study: Path, pattern: str, file: str) -> list[Path]:
    """The folders of a stage that hold `file`; the test skips where the study has none."""
    found = sorted(path.parent for path in study.glob(f"{pattern}/{file}"))
    if not found:
        pytest.skip(f"this study has no {pattern}/{file}")
    return found


def ids_match(column: pd.Series, pattern: re.Pattern[str]) -> bool:
    return all(pattern.fullmatch(name) for name in column.dropna())


def is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def parsed(cell: object) -> object:
    return None if is_missing(cell) else json.loads(str(cell))


# ---- every stage


def test_receipts_list_files_that_are_there_with_their_hashes(study):
    receipts = sorted(study.glob("[1-7]_*/**/receipt.json"))
    assert receipts
    for path in receipts:
        receipt = read_json(path)
        assert {"stage", "name", "spec", "code", "seed", "inputs", "outputs", "environment", "wall_s"} <= set(receipt), path
        assert receipt["stage"] == path.relative_to(study).parts[0].split("_", 1)[1]
        assert receipt["outputs"], path
        for name, entry in receipt["outputs"].items():
            file = path.parent / name
            assert file.resolve().is_relative_to(study.resolve())
            assert entry == {"sha256": sha256_file(file), "size": file.stat().st_size}, file


def test_what_a_stage_read_is_what_an_earlier_one_wrote(study):
    base = study.parents[1]
    for path in sorted(study.glob("[2-7]_*/**/receipt.json")):
        receipt = read_json(path)
        assert receipt["inputs"], path
        for name, digest in receipt["inputs"].items():
            file = Path(name) if Path(name).is_absolute() else base / name
            assert sha256_file(file) == digest, f"{path}: {name}"


def test_no_temporary_is_left(study):
    assert not [p for p in study.rglob(".*") if p.name.startswith((".tmp-", ".part-"))]


def test_tsv_tables_are_rectangular_with_one_header(study):
    for path in sorted(study.glob("[1-7]_*/**/*.tsv")):
        text = path.read_bytes().decode("utf-8")
        assert text.endswith("\n"), path
        assert "\r" not in text, path
        widths = {len(line.split("\t")) for line in text[:-1].split("\n")}
        assert len(widths) == 1, path
        cells = {cell for line in text[:-1].split("\n")[1:] for cell in line.split("\t")}
        assert not cells & {"True", "False", "None", "nan", "NaN", "<NA>"}, path


def test_every_id_is_a_minted_one(study):
    prefix = {"volume_id": "v", "series_id": "s", "subject_id": "p", "item_id": "i", "image_id": "i"}
    for path in [*study.glob("[1-7]_*/**/*.tsv"), *study.glob("[1-7]_*/**/*.parquet")]:
        table = read_tsv(path) if path.suffix == ".tsv" else read_parquet(path)
        for name in set(prefix) & set(table.columns):
            assert ids_match(table[name], ID[prefix[name]]), f"{path}: {name}"
        for name in {"sample_id", "twin"} & set(table.columns):
            assert ids_match(table[name], SAMPLE), f"{path}: {name}"


# ---- 1_ingest


SERIES = (
    "volume_id series_id subject_id unit kind format modality shape spacing_mm affine dtype slope intercept orientation_source "
    "num_files bytes content_sha256 lossy tilt_deg resampled time_index kernel kvp slice_thickness_mm manufacturer_code "
    "age_years sex label"
)


def test_series_has_its_columns_words_and_order(study):
    for folder in folders(study, "1_ingest/*", "series.tsv"):
        series = read_tsv(folder / "series.tsv")
        assert set(SERIES.split()) <= set(series.columns)
        assert series["volume_id"].is_unique
        assert series["volume_id"].is_monotonic_increasing
        assert set(series["unit"]) <= {"patient", "image"}
        assert set(series["kind"]) <= {"volume", "images"}
        assert set(series["format"]) <= {"dicom", "nifti", "png", "npz"}
        assert set(series["modality"]) <= {"CT", "MR", "PT", "OT"}
        assert (series["slope"] != 0).all()
        volumes = series[series["kind"] == "volume"]
        assert (volumes["subject_id"].notna() == (volumes["unit"] == "patient")).all()


def test_every_file_of_the_listing_is_counted_once(study):
    for folder in folders(study, "1_ingest/*", "series.tsv"):
        counts = [read_tsv(folder / f"{name}.tsv")["num_files"].sum() for name in ("series", "rejected")]
        assert sum(counts) == read_json(study / "sources" / f"{folder.name}.json")["files"]


def test_refusals_have_a_known_code_and_a_sentence(study):
    from medssl.ingest.codes import CODES

    for folder in folders(study, "1_ingest/*", "rejected.tsv"):
        rejected = read_tsv(folder / "rejected.tsv", text=("code", "sentence"))
        assert {"item_id", "code", "sentence", "num_files", "bytes", "stage_of_check"} <= set(rejected.columns)
        assert set(rejected["code"]) <= set(CODES)
        assert rejected["sentence"].notna().all()


def test_volumes_are_what_their_rows_say(study):
    for folder in folders(study, "1_ingest/*", "series.tsv"):
        series = read_tsv(folder / "series.tsv")
        for row in series.itertuples():
            place = folder / "volumes" / row.volume_id
            image = np.load(place / "image.npy", mmap_mode="r", allow_pickle=False)
            assert image.ndim == 3
            assert list(image.shape) == parsed(row.shape)
            assert image.dtype == row.dtype
            assert image.flags.f_contiguous
            sidecar = read_json(place / "volume.json")
            assert sidecar["volume_id"] == row.volume_id
            if (place / "mask.npy").is_file():
                mask = np.load(place / "mask.npy", mmap_mode="r", allow_pickle=False)
                assert mask.shape == image.shape
                assert mask.dtype in (np.uint8, np.uint16)
                assert row.label is True or row.label == 1
            if row.kind == "images":
                images = read_parquet(place / "images.parquet")
                assert {"index", "image_id", "label", "split", "subject_id"} <= set(images.columns)
                assert sorted(images["index"]) == list(range(image.shape[2]))
                assert images["image_id"].is_unique
                assert set(images["split"].dropna()) <= PARTS


def test_volumes_are_ras_and_spacing_is_that_of_the_affine(study):
    for folder in folders(study, "1_ingest/*", "series.tsv"):
        for row in read_tsv(folder / "series.tsv").itertuples():
            if row.kind != "volume":
                continue
            columns = np.array(parsed(row.affine))[:3, :3]
            np.testing.assert_allclose(np.linalg.norm(columns, axis=0), parsed(row.spacing_mm), atol=1e-5)
            # closest canonical: no other permutation of the axes lies nearer to RAS
            assert np.diag(columns / np.linalg.norm(columns, axis=0)).min() > 0


# ---- 2_prepare


VOLUMES = "volume_id series_id subject_id unit kind modality split array mask shape spacing_mm affine slope intercept"
WINDOW = "window_low window_high"
SAMPLES = {"axis": "int8", "index": "int32", "position_mm": "float32", "foreground_frac": "float32"}


def test_prepared_volumes_are_those_of_ingest(study):
    for folder in folders(study, "2_prepare/*", "volumes.tsv"):
        volumes = read_tsv(folder / "volumes.tsv")
        own = (volumes["modality"] != "CT") & (volumes["kind"] == "volume")
        assert list(volumes.columns) == [*VOLUMES.split(), *WINDOW.split(), *(["window_percentiles"] if own.any() else [])]
        if own.any():
            assert [not is_missing(cell) for cell in volumes["window_percentiles"]] == own.tolist()
        series = read_tsv(study / "1_ingest" / folder.name / "series.tsv")
        assert volumes["volume_id"].tolist() == series["volume_id"].tolist()
        for row in volumes.itertuples():
            array = open_array(folder / row.array)
            assert list(array.shape) == parsed(row.shape)
            assert array.dtype in (np.int16, np.uint8, np.uint16)
            low, high = parsed(row.window_low), parsed(row.window_high)
            assert len(low) == len(high) > 0
            assert all(a < b for a, b in zip(low, high, strict=True))
            if not is_missing(row.mask):
                assert tuple(open_array(folder / row.mask).shape) == tuple(array.shape)
        assert {len(parsed(cell)) for cell in volumes["window_low"]} == {len(parsed(volumes["window_low"][0]))}


def test_samples_are_the_planes_of_the_arrays(study):
    for folder in folders(study, "2_prepare/*", "samples.parquet"):
        samples = read_parquet(folder / "samples.parquet")
        assert {name: str(samples[name].dtype) for name in SAMPLES} == SAMPLES
        assert samples[["volume_id", "index"]].apply(tuple, axis=1).is_monotonic_increasing
        assert samples["sample_id"].is_unique
        assert (samples["sample_id"] == samples["volume_id"] + samples["index"].map("-{:04d}".format)).all()
        assert set(samples["split"]) <= PARTS
        assert samples["foreground_frac"].between(0, 1).all()
        volumes = read_tsv(folder / "volumes.tsv").set_index("volume_id")
        for volume_id, group in samples.groupby("volume_id"):
            shape = parsed(volumes.loc[volume_id, "shape"])
            assert group["axis"].nunique() == 1
            assert group["index"].tolist() == list(range(shape[group["axis"].iloc[0]]))
            assert set(group["array"]) == {volumes.loc[volume_id, "array"]}
            is_volume = volumes.loc[volume_id, "kind"] == "volume"
            assert (np.diff(group["position_mm"]) > 0).all() if is_volume else group["position_mm"].isna().all()


def test_a_subject_is_in_one_part_unless_the_fingerprint_says_otherwise(study):
    for folder in folders(study, "2_prepare/*", "fingerprint.json"):
        samples, summary = read_parquet(folder / "samples.parquet"), read_json(folder / "fingerprint.json")
        crossing = (samples.dropna(subset=["subject_id"]).groupby("subject_id")["split"].nunique() > 1).sum()
        assert summary["subjects_in_two_splits"] == crossing
        assert {part: s["samples"] for part, s in summary["splits"].items() if s["samples"]} == samples[
            "split"
        ].value_counts().to_dict()
        assert summary["samples"] == len(samples)


# ---- 3_reduce


def test_keep_names_a_kept_twin_for_every_duplicate(study):
    for folder in folders(study, "3_reduce/*/*", "keep.parquet"):
        keep = read_parquet(folder / "keep.parquet")
        assert {"sample_id", "keep", "reason", "twin", "distance"} <= set(keep.columns), folder
        assert keep["keep"].dtype == bool
        assert str(keep["distance"].dtype) == "float32"
        assert keep["sample_id"].is_unique
        assert set(keep["reason"]) <= {"kept", "duplicate", "rank", "budget", "leak"}
        assert (keep["keep"] == (keep["reason"] == "kept")).all()
        assert keep.loc[keep["keep"], "twin"].isna().all()
        duplicates = keep[keep["reason"] == "duplicate"]
        assert duplicates["twin"].notna().all()
        assert duplicates["distance"].notna().all()
        assert set(duplicates["twin"]) <= set(keep.loc[keep["keep"], "sample_id"])
        assert keep["keep"].any()
        assert read_json(folder / "summary.json")


def test_arms_of_a_cohort_decide_on_the_same_slices(study):
    arms: dict[str, set[frozenset[str]]] = {}
    for folder in folders(study, "3_reduce/*/*", "keep.parquet"):
        arms.setdefault(folder.parent.name, set()).add(frozenset(read_parquet(folder / "keep.parquet")["sample_id"]))
    assert all(len(found) == 1 for found in arms.values())
    train = set()
    for path in study.glob("2_prepare/*/samples.parquet"):
        samples = read_parquet(path)
        train |= set(samples.loc[samples["split"] == "train", "sample_id"])
    assert all(next(iter(found)) <= train for found in arms.values())


# ---- 4_pretrain


def test_encoders_are_finite_and_have_a_contract(study):
    from safetensors.numpy import load_file

    for folder in folders(study, "4_pretrain/*/*", "encoder.safetensors"):
        weights = load_file(folder / "encoder.safetensors")
        assert weights
        assert all(np.isfinite(tensor.astype(np.float64)).all() for tensor in weights.values())
        contract = read_json(folder / "contract.json")
        assert {"backbone", "spatial_dims", "in_channels", "input_size", "window", "orientation", "data"} <= set(contract)


def test_curves_go_forward(study):
    for folder in folders(study, "4_pretrain/*/*", "curve.tsv"):
        curve = read_tsv(folder / "curve.tsv")
        assert {"epoch", "step", "loss", "lr", "images_per_s"} <= set(curve.columns)
        assert curve["step"].is_monotonic_increasing
        assert np.isfinite(curve["loss"].dropna()).all()


# ---- 5_finetune


def test_predictions_are_one_row_per_fit_and_case(study):
    for folder in folders(study, "5_finetune/*", "predictions.parquet"):
        rows = read_parquet(folder / "predictions.parquet")
        assert {"fit_id", "init", "mode", "fraction", "seed", "split", "case_id", "unit_id", "target"} <= set(rows.columns)
        assert not rows.duplicated(["fit_id", "split", "case_id"]).any()
        assert set(rows["split"]) <= PARTS
        fits = read_tsv(folder / "fits.tsv")
        assert set(rows["fit_id"]) == set(fits["fit_id"])
        shares = rows[[name for name in rows.columns if name.startswith("prob_")]]
        if shares.shape[1]:
            assert ((shares >= 0) & (shares <= 1)).all(axis=None)


def test_training_subsets_hold_no_test_unit(study):
    for folder in folders(study, "5_finetune/*", "splits.parquet"):
        rows = read_parquet(folder / "splits.parquet")
        units = rows.groupby("split")["unit_id"].agg(set).to_dict()
        assert not units.get("train", set()) & units.get("test", set())
        assert not units.get("train", set()) & units.get("val", set())


# ---- 6_evaluate


def test_estimates_lie_in_their_intervals(study):
    for folder in folders(study, "6_evaluate/*", "scores.tsv"):
        for name, value in (("scores.tsv", "estimate"), ("comparisons.tsv", "difference")):
            table = read_tsv(folder / name)
            assert {value, "low", "high", "n", "unit", "method", "metric", "mode", "fraction"} <= set(table.columns)
            known = table.dropna(subset=["low", "high"])
            assert (known["low"] <= known["high"]).all()
            assert ((known["low"] <= known[value] + 1e-9) & (known[value] <= known["high"] + 1e-9)).mean() > 0.95
            assert set(table["unit"].dropna()) <= {"patient", "image"}


# ---- 7_report


def test_pages_load_nothing_from_elsewhere(study):
    pages = sorted(study.glob("7_report/**/report.html"))
    if not pages:
        pytest.skip("this study has no report")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|link|iframe|source)\b[^>]*\b(src|href)\s*=\s*[\"']?(https?:)?//", text), page
        assert "@import" not in text
        assert read_json(page.parent / "report.json")
