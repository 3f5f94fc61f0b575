"""The heart with few labelled patients as a user of MONAI writes it, beside the study `acdc`: none of medssl's code.

MONAI's own U-Net of about the study's widths from scratch, in slices, for the first labelled patients of the field's few-label
protocol, with the study's voxels, window, patches, steps, batch, rate, schedule and changes of the images; the last step is kept.
Scored is the Dice of the 12 test patients on the grid of their files, where the study scores too. Order, weights and changes are
drawn by other generators than the study's, and its way up is another one, so scores agree within the spread over seeds, not to
the digit.

`python benchmarks/baselines/acdc.py [--counts 3 7 14] [--seeds 3] [--steps 700]`; the last line is RESULT {json}.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, MetaTensor
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import BasicUNet
from monai.transforms import (
    Affine,
    AsDiscrete,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    MapTransform,
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    ShiftIntensityd,
    Spacingd,
)
from monai.utils import set_determinism
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from plain_segmentation import KEYS, Recipe, inferred, learn, training_transforms  # noqa: E402

IMAGES = ROOT.parent / "shared" / "data" / "seg" / "acdc"
PROTOCOL = ROOT.parent / "shared" / "data" / "protocols" / "acdc_ssl4mis_split.tsv"
SPACING = (3.0, 3.0, -1.0)
PERCENTILES = (1, 99)
FEATURES = (16, 16, 32, 64, 64, 16)
"""The study's, but 16 or more: its way up has 16 channels at full resolution too. With 8 a seed can lose a class."""
CLASSES = 4
SIZE = (48, 48)
ZOOM, TURN_DEG, SHIFT = (0.7, 1.4), 30.0, 0.08
MARGIN = 27
"""Voxels beside a patch that these may bring into it."""

Volume = dict[str, str]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[3, 7, 14], help="of labelled patients")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started_s, patients = time.monotonic(), parts(options.images, options.protocol)
    test = [volume for patient in patients["test"] for volume in patient]
    scores: dict[int, list[np.ndarray]] = {count: [] for count in options.counts}
    for seed in range(options.seeds):
        for count in options.counts:
            train = [volume for patient in patients["train"][:count] for volume in patient]
            scores[count].append(dice(fitted(train, options.steps, seed), test, options.steps))
            of_class = [round(float(value), 4) for value in scores[count][-1]]
            row = {"count": count, "seed": seed, "dice": round(float(scores[count][-1].mean()), 4), "by_class": of_class}
            print(json.dumps(row), flush=True)
    means = {count: [float(found.mean()) for found in each] for count, each in scores.items()}
    found = {
        "dice_mean_sd": {count: [round(float(np.mean(each)), 4), round(float(np.std(each)), 4)] for count, each in means.items()},
        "dice_by_class": {count: np.mean(each, axis=0).round(4).tolist() for count, each in scores.items()},
        "seeds": options.seeds,
        "steps": options.steps,
        "minutes": round((time.monotonic() - started_s) / 60, 1),
    }
    print("RESULT " + json.dumps(found))


def parts(images: Path, protocol: Path) -> dict[str, list[list[Volume]]]:
    """By part of the protocol, in its order, the volumes of each patient that is there."""
    with protocol.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file, delimiter="\t"), key=lambda row: int(row["order"]))
    found: dict[str, list[list[Volume]]] = {"train": [], "val": [], "test": []}
    for row in rows:
        files = sorted(images.glob(f"{row['patient']}_*_img.nii.gz"))
        volumes = [{"image": str(file), "mask": str(file).replace("_img.nii.gz", "_seg.nii.gz")} for file in files]
        if volumes:
            found[row["part"]].append(volumes)
    return found


def recipe_of(steps: int) -> Recipe:
    """The study's."""
    return Recipe(size=SIZE, batch_size=8, steps=steps, evaluations=0, lr=1e-3, weight_decay=0.0, warmup_frac=0.1, overlap=0.25)


# Learning


def fitted(train: list[Volume], steps: int, seed: int) -> nn.Module:
    """A network that has learnt from volumes, as it is after the last step."""
    set_determinism(seed)
    network = BasicUNet(2, 1, CLASSES, FEATURES, norm=("instance", {"affine": True}))
    volumes = CacheDataset(train, training_transforms(reading(KEYS), SIZE, changes(), MARGIN), progress=False)
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    for _ in learn(network, volumes, criterion, recipe_of(steps), num_workers=0):
        pass
    return network


def reading(spaced: tuple[str, ...]) -> Compose:
    """Files to `(1, i, j, k)`, images in 0…1; those that are `spaced` on the study's grid."""
    return Compose(
        [
            LoadImaged(KEYS, reader="NibabelReader"),
            EnsureChannelFirstd(KEYS),
            Spacingd(spaced, SPACING, mode=[{"image": "bilinear", "mask": "nearest"}[key] for key in spaced]),
            ScaleIntensityRangePercentilesd("image", *PERCENTILES, 0, 1, clip=True),
        ]
    )


def changes() -> list[Any]:
    """nnU-Net's ranges: a patch with its margin turned, zoomed and shifted, then window, grey curve, blur, resolution, noise."""
    clip = ScaleIntensityRanged("image", 0, 1, 0, 1, clip=True)
    return [
        RandMoved(KEYS),
        ShiftIntensityd("image", -0.5),
        RandScaleIntensityd("image", factors=(-0.2, 1 / 3), prob=1.0),
        ShiftIntensityd("image", 0.5),
        RandShiftIntensityd("image", offsets=0.125, prob=1.0),
        clip,
        RandAdjustContrastd("image", prob=0.3, gamma=(1 / 1.5, 1.5)),
        RandGaussianSmoothd("image", sigma_x=(0.0, 0.48), sigma_y=(0.0, 0.48), prob=0.2),
        RandSimulateLowResolutiond("image", prob=0.25, zoom_range=(0.5, 1.0), upsample_mode="bilinear"),
        RandGaussianNoised("image", prob=0.1, std=0.1),
        clip,
    ]


class RandMoved(RandomizableTransform, MapTransform):
    """Turns, zooms and shifts a patch within its margin by one resampling; RandAffined would zoom each axis by itself."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """The middle of what is moved."""
        side = math.exp(self.R.uniform(*map(math.log, ZOOM)))
        move = Affine(
            rotate_params=math.radians(self.R.uniform(-TURN_DEG, TURN_DEG)),
            scale_params=(side, side),
            translate_params=[self.R.uniform(-SHIFT, SHIFT) * across for across in SIZE],
            spatial_size=SIZE,
            padding_mode="zeros",
            image_only=True,
        )
        modes = {"image": "bilinear", "mask": "nearest"}
        return {**data, **{key: move(data[key], mode=modes[key]) for key in self.key_iterator(data)}}


# Scoring


def dice(network: nn.Module, test: list[Volume], steps: int) -> np.ndarray:
    """Mean Dice of each class over volumes, on the grid of their files."""
    read = reading(("image",))
    volumes = CacheDataset(test, read, progress=False)
    back = Invertd("probabilities", read, orig_keys="image", nearest_interp=False)
    called, given = AsDiscrete(argmax=True, to_onehot=CLASSES), AsDiscrete(to_onehot=CLASSES)
    metric = DiceMetric(include_background=False, reduction="mean_batch")
    for volume, logits in zip(volumes, inferred(network, volumes, recipe_of(steps)), strict=True):
        probabilities = back({**volume, "probabilities": MetaTensor(logits[0].softmax(0))})["probabilities"]
        metric([called(probabilities)], [given(volume["mask"])])
    return metric.aggregate().numpy().astype(np.float64)


if __name__ == "__main__":
    main()
