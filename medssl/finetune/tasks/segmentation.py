"""Segmentation of volumes by a U-Net over the backbone, in slices (2-D encoders) or patches (3-D encoders)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.core.bounds import Fold, Part, Whole
from medssl.finetune import training
from medssl.finetune.augment import draws, intensity, sampling_grid
from medssl.finetune.decoder import UNet
from medssl.finetune.mixup import mixup
from medssl.finetune.nnunet import ResEncUNet
from medssl.finetune.recipe import Recipe
from medssl.finetune.scans import Places, Scan, batch_of, mean_dice, places_of
from medssl.finetune.self_training import self_trained
from medssl.nn.backbone import Backbone
from medssl.nn.layout import lay_out
from medssl.nn.weights import place_parts

MODES = ["full", "gradual", "decoder"]
PREDICTS = "masks"
DEFAULT_MODES = ["full"]
MAIN_MODE = "full"
"""The mode that a reader asks about first."""
FROZEN_MODES = ["decoder"]
"""Modes in which the encoder stays as it was."""
MODE_TITLES = {"full": "full fine-tuning"}
"""Modes in words, where their own name is not."""
PATCHES_PER_VOLUME = 8
PREDICT_BATCH = 16
LOOP_MODE = {"full": "full", "gradual": "gradual", "decoder": "frozen"}


@dataclass
class Segmented:
    """What a fit leaves: the network and facts for fits.tsv."""

    network: nn.Module
    facts: dict[str, Any] = field(default_factory=dict)
    curve: list[tuple[int, float, float]] = field(default_factory=list)


class Segmentation:
    """Which voxels belong to which structure? Dice plus cross-entropy on patches, sliding window at the end."""

    selection = "mean Dice"

    def __init__(
        self,
        *,
        foreground_frac: Part = 0.5,
        overlap: Fold = 0.5,
        test_flips: bool = False,
        largest_component: bool = False,
        self_training_rounds: Whole = 0,
        decoder: Literal["unet", "nnunet"] = "unet",
    ) -> None:
        self.foreground_frac = foreground_frac
        self.overlap = overlap
        self.test_flips = test_flips
        self.largest_component = largest_component
        self.self_training_rounds = self_training_rounds
        self.decoder = decoder

    def network(self, backbone: Backbone, num_classes: int) -> nn.Module:
        """The backbone with this task's decoder; `num_classes` counts the background."""
        return (ResEncUNet if self.decoder == "nnunet" else UNet)(backbone, num_classes)

    def num_items(self, scans: Sequence[Scan], spatial_dims: int) -> int:
        """What an epoch counts: slices in 2-D, eight patches a volume in 3-D."""
        return sum(scan.shape[2] if spatial_dims == 2 else PATCHES_PER_VOLUME for scan in scans)

    def fit(
        self,
        mode: str,
        backbone: Backbone,
        decoder: dict[str, Tensor],
        train: Sequence[Scan],
        val: Sequence[Scan],
        rest: Sequence[Scan],
        values: Sequence[int],
        size: tuple[int, ...],
        recipe: Recipe,
        seed: int,
        device: torch.device,
    ) -> Segmented:
        """Fit on the scans `train`, choosing the step by mean Dice on `val`.

        Args:
            mode: `full`, `gradual`, or `decoder` (the backbone stays as it is).
            backbone: with its starting weights; not changed.
            decoder: tensors `decoder.…` that were learnt before; the rest of the decoder is drawn.
            train, val: labelled scans.
            rest: training scans whose masks may not be used, for self-training.
            values: mask value of each class; index 0 is the background.
            size: of a patch, one number per axis of the network.
            recipe: see `Recipe`.
            seed: of patches, augmentation and decoder.
            device: where the network runs.
        """
        num_steps, lookup = recipe.steps(self.num_items(train, len(size))), np.array(values, dtype=np.int64)

        def fitted_on(scans: Sequence[Scan]) -> Segmented:
            return self._fit(mode, backbone, decoder, scans, val, values, size, recipe, seed, device, num_steps)

        def guess(fitted: Segmented) -> tuple[list[Scan], int]:
            masks = (lookup[self.probabilities(fitted.network, scan, size, device).argmax(axis=0)] for scan in rest)
            return [scan.with_mask(mask) for scan, mask in zip(rest, masks, strict=True)], len(rest)

        return self_trained(fitted_on(train), self.self_training_rounds, guess, lambda guessed: fitted_on([*train, *guessed]))

    def _fit(
        self,
        mode: str,
        backbone: Backbone,
        decoder: dict[str, Tensor],
        train: Sequence[Scan],
        val: Sequence[Scan],
        values: Sequence[int],
        size: tuple[int, ...],
        recipe: Recipe,
        seed: int,
        device: torch.device,
        num_steps: int,
    ) -> Segmented:
        from monai.losses import DiceCELoss

        with training.seeded(seed, "decoder"):
            network = self.network(copy.deepcopy(backbone), len(values))
        place_parts(decoder, {"decoder": network.get_submodule("decoder")}, "starting weights")
        lay_out(network, device)
        places = [places_of(scan, values[1:], seed) for scan in train]
        loss = DiceCELoss(softmax=True, batch=True)
        lookup = torch.full((max(values) + 1,), 0, dtype=torch.int64)
        lookup[torch.tensor(list(values))] = torch.arange(len(values))

        def batch(step: int) -> tuple[Tensor, Tensor]:
            images, masks = patches(train, places, size, recipe.batch_size, self.foreground_frac, seed, step)
            target = F.one_hot(lookup[masks.clamp(max=max(values))], len(values)).movedim(-1, 1).float().to(device)
            images = images.to(device)
            if recipe.augment:
                images, target = augmented(images, target, draws(seed, step, len(images)).to(device), flips=recipe.flips)
            return mixup(images, target, recipe.mixup, seed, step)

        def score(current: nn.Module) -> float:
            index = np.array(values)
            guessed = [index[self.probabilities(current, scan, size, device).argmax(axis=0)] for scan in val]
            return mean_dice(guessed, [scan.mask for scan in val], values[1:])

        trained = training.fit(network, batch, loss, score, recipe, num_steps, mode=LOOP_MODE[mode])
        facts = {"val_score": trained.best_score, "best_step": trained.best_step, "steps": num_steps}
        facts["decoder_tensors"] = len(decoder)
        return Segmented(network, facts, trained.curve)

    def probabilities(self, network: nn.Module, scan: Scan, size: tuple[int, ...], device: torch.device) -> np.ndarray:
        """Class probabilities of a scan on its prepared grid, float32 `(classes, i, j, k)`.

        Windows overlap and are blended with Gaussian weights (MONAI); with `test_flips` the mean over all mirrors.
        """
        from monai.inferers import sliding_window_inference

        network.eval()
        whole = torch.from_numpy(scan.seen((slice(None),) * 3))[None]
        if len(size) == 2:
            whole = whole[0].movedim(-1, 0)
        flips = _subsets_of_axes(len(size)) if self.test_flips else [()]
        parts = []
        with torch.inference_mode():
            for start in range(0, len(whole), PREDICT_BATCH):
                images = whole[start : start + PREDICT_BATCH].to(device)
                total = torch.zeros((), device=device)
                for axes in flips:
                    logits = sliding_window_inference(
                        images.flip(axes) if axes else images,
                        size,
                        PREDICT_BATCH if len(size) == 2 else 2,
                        network,
                        overlap=self.overlap,
                        mode="gaussian",
                    )
                    shares = logits.float().softmax(dim=1)
                    total = total + (shares.flip(axes) if axes else shares)
                parts.append((total / len(flips)).cpu())
        joined = torch.cat(parts)
        return (joined.movedim(0, -1) if len(size) == 2 else joined[0]).numpy()


def patches(
    scans: Sequence[Scan],
    places: Sequence[Places],
    size: tuple[int, ...],
    count: int,
    foreground_frac: Part,
    seed: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Images `(count, c, *size)` and mask values `(count, *size)`."""
    if len(size) == 3:
        images, masks = batch_of(scans, places, (size[0], size[1], size[2]), count, foreground_frac, seed, step)
        return torch.from_numpy(images), torch.from_numpy(masks)
    images, masks = batch_of(scans, places, (size[0], size[1], 1), count, foreground_frac, seed, step)
    return torch.from_numpy(images[..., 0]), torch.from_numpy(masks[..., 0])


def augmented(images: Tensor, target: Tensor, draw: Tensor, *, flips: bool) -> tuple[Tensor, Tensor]:
    """Images and one-hot targets moved alike, images also in brightness and contrast; targets stay 0 or 1."""
    grid = sampling_grid(tuple(images.shape[2:]), draw, flips=flips)
    moved = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    wanted = F.grid_sample(target, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    outside = wanted.sum(dim=1) == 0
    wanted[:, 0] += outside.float()
    return intensity(moved, draw), wanted


def _subsets_of_axes(rank: int) -> list[tuple[int, ...]]:
    """All sets of spatial axes of `(n, c, *size)`."""
    axes = range(2, 2 + rank)
    return [chosen for count in range(rank + 1) for chosen in itertools.combinations(axes, count)]
