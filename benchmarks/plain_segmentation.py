"""Fine-tuning a segmentation of slices as a user of MONAI writes it: cached volumes, dictionary transforms, sliding windows.

Patches, loss and loop follow MONAI's own tutorials (spleen_segmentation_3d, 2d_slices_from_3d_sampling). Ranges of augmentation,
rate, schedule, steps, batch and evaluations are those of our recipe; like it (few patients validate) this keeps the last step.
`fit` is what `finetune.py` races against.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, decollate_batch
from monai.inferers import SliceInferer
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import (
    AsDiscrete,
    Compose,
    EnsureChannelFirstd,
    FgBgToIndicesd,
    LoadImaged,
    RandAffined,
    RandCropByPosNegLabeld,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPadd,
    SqueezeDimd,
)
from monai.utils import set_determinism
from torch import Tensor, nn

KEYS = ("image", "mask")
PATCHES_PER_VOLUME = 4
"""Patches that a step takes of one volume, as in MONAI's tutorials."""
WINDOWS_AT_ONCE = 16


@dataclass(frozen=True)
class Recipe:
    """What both sides have in common.

    size: sides of a patch; overlap: of neighbouring windows, as a share of their size.
    """

    size: tuple[int, int]
    batch_size: int
    steps: int
    evaluations: int
    lr: float
    weight_decay: float
    warmup_frac: float
    overlap: float


def fit(
    network: nn.Module, parts: dict[str, list[dict[str, Any]]], num_classes: int, recipe: Recipe, seed: int, num_workers: int
) -> list[np.ndarray]:
    """Train on the volumes of part `train`, score those of `val` on the way, predict class numbers `(i, j, k)` of `test`.

    parts: by part, of each volume the files `image` (`(i, j, k)` in [0, 1]) and `mask` (class numbers, the background 0).
    """
    set_determinism(seed)
    transforms = training_transforms(reading_transforms(), recipe.size, small_changes(recipe.size))
    train = CacheDataset(parts["train"], transforms, progress=False)
    val, test = (CacheDataset(parts[name], reading_transforms(), progress=False) for name in ("val", "test"))
    every = max(1, recipe.steps // recipe.evaluations)
    for step in learn(network, train, DiceCELoss(to_onehot_y=True, softmax=True), recipe, num_workers):
        if step % every == 0:
            validate(network, val, num_classes, recipe)
    return [logits.argmax(dim=1)[0].numpy() for logits in inferred(network, test, recipe)]


def learn(network: nn.Module, train: CacheDataset, criterion: nn.Module, recipe: Recipe, num_workers: int) -> Iterator[int]:
    """Learn from volumes, each a list of patches; the number of each finished step."""
    loader = DataLoader(
        train,
        batch_size=max(1, recipe.batch_size // PATCHES_PER_VOLUME),
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = WarmupCosineSchedule(optimizer, round(recipe.warmup_frac * recipe.steps), recipe.steps, warmup_multiplier=0.01)
    for step, batch in zip(range(1, recipe.steps + 1), endless(loader), strict=False):
        network.train()
        optimizer.zero_grad()
        loss = criterion(network(batch["image"]), batch["mask"])
        loss.backward()
        optimizer.step()
        schedule.step()
        yield step


def training_transforms(read: Compose, size: tuple[int, int], changes: Sequence[Any]) -> Compose:
    """Patches of what is read, half of them about a voxel of a class, changed."""
    return Compose(
        [
            *read.transforms,
            SpatialPadd(KEYS, (*size, 1)),
            FgBgToIndicesd("mask"),
            RandCropByPosNegLabeld(
                KEYS,
                "mask",
                (*size, 1),
                pos=1,
                neg=1,
                num_samples=PATCHES_PER_VOLUME,
                fg_indices_key="mask_fg_indices",
                bg_indices_key="mask_bg_indices",
            ),
            SqueezeDimd(KEYS, dim=-1),
            *changes,
        ]
    )


def small_changes(size: tuple[int, int]) -> list[Any]:
    """Patches moved a little and changed a little in contrast and brightness."""
    return [
        RandAffined(
            KEYS,
            prob=1.0,
            rotate_range=math.radians(15),
            translate_range=[0.08 * side for side in size],
            scale_range=0.15,
            mode=("bilinear", "nearest"),
            padding_mode="border",
        ),
        RandScaleIntensityd("image", factors=0.18, prob=1.0),
        RandShiftIntensityd("image", offsets=0.1, prob=1.0),
    ]


def reading_transforms() -> Compose:
    """Files to `(1, i, j, k)`."""
    return Compose([LoadImaged(KEYS, reader="NumpyReader"), EnsureChannelFirstd(KEYS, channel_dim="no_channel")])


def endless(loader: DataLoader) -> Iterator[dict[str, Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from loader


def validate(network: nn.Module, val: CacheDataset, num_classes: int, recipe: Recipe) -> float:
    """Mean Dice over the classes and volumes of the validation part; NaN without volumes."""
    if not len(val):
        return math.nan
    metric = DiceMetric(include_background=False)
    predicted, given = AsDiscrete(argmax=True, to_onehot=num_classes), AsDiscrete(to_onehot=num_classes)
    for logits, batch in zip(inferred(network, val, recipe), DataLoader(val, batch_size=1), strict=True):
        metric([predicted(one) for one in decollate_batch(logits)], [given(one) for one in decollate_batch(batch["mask"])])
    return float(metric.aggregate())


def inferred(network: nn.Module, volumes: Sequence[Any], recipe: Recipe) -> Iterator[Tensor]:
    """Logits `(1, classes, i, j, k)` of each volume, slice by slice through a sliding window."""
    inferer = SliceInferer(
        spatial_dim=2, roi_size=recipe.size, sw_batch_size=WINDOWS_AT_ONCE, overlap=recipe.overlap, mode="gaussian"
    )
    network.eval()
    with torch.inference_mode():
        for batch in DataLoader(volumes, batch_size=1):
            yield inferer(batch["image"], network).as_tensor()
