"""The leakage firewall on real images: changed copies among different images.

For each disguise, 50 real slices and 50 real volumes are disguised and looked up in a pool of originals and strangers: found
means named with its own original. False alarms: strangers looked up in the same pool without themselves and their patient.
Slices are one of a patient: chest CT (luna350), head-neck CT, cardiac MR, brain MR. Volumes are of the last three; there are
fewer than 500 real ones, so slices and volumes together make the strangers.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import nibabel
import numpy as np
import scipy
from PIL import Image
from scipy.ndimage import zoom

from medssl.core.files import write_json
from medssl.core.rng import rng
from medssl.reduce.leakage import CANDIDATES, SAME, Print, agreement, fingerprint, look_up, turned, turns

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most a minute; results are not kept")
    options = parser.parse_args()
    if not SHARED.is_dir():
        raise SystemExit("needs ../shared/data: real images of many patients")
    copies, strangers = (8, 40) if options.quick else (50, 500)
    figures = {}
    for what, images in (("slices", slices(options.quick)), ("volumes", volumes(options.quick))):
        order = rng(0, "leakage", what).permutation(len(images))
        prints = [(images[k], one) for k in order if (one := fingerprint(images[k])) is not None]
        figures[what] = measure(prints[: copies + strangers], copies)
    for what, part in figures.items():
        print(f"{what}: {part['pool']} images, {part['strangers']} strangers looked up, {part['false_alarms']} false alarms")
        for name, entry in part["disguises"].items():
            print(f"  {name:34} found {entry['found']:3d} of {entry['copies']}   lowest score {entry['lowest_score']:.3f}")
    found = [entry["found"] for part in figures.values() for entry in part["disguises"].values()]
    alarms = sum(part["false_alarms"] for part in figures.values()) / sum(part["strangers"] for part in figures.values())
    summary = {
        "copies": copies,
        "least_found": min(found),
        "false_alarm_frac": alarms,
        "goal_found": 49,
        "goal_false_alarm_frac": 0.01,
    }
    if not options.quick:
        versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
        kept = {"figures": figures, **summary, "same": SAME, "versions": versions, "date": datetime.now(UTC).date().isoformat()}
        write_json(ROOT / "benchmarks" / "results" / "leakage.json", kept)
    print("RESULT " + json.dumps(summary))


def measure(prints: list[tuple[np.ndarray, Print]], copies: int) -> dict:
    """Found copies for each disguise, and false alarms among the others."""
    pool = [one for _, one in prints]
    thumbs = [one.thumb for one in pool]
    start_s = time.perf_counter()
    disguises = {}
    for name, disguise in DISGUISES.items():
        queries = [fingerprint(disguise(image, number)) for number, (image, _) in enumerate(prints[:copies])]
        found, lowest, others = 0, 1.0, 0
        asked = [k for k, one in enumerate(queries) if one is not None]
        for k, candidates in zip(asked, look_up([queries[k].thumb for k in asked], thumbs), strict=True):
            scores = {c.pool: agreement(queries[k], pool[c.pool], c) for c in candidates}
            found += scores.get(k, -1.0) >= SAME
            lowest = min(lowest, scores.get(k, -1.0))
            others += sum(score >= SAME for one, score in scores.items() if one != k)
        disguises[name] = {"found": found, "copies": copies, "lowest_score": lowest, "others_named": others}
    strangers = list(range(copies, len(pool)))
    alarms, highest = 0, -1.0
    near = look_up([thumbs[k] for k in strangers], thumbs, most=CANDIDATES[thumbs[0].ndim] + 1)
    for k, candidates in zip(strangers, near, strict=True):
        scores = [agreement(pool[k], pool[c.pool], c) for c in candidates if c.pool != k]
        alarms += max(scores) >= SAME
        highest = max(highest, *scores)
    return {
        "pool": len(pool),
        "strangers": len(strangers),
        "false_alarms": alarms,
        "highest_stranger_score": highest,
        "disguises": disguises,
        "seconds": time.perf_counter() - start_s,
    }


# Disguises


def spacing(image: np.ndarray, number: int) -> np.ndarray:
    """The voxels stay; headers are never looked at."""
    return image.copy()


def turn(image: np.ndarray, number: int) -> np.ndarray:
    ways = turns(image.ndim)
    return turned(image, ways[1 + int(rng(1, "turn", number).integers(len(ways) - 1))])


def eight_bits(image: np.ndarray, number: int) -> np.ndarray:
    low, high = np.percentile(image, (0, 99.9))
    return np.round(np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def resample(image: np.ndarray, number: int) -> np.ndarray:
    return zoom(image.astype(np.float32), 2 ** rng(1, "zoom", number).uniform(-1, 1, image.ndim), order=1)


def crop(image: np.ndarray, number: int) -> np.ndarray:
    box = []
    for axis, n in enumerate(image.shape):
        away = int(n * rng(1, "crop", number, axis).uniform(0.1, 0.2))
        first = int(rng(1, "first", number, axis).integers(0, away + 1))
        box.append(slice(first, first + n - away))
    return image[tuple(box)]


def turn_and_eight_bits(image: np.ndarray, number: int) -> np.ndarray:
    return eight_bits(turn(image, number), number)


DISGUISES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "other spacing": spacing,
    "flipped or permuted axes": turn,
    "8 bits": eight_bits,
    "resampled 0.5 to 2 times per axis": resample,
    "cropped 10 to 20 % per axis": crop,
    "turned and 8 bits": turn_and_eight_bits,
}


# Data


def slices(quick: bool) -> list[np.ndarray]:
    """One slice of a patient each."""
    paths = sorted((SHARED / "ssl/luna350_256").rglob("*.png"))[: 30 if quick else None]
    found = [np.asarray(Image.open(path).convert("L")) for path in paths]
    return found + [array[:, :, array.shape[2] // 2] for array in volumes(quick)]


def volumes(quick: bool) -> list[np.ndarray]:
    """One volume of a patient each."""
    found = []
    for pattern in ("seg/openkbp/*_ct.nii.gz", "seg/acdc/*_frame01_img.nii.gz", "seg/hippocampus/images/*.nii.gz"):
        for path in sorted(SHARED.glob(pattern))[: 12 if quick else None]:
            array = np.asarray(nibabel.load(path).dataobj)
            found.append(np.clip(array, 0, 4095) if "openkbp" in pattern else array)
    return found


if __name__ == "__main__":
    main()
