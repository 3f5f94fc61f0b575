"""Random slices and patches: the array cache compared with nibabel, on one CT volume in one run.

The volume is the bundled chest CT DEMO2 on a 512² grid (each pixel four times, plus noise of 16 HU so that it does not compress
better than a real one). Every file is in the page cache, so that decoding is compared and not the disk.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pydicom

from medssl.core.files import write_json
from medssl.volume.cache import open_array, read_patch, read_plane, write_array

ROOT = Path(__file__).resolve().parents[1]
PATCH = (96, 96, 32)


def volume() -> np.ndarray:
    """int16 `(512, 512, 61)` in HU."""
    slices = sorted(
        (pydicom.dcmread(path) for path in (ROOT / "demo" / "ct" / "demo2").glob("*.dcm")),
        key=lambda d: float(d.ImagePositionPatient[2]),
    )
    small = np.stack([d.pixel_array.T + float(d.RescaleIntercept) for d in slices], axis=-1)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    return np.asfortranarray(large + np.random.default_rng(0).integers(-8, 8, large.shape), dtype=np.int16)


def per_second(read: Callable[[int], np.ndarray], seconds: float) -> float:
    """Calls a second; every result is summed, so that a memory map is really read."""
    number, start_s = 0, time.perf_counter()
    while (spent_s := time.perf_counter() - start_s) < seconds or number < 3:
        int(read(number).sum(dtype=np.int64))
        number += 1
    return number / spent_s


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about 10 seconds; results are not kept")
    options = parser.parse_args()
    seconds = 0.5 if options.quick else 10.0

    array = volume()
    draw = np.random.default_rng(1)
    indices = draw.integers(0, array.shape[2], 4096)
    starts = np.stack([draw.integers(0, n - p + 1, 4096) for n, p in zip(array.shape, PATCH, strict=True)], axis=1)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        image = nibabel.Nifti1Image(array, np.eye(4))
        for name in ("nibabel .nii.gz", "nibabel .nii", "medssl memmap", "medssl blosc2"):
            path = Path(folder) / ("a." + {"z": "nii.gz", "i": "nii", "p": "npy", "2": "b2nd"}[name[-1]])
            if "nibabel" in name:
                nibabel.save(image, path)
                opened = nibabel.load(path)
                reads = {
                    "slices": lambda n, opened=opened: np.asanyarray(opened.dataobj[:, :, indices[n % 4096]]),
                    "patches": lambda n, opened=opened: np.asanyarray(
                        opened.dataobj[tuple(slice(a, a + p) for a, p in zip(starts[n % 4096], PATCH, strict=True))]
                    ),
                }
            else:
                write_array(path, array, axis=2, form="memmap" if "memmap" in name else "blosc2")
                cached = open_array(path)
                reads = {
                    "slices": lambda n, cached=cached: read_plane(cached, 2, int(indices[n % 4096])),
                    "patches": lambda n, cached=cached: read_patch(cached, starts[n % 4096].tolist(), PATCH),
                }
            expected = {
                "slices": array[:, :, indices[0]],
                "patches": array[tuple(slice(a, a + p) for a, p in zip(starts[0], PATCH, strict=True))],
            }
            for what, read in reads.items():
                np.testing.assert_array_equal(read(0), expected[what])
            figures[name] = {f"{what}_per_s": per_second(read, seconds) for what, read in reads.items()}
            figures[name]["mb"] = path.stat().st_size / 1e6

    peer = figures["nibabel .nii.gz"]
    print(f"{'':18}{'slices/s':>12}{'ratio':>8}{'patches/s':>12}{'ratio':>8}{'MB':>8}")
    for name, row in figures.items():
        ratios = [row[key] / peer[key] for key in ("slices_per_s", "patches_per_s")]
        print(f"{name:18}{row['slices_per_s']:12.0f}{ratios[0]:8.0f}{row['patches_per_s']:12.0f}{ratios[1]:8.0f}{row['mb']:8.1f}")
    result = {
        "shape": list(array.shape),
        "patch": list(PATCH),
        "seconds_each": seconds,
        "slice_ratio": {n: round(r["slices_per_s"] / peer["slices_per_s"], 1) for n, r in figures.items()},
        "patch_ratio": {n: round(r["patches_per_s"] / peer["patches_per_s"], 1) for n, r in figures.items()},
        "slices_per_s": {n: round(r["slices_per_s"], 1) for n, r in figures.items()},
        "patches_per_s": {n: round(r["patches_per_s"], 1) for n, r in figures.items()},
        "mb": {n: round(r["mb"], 1) for n, r in figures.items()},
        "versions": {"python": platform.python_version(), "numpy": np.__version__}
        | {"nibabel": nibabel.__version__, "blosc2": blosc2.__version__},
        "processor": platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    if not options.quick:
        write_json(ROOT / "benchmarks" / "results" / "cache.json", result)
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
