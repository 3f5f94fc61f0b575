"""Segmentations as a user of MONAI writes them, beside the studies' fits from random weights.

None of medssl's code is used. A setting is a task of a study, by its name there (`tasks.heart`): a U-Net over MONAI's ResNet-18
of half the width, on slices. The tasks of `joint` are on volumes, with torch's own transformer between the slices, where the
study's attention is deformable. Voxels, window, patches, steps, batch, rate, schedule and changes of the images are the study's.
Each patch of a step is drawn from a random volume. Half of the patches are centred near a voxel of a class, drawn evenly over
the classes. The last step is kept, as in the study: fewer than ten patients validate. Batch norms then take their statistics
from some training batches. Scored is the Dice of the test patients on the grid of their files. Labelled are the first patients
in the order of the split file. `tasks` draws them by seed: give its patients with `--labelled`. Order, weights and changes are
drawn by other generators than the study's: scores agree within the spread over seeds, not to the digit.

`python benchmarks/baselines/segmentation.py tasks.heart [--seeds 3]`; the last line is RESULT {json}.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.inferers import SliceInferer, SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import ResNet
from monai.networks.nets.basic_unet import TwoConv
from monai.transforms import (
    Affine,
    AsDiscrete,
    BorderPadd,
    ClassesToIndicesd,
    Compose,
    EnsureChannelFirstd,
    GaussianSmoothd,
    Invertd,
    Lambdad,
    LoadImaged,
    MapTransform,
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    Randomizable,
    RandomizableTransform,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
    ScaleIntensityRanged,
    ShiftIntensityd,
    Spacingd,
    SpatialPadd,
    SqueezeDimd,
)
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.utils.data import RandomSampler

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "baselines"))
from recipe import RATE, calibrated, groups, mean_and_deviation, rate_at  # noqa: E402

SHARED = ROOT.parent / "shared" / "data"
PROTOCOL = SHARED / "protocols" / "acdc_ssl4mis_split.tsv"
KEYS = ("image", "mask")
WIDTHS = (32, 64, 128, 256)
TRANSFORMER = {"d_model": 256, "nhead": 8, "dim_feedforward": 256, "dropout": 0.0, "batch_first": True}
NARROWEST = 16
"""Channels of a level of the way up, at least."""
ZOOM, TURN_DEG, SHIFT = (0.7, 1.4), 30.0, 0.08
WINDOWS_AT_ONCE = {2: 16, 3: 2}

Volume = dict[str, str]


@dataclass(frozen=True)
class Setting:
    """A task of a study.

    images: of ACDC (`heart`) or the hippocampus (`brain`); size: sides of a patch, two of a slice; spacing: in mm, -1 keeps an
    axis; shares: of the training patients; overlap: of neighbouring windows, as a share of their size; calibration_batches: of
    training, for the statistics of batch norms; percentiles: of the window.
    """

    images: str
    classes: int
    size: tuple[int, ...]
    spacing: tuple[float, float, float]
    shares: tuple[float, ...]
    batch_size: int
    steps: int
    overlap: float
    calibration_batches: int = 8
    weight_decay: float = 1e-4
    percentiles: tuple[float, float] = (0.5, 99.5)


HEART = Setting("heart", 4, (64, 64), (2.0, 2.0, -1.0), (0.1, 1.0), 8, 2100, 0.0)
BRAIN = replace(HEART, images="brain", classes=3, size=(48, 48), steps=700, spacing=(1.0, 1.0, 1.0))
VOLUMES: dict[str, Any] = {"shares": (0.1,), "overlap": 0.25, "calibration_batches": 4}
SETTINGS = {
    "tasks.heart": HEART,
    "tasks.brain": BRAIN,
    "joint.heart_volume": replace(HEART, size=(64, 64, 8), batch_size=2, steps=400, **VOLUMES),
    "joint.brain_volume": replace(BRAIN, size=(40, 56, 40), batch_size=1, steps=360, **VOLUMES),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("setting", choices=sorted(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--shares", type=float, nargs="+", help="of the labels, of those of the setting")
    parser.add_argument("--steps", type=int)
    parser.add_argument(
        "--labelled", nargs="+", action="append", help="patients of a seed, as their files begin; repeat it for the next seed"
    )
    parser.add_argument("--images", type=Path)
    parser.add_argument("--protocol", type=Path, default=PROTOCOL, help="of the heart")
    options = parser.parse_args()
    setting = SETTINGS[options.setting]
    setting = replace(setting, **{name: given for name in ("shares", "steps") if (given := getattr(options, name))})
    if options.labelled and (len(options.labelled) != options.seeds or len(setting.shares) > 1):
        parser.error(f"--labelled goes with one of --shares {setting.shares}, and once for each of --seeds {options.seeds}")
    torch.set_num_threads(1)
    started_s = time.monotonic()
    if setting.images == "heart":
        patients = hearts(options.images or SHARED / "seg" / "acdc", options.protocol)
    else:
        patients = brains(options.images or SHARED / "seg" / "hippocampus")
    test = [volume for patient in patients["test"] for volume in patient]
    scores: dict[str, list[np.ndarray]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for share in setting.shares:
            labelled = patients["train"][: max(1, math.floor(share * len(patients["train"]) + 0.5))]
            if options.labelled:
                labelled = named(patients["train"], options.labelled[seed - options.first_seed])
            fit_s = time.monotonic()
            network = fitted([volume for patient in labelled for volume in patient], setting, seed)
            rate = setting.steps / (time.monotonic() - fit_s)
            found = dice(network, test, setting)
            scores.setdefault(f"{share:g}", []).append(found)
            row = {"seed": seed, "share": share, "patients": len(labelled), "steps_per_s": round(rate, 2)}
            print(json.dumps(row | score_of(found)), flush=True)
    result = {
        "setting": options.setting,
        "dice_mean_sd": {share: mean_and_deviation([float(found.mean()) for found in each]) for share, each in scores.items()},
        "dice_by_class": {share: np.mean(each, axis=0).round(4).tolist() for share, each in scores.items()},
        "test_units": len(patients["test"]),
        "num_test": len(test),
        "seeds": options.seeds,
        "steps": setting.steps,
        "minutes": round((time.monotonic() - started_s) / 60, 1),
    }
    print("RESULT " + json.dumps(result))


def score_of(found: np.ndarray) -> dict[str, Any]:
    """Dice of one fit: its mean, and each class."""
    return {"dice": round(float(found.mean()), 4), "by_class": found.round(4).tolist()}


# Images


def hearts(images: Path, protocol: Path) -> dict[str, list[list[Volume]]]:
    """By part of the few-label protocol, in its order, the volumes of each patient that is there."""
    with protocol.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file, delimiter="\t"), key=lambda row: int(row["order"]))
    found: dict[str, list[list[Volume]]] = {"train": [], "val": [], "test": []}
    for row in rows:
        files = sorted(images.glob(f"{row['patient']}_*_img.nii.gz"))
        if files:
            volumes = [{"image": str(file), "mask": str(file).replace("_img.nii.gz", "_seg.nii.gz")} for file in files]
            found[row["part"]].append(volumes)
    return found


def named(patients: list[list[Volume]], names: list[str]) -> list[list[Volume]]:
    """The patients whose files begin with these names."""
    found = [patient for patient in patients if Path(patient[0]["image"]).name.startswith(tuple(names))]
    if len(found) != len(names):
        raise SystemExit(f"{len(found)} patients of the training part begin with {names}: give each one's whole name")
    return found


def brains(folder: Path) -> dict[str, list[list[Volume]]]:
    """By part the one volume of each patient: by name every fifth tests, of the others every thirteenth selects (split file)."""
    files = sorted((folder / "images").glob("*.nii.gz"))
    volumes = [[{"image": str(file), "mask": str(folder / "labels" / file.name)}] for file in files]
    others = [volume for place, volume in enumerate(volumes) if place % 5]
    train = [volume for place, volume in enumerate(others) if place % 13]
    return {"train": train, "val": others[::13], "test": volumes[::5]}


def reading(setting: Setting, spaced: tuple[str, ...]) -> Compose:
    """Files to `(1, i, j, k)`, images in 0…1; those that are `spaced` on the study's grid."""
    modes = {"image": "bilinear", "mask": "nearest"}
    # files are of 1 mm; as wide as a mean over a coarser voxel, against aliasing
    sigma = [side / math.sqrt(12) if side > 1 else 0.0 for side in setting.spacing]
    return Compose(
        [
            LoadImaged(KEYS, reader="NibabelReader"),
            EnsureChannelFirstd(KEYS),
            GaussianSmoothd("image", sigma),
            Spacingd(spaced, setting.spacing, mode=[modes[key] for key in spaced]),
            Lambdad("image", in_window(setting.percentiles), track_meta=True),
        ]
    )


def in_window(percentiles: tuple[float, float]) -> Callable[[Any], Any]:
    """To 0…1 between two percentiles of what is not background."""

    def windowed(image: Any) -> Any:
        low, high = np.percentile(image[image > image.min()].numpy(), percentiles)
        return ((image - low) / (high - low)).clamp(0, 1)

    return windowed


def margins(size: tuple[int, ...]) -> tuple[int, ...]:
    """Voxels beside a patch that turns, zooms and shifts may bring into it."""
    turned = math.cos(math.radians(TURN_DEG)) + math.sin(math.radians(TURN_DEG))
    flat = max(size[:2])
    wide = [flat * turned if axis < 2 else side for axis, side in enumerate(size)]
    return tuple(math.ceil((ZOOM[1] * all_ - side) / 2 + SHIFT * side) + 1 for all_, side in zip(wide, size, strict=True))


def patches(setting: Setting) -> Compose:
    """A changed patch of a volume, with the margin that its changes need."""
    flat = len(setting.size) == 2
    size, margin = ((*each, *(rest,) * flat) for each, rest in ((setting.size, 1), (margins(setting.size), 0)))
    clip = ScaleIntensityRanged("image", 0, 1, 0, 1, clip=True)
    blur = tuple(0.01 * side for side in size)
    return Compose(
        [
            *reading(setting, KEYS).transforms,
            SpatialPadd(KEYS, size),
            BorderPadd(KEYS, margin),
            ClassesToIndicesd("mask", num_classes=setting.classes),
            RandPatchd(size, margin, math.ceil(setting.batch_size / 2) / setting.batch_size),
            *([SqueezeDimd(KEYS, dim=-1)] if flat else []),
            RandMoved(setting.size),
            ShiftIntensityd("image", -0.5),
            RandScaleIntensityd("image", factors=(-0.2, 1 / 3), prob=1.0),
            ShiftIntensityd("image", 0.5),
            RandShiftIntensityd("image", offsets=0.125, prob=1.0),
            clip,
            RandAdjustContrastd("image", prob=0.3, gamma=(1 / 1.5, 1.5)),
            RandGaussianSmoothd("image", sigma_x=(0, blur[0]), sigma_y=(0, blur[1]), sigma_z=(0, blur[2]), prob=0.2),
            RandSimulateLowResolutiond(
                "image", prob=0.25, zoom_range=(0.5, 1.0), upsample_mode="bilinear" if flat else "trilinear"
            ),
            RandGaussianNoised("image", prob=0.1, std=0.1),
            clip,
        ]
    )


class RandPatchd(Randomizable, MapTransform):
    """A patch with its margin, inside a volume that is padded by the margin.

    The share `near_class` of patches is centred near a voxel of a class of the volume, at most a quarter of each side away. All
    classes are equally frequent. The centres of the other patches are drawn evenly over the volume.
    """

    def __init__(self, size: tuple[int, ...], margin: tuple[int, ...], near_class: float) -> None:
        MapTransform.__init__(self, KEYS)
        self.size, self.margin, self.near_class = np.array(size), np.array(margin), near_class

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """The same place of image and mask."""
        padded = np.array(data["mask"].shape[1:])
        shape = padded - 2 * self.margin
        centre = np.array([self.R.randint(side) for side in shape])
        classes = [voxels for voxels in data["mask_cls_indices"][1:] if len(voxels)]
        if classes and self.R.rand() < self.near_class:
            voxels = classes[self.R.randint(len(classes))]
            voxel = np.unravel_index(int(voxels[self.R.randint(len(voxels))]), padded)
            reach = np.where(self.size > 1, self.size // 4, 0)
            away = np.array([self.R.randint(-most, most + 1) for most in reach])
            centre = np.clip(np.array(voxel) - self.margin + away, 0, shape - 1)
        first = np.clip(centre - self.size // 2, 0, shape - self.size)
        place = tuple(slice(a, b) for a, b in zip(first, first + self.size + 2 * self.margin, strict=True))
        return {key: data[key][(slice(None), *place)] for key in self.key_iterator(data)}


class RandMoved(RandomizableTransform, MapTransform):
    """Turns in the plane, zooms and shifts a patch within its margin; RandAffined would zoom each axis by itself."""

    def __init__(self, size: tuple[int, ...]) -> None:
        MapTransform.__init__(self, KEYS)
        RandomizableTransform.__init__(self, prob=1.0)
        self.size = size

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """The middle of what is moved."""
        angle = math.radians(self.R.uniform(-TURN_DEG, TURN_DEG))
        side = math.exp(self.R.uniform(*map(math.log, ZOOM)))
        move = Affine(
            rotate_params=angle if len(self.size) == 2 else (0, 0, angle),
            scale_params=(side,) * len(self.size),
            translate_params=[self.R.uniform(-SHIFT, SHIFT) * across for across in self.size],
            spatial_size=self.size,
            padding_mode="zeros",
            image_only=True,
        )
        modes = {"image": "bilinear", "mask": "nearest"}
        return {**data, **{key: move(data[key], mode=modes[key]) for key in self.key_iterator(data)}}


# Networks


class Encoder(nn.Module):
    """MONAI's ResNet-18 of half the width, as the maps of its four stages."""

    def __init__(self) -> None:
        super().__init__()
        options: dict[str, Any] = {"conv1_t_stride": 2, "feed_forward": False, "bias_downsample": False}
        self.whole = ResNet("basic", [2, 2, 2, 2], list(WIDTHS), 2, 1, **options)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Slices `(n, 1, i, j)` to maps of a quarter of the sides, an eighth, …"""
        whole = self.whole
        maps = [whole.maxpool(whole.act(whole.bn1(whole.conv1(x))))]
        for stage in (whole.layer1, whole.layer2, whole.layer3, whole.layer4):
            maps.append(stage(maps[-1]))
        return maps[1:]


class UNet(nn.Module):
    """The way up over maps of an encoder, with a shallow branch at full resolution."""

    def __init__(self, rank: int, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.shallow = _convolutions(rank, 1, NARROWEST)
        skips = [*reversed(widths[:-1]), NARROWEST]
        outside = [max(NARROWEST, skip) for skip in skips]
        inside = [deep + skip for deep, skip in zip([widths[-1], *outside[:-1]], skips, strict=True)]
        self.ups = nn.ModuleList(_convolutions(rank, *each) for each in zip(inside, outside, strict=True))
        self.head = (nn.Conv2d, nn.Conv3d)[rank - 2](NARROWEST, classes, 1)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """Logits of the image's size."""
        x = maps[-1]
        for up, skip in zip(self.ups, [*reversed(maps[:-1]), self.shallow(image)], strict=True):
            x = up(torch.cat([F.interpolate(x, skip.shape[2:]), skip], 1))
        return self.head(x)


def _convolutions(rank: int, inside: int, outside: int) -> nn.Module:
    return TwoConv(rank, inside, outside, ("LeakyReLU", {"inplace": True}), ("instance", {"affine": True}), bias=False)


class OfSlices(nn.Module):
    """A U-Net of slices over an encoder and the widths of its maps, by default the ResNet's."""

    def __init__(self, classes: int, encoder: nn.Module | None = None, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.encoder, self.up = encoder or Encoder(), UNet(2, widths, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of slices `(n, 1, i, j)`."""
        return self.up(images, self.encoder(images))


class OfVolumes(nn.Module):
    """A U-Net of volumes whose encoder sees slices; below its deepest map is a transformer's embedding of each slice."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        width = int(TRANSFORMER["d_model"])
        self.encoder, self.up = Encoder(), UNet(3, (*WIDTHS, width), classes)
        self.embed = nn.Linear(sum(WIDTHS), width)
        self.between = nn.TransformerEncoder(nn.TransformerEncoderLayer(**TRANSFORMER), num_layers=2)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of volumes `(n, 1, i, j, k)`."""
        flat = self.encoder(images.movedim(4, 1).flatten(0, 1))
        solid = [each.unflatten(0, (len(images), -1)).movedim(1, 4) for each in flat]
        means = torch.cat([F.normalize(each.mean((2, 3)), dim=1) for each in solid], 1)
        embedded = self.between(self.embed(means.movedim(1, 2))).movedim(1, 2)
        return self.up(images, [*solid, embedded[:, :, None, None]])


# Learning and scoring


def network_of(setting: Setting) -> nn.Module:
    """With random weights."""
    return (OfSlices if len(setting.size) == 2 else OfVolumes)(setting.classes)


def fitted(
    train: list[Volume], setting: Setting, seed: int, network_of: Callable[[Setting], nn.Module] = network_of
) -> nn.Module:
    """A network trained on volumes, as it is after the last step, with calibrated batch norms."""
    set_determinism(seed)
    network = network_of(setting)
    volumes = CacheDataset(train, patches(setting), progress=False)
    num_batches = setting.steps + setting.calibration_batches
    drawn = RandomSampler(volumes, replacement=True, num_samples=num_batches * setting.batch_size)
    batches = iter(DataLoader(volumes, batch_size=setting.batch_size, sampler=drawn))
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    optimizer = torch.optim.AdamW(groups(network, setting.weight_decay), RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, setting.steps))
    network.train()
    for _ in range(setting.steps):
        batch = next(batches)
        loss = criterion(network(batch["image"].as_tensor()), batch["mask"].as_tensor())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return calibrated(network, [batch["image"].as_tensor() for batch in batches])


def inferred(network: nn.Module, volumes: CacheDataset, setting: Setting) -> Iterator[Tensor]:
    """Logits `(1, classes, i, j, k)` of each volume through a sliding window."""
    rank = len(setting.size)
    options: dict[str, Any] = {"sw_batch_size": WINDOWS_AT_ONCE[rank], "overlap": setting.overlap, "mode": "gaussian"}
    inferer = SliceInferer(spatial_dim=2, roi_size=setting.size, **options)
    if rank == 3:
        inferer = SlidingWindowInferer(roi_size=setting.size, **options)
    network.eval()
    with torch.inference_mode():
        for batch in DataLoader(volumes, batch_size=1):
            yield inferer(batch["image"].as_tensor(), network)


def dice(network: nn.Module, test: list[Volume], setting: Setting) -> np.ndarray:
    """Mean Dice of each class over volumes, on the grid of their files."""
    read = reading(setting, ("image",))
    volumes = CacheDataset(test, read, progress=False)
    back = Invertd("probabilities", read, orig_keys="image", nearest_interp=False)
    called, given = AsDiscrete(argmax=True, to_onehot=setting.classes), AsDiscrete(to_onehot=setting.classes)
    metric = DiceMetric(include_background=False, reduction="mean_batch")
    for volume, logits in zip(volumes, inferred(network, volumes, setting), strict=True):
        probabilities = back({**volume, "probabilities": MetaTensor(logits[0].softmax(0))})["probabilities"]
        metric([called(probabilities)], [given(volume["mask"])])
    return metric.aggregate().numpy().astype(np.float64)


if __name__ == "__main__":
    main()
