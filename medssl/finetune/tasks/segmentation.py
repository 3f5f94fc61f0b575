"""Segmentation of volumes by a U-Net over the backbone, in slices (2-D encoders) or patches (3-D encoders)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from medssl.core.bounds import Fold, Part, Whole
from medssl.finetune import training
from medssl.finetune.gating import add_gates
from medssl.finetune.inference import Inference
from medssl.finetune.labelled_data import Scans, new_scans, read_scans, reference_mask, source_grid
from medssl.finetune.mixup import mixup
from medssl.finetune.nnunet import ResEncUNet
from medssl.finetune.patches import Patches
from medssl.finetune.recipe import Recipe
from medssl.finetune.restoring import largest_components, restored_classes
from medssl.finetune.scans import Scan, mean_dice, places_of
from medssl.finetune.segmenter import Segmenter
from medssl.finetune.self_training import self_trained
from medssl.finetune.task import Answer, FineTuned, Fitted, Mask, NetworkInput, Setup, Source
from medssl.nn.backbone import Backbone
from medssl.nn.layout import laid_out, lay_out
from medssl.nn.views import Crop, Views, margins
from medssl.nn.weights import place_parts

TITLE = "segmentation"
MODES = ["full", "gradual", "decoder", "lora"]
DEFAULT_MODES = ["full"]
PREDICTS = "masks"
TABLE = "masks.tsv"
CONTINUES = ["decoder"]
MAIN_MODE = "full"
"""The mode that the report puts first."""
FROZEN_MODES = ["decoder"]
"""Modes in which the encoder stays frozen."""
GATED = "all"
MODE_TITLES = {"full": "full fine-tuning", "lora": "LoRA"}
"""Modes in words, if their own name is not enough."""
MODE_NEEDS = {"lora": ("HAS_ATTENTION", "it adapts the matrices of attention")}
"""For modes that not every backbone can have, the literal of a backbone's file that allows it, and the reason."""
DEFAULT_AUGMENT = {
    "rotation_deg": 30.0,
    "zoom": [0.7, 1.4],
    "window_jitter": 0.25,
    "gamma": 1.5,
    "gamma_prob": 0.3,
    "noise": 0.1,
    "noise_prob": 0.1,
    "blur_prob": 0.2,
    "low_resolution_prob": 0.25,
}
"""nnU-Net's ranges (Isensee et al., arXiv 1904.08128, supplementary note 4), without its mirrors."""
DEFAULT_STEPS = 2000
"""Steps of a fit by default."""
PATCHES_PER_VOLUME = 8
LOOP_MODE = {"full": "full", "gradual": "gradual", "decoder": "frozen", "lora": "lora"}


class Segmentation:
    """Assigns voxels to structures: Dice plus cross-entropy on patches, then prediction with a sliding window.

    Options:
        foreground_frac: share of the patches of a step that are centred near a voxel of a class, 0…1.
        overlap: of neighbouring windows in prediction, as a share of their size.
        test_flips: predict each image in all its mirrors, and take the mean.
        largest_component: keep only the largest connected part of each class.
        self_training_rounds: rounds in which predictions for training scans without a mask become masks.
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
        """Mean Dice, if a validation mask has a class."""
        return "mean Dice" if data.cases.targets[data.cases.where("val")].any() else None

    def num_steps(self, data: Scans, mode: str, train: np.ndarray, recipe: Recipe) -> int:
        """Optimiser steps; an epoch counts slices in 2-D, eight patches per volume in 3-D."""
        return recipe.steps(self._epoch([data.scans[n] for n in train], data.size))

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
        inference = self._inference(model.network, model.expected.size, model.device)
        for mask in self._source_masks(source, inference, new_scans(source, model.expected), values):
            yield Answer(class_volumes(mask, values, classes), mask)

    def fit(self, data: Scans, setup: Setup) -> Fitted:
        """Fit on the scans `train`, choosing the step by mean Dice on those of split `val`."""
        num_steps = self.num_steps(data, setup.mode, setup.train, setup.recipe)
        train = [data.scans[n] for n in setup.train]
        rest = [data.scans[n] for n in np.setdiff1d(data.cases.where("train"), setup.train)]
        lookup = np.array(data.values, dtype=np.int64)

        def guess(fitted: Fitted) -> tuple[list[Scan], int]:
            guesses = self._inference(fitted.network, data.size, setup.device).probabilities(rest)
            return [scan.with_mask(lookup[p.argmax(dim=0).cpu().numpy()]) for scan, p in guesses], len(rest)

        def refit(guessed: list[Scan], turn: int) -> Fitted:
            return self._fit(data, setup, [*train, *guessed], num_steps, turn)

        fitted = self_trained(self._fit(data, setup, train, num_steps, 0), self.self_training_rounds, guess, refit)
        test = [data.scans[n] for n in data.cases.where("test")]
        inference = self._inference(fitted.network, data.size, setup.device)
        fitted.masks = self._source_masks(data.source, inference, test, data.values)
        return fitted

    def _epoch(self, scans: Sequence[Scan], size: tuple[int, ...]) -> int:
        """How many slices or patches count as all of some scans."""
        return sum(scan.shape[2] if len(size) == 2 else PATCHES_PER_VOLUME for scan in scans)

    def _network(self, backbone: Backbone, num_outputs: int) -> nn.Module:
        return (ResEncUNet if self.decoder == "nnunet" else Segmenter)(backbone, num_outputs)

    def _fit(self, data: Scans, setup: Setup, train: Sequence[Scan], num_steps: int, turn: int) -> Fitted:
        """Train on scans with masks, given or predicted in round `turn`.

        A pre-trained decoder is reused, the rest of it starts at random.
        """
        from monai.losses import DiceCELoss

        recipe, seed, device, values, size = setup.recipe, setup.seed, setup.device, data.values, data.size
        val = [data.scans[n] for n in data.cases.where("val")]
        with training.seeded(seed, "decoder"):
            network = self._network(copy.deepcopy(setup.backbone), len(values))
        place_parts(setup.pretrained, {"decoder": network.get_submodule("decoder")}, "starting weights")
        add_gates(network, recipe.bottleneck, seed, num_cases=self._epoch(train, size))
        lay_out(network, device, channels_last=recipe.channels_last)
        across = {2} if data.slices_last or len(size) == 2 else {scan.axis for scan in train}
        margin = (0,) * len(size) if recipe.augment is None else margins(size, recipe.augment, across)
        rest = 3 - len(size)
        patches = Patches(
            train,
            [places_of(scan, values[1:], seed) for scan in train],
            values,
            (*size, *(1,) * rest),  # type: ignore[arg-type]
            (*margin, *(0,) * rest),  # type: ignore[arg-type]
            count=recipe.batch_size,
            foreground_frac=self.foreground_frac,
            seed=seed,
        )
        views = None
        if recipe.augment is not None:
            crop = Crop(1, size, shows="middle")
            views = Views(recipe.augment, [crop], patches, seed=seed, slices_last=data.slices_last)

        patients = [scan.volume.subject_id or scan.volume.volume_id for scan in train]
        patient = torch.from_numpy(np.unique(patients, return_inverse=True)[1]).to(device)

        def batches(steps: Iterable[int]) -> Iterator[training.Inputs]:
            for batch in patches.batches(steps, device, data=setup.data, workers=setup.workers):
                images, classes = (batch.seen, batch.classes) if views is None else views.labelled(batch)
                target = F.one_hot(classes, len(values)).movedim(-1, 1).float()
                images, target = mixup(images, target, recipe.mixup, seed, batch.epoch)
                yield laid_out(images, network), target, *(() if recipe.bottleneck is None else (patient[batch.rows.to(device)],))

        truths = [torch.from_numpy(np.ascontiguousarray(scan.mask)).to(device) for scan in val]
        index = torch.tensor(values, device=device)

        def score(current: nn.Module) -> float:
            if self.selection(data) is None:
                return float("nan")
            answers = self._inference(current, size, device).probabilities(val)
            return mean_dice((index[p.argmax(dim=0).to(device)] for _, p in answers), truths, values[1:])

        trained = training.Fit(
            network,
            batches,
            DiceCELoss(softmax=True, batch=True),
            score,
            recipe,
            num_steps,
            seed=seed,
            mode=LOOP_MODE[setup.mode],
            choose=setup.chooses,
            saving=setup.saving(f"round-{turn}"),
            report=setup.report,
        ).run()
        facts = {"val_score": trained.best_score, "best_step": trained.best_step, "steps": num_steps}
        facts |= {"trained_parameters": trained.num_trained, "decoder_tensors": len(setup.pretrained)}
        return Fitted(network, facts=facts, curve=trained.curve)

    def _inference(self, network: nn.Module, size: tuple[int, ...], device: torch.device) -> Inference:
        return Inference(network, size, device, overlap=self.overlap, flips=self.test_flips)

    def _source_masks(self, source: Source, inference: Inference, scans: Iterable[Scan], values: list[int]) -> Iterator[Mask]:
        """The predicted masks of scans, in mask values, on the grids of the original images."""
        for scan, probabilities in inference.probabilities(scans):
            affine, shape = source_grid(source, scan)
            classes = restored_classes(probabilities, scan.affine, affine, shape)
            if self.largest_component:
                classes = largest_components(classes, len(values))
            yield Mask(scan.case_id, np.array(values, dtype=np.uint8 if max(values) < 256 else np.uint16)[classes], affine)


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
