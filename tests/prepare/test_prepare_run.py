"""Stage prepare end to end on hand-written ingest folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.artefacts.samples import SAMPLES
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.files import read_json, sha256_file
from medssl.core.tables import read_parquet, read_tsv
from medssl.volume.cache import open_array, read_plane

VOLUME_COLUMNS = [
    *("volume_id", "series_id", "subject_id", "unit", "kind", "modality", "split", "array", "mask", "shape", "spacing_mm"),
    *("affine", "slope", "intercept", "window_low", "window_high"),
]
SAMPLE_COLUMNS = [
    *("sample_id", "volume_id", "subject_id", "unit", "kind", "split", "array", "axis", "index", "position_mm", "label"),
    "foreground_frac",
]
SPLIT_ALL = {"split": {"val_frac": 0.3, "test_frac": 0.3}}


def head(seed: int, shape: tuple[int, int, int] = (32, 30, 12)) -> np.ndarray:
    """A CT-like phantom: air, a ball of tissue, noise."""
    i, j, _ = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    inside = (i / shape[0]) ** 2 + (j / shape[1]) ** 2 < 0.1
    noise = np.random.default_rng(seed).integers(-20, 20, shape)
    return np.where(inside, 40 + noise, -1000 + np.minimum(noise, 0)).astype(np.int16)


def cohort(ingested, count: int = 8) -> None:
    for n in range(count):
        ingested.volume(f"v-{n:012x}", head(n), subject_id=f"p-{n // 2:012x}")


def test_unchanged_arrays_are_linked_and_not_copied(ingested):
    cohort(ingested)
    out = ingested.prepare()
    for n in range(8):
        source = ingested.folder / "volumes" / f"v-{n:012x}" / "image.npy"
        assert source.samefile(out / "arrays" / f"v-{n:012x}.npy")
    cache = read_json(out / "fingerprint.json")["cache"]
    assert (cache["files"], cache["linked"]) == (8, 8)


def test_where_links_are_impossible_the_bytes_are_copied(ingested, monkeypatch):
    def refuse(*_):
        raise OSError(18, "cross-device link")

    monkeypatch.setattr("os.link", refuse)
    cohort(ingested, 1)
    out = ingested.prepare()
    source = ingested.folder / "volumes" / f"v-{0:012x}" / "image.npy"
    assert not source.samefile(out / "arrays" / f"v-{0:012x}.npy")
    assert sha256_file(source) == sha256_file(out / "arrays" / f"v-{0:012x}.npy")
    assert read_json(out / "fingerprint.json")["cache"]["linked"] == 0


def test_a_patient_is_in_one_part_and_every_slice_is_a_sample(ingested):
    cohort(ingested, 40)
    out = ingested.prepare(**SPLIT_ALL)
    samples, volumes = read_parquet(out / "samples.parquet"), read_tsv(out / "volumes.tsv")
    assert len(samples) == 40 * 12
    assert samples.groupby("subject_id")["split"].nunique().max() == 1
    assert set(samples["split"]) == {"train", "val", "test"}
    assert (
        dict(zip(volumes["volume_id"], volumes["split"], strict=True)) == samples.groupby("volume_id")["split"].first().to_dict()
    )
    summary = read_json(out / "fingerprint.json")
    assert summary["subjects_in_two_splits"] == 0
    assert sum(part["subjects"] for part in summary["splits"].values()) == 20
    assert sum(part["samples"] for part in summary["splits"].values()) == 480
    assert summary["units"] == {"patient": 20}


def test_the_tables_are_those_of_the_contract(ingested):
    cohort(ingested)
    out = ingested.prepare()
    samples, volumes = read_parquet(out / "samples.parquet"), read_tsv(out / "volumes.tsv")
    assert list(volumes.columns) == VOLUME_COLUMNS
    assert list(samples.columns) == SAMPLE_COLUMNS
    assert {n: str(samples[n].dtype) for n in ("axis", "index", "position_mm", "foreground_frac")} == {
        **{"axis": "int8", "index": "int32"},
        **{"position_mm": "float32", "foreground_frac": "float32"},
    }
    assert samples["sample_id"].tolist() == [f"{v}-{i:04d}" for v, i in zip(samples["volume_id"], samples["index"], strict=True)]
    assert samples[["volume_id", "index"]].equals(samples[["volume_id", "index"]].sort_values(["volume_id", "index"]))
    assert samples["label"].isna().all()
    np.testing.assert_allclose(samples["position_mm"][:12], 5.0 * np.arange(12))


def test_foreground_is_the_share_above_the_lowest_window(ingested):
    cohort(ingested, 1)
    out = ingested.prepare(window_hu=[[-900, 1000], [0, 100]])
    samples, volumes = read_parquet(out / "samples.parquet"), read_tsv(out / "volumes.tsv")
    array = open_array(out / volumes["array"][0])
    expected = [(read_plane(array, 2, k) > -900).mean() for k in range(12)]
    np.testing.assert_allclose(samples["foreground_frac"], expected, rtol=1e-6)
    assert json.loads(volumes["window_low"][0]) == [-900, 0]
    assert json.loads(volumes["window_high"][0]) == [1000, 100]


def test_slope_and_intercept_are_kept_and_the_window_is_in_values(ingested):
    stored = np.random.default_rng(0).integers(0, 4000, (16, 16, 8), dtype=np.int16)
    ingested.volume("v-000000000001", stored, modality="MR", slope=0.5, intercept=10.0, subject_id="p-000000000001")
    out = ingested.prepare(percentiles=(1, 99))
    row = read_tsv(out / "volumes.tsv").iloc[0]
    assert (row["slope"], row["intercept"]) == (0.5, 10.0)
    values = stored * 0.5 + 10.0
    low, high = np.percentile(values[values > values.min()], [1, 99], method="inverted_cdf")
    assert json.loads(row["window_low"]) == [low]
    assert json.loads(row["window_high"]) == [high]


def test_every_source_gives_as_many_channels_as_the_study_has_windows(ingested):
    ingested.volume("v-000000000001", head(0), modality="MR", subject_id="p-000000000001")
    ingested.volume("v-000000000002", head(1), modality="CT", subject_id="p-000000000002")
    out = ingested.prepare(window_hu=[[-1000, 1000], [-160, 240], [300, 1500]])
    volumes = read_tsv(out / "volumes.tsv")
    assert [len(json.loads(cell)) for cell in volumes["window_low"]] == [3, 3]


def test_a_constant_volume_has_a_window(ingested):
    ingested.volume("v-000000000001", np.zeros((8, 8, 4), np.int16), modality="MR", subject_id="p-000000000001")
    row = read_tsv(ingested.prepare() / "volumes.tsv").iloc[0]
    assert json.loads(row["window_low"])[0] < json.loads(row["window_high"])[0]


def test_floating_values_become_16_bits_within_their_bound(ingested):
    values = np.random.default_rng(0).gamma(2, 1500, (20, 18, 9)).astype(np.float32)
    ingested.volume("v-000000000001", values, modality="PT", subject_id="p-000000000001")
    out = ingested.prepare()
    row = read_tsv(out / "volumes.tsv").iloc[0]
    array = np.asarray(open_array(out / row["array"]))
    assert array.dtype == np.int16
    assert np.abs(array * row["slope"] + row["intercept"] - values).max() <= np.ptp(values) / 65000


@pytest.mark.parametrize("spacing_mm", [None, [1.5, 1.5, None]])
def test_an_outlier_changes_no_other_value(ingested_twice, spacing_mm):
    """All others were quantised over it to one value, and interpolation spread it."""
    values = np.random.default_rng(0).gamma(2, 300, (24, 20, 9)).astype(np.float32)
    spiked = values.copy()
    spiked[5, 6, 3], spiked[12, 2, 7] = 1e20, -4e9
    found = []
    for array in (values, spiked):
        one = ingested_twice()
        one.volume("v-000000000001", array, modality="MR", spacing=(1.0, 1.0, 2.0), subject_id="p-000000000001")
        out = one.prepare(spacing_mm=spacing_mm)
        row = read_tsv(out / "volumes.tsv").iloc[0]
        found.append(np.asarray(open_array(out / row["array"])) * row["slope"] + row["intercept"])
    same = np.abs(found[0] - found[1]) < 0.1
    assert (~same).sum() <= (2 if spacing_mm is None else 2 * 27)
    assert found[1].min() >= -5 * values.max() and found[1].max() <= 5 * values.max()


def test_floating_values_with_slope_are_values_too(ingested):
    stored = np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32)
    ingested.volume("v-000000000001", stored, modality="PT", slope=3.0, intercept=-7.0, subject_id="p-000000000001")
    out = ingested.prepare()
    row = read_tsv(out / "volumes.tsv").iloc[0]
    got = np.asarray(open_array(out / row["array"])) * row["slope"] + row["intercept"]
    np.testing.assert_allclose(got, stored * 3.0 - 7.0, atol=3e-4)


def test_values_that_are_not_finite_are_refused(ingested):
    values = np.ones((4, 4, 4), np.float32)
    values[1, 2, 3] = np.nan
    ingested.volume("v-000000000001", values, modality="MR", subject_id="p-000000000001")
    with pytest.raises(CorruptArtefactError, match="finite"):
        ingested.prepare()


@pytest.mark.parametrize("form", ["memmap", "blosc2"])
def test_resampling_gives_the_spacing_and_a_ct_within_half_a_hu(ingested, form):
    from medssl.volume.spacing import resample_to_spacing

    mask = (head(0) > 0).astype(np.uint8) * 3
    ingested.volume("v-000000000001", head(0), subject_id="p-000000000001", mask=mask)
    out = ingested.prepare(spacing_mm=[1.5, 1.5, None], cache=form)
    row = read_tsv(out / "volumes.tsv").iloc[0]
    assert json.loads(row["spacing_mm"]) == [1.5, 1.5, 5.0]
    expected, affine = resample_to_spacing(head(0), np.diag([1.0, 1.0, 5.0, 1.0]), (1.5, 1.5, 5.0))
    assert json.loads(row["shape"]) == list(expected.shape)
    np.testing.assert_allclose(json.loads(row["affine"]), affine)
    got = np.asarray(open_array(out / row["array"])[:]) * row["slope"] + row["intercept"]
    assert np.abs(got - expected).max() < 0.5
    resampled_mask = np.asarray(open_array(out / row["mask"])[:])
    assert resampled_mask.shape == expected.shape
    assert set(np.unique(resampled_mask)) == {0, 3}
    assert len(read_parquet(out / "samples.parquet")) == 12


def test_masks_are_linked_where_nothing_changes(ingested):
    ingested.volume("v-000000000001", head(0), subject_id="p-000000000001", mask=(head(0) > 0).astype(np.uint8))
    out = ingested.prepare()
    row = read_tsv(out / "volumes.tsv").iloc[0]
    assert (out / row["mask"]).samefile(ingested.folder / "volumes" / "v-000000000001" / "mask.npy")


def test_sagittal_slices_are_cut_along_i_and_lie_in_one_run_of_bytes(ingested):
    ingested.volume("v-000000000001", head(0, (9, 20, 22)), subject_id="p-000000000001", spacing=(4.0, 1.0, 1.0))
    out = ingested.prepare()
    samples = read_parquet(out / "samples.parquet")
    assert len(samples) == 9
    assert set(samples["axis"]) == {0}
    array = open_array(out / samples["array"][0])
    np.testing.assert_array_equal(array, head(0, (9, 20, 22)))
    assert read_plane(array, 0, 4).flags.c_contiguous
    np.testing.assert_allclose(samples["position_mm"], 4.0 * np.arange(9))


@pytest.mark.parametrize(
    ("spacing", "wanted", "axis"),
    [
        ((0.7, 0.7, 1.0), [2.0, 2.0, None], 2),  # coarser in the plane than across it
        ((1.0, 1.0, 1.0), [2.0, 2.0, None], 2),
        ((4.0, 1.0, 1.0), [1.0, 1.0, 1.0], 0),  # sagittal, made isotropic
        ((1.0, 4.0, 1.0), [1.0, 2.0, 3.0], 1),
    ],
)
def test_resampling_does_not_turn_the_plane_of_acquisition(ingested, spacing, wanted, axis):
    ingested.volume("v-000000000001", head(0, (24, 24, 24)), subject_id="p-000000000001", spacing=spacing)
    out = ingested.prepare(spacing_mm=wanted)
    assert set(read_parquet(out / "samples.parquet")["axis"]) == {axis}


def images(ids: int, *, subject: bool = False, official: bool = True) -> pd.DataFrame:
    part = ["train", "val", "test", "train"]
    return pd.DataFrame(
        {
            "index": np.arange(ids),
            "image_id": [f"x-{n:012x}" for n in range(ids)],
            "label": [("liver", "spleen")[n % 2] for n in range(ids)],
            "split": [part[n % 4] if official else None for n in range(ids)],
            "subject_id": [f"p-{n // 4:012x}" if subject else None for n in range(ids)],
        }
    )


def test_image_sets_keep_their_official_parts_and_labels(ingested):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 40), dtype=np.uint8)
    ingested.volume("v-000000000001", pixels, modality="OT", spacing=None, images=images(40))
    out = ingested.prepare()
    samples, volumes = read_parquet(out / "samples.parquet"), read_tsv(out / "volumes.tsv")
    assert samples["split"].tolist() == images(40)["split"].tolist()
    assert samples["label"].tolist() == images(40)["label"].tolist()
    assert set(samples["unit"]) == {"image"}
    assert samples["position_mm"].isna().all()
    assert samples["subject_id"].isna().all()
    assert set(samples["axis"]) == {2}
    assert json.loads(volumes["window_low"][0]) == [0]
    assert json.loads(volumes["window_high"][0]) == [255]
    assert pd.isna(volumes["split"][0])
    summary = read_json(out / "fingerprint.json")
    assert summary["units"] == {"image": 40}
    assert summary["labels"] == {"liver": {"test": 10, "train": 10}, "spleen": {"train": 10, "val": 10}}


def test_images_of_a_patient_stay_together_where_patients_are_known(ingested):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 400), dtype=np.uint8)
    ingested.volume("v-000000000001", pixels, spacing=None, images=images(400, subject=True, official=False))
    samples = read_parquet(ingested.prepare(**SPLIT_ALL) / "samples.parquet")
    assert samples.groupby("subject_id")["split"].nunique().max() == 1
    assert set(samples["split"]) == {"train", "val", "test"}
    assert set(samples["unit"]) == {"patient"}


def test_an_official_split_that_tears_a_patient_apart_is_counted(ingested):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 40), dtype=np.uint8)
    ingested.volume("v-000000000001", pixels, spacing=None, images=images(40, subject=True))
    found = read_json(ingested.prepare() / "fingerprint.json")
    assert found["subjects_in_two_splits"] == 10
    assert found["notes"][0].startswith("The source's own split has 10 of ") and "in two parts" in found["notes"][0]


def test_a_patient_in_two_parts_counts_once_and_one_in_a_single_part_does_not(ingested):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 7), dtype=np.uint8)
    table = images(7, subject=True)
    table["subject_id"] = [*["p-000000000001"] * 3, *["p-000000000002"] * 2, *["p-000000000003"] * 2]
    table["split"] = ["train", "val", "test", "train", "test", "val", "val"]
    ingested.volume("v-000000000001", pixels, spacing=None, images=table)
    assert read_json(ingested.prepare() / "fingerprint.json")["subjects_in_two_splits"] == 2


def test_images_without_patients_are_units_and_adding_one_moves_few_others(ingested_twice):
    parts = []
    for count in (60, 61):
        one = ingested_twice()
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, count), dtype=np.uint8)
        one.volume("v-000000000001", pixels, spacing=None, images=images(count, official=False))
        parts.append(read_parquet(one.prepare(**SPLIT_ALL) / "samples.parquet")["split"].tolist())
    assert sum(one != other for one, other in zip(*parts, strict=False)) <= 3
    assert [parts[0].count(part) for part in ("train", "val", "test")] == [24, 18, 18]


def test_labels_of_images_are_spread_over_the_parts(ingested):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 64), dtype=np.uint8)
    ingested.volume("v-000000000001", pixels, spacing=None, images=images(64, official=False))
    out = ingested.prepare()
    assert read_json(out / "fingerprint.json")["labels"] == {
        name: {"test": 3, "train": 26, "val": 3} for name in ("liver", "spleen")
    }
    assert "notes" not in read_json(out / "fingerprint.json")


def test_modalities_are_spread_over_the_parts(ingested):
    for n in range(20):
        ingested.volume(f"v-{n:012x}", head(n), subject_id=f"p-{n:012x}", modality="MR" if n < 10 else "CT")
    out = ingested.prepare(**SPLIT_ALL)
    volumes = read_tsv(out / "volumes.tsv")
    assert volumes.groupby(["modality", "split"]).size().to_dict() == {
        (modality, part): {"train": 4, "val": 3, "test": 3}[part]
        for modality in ("CT", "MR")
        for part in ("train", "val", "test")
    }


def test_what_a_person_must_read_is_in_the_log_on_the_screen_and_in_the_fingerprint(ingested, capsys):
    for n in range(8):
        ingested.volume(f"v-{n:012x}", head(n), subject_id=f"p-{n % 4:012x}")
    out = ingested.prepare()
    notes = read_json(out / "fingerprint.json")["notes"]
    assert [note.split(":")[0] for note in notes] == ["The validation part is empty", "The test part is empty"]
    shown = capsys.readouterr().err
    assert all(f"prepare ct: {note}" in shown for note in notes)


def test_scans_of_one_patient_stop_before_anything_is_written(ingested):
    for n in range(8):
        ingested.volume(f"v-{n:012x}", head(n), subject_id="p-000000000001")
    with pytest.raises(StudyError, match=r"All 8 scans are of 1 patient.*subject_pattern"):
        ingested.prepare()


def test_two_modalities_are_reported_with_the_slices_and_volumes_of_each(ingested):
    for n in range(5):
        array, modality = head(n, (32, 30, 7 if n < 3 else 11)), "MR" if n < 3 else "CT"
        ingested.volume(f"v-{n:012x}", array, subject_id=f"p-{n:012x}", modality=modality)
    first, *_ = read_json(ingested.prepare() / "fingerprint.json")["notes"]
    assert first.startswith("It holds 2 modalities")
    assert "CT 22 of 43 slices or images (2 volumes)" in first and "MR 21 of 43 slices or images (3 volumes)" in first
    assert "sources.ct.ingest.modality" in first


def test_one_modality_is_not_said(ingested):
    for n in range(60):
        ingested.volume(f"v-{n:012x}", head(n, (32, 30, 2)), subject_id=f"p-{n:012x}")
    assert "notes" not in read_json(ingested.prepare() / "fingerprint.json")


def test_folds_are_a_column_and_hold_everybody_out(ingested):
    cohort(ingested, 40)
    out = ingested.prepare(split={"folds": 4, "val_frac": 0.25})
    samples, volumes = SAMPLES.read(out / "samples.parquet"), read_tsv(out / "volumes.tsv")
    assert list(samples.columns) == [*SAMPLE_COLUMNS, "fold"]
    assert set(samples["split"]) == set(volumes["split"]) == {"test"}
    assert samples.groupby("subject_id")["fold"].nunique().max() == 1
    assert sorted(samples["fold"].unique()) == [0, 1, 2, 3]
    summary = read_json(out / "fingerprint.json")
    assert summary["split"] == {"folds": 4, "val_frac": 0.25, "units": [5, 5, 5, 5]}
    assert summary["splits"]["test"]["subjects"] == 20


def test_a_constant_volume_has_a_window_that_single_precision_sees(ingested):
    for n, value in enumerate((0.0, 1e8)):
        ingested.volume(f"v-{n:012x}", np.full((8, 8, 4), value, np.float32), modality="MR", subject_id=f"p-{n:012x}")
    for row in read_tsv(ingested.prepare() / "volumes.tsv").itertuples():
        low, high = (np.float32(json.loads(cell)[0]) for cell in (row.window_low, row.window_high))
        assert low < high


def test_a_users_split_is_kept(ingested, tmp_path):
    cohort(ingested)
    rows = [f"p-{n:012x}\t{part}" for n, part in enumerate(["test", "train", "val", "train"])]
    (tmp_path / "split.tsv").write_text("\n".join(["subject_id\tsplit", *rows]) + "\n")
    out = ingested.prepare(split={"file": str(tmp_path / "split.tsv")})
    samples = read_parquet(out / "samples.parquet")
    assert samples.groupby("subject_id")["split"].first().tolist() == ["test", "train", "val", "train"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "does not exist"),
        ("subject_id,split\np-1,train\n", "tab separated"),
        ("subject_id\tsplit\np-1\ttrain\np-1\ttest\n", "again in row 3"),
        ("subject_id\tsplit\np-000000000000\ttrain\n", "no row for 3 of 4 units"),
        ("subject_id\tsplit\np-000000000000\ttraining\n", "Did you mean 'train'"),
        ("id\tsplit\torder\np-1\ttrain\n", "row 2 has '2 of 3 cells'"),
        ("id\tsplit\torder\np-1\ttrain\t\n", "row 2 has the order ''; expected a whole number"),
        ("id\tsplit\torder\np-1\ttrain\t1.5\n", "row 2 has the order '1.5'"),
        ("id\tsplit\torder\np-1\ttrain\t7\np-2\ttest\t7\np-3\ttrain\t7\n", r"'p-1' and 'p-3' \(row 4\) are both at place 7"),
        ("id\tsplit\trank\np-1\ttrain\t1\n", "or `id<tab>split<tab>order`"),
    ],
)
def test_a_split_file_that_does_not_fit_is_refused(ingested, tmp_path, text, sentence):
    cohort(ingested)
    if text is not None:
        (tmp_path / "split.tsv").write_text(text)
    with pytest.raises(StudyError, match=sentence):
        ingested.prepare(split={"file": str(tmp_path / "split.tsv")})


def test_the_order_of_labelling_stands_in_every_row_of_a_training_patient_and_in_no_other(ingested, tmp_path):
    cohort(ingested)
    order = {0: 7, 1: 3, 2: None, 3: 40}
    rows = [f"p-{n:012x}\t{'test' if place is None else 'train'}\t{place or ''}" for n, place in order.items()]
    (tmp_path / "split.tsv").write_text("\n".join(["id\tsplit\torder", *rows]) + "\n")
    samples = SAMPLES.read(ingested.prepare(split={"file": str(tmp_path / "split.tsv")}) / "samples.parquet")
    assert len(samples) == 8 * 12
    found = samples["label_order"].astype(object).where(samples["label_order"].notna(), None)
    assert found.tolist() == [order[int(patient[2:], 16)] for patient in samples["subject_id"]]


def test_blosc2_and_memmap_prepare_the_same(ingested_twice):
    found = []
    for form in ("memmap", "blosc2"):
        one = ingested_twice()
        cohort(one, 3)
        out = one.prepare(cache=form)
        samples, volumes = read_parquet(out / "samples.parquet"), read_tsv(out / "volumes.tsv")
        arrays = [np.asarray(open_array(out / name)[:]) for name in volumes["array"]]
        found.append((samples.drop(columns="array"), volumes.drop(columns="array"), arrays))
    assert found[0][0].equals(found[1][0])
    assert found[0][1].equals(found[1][1])
    np.testing.assert_array_equal(found[0][2], found[1][2])


def test_threads_and_a_second_run_change_no_byte(ingested):
    cohort(ingested)
    out = ingested.prepare(cache="blosc2", **SPLIT_ALL)

    def state() -> dict[str, str]:
        return {str(p.relative_to(out)): sha256_file(p) for p in out.rglob("*") if p.is_file() and p.name != "receipt.json"}

    before = state()
    ingested.again(cache="blosc2", threads=3, **SPLIT_ALL)
    assert state() == before


def test_arrays_of_another_run_are_removed(ingested):
    cohort(ingested, 2)
    out = ingested.prepare(cache="blosc2")
    ingested.again(cache="memmap")
    assert sorted(p.suffix for p in (out / "arrays").iterdir()) == [".npy", ".npy"]


def test_the_receipt_names_every_file(ingested):
    cohort(ingested, 2)
    out = ingested.prepare()
    receipt = read_json(out / "receipt.json")
    files = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and p.name != "receipt.json"}
    assert set(receipt["outputs"]) == files
    assert len(receipt["inputs"]) == 1 + 2


@pytest.mark.parametrize("name", ["image.npy", "mask.npy"])
def test_a_flipped_bit_is_refused_and_leaves_no_receipt(ingested, name):
    ingested.volume("v-000000000001", head(0), subject_id="p-000000000001", mask=(head(0) > 0).astype(np.uint8))
    out = ingested.prepare()
    path = ingested.folder / "volumes" / "v-000000000001" / name
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptArtefactError, match="not the file that stage 'ingest' wrote"):
        ingested.again()
    assert not (out / "receipt.json").exists()


def test_a_table_that_contradicts_its_array_is_refused(ingested):
    cohort(ingested, 1)
    ingested.rows[0]["shape"] = [32, 30, 13]
    with pytest.raises(CorruptArtefactError, match=r"shape \[32, 30, 12\] and series.tsv says \[32, 30, 13\]"):
        ingested.prepare()


def test_images_without_a_row_each_are_refused(ingested):
    pixels = np.zeros((8, 8, 10), np.uint8)
    ingested.volume("v-000000000001", pixels, spacing=None, images=images(9))
    with pytest.raises(CorruptArtefactError, match="a row for each of the 10 images, got 9"):
        ingested.prepare()


def test_an_empty_source_says_so(ingested):
    with pytest.raises(StudyError, match="nothing to prepare"):
        ingested.prepare()


def test_every_input_is_hashed_once(ingested, monkeypatch):
    from medssl.core import job as core_job
    from medssl.core import receipts

    hashed: list[Path] = []
    original = core_job.sha256_file

    def counting(path):
        hashed.append(Path(path))
        return original(path)

    for module in (core_job, receipts):
        monkeypatch.setattr(module, "sha256_file", counting)
    cohort(ingested, 3)
    ingested.prepare()
    inputs = [p for p in hashed if "1_ingest" in p.parts]
    assert len(inputs) == len(set(inputs)) == 1 + 3
    assert not [p for p in hashed if p.parent.name == "arrays"], "linked arrays are the inputs that were hashed"


def test_the_receipts_hashes_are_those_of_the_files(ingested):
    ingested.volume("v-000000000001", head(0), subject_id="p-000000000001", mask=(head(0) > 0).astype(np.uint8))
    ingested.volume("v-000000000002", head(1).astype(np.float32) + 0.25, subject_id="p-000000000002")
    out = ingested.prepare()
    for name, entry in read_json(out / "receipt.json")["outputs"].items():
        assert entry == {"sha256": sha256_file(out / name), "size": (out / name).stat().st_size}
