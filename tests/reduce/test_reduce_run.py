"""The stage on a prepared cohort: descriptors once, arms, budgets, refusals."""

from __future__ import annotations

from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from made_sources import seal
from PIL import Image

from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.files import read_json, sha256_file
from medssl.core.rng import rng
from medssl.core.tables import write_parquet
from medssl.reduce import describing
from medssl.reduce import run as stage
from medssl.reduce.budget import evenly
from medssl.reduce.deciding import in_each_source
from medssl.reduce.hamming import distances
from medssl.reduce.slices import Decision

DESCRIPTORS = "3_reduce/describe/descriptors.parquet"


@pytest.fixture
def pictures():
    """Ask for the pictures."""


def described(prepared, **options) -> str:
    stage.describe(prepared.job("describe", options))
    return str(prepared.root / DESCRIPTORS)


def decided(prepared, name: str, settings: dict, **inputs) -> tuple[pd.DataFrame, dict]:
    inputs = {"descriptors": str(prepared.root / DESCRIPTORS), **inputs}
    job = prepared.job(name, settings, **inputs)
    stage.run(job)
    return pd.read_parquet(job.path("keep.parquet")), read_json(job.path("summary.json"))


@pytest.fixture(autouse=True)
def _without_pictures(request, monkeypatch):
    """Pictures are drawn where a test asks for them."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(stage, "figures", lambda *_: ({}, None))


def test_descriptors_are_those_of_the_naive_chain(prepared):
    table = pd.read_parquet(described(prepared))
    assert len(table) == 24 + 20 + 24 + 12 and table["sample_id"].is_monotonic_increasing
    array = np.load(prepared.root / "2_prepare/ct/arrays/v-bb.npy")
    row = table[table["sample_id"] == "v-bb-0011"].iloc[0]
    plane = array[:, :, 11].T
    grey = np.floor(np.clip((plane + 1000.0) / 2000.0, 0, 1) * 255 + 0.5).astype(np.uint8)
    for kind, function in {
        "dhash": imagehash.dhash,
        "phash": imagehash.phash,
        "ahash": imagehash.average_hash,
        "whash": imagehash.whash,
    }.items():
        assert int(row[f"{kind}_8_0"]) == int(str(function(Image.fromarray(grey))), 16)
    _, counts = np.unique(np.clip(plane, -1000, 1000), return_counts=True)
    share = counts / counts.sum()
    assert row["entropy"] == pytest.approx(-(share * np.log2(share)).sum(), abs=1e-12)


def test_only_training_slices_are_described(prepared):
    table = pd.read_parquet(described(prepared))
    assert "v-dd" not in set(table["volume_id"])


def test_a_new_volume_computes_only_itself(prepared, monkeypatch):
    first = pd.read_parquet(described(prepared))
    calls = []
    original = describing.describe_slices
    monkeypatch.setattr(
        describing, "describe_slices", lambda planes, *a, **k: calls.append(len(planes)) or original(planes, *a, **k)
    )
    again = pd.read_parquet(described(prepared))
    assert calls == [] and again.equals(first)
    prepared.change_samples(split="train")
    more = pd.read_parquet(described(prepared))
    assert sum(calls) == 24 and len(more) == len(first) + 24


def test_shards_together_are_the_whole(prepared):
    whole = pd.read_parquet(described(prepared))
    paths = []
    for shard in range(3):
        job = prepared.job(f"describe{shard}", {"shards": 3, "shard": shard})
        stage.describe(job)
        paths.append(str(job.path("descriptors.parquet")))
    parts = pd.concat([pd.read_parquet(path) for path in paths]).sort_values("sample_id", ignore_index=True)
    assert parts[whole.columns].equals(whole)
    keep, _ = decided(prepared, "hash", prepared.arm("hash"))
    again, _ = decided(prepared, "shards", prepared.arm("hash"), descriptors=paths)
    assert again.equals(keep)


def test_greedy_hash_keeps_and_names_twins_within_each_volume(prepared):
    table = pd.read_parquet(described(prepared)).set_index("sample_id")
    keep, summary = decided(prepared, "hash", prepared.arm("hash"))
    assert list(keep.columns) == ["sample_id", "keep", "reason", "twin", "distance"]
    assert set(keep["sample_id"]) == set(table.index) and summary["threshold"] == 6.0
    kept = set(keep.loc[keep["keep"], "sample_id"])
    assert {"v-aa-0000", "v-bb-0000", "v-cc-0000"} <= kept
    assert all(f"v-ee-{i:04d}" in kept for i in range(12)), "images of a set are volumes of their own"
    for row in keep[~keep["keep"]].itertuples():
        assert row.reason == "duplicate" and row.twin in kept and row.twin[:4] == row.sample_id[:4]
        codes = table.loc[[row.sample_id, row.twin], "dhash_8_0"].to_numpy()
        assert row.distance == np.bitwise_count(codes[0] ^ codes[1]) <= 6
    for volume in ("v-aa", "v-bb", "v-cc"):
        codes = table.loc[sorted(k for k in kept if k.startswith(volume)), "dhash_8_0"].to_numpy()[:, None]
        for place, code in enumerate(codes):
            assert (distances(code, codes[place + 1 :]) > 6).all()


def test_global_finds_the_patient_scanned_twice(prepared):
    described(prepared)
    keep, _ = decided(prepared, "global", prepared.arm("hash", traversal="global"))
    dropped = keep[~keep["keep"]]
    assert (dropped["sample_id"].str.startswith("v-cc") & dropped["twin"].str.startswith("v-aa")).any()
    assert not keep.set_index("sample_id").loc["v-ee-0007", "keep"], "one picture uploaded twice"


@pytest.mark.parametrize("reducer", ["every_n", "random_n", "entropy", "ssim", "mutual_information", "hash"])
def test_a_matched_arm_keeps_exactly_as_many(prepared, reducer):
    described(prepared)
    _, wanted = decided(prepared, "hash", prepared.arm("hash"))
    match = str(prepared.root / "3_reduce/hash/keep.parquet")
    options = {"kind": "phash"} if reducer == "hash" else {}
    keep, summary = decided(prepared, "other", prepared.arm(reducer, options, match="hash"), match=match)
    assert summary["kept"] == int(keep["keep"].sum()) == wanted["kept"]


def leaks_input(prepared, pool_ids: list[str]) -> dict[str, str]:
    """The firewall's result as an input."""
    folder = prepared.root / "3_reduce/leakage"
    folder.mkdir(parents=True)
    pd.DataFrame({"pool_id": pd.Series(pool_ids, dtype=str)}).to_parquet(folder / "leakage.parquet")
    (folder / "receipt.json").write_text('{"outputs": {}}')
    return {"leakage": str(folder / "leakage.parquet")}


@pytest.mark.parametrize("reducer", ["every_n", "random_n"])
@pytest.mark.parametrize("leaks", [[], ["v-aa-0003", "v-ee-0000", "v-ee-0005"]])
def test_a_control_keeps_as_many_of_each_source_as_the_arm_that_it_matches(prepared, reducer, leaks):
    """All twelve pictures stay in a reduction, as each is alone; a control from all sources together would keep some of them."""
    described(prepared)
    inputs = leaks_input(prepared, leaks)
    wanted, _ = decided(prepared, "hash", prepared.arm("hash"), **inputs)
    match = str(prepared.root / "3_reduce/hash/keep.parquet")
    keep, _ = decided(prepared, "other", prepared.arm(reducer, {}, match="hash"), match=match, **inputs)
    pictures = keep["sample_id"].str.startswith("v-ee")
    for of_source in (pictures, ~pictures):
        assert keep.loc[of_source, "keep"].sum() == wanted.loc[of_source, "keep"].sum() > 0
    assert not keep["keep"].equals(wanted["keep"]), "the same number, chosen without a look at the slices"
    assert set(keep.loc[keep["reason"] == "leak", "sample_id"]) == set(leaks)


def test_a_control_in_one_source_is_spread_over_all_of_it():
    """Truth: the same mask without sources."""
    slices = np.arange(30)
    kept = np.isin(slices, rng(0, "kept").choice(30, 7, replace=False))
    one = in_each_source(np.zeros(30, int), kept, lambda rows, count: Decision.of(evenly(len(rows), count), "rank"))
    assert np.array_equal(one.keep, evenly(30, 7)) and set(one.reason[~one.keep]) == {"rank"}


@pytest.mark.parametrize("traversal", ["greedy", "cover", "global", "balanced"])
def test_a_kept_fraction_is_met_exactly(prepared, traversal):
    described(prepared)
    keep, _ = decided(prepared, "frac", prepared.arm("hash", traversal=traversal, keep_frac=0.3))
    assert keep["keep"].sum() == round(0.3 * len(keep))
    kept = set(keep.loc[keep["keep"], "sample_id"])
    assert set(keep["twin"].dropna()) <= kept


def test_all_keeps_all_and_every_n_counts_along_each_volume(prepared):
    described(prepared)
    keep, _ = decided(prepared, "all", prepared.arm("all"))
    assert keep["keep"].all() and keep["twin"].isna().all()
    keep, _ = decided(prepared, "every", prepared.arm("every_n", {"n": 5}))
    kept = keep.loc[keep["keep"], "sample_id"]
    assert sorted(k[-4:] for k in kept if k.startswith("v-bb")) == ["0000", "0005", "0010", "0015"]


def test_leaks_are_left_out_and_represent_no_slice(prepared):
    described(prepared)
    keep, summary = decided(prepared, "hash", prepared.arm("hash"), **leaks_input(prepared, ["v-aa-0000", "v-aa-0001"]))
    keep = keep.set_index("sample_id")
    assert summary["reasons"]["leak"] == 2 and not keep.loc["v-aa-0000", "keep"]
    assert not keep["twin"].isin(["v-aa-0000", "v-aa-0001"]).any()


@pytest.mark.usefixtures("pictures")
def test_the_same_job_twice_writes_the_same_bytes(prepared):
    described(prepared)
    results = []
    for _ in range(2):
        job = prepared.job("hash", prepared.arm("hash"), descriptors=str(prepared.root / DESCRIPTORS))
        stage.run(job)
        results.append({p.name: sha256_file(p) for p in sorted(job.out.iterdir()) if p.name != "receipt.json"})
    assert results[0] == results[1] and set(results[0]) == {
        "contact.png",
        "where.svg",
        "curve.svg",
        "similarity.png",
        "keep.parquet",
        "summary.json",
    }


def test_balanced_needs_a_count_and_vectors(prepared):
    described(prepared)
    with pytest.raises(StudyError, match="keep_frac or match"):
        decided(prepared, "b", prepared.arm("hash", traversal="balanced"))
    with pytest.raises(StudyError, match="no vectors"):
        decided(prepared, "b", prepared.arm("ssim", traversal="balanced", keep_frac=0.5))


def test_a_hash_that_was_not_described_is_refused_with_a_sentence(prepared):
    described(prepared)
    with pytest.raises(StudyError, match="no dhash of size 16"):
        decided(prepared, "h", prepared.arm("hash", {"size": 16}))
    described(prepared, hash_sizes=[8, 16], greys=["window", "per_slice"])
    for options in ({"size": 16}, {"grey": "per_slice"}, {"size": 16, "grey": "per_slice", "kind": "whash"}):
        keep, _ = decided(prepared, "h", prepared.arm("hash", options))
        assert 3 <= keep["keep"].sum() <= len(keep)


def test_a_cohort_without_training_slices_is_refused(prepared):
    prepared.change_samples(split="test")
    with pytest.raises(StudyError, match="no training slices"):
        described(prepared)


def test_a_cohort_of_folds_alone_says_that_all_are_held_out(prepared):
    prepared.change_samples(split="test", fold=np.int8(0))
    with pytest.raises(StudyError, match=r"nothing to pre-train on.*split into folds.*Pre-train on another source"):
        described(prepared)


def test_a_source_with_folds_beside_another_gives_no_slice(prepared):
    for path in prepared.samples[:1]:
        write_parquet(path, pd.read_parquet(path).assign(split="test", fold=np.int8(1)))
        seal(Path(path).parent)
    assert set(pd.read_parquet(described(prepared))["volume_id"]) == {"v-ee"}


def test_a_changed_array_is_noticed(prepared):
    path = prepared.root / "2_prepare/ct/arrays/v-aa.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptArtefactError, match="v-aa"):
        described(prepared)
