"""One volume has the same window wherever it is read: clip((slope × stored + intercept − low) / (high − low), 0, 1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from prepared import receipt, write_prepared

from medssl.artefacts.volumes import read_volumes
from medssl.core import tables
from medssl.core.job import Job, Spec
from medssl.reduce.options import DescribeOptions

LOW, HIGH = [-1000.0, -160.0], [1000.0, 240.0]
INDEX = 5


@pytest.fixture(params=[(1.0, 0.0), (0.5, -300.25), (-2.0, 40.0)], ids=["plain", "rescaled", "falling"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A prepared volume of two windows, its paths, its array and its row of volumes.tsv."""
    inputs = write_prepared(tmp_path, volumes=1, windows=2)
    path = Path(inputs["volumes"][0])
    table = tables.read_tsv(path)
    table["slope"], table["intercept"] = request.param
    tables.write_tsv(path, table)
    receipt(path.parent, "prepare")
    row = table.iloc[0]
    return inputs, np.load(path.parent / row["array"]), row


def truth(stored: np.ndarray, row: pd.Series) -> np.ndarray:
    """Channels first, by the definition, in double precision."""
    values = stored.astype(np.float64) * row["slope"] + row["intercept"]
    return np.stack([np.clip((values - low) / (high - low), 0, 1) for low, high in zip(LOW, HIGH, strict=True)])


def by_the_volume_itself(inputs: dict[str, Any], array: np.ndarray, row: pd.Series) -> np.ndarray:
    (known,) = read_volumes(inputs["volumes"][0])
    return known.seen(array[..., INDEX])


def by_views(inputs: dict[str, Any], array: np.ndarray, row: pd.Series) -> np.ndarray:
    from medssl.nn.loading import Reader, read_samples
    from medssl.nn.options import ViewOptions
    from medssl.nn.views import Crop, Views

    samples = read_samples(inputs["samples"], inputs["volumes"])
    views = Views(ViewOptions.still(), [Crop(1, array.shape[:2])], samples, seed=0)
    return views(Reader(samples)[0, np.array([INDEX])])[0][0].numpy()


def by_case_images(inputs: dict[str, Any], array: np.ndarray, row: pd.Series) -> np.ndarray:
    from medssl.finetune.images import CaseImages
    from medssl.finetune.task import NetworkInput
    from medssl.nn.loading import read_samples

    samples = read_samples(inputs["samples"], inputs["volumes"])
    images = CaseImages(samples, np.array([INDEX]), NetworkInput(2, 2, array.shape[:2], True))
    return images(np.array([0]))[0].numpy()


def by_volumes_of_cases(inputs: dict[str, Any], array: np.ndarray, row: pd.Series) -> np.ndarray:
    from medssl.finetune.images import CaseImages
    from medssl.finetune.task import NetworkInput
    from medssl.nn.loading import read_samples

    samples = read_samples(inputs["samples"], inputs["volumes"])
    images = CaseImages(samples, np.array([0]), NetworkInput(3, 2, array.shape, False)).keep()
    return images(np.array([0]))[0, ..., INDEX].numpy()


def by_scans(inputs: dict[str, Any], array: np.ndarray, row: pd.Series) -> np.ndarray:
    from medssl.finetune.labelled_data import scan_of
    from medssl.nn.loading import read_samples

    (known,) = read_samples(inputs["samples"], inputs["volumes"]).volumes
    scan = scan_of(known, array, None, 2, True)
    return scan.seen(torch.device("cpu"))[..., INDEX].numpy()


def by_patches(inputs: dict[str, Any], array: np.ndarray, row: pd.Series) -> np.ndarray:
    from medssl.finetune.labelled_data import scan_of
    from medssl.finetune.patches import Patches
    from medssl.finetune.scans import places_of
    from medssl.nn.loading import read_samples

    (known,) = read_samples(inputs["samples"], inputs["volumes"]).volumes
    mask = np.zeros(array.shape, np.uint8)
    mask[:, :, INDEX] = 1
    scan, size = scan_of(known, array, mask, 2, True), (*array.shape[:2], 1)
    patches = Patches([scan], [places_of(scan, [1], 0)], [0, 1], size, (0, 0, 0), count=1, foreground_frac=1.0, seed=0)
    return patches[0, np.zeros(0, np.int64)].seen[0].numpy()


@pytest.mark.parametrize("read", [by_the_volume_itself, by_views, by_case_images, by_volumes_of_cases, by_scans, by_patches])
def test_every_reader_sees_the_same_windows(volume: Any, read: Callable[..., np.ndarray]) -> None:
    inputs, array, row = volume
    expected = truth(array[..., INDEX], row)
    assert 0.05 < expected.mean() < 0.95 and (expected == 0).any()
    seen = read(inputs, array, row)
    assert seen.shape == expected.shape
    # float32 of numbers up to some thousands, over a window of 400
    assert np.abs(seen - expected).max() < 1e-5


def test_a_reduction_describes_what_the_network_sees(volume: Any, tmp_path: Path) -> None:
    """Hashes and entropy of the first window, by imagehash and by the definition."""
    from medssl.reduce import run as stage

    inputs, array, row = volume
    out = tmp_path / "3_reduce" / "describe"
    out.mkdir(parents=True)
    given = {name: inputs[name] for name in ("samples", "volumes")}
    options = DescribeOptions().model_dump(mode="json")
    stage.describe(Job(Spec("reduce", "describe", "study", str(tmp_path), 7, "code", options, given, str(out)), None, 1))
    described = tables.read_parquet(out / "descriptors.parquet").iloc[INDEX]
    unit = truth(array[..., INDEX], row)[0].T
    picture = Image.fromarray(np.floor(unit * 255 + 0.5).astype(np.uint8))
    for kind, function in {"dhash": imagehash.dhash, "phash": imagehash.phash, "ahash": imagehash.average_hash}.items():
        assert int(described[f"{kind}_8_0"]) == int(str(function(picture)), 16)
    share = np.unique(unit, return_counts=True)[1] / unit.size
    assert described["entropy"] == pytest.approx(-(share * np.log2(share)).sum(), abs=1e-9)
