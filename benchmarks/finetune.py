"""Fine-tuning a segmentation with few labelled patients: fits per hour and Dice, compared with a plain MONAI loop.

Both sides train the same U-Net (that of the ACDC study) from random weights, on the same prepared volumes of the same labelled
patients, for as many steps of as many patches. Both validate as often and predict the same test patients, from the last step.
Ours is `medssl finetune` as Snakemake calls it, with its start-up and the writing of masks; theirs is `plain_segmentation.py`,
from the reading of the volumes to the last prediction. Where there are no real images, synthetic ones are drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from plain_segmentation import Recipe, fit

from medssl.artefacts.fits import SPLITS_OF_FITS
from medssl.artefacts.predictions import PREDICTIONS
from medssl.artefacts.volumes import read_volumes
from medssl.core.files import write_json
from medssl.finetune.segmenter import Segmenter
from medssl.nn.backbone import build
from medssl.nn.options import AugmentOptions
from medssl.volume.cache import open_array

ROOT = Path(__file__).resolve().parents[1]
ACDC = ROOT.parent / "shared" / "data" / "seg" / "acdc"
ACDC_SPLIT = ROOT / "configs" / "studies" / "acdc_split.tsv"
SHRINK = 2.5
"""The ACDC study's voxels, in those of the files."""
BACKBONE = {"features": [16, 32, 64, 128, 128, 16], "norm": "batch"}
RECIPE = Recipe(size=(64, 64), batch_size=8, steps=1000, evaluations=4, lr=1e-3, weight_decay=1e-4, warmup_frac=0.1, overlap=0.25)
SMALL = replace(RECIPE, size=(32, 32), steps=4, evaluations=1)
STUDY, TASK = "bench", "heart"


@dataclass(frozen=True)
class Side:
    """What one side took, of the clock and of processors, and reached on the test patients: a Dice for each seed."""

    seconds: float
    processor_seconds: float
    dice: list[float]

    @property
    def fits_per_hour(self) -> float:
        """Of the whole run."""
        return 3600 * len(self.dice) / self.seconds

    @property
    def processor_seconds_of_fit(self) -> float:
        """What other work on the machine changes least."""
        return self.processor_seconds / len(self.dice)


class Watch:
    """Seconds since it was made, of the clock and of this process and those that it has waited for."""

    def __init__(self) -> None:
        self._start = self._now()

    def read(self) -> np.ndarray:
        """Both, `(2,)`."""
        return self._now() - self._start

    @staticmethod
    def _now() -> np.ndarray:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return np.array([time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of <name>_img.nii.gz with <name>_seg.nii.gz beside; ACDC where it is")
    parser.add_argument("--shrink", type=float, help=f"make voxels this much wider in slices first; {SHRINK} for ACDC, else 1")
    parser.add_argument("--patients", type=int, default=8, help="labelled ones")
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--small", action="store_true", help="some seconds, on synthetic images; results are not kept")
    chosen = parser.parse_args()
    recipe = SMALL if chosen.small else replace(RECIPE, steps=chosen.steps)
    patients, seeds = (2, 1) if chosen.small else (chosen.patients, chosen.seeds)
    given = None if chosen.small else chosen.data or (ACDC if ACDC.is_dir() else None)
    is_acdc = given == ACDC
    with tempfile.TemporaryDirectory(prefix="medssl-bench-finetune-") as name:
        folder = Path(name)
        if given is None:
            draw(folder / "images", *((6, 40) if chosen.small else (40, 96)))
        else:
            shrink(given, folder / "images", chosen.shrink or (SHRINK if is_acdc else 1.0))
        prepare(folder, study(folder, recipe, patients, seeds, ACDC_SPLIT if is_acdc else None))
        sides = {"medssl": ours(folder, seeds, chosen.threads)}
        sides["monai"] = theirs(folder, recipe, seeds, chosen.threads)
    found = compared(sides) | {"steps": recipe.steps, "batch_size": recipe.batch_size, "size": list(recipe.size)}
    found |= {"data": "synthetic" if given is None else "acdc" if is_acdc else "given", "labelled_patients": patients}
    found |= {"seeds": seeds, "threads": chosen.threads, "machine": platform.machine()}
    found |= {"versions": {name: version(name) for name in ("medssl", "monai", "torch")}}
    found |= {"date": datetime.now(UTC).date().isoformat()}
    if is_acdc and seeds >= 3 and recipe == RECIPE:
        write_json(ROOT / "benchmarks" / "results" / "finetune.json", found)
    print("RESULT " + json.dumps(found))


def compared(sides: dict[str, Side]) -> dict[str, Any]:
    """Both sides' figures, the ratio of their speeds and the difference of their Dice."""
    one, other = sides["medssl"], sides["monai"]
    differences = [round(a - b, 4) for a, b in zip(one.dice, other.dice, strict=True)]
    return {
        "fits_per_hour": {name: round(side.fits_per_hour, 2) for name, side in sides.items()},
        "speed_ratio": round(one.fits_per_hour / other.fits_per_hour, 2),
        "processor_seconds_of_fit": {name: round(side.processor_seconds_of_fit, 1) for name, side in sides.items()},
        "processor_ratio": round(other.processor_seconds_of_fit / one.processor_seconds_of_fit, 2),
        "dice": {name: [round(value, 4) for value in side.dice] for name, side in sides.items()},
        "mean_dice": {name: round(float(np.mean(side.dice)), 4) for name, side in sides.items()},
        "dice_differences": differences,
        "mean_dice_difference": round(float(np.mean(differences)), 4),
    }


# Both sides' data


def shrink(source: Path, target: Path, factor: float) -> None:
    """Copies of images and masks with voxels wider by `factor` along i and j."""
    target.mkdir(parents=True)
    for path in sorted(source.glob("*_img.nii.gz")):
        for file, is_mask in ((path, False), (path.with_name(path.name.replace("_img.", "_seg.")), True)):
            image = nibabel.load(file)
            slices = torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)).movedim(-1, 0)[:, None]
            size = [round(side / factor) for side in slices.shape[2:]]
            way: dict[str, Any] = {"mode": "nearest-exact"} if is_mask else {"mode": "bilinear", "antialias": True}
            smaller = F.interpolate(slices, size=size, **way)[:, 0].movedim(0, -1).round().numpy().astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(smaller, image.affine @ np.diag([factor, factor, 1, 1])), target / file.name)


def draw(target: Path, num_patients: int, side: int) -> None:
    """Patients of two frames each: a bright blood pool in a dark wall, and a second pool beside it, in clutter and noise."""
    target.mkdir(parents=True)
    i, j = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    for patient in range(num_patients):
        random = np.random.default_rng(patient)
        for frame in (1, 2):
            planes, masks = [], []
            centre, radius = side * random.uniform(0.35, 0.65, 2), side * random.uniform(0.1, 0.16)
            for shrunk in np.linspace(1.0, 0.6, 6):
                away = np.hypot(i - centre[0], j - centre[1]) / (radius * shrunk)
                beside = np.hypot(i - centre[0] - 1.9 * radius, j - centre[1]) / (radius * shrunk)
                mask = np.select([away < 1, away < 1.5, beside < 0.9], [3, 2, 1], 0)
                plane = np.array([90.0, 190.0, 60.0, 200.0])[mask] + random.normal(0, 25, mask.shape)
                for at in side * random.uniform(0, 1, (6, 2)):
                    plane[(np.hypot(i - at[0], j - at[1]) < 0.06 * side) & (mask == 0)] += 80
                planes.append(plane.clip(0, 255))
                masks.append(mask)
            for kind, stack in (("img", planes), ("seg", masks)):
                image = nibabel.Nifti1Image(np.stack(stack, axis=-1).astype(np.int16), np.eye(4))
                nibabel.save(image, target / f"patient{patient:03d}_frame{frame:02d}_{kind}.nii.gz")


def study(folder: Path, recipe: Recipe, patients: int, seeds: int, split: Path | None) -> dict[str, Any]:
    """The study file: one labelled source, and one task from random weights alone; slices lie along k, as theirs do."""
    return {
        "study": STUDY,
        "id_key": str(ROOT / "demo" / "id_key"),
        "sources": {
            TASK: {
                "path": str(folder / "images"),
                "prepare": {"split": {"file": str(split)} if split else {"val_frac": 0.15, "test_frac": 0.35}},
            }
        },
        "ingest": {"modality": "MR"},
        "prepare": {"percentiles": [1, 99], "slice_axis": "k"},
        "pretrain": {},
        "finetune": {
            TASK: {
                "task": "segmentation",
                "source": TASK,
                "inits": [],
                "backbone": {"unet": BACKBONE},
                "counts": [patients],
                "fractions": [],
                "seeds": list(range(seeds)),
                "size": list(recipe.size),
                "batch_size": recipe.batch_size,
                "max_steps": recipe.steps,
                "augment": AugmentOptions().model_dump(mode="json"),  # what the plain loop does
                "evaluations": recipe.evaluations,
                "lr": recipe.lr,
                "weight_decay": recipe.weight_decay,
                "warmup_frac": recipe.warmup_frac,
                "device": "cpu",
                "options": {"overlap": recipe.overlap},
            }
        },
    }


def prepare(folder: Path, values: dict[str, Any]) -> None:
    """Write the study file and everything below the fits."""
    (folder / "study.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    target = f"results/{STUDY}/2_prepare/{TASK}/receipt.json"
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "1", target]
    called([*command, "--configfile", "study.yaml"], folder)


def called(command: Sequence[str], folder: Path, **environment: str) -> None:
    """Run a command in a folder; what it says is shown where it fails."""
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


# The two sides


def ours(folder: Path, seeds: int, threads: int) -> Side:
    """The stage as Snakemake calls it."""
    spec, results = (folder / "results" / STUDY / place for place in (f"specs/finetune/{TASK}.json", f"5_finetune/{TASK}"))
    watch = Watch()
    called([sys.executable, "-m", "medssl", "finetune", str(spec), "--threads", str(threads)], folder, OMP_NUM_THREADS="1")
    spent = watch.read()
    rows = PREDICTIONS.read(results / PREDICTIONS.file)

    def loaded(path: str) -> np.ndarray:
        return np.asarray(nibabel.load(results / path).dataobj)

    of_seed = [rows[rows["seed"] == seed] for seed in range(seeds)]
    pairs = [[(loaded(a), loaded(b)) for a, b in zip(each["prediction"], each["target"], strict=True)] for each in of_seed]
    return Side(*spent.tolist(), [mean_dice(each) for each in pairs])


def theirs(folder: Path, recipe: Recipe, seeds: int, threads: int) -> Side:
    """The plain loop, for the same labelled patients: a loader's process beside the training where there is a core for it."""
    torch.set_num_threads(threads)
    results = folder / "results" / STUDY
    parts, num_classes = plain_files(results / "2_prepare" / TASK / "volumes.tsv", folder / "plain")
    splits = SPLITS_OF_FITS.read(results / "5_finetune" / TASK / SPLITS_OF_FITS.file)
    masks = [np.load(one["mask"]) for one in parts["test"]]
    spent, dice = np.zeros(2), []
    for seed in range(seeds):
        labelled = set(splits.loc[splits["seed"] == seed, "case_id"])
        given = parts | {"train": [one for one in parts["train"] if one["id"] in labelled]}
        torch.manual_seed(seed)
        network = Segmenter(build("unet", BACKBONE, 2, 1), num_classes)
        watch = Watch()
        predicted = fit(network, given, num_classes, recipe, seed, num_workers=threads - 1)
        spent += watch.read()
        dice.append(mean_dice(list(zip(predicted, masks, strict=True))))
    return Side(*spent.tolist(), dice)


def plain_files(table: Path, target: Path) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """By part the files of each prepared volume as a network sees it and of its mask in class numbers; the number of classes."""
    target.mkdir()
    volumes = read_volumes(table)
    values = np.unique(np.concatenate([np.unique(open_array(volume.mask)) for volume in volumes]))
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for volume in volumes:
        image, mask = (target / f"{volume.volume_id}-{kind}.npy" for kind in ("image", "mask"))
        np.save(image, volume.seen_first(open_array(volume.array)))
        np.save(mask, np.searchsorted(values, open_array(volume.mask)).astype(np.uint8))
        parts[volume.split].append({"id": volume.volume_id, "image": str(image), "mask": str(mask)})
    return parts, len(values)


def mean_dice(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean over classes of the mean over volumes, of predicted and given masks; a class that both lack is left out."""
    classes = sorted(set().union(*(np.unique(given).tolist() for _, given in pairs)) - {0})
    scores = np.full((len(pairs), len(classes)), np.nan)
    for row, (predicted, given) in enumerate(pairs):
        for column, value in enumerate(classes):
            a, b = predicted == value, given == value
            if total := a.sum() + b.sum():
                scores[row, column] = 2 * (a & b).sum() / total
    return float(np.nanmean(scores, axis=0).mean())


if __name__ == "__main__":
    main()
