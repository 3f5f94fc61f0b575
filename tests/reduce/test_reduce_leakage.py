"""The leakage firewall finds a copy whatever was done to its geometry, and lets strangers pass."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from made_sources import seal, smooth_volume, write_source
from scipy.ndimage import gaussian_filter, zoom

from medssl.core.errors import StudyError
from medssl.core.files import read_json
from medssl.core.rng import rng
from medssl.reduce import run as stage
from medssl.reduce.leakage import FRAMES, GRID, SAME, fingerprint, look_up, matches, resampling, turned, turns


def body(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """A bright blob with its own detail, on a dark ground: float values."""
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(g**2 for g in grids))
    inside = 1 / (1 + np.exp((radius - 0.8) * 20))
    detail = gaussian_filter(rng(seed, "coarse").normal(size=shape), max(shape) / 16)
    fine = gaussian_filter(rng(seed, "fine").normal(size=shape), max(shape) / 40)
    return inside * (1 + 0.35 * detail / detail.std() + 0.25 * fine / fine.std())


def cropped(image: np.ndarray, seed: int) -> np.ndarray:
    box = []
    for n in image.shape:
        away = int(n * rng(seed, "crop", len(box)).uniform(0.1, 0.2))
        first = int(rng(seed, "first", len(box)).integers(0, away + 1))
        box.append(slice(first, first + n - away))
    return image[tuple(box)]


def eight_bit(image: np.ndarray) -> np.ndarray:
    return np.round((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)


def resampled(image: np.ndarray, seed: int) -> np.ndarray:
    return zoom(image, 2 ** rng(seed, "zoom").uniform(-1, 1, image.ndim), order=1)


DISGUISES = {
    "none": lambda image, seed: image,
    "turned": lambda image, seed: turned(image, turns(image.ndim)[1 + seed % (len(turns(image.ndim)) - 1)]),
    "8 bits": lambda image, seed: eight_bit(image),
    "resampled": resampled,
    "cropped": cropped,
    "all at once": lambda image, seed: cropped(resampled(turned(eight_bit(image), turns(image.ndim)[3]), seed), seed),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("shape", [(120, 100), (44, 48, 40)])
def test_a_disguised_copy_is_found_and_strangers_are_not(shape, disguise):
    pool = [body(seed, shape) for seed in range(4)]
    prints = [fingerprint(image) for image in pool]
    queries = [fingerprint(DISGUISES[disguise](pool[k], k)) for k in (1, 3)] + [fingerprint(body(99, shape))]
    found = matches(queries, prints)
    assert [(m.query, m.pool) for m in found] == [(0, 1), (1, 3)]


def test_the_copy_may_be_the_larger_one():
    whole = body(0, (120, 100))
    pool = [fingerprint(cropped(whole, 0)), fingerprint(body(1, (120, 100)))]
    assert [m.pool for m in matches([fingerprint(whole)], pool)] == [0]


def test_there_are_8_turns_of_an_image_and_48_of_a_volume():
    for axes, number in ((2, 8), (3, 48)):
        image = rng(0, "turn").random((3, 4, 5)[:axes])
        assert len({turned(image, turn).tobytes() + bytes(turned(image, turn).shape) for turn in turns(axes)}) == number


@pytest.mark.parametrize("image", [np.zeros((50, 50)), np.ones((50, 50)), np.eye(5), np.zeros((20, 20, 20))])
def test_a_blank_or_tiny_image_matches_none(image):
    assert fingerprint(image) is None
    assert matches([None], [None]) == [] and matches([], []) == []


def best_of_all(query: np.ndarray, image: np.ndarray) -> float:
    """The largest correlation of two thumbnails over turns and over frames of one of the two, pair by pair."""
    axes = image.ndim
    views = {"query": np.stack([turned(query, turn) for turn in turns(axes)]), "pool": image[None]}
    reduced = {}
    for side, frame in itertools.product(views, itertools.product(FRAMES[axes], repeat=axes)):
        seen = views[side].astype(float)
        for n, part in zip(image.shape, frame, strict=True):
            seen = np.tensordot(seen, resampling(n, GRID[axes], *part), (1, 1))  # the axis becomes the last one
        reduced[side, frame] = seen.reshape(len(seen), -1)
    whole = ((0.0, 1.0),) * axes
    pairs = {(whole, frame) for _, frame in reduced} | {(frame, whole) for _, frame in reduced}
    return max(np.corrcoef(reduced["pool", into], reduced["query", out])[0, 1:].max() for out, into in pairs)


@pytest.mark.parametrize(("shape", "queries"), [((24, 24), 9), ((16, 16, 16), 2)])
def test_the_candidates_are_those_of_a_search_pair_by_pair(shape, queries):
    images = [eight_bit(body(seed, shape)) for seed in range(queries + 4)]
    found = look_up(images[:queries], images[4:], most=3)
    assert len(found) == queries, "a number that no group of queries divides"
    for query, candidates in zip(images, found, strict=False):
        truth = np.array([best_of_all(query, image) for image in images[4:]])
        assert [c.pool for c in candidates] == np.argsort(-truth, kind="stable")[: len(candidates)].tolist()
        np.testing.assert_allclose([c.correlation for c in candidates], np.sort(truth)[::-1][: len(candidates)], atol=1e-5)


def held(prepared, **volumes: np.ndarray) -> dict:
    """A downstream source of test volumes, as inputs of the job."""
    folder = prepared.root / "2_prepare" / "task"
    named = {f"v-{name}": array for name, array in volumes.items()}
    kinds = {name: "images" for name in named if name.startswith("v-i")}
    write_source(folder, named, kinds=kinds, splits=dict.fromkeys(named, "test"))
    return {"held_samples": [str(folder / "samples.parquet")], "held_volumes": [str(folder / "volumes.tsv")]}


def ct(seed: int) -> np.ndarray:
    return np.asfortranarray((body(seed, (64, 60, 24)) * 900 - 1000).astype(np.int16))


@pytest.fixture
def pool(prepared, monkeypatch):
    """The prepared cohort with volumes that have a body; few candidates, for speed."""
    monkeypatch.setattr("medssl.reduce.leakage.CANDIDATES", {2: 3, 3: 2})
    folder = prepared.root / "2_prepare" / "ct"
    for seed, name in enumerate(("aa", "bb", "cc", "dd")):
        np.save(folder / f"arrays/v-{name}.npy", ct(seed)[:, :, : 20 if name == "bb" else 24])
    seal(folder)
    return prepared


def looked_up(pool, inputs: dict, policy: str = "exclude", look_up: str = "pixels") -> tuple[pd.DataFrame, dict]:
    job = pool.job("leakage", {"leakage": policy, "look_up": look_up}, **inputs)
    stage.leakage(job)
    return pd.read_parquet(job.path("leakage.parquet")), read_json(job.path("leakage.json"))


def test_a_flipped_copy_in_the_pool_takes_its_whole_volume_out(pool):
    found, summary = looked_up(pool, held(pool, xx=np.asfortranarray(ct(0)[::-1, :, ::-1]), yy=ct(50)[:, :, :4]))
    assert set(found["pool_id"].str[:4]) == {"v-aa"} and found["pool_id"].nunique() == 24
    assert set(found["query_id"].str[:4]) == {"v-xx"} and {"slice", "volume"} <= set(found["how"])
    assert summary["pool_excluded"] == 24
    assert summary["pairs"] and {pair["pool_id"][:4] for pair in summary["pairs"]} == {"v-aa"}
    assert not {pair["query_id"] for pair in summary["nearest"]} & set(found["query_id"])


def test_the_likest_stranger_is_shown_for_review(pool, monkeypatch):
    monkeypatch.setattr("medssl.reduce.firewall.SIMILAR", -0.5)
    found, summary = looked_up(pool, held(pool, yy=ct(70)[:, :, :4]))
    assert found.empty and summary["queries_found"] == 0
    scores = [pair["score"] for pair in summary["nearest"]]
    assert scores == sorted(scores, reverse=True) and all(score < SAME for score in scores)
    assert all(pair["how"] == "nearest" and pair["query_id"].startswith("v-yy") for pair in summary["nearest"])


def test_one_slice_as_a_picture_is_found_in_its_volume(pool):
    picture = np.asfortranarray(np.repeat(ct(1)[:, ::-1, 12:13], 1, axis=2))
    found, _ = looked_up(pool, held(pool, ii=picture))
    best = found[found["how"] == "slice"].sort_values("score", ascending=False).iloc[0]
    assert best["pool_id"] == "v-bb-0012" and set(found["how"]) == {"slice", "same volume"}


def test_the_same_patient_is_found_by_id(pool):
    inputs = held(pool, zz=ct(60)[:, :, :4])
    path = inputs["held_samples"][0]
    pd.read_parquet(path).assign(subject_id="p-aa").to_parquet(path)
    seal(pool.root / "2_prepare/task")
    found, _ = looked_up(pool, inputs)
    assert set(found["how"]) == {"patient"} and set(found["pool_id"].str[:4]) == {"v-aa"}


def test_by_ids_alone_a_copy_passes_and_its_patient_does_not(pool):
    inputs = held(pool, xx=ct(0)[:, :, :4])
    found, summary = looked_up(pool, inputs, look_up="ids")
    assert found.empty and summary["look_up"] == "ids" and not summary["nearest"], "nobody looked at pixels, and it is said"
    path = inputs["held_samples"][0]
    pd.read_parquet(path).assign(subject_id="p-aa").to_parquet(path)
    seal(pool.root / "2_prepare/task")
    assert set(looked_up(pool, inputs, look_up="ids")[0]["how"]) == {"patient"}


def test_strangers_pass_and_stop_stops(pool):
    found, summary = looked_up(pool, held(pool, yy=ct(70)[:, :, :4]), "stop")
    assert found.empty and summary["queries_found"] == 0
    folder = pool.root / "2_prepare/task"
    np.save(folder / "arrays/v-yy.npy", ct(0)[:, :, 10:14])
    seal(folder)
    inputs = {"held_samples": [str(folder / "samples.parquet")], "held_volumes": [str(folder / "volumes.tsv")]}
    with pytest.raises(StudyError, match="are in the pre-training pool"):
        looked_up(pool, inputs, "stop")


def test_without_held_out_images_there_is_no_leak(pool):
    inputs = {"held_samples": [pool.samples[1]], "held_volumes": [pool.volumes[1]]}
    found, summary = looked_up(pool, inputs)
    assert found.empty and summary["queries"] == 0


def test_smooth_noise_differs_from_its_neighbour_volume():
    prints = [fingerprint(smooth_volume(seed).astype(float)) for seed in (1, 2)]
    assert matches(prints[:1], prints[1:]) == []
