"""Segmentation of volumes by a U-Net over the backbone, in slices (2-D encoders) or patches (3-D encoders)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.core.bounds import Fold, Part, Whole
from medssl.finetune import training
from medssl.finetune.augment import draws, intensity, margins, sampling_grid
from medssl.finetune.labelled_data import Scans, new_scans, read_scans, reference_mask, source_grid
from medssl.finetune.mixup import mixup
from medssl.finetune.nnunet import ResEncUNet
from medssl.finetune.recipe import Recipe
from medssl.finetune.restoring import largest_components, restored_classes
from medssl.finetune.scans import Places, Scan, batch_of, mean_dice, places_of
from medssl.finetune.segmenter import Segmenter
from medssl.finetune.self_training import self_trained
from medssl.finetune.task import Answer, FineTuned, Fitted, Mask, NetworkInput, Setup, Source
from medssl.nn.backbone import Backbone
from medssl.nn.layout import lay_out
from medssl.nn.weights import place_parts

TITLE = "segmentation"
MODES = ["full", "gradual", "decoder"]
DEFAULT_MODES = ["full"]
PREDICTS = "masks"
TABLE = "masks.tsv"
CONTINUES = ["decoder"]
MAIN_MODE = "full"
"""The mode that a reader asks about first."""
FROZEN_MODES = ["decoder"]
"""Modes in which the encoder stays as it was."""
MODE_TITLES = {"full": "full fine-tuning"}
"""Modes in words, where their own name is not."""
DEFAULT_STEPS = 2000
"""Steps of a fit where the study file does not say."""
PATCHES_PER_VOLUME = 8
PREDICT_BATCH = 16
LOOP_MODE = {"full": "full", "gradual": "gradual", "decoder": "frozen"}


class Segmentation:
    """Which voxels belong to which structure? Dice plus cross-entropy on patches, sliding window at the end.

    Options:
        foreground_frac: share of the patches of a step that are centred near a voxel of a class, 0…1.
        overlap: of neighbouring windows in prediction, as a share of their size.
        test_flips: predict each image in all its mirrors, and take the mean.
        largest_component: of each class keep only the largest connected part.
        self_training_rounds: rounds in which guesses for the training scans without a mask become masks.
        decoder: `unet`, over any backbone; `nnunet`, nnU-Net's own over the backbone `resenc`.
    """

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

    def read(self, source: Source, expected: NetworkInput) -> Scans:
        """The scans that have a mask."""
        return read_scans(source, expected)

    def selection(self, data: Scans) -> str | None:
        """Mean Dice, where a validation mask holds a class."""
        return "mean Dice" if data.cases.targets[data.cases.where("val")].any() else None

    def num_steps(self, data: Scans, mode: str, train: np.ndarray, recipe: Recipe) -> int:
        """Optimiser steps; an epoch counts slices in 2-D, eight patches a volume in 3-D."""
        scans = [data.scans[n] for n in train]
        return recipe.steps(sum(scan.shape[2] if len(data.size) == 2 else PATCHES_PER_VOLUME for scan in scans))

    def network(self, backbone: Backbone, contract: dict[str, Any]) -> nn.Module:
        """The backbone with this task's decoder, and an output for each mask value."""
        return self._network(backbone, len(contract["mask_values"]))

    def contract(self, data: Scans) -> dict[str, Any]:
        """The classes without the background, and the mask value of each output."""
        return {"classes": data.cases.classes, "mask_values": list(data.values), "slice_axis": "of the prepare stage"}

    def references(self, data: Scans) -> Iterator[Mask]:
        """The given masks of the test cases."""
        for n in data.cases.where("test"):
            yield reference_mask(data.source, data.given, data.scans[n])

    def rows(self, data: Scans, predicted: np.ndarray | None) -> pd.DataFrame:
        """A row for each test case, with its mask and the given one."""
        cases = data.cases
        rows = []
        for n in cases.where("test"):
            affine, _ = source_grid(data.source, data.scans[n])
            rows.append(
                {
                    "split": "test",
                    "case_id": cases.case_id[n],
                    "unit_id": cases.unit_id[n],
                    "unit": cases.unit[n],
                    "target": f"masks/reference/{cases.case_id[n]}.nii.gz",
                    "prediction": f"{cases.case_id[n]}.nii.gz",
                    "classes": dict(data.names),
                    "spacing_mm": [float(size) for size in np.linalg.norm(affine[:3, :3], axis=0)],
                    **{name: values[n] for name, values in cases.groups.items()},
                }
            )
        return pd.DataFrame(rows)

    def predict(self, model: FineTuned, source: Source) -> Iterator[Answer]:
        """A mask for each volume, and a row for each of its classes: value, voxels and millilitres."""
        model.check(source)
        values, classes = model.contract["mask_values"], model.contract["classes"]
        for scan in new_scans(source, model.expected):
            mask = self._source_mask(source, model.network, scan, values, model.expected.size, model.device)
            yield Answer(class_volumes(mask, values, classes), mask)

    def fit(self, data: Scans, setup: Setup) -> Fitted:
        """Fit on the scans `train`, choosing the step by mean Dice on those of split `val`."""
        num_steps = self.num_steps(data, setup.mode, setup.train, setup.recipe)
        train = [data.scans[n] for n in setup.train]
        rest = [data.scans[n] for n in np.setdiff1d(data.cases.where("train"), setup.train)]
        lookup = np.array(data.values, dtype=np.int64)

        def guess(fitted: Fitted) -> tuple[list[Scan], int]:
            guesses = (self.probabilities(fitted.network, scan, data.size, setup.device) for scan in rest)
            return [s.with_mask(lookup[p.argmax(axis=0)]) for s, p in zip(rest, guesses, strict=True)], len(rest)

        def refit(guessed: list[Scan]) -> Fitted:
            return self._fit(data, setup, [*train, *guessed], num_steps)

        fitted = self_trained(self._fit(data, setup, train, num_steps), self.self_training_rounds, guess, refit)
        test = [data.scans[n] for n in data.cases.where("test")]
        network = fitted.network
        fitted.masks = (self._source_mask(data.source, network, s, data.values, data.size, setup.device) for s in test)
        return fitted

    def _network(self, backbone: Backbone, num_outputs: int) -> nn.Module:
        return (ResEncUNet if self.decoder == "nnunet" else Segmenter)(backbone, num_outputs)

    def _fit(self, data: Scans, setup: Setup, train: Sequence[Scan], num_steps: int) -> Fitted:
        """Train on scans with masks, given or guessed; a decoder that was learnt before goes on, the rest of it is drawn."""
        from monai.losses import DiceCELoss

        recipe, seed, device, values, size = setup.recipe, setup.seed, setup.device, data.values, data.size
        val = [data.scans[n] for n in data.cases.where("val")]
        with training.seeded(seed, "decoder"):
            network = self._network(copy.deepcopy(setup.backbone), len(values))
        place_parts(setup.learnt, {"decoder": network.get_submodule("decoder")}, "starting weights")
        lay_out(network, device)
        places = [places_of(scan, values[1:], seed) for scan in train]
        loss = DiceCELoss(softmax=True, batch=True)
        lookup = torch.full((max(values) + 1,), 0, dtype=torch.int64)
        lookup[torch.tensor(list(values))] = torch.arange(len(values))

        def batch(step: int) -> tuple[Tensor, Tensor]:
            room = margins(size) if recipe.augment else (0,) * len(size)
            images, masks = patches(train, places, size, recipe.batch_size, self.foreground_frac, seed, step, room)
            target = F.one_hot(lookup[masks.clamp(max=max(values))], len(values)).movedim(-1, 1).float().to(device)
            images = images.to(device)
            if recipe.augment:
                images, target = augmented(images, target, size, draws(seed, step, len(images)).to(device), flips=recipe.flips)
            return mixup(images, target, recipe.mixup, seed, step)

        def score(current: nn.Module) -> float:
            if self.selection(data) is None:
                return float("nan")
            index = np.array(values)
            guessed = [index[self.probabilities(current, scan, size, device).argmax(axis=0)] for scan in val]
            return mean_dice(guessed, [scan.mask for scan in val], values[1:])

        trained = training.fit(network, batch, loss, score, recipe, num_steps, mode=LOOP_MODE[setup.mode], choose=setup.chooses)
        facts = {"val_score": trained.best_score, "best_step": trained.best_step, "steps": num_steps}
        facts["decoder_tensors"] = len(setup.learnt)
        return Fitted(network, facts=facts, curve=trained.curve)

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
                    if not isinstance(logits, Tensor):  # MONAI joins several outputs too, and this network has one
                        raise TypeError(f"the network gave {type(logits).__name__}; expected one tensor of logits.")
                    shares = logits.float().softmax(dim=1)
                    total = total + (shares.flip(axes) if axes else shares)
                parts.append((total / len(flips)).cpu())
        joined = torch.cat(parts)
        return (joined.movedim(0, -1) if len(size) == 2 else joined[0]).numpy()

    def _source_mask(
        self, source: Source, network: nn.Module, scan: Scan, values: list[int], size: tuple[int, ...], device: torch.device
    ) -> Mask:
        """The predicted mask of a scan, in mask values, on the grid of the image as it was given."""
        probabilities = self.probabilities(network, scan, size, device)
        affine, shape = source_grid(source, scan)
        classes = restored_classes(probabilities, scan.affine, affine, shape)
        if self.largest_component:
            classes = largest_components(classes, len(values))
        return Mask(scan.case_id, np.array(values, dtype=np.uint8 if max(values) < 256 else np.uint16)[classes], affine)


def class_volumes(mask: Mask, values: list[int], classes: list[str]) -> pd.DataFrame:
    """A row for each class of a predicted mask: its value, voxels and millilitres."""
    voxel_ml = float(abs(np.linalg.det(mask.affine[:3, :3])) / 1000)
    counts = [int((mask.values == value).sum()) for value in values[1:]]
    return pd.DataFrame(
        {
            "volume_id": mask.case_id,
            "mask": f"masks/{mask.case_id}.nii.gz",
            "value": values[1:],
            "class": classes,
            "voxels": counts,
            "volume_ml": [count * voxel_ml for count in counts],
        }
    )


def patches(
    scans: Sequence[Scan],
    places: Sequence[Places],
    size: tuple[int, ...],
    count: int,
    foreground_frac: Part,
    seed: int,
    step: int,
    room: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """Images `(count, c, *size)` and mask values `(count, *size)`, with `room` beyond each side of them."""
    rest, more = (1,) * (3 - len(size)), (0,) * (3 - len(size))
    sides, margin = (*size, *rest), (*room, *more)
    images, masks = batch_of(scans, places, sides, count, foreground_frac, seed, step, margin)  # type: ignore[arg-type]
    if len(size) == 3:
        return torch.from_numpy(images), torch.from_numpy(masks)
    return torch.from_numpy(images[..., 0]), torch.from_numpy(masks[..., 0])


def augmented(images: Tensor, target: Tensor, size: tuple[int, ...], draw: Tensor, *, flips: bool) -> tuple[Tensor, Tensor]:
    """Images and one-hot targets moved alike, images also in brightness and contrast; targets stay 0 or 1.

    The patch of `size` is cut out after the move, so that what lies beside it comes in at its borders.
    """
    grid = sampling_grid(size, draw, flips=flips, within=tuple(images.shape[2:]))
    moved = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    wanted = F.grid_sample(target, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    outside = wanted.sum(dim=1) == 0
    wanted[:, 0] += outside.float()
    return intensity(moved, draw), wanted


def _subsets_of_axes(rank: int) -> list[tuple[int, ...]]:
    """All sets of spatial axes of `(n, c, *size)`."""
    axes = range(2, 2 + rank)
    return [chosen for count in range(rank + 1) for chosen in itertools.combinations(axes, count)]
