"""Guided contrast: which images are alike, and which differences do not count, by what is known of them besides their pixels.

Sources: debiased negatives, Chuang et al., arXiv 2007.00224; hard negatives, Robinson et al., arXiv 2010.04592; positives
softened by a kernel, Dufumier et al., arXiv 2106.08808; neighbours in context, Wu et al., arXiv 2206.03281; factors unlearnt by
reversed gradients, Ganin and Lempitsky, arXiv 1409.7495, as in Gardès et al., arXiv 2606.05107.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Distinct, Fold, Part, Positive, Weight, Widths
from medssl.core.errors import StudyError
from medssl.core.rng import rng
from medssl.nn.backbone import Backbone, pooled, wide
from medssl.nn.contrast import guided_nt_xent
from medssl.nn.gather import averaged, gather, mean_of_chosen, normalised
from medssl.nn.heads import perceptron
from medssl.nn.kinship import Kernel, Kinship, of_label, of_place
from medssl.nn.loading import Batch, Samples
from medssl.nn.records import Record
from medssl.nn.reversal import reversed_gradient, strength_at
from medssl.pretrain.objective import Loss, Objective, health_outputs, require_other_volumes

TITLE = "Guided contrast"
SOURCE = "Dufumier et al., MICCAI 2021, arXiv 2106.08808"
ON_PICTURES = {"exclude_same_volume": False}
LABEL_OPTION = "near_label"
RECORD_OPTIONS = {"near_records": "width", "spurious": "any"}
KIN = 0.1
"""Likeness from which two samples count as kin."""
LOOKED_AT = 64
"""Anchors by which the number of kin in a random batch is estimated."""
ASKED = 4096
"""Samples among which the kin of an anchor are looked for, if all are too many."""


class GuidedContrast(Objective):
    """NT-Xent with negatives debiased and weighted, and positives shared with the kin of an image. With all options at 0 it is
    SimCLR's loss.

    Kin are alike by every kernel that is given; a sample of which a value is unknown has none. Batches are made of pairs of kin
    if a random batch holds less than one sample of kin for each.

    Options:
        temperature: of the softmax; lower is sharper.
        projector: widths of the layers of the projector after the mean of the deepest map; the last is the embedding's.
        class_share: probability that another image is of the same kind, by which the negatives are debiased; 0 turns it off.
        hardness: how much more near negatives count than far ones; 0.5 to 1 is safe, 0 turns it off.
        near_position_mm: standard deviation of the distance within a volume at which slices are alike.
        near_place: the same of the place between first and last slice, 0…1, across volumes.
        near_label: whether samples with the same label are alike. The run is then not without labels.
        near_records: columns of the records that make samples alike, each with its width: of a number the standard deviation in
            its own unit, of a category 0.
        near_weight: share of the target that goes to the kin, instead of the image's own other view.
        spurious: columns of the records that the features are to forget, such as the scanner.
        spurious_weight: strength of the reversed gradients of the heads that predict these columns, which rises at first.
        exclude_same_volume: whether slices of the same volume are excluded from the negatives.
    """

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        temperature: Positive = 0.1,
        projector: Widths = (2048, 128),
        class_share: Fold = 0.0,
        hardness: Weight = 0.0,
        near_position_mm: Positive | None = None,
        near_place: Positive | None = None,
        near_label: bool = False,
        near_records: dict[str, Weight] = {},  # noqa: B006  (a plug-in's defaults are read, never changed)
        near_weight: Part = 0.5,
        spurious: Distinct[str] = [],  # noqa: B006
        spurious_weight: Weight = 1.0,
        exclude_same_volume: bool = False,
    ) -> None:
        super().__init__(backbone, samples)
        if exclude_same_volume:
            require_other_volumes(samples, "exclude_same_volume takes negatives", "set it to false")
        self.temperature, self.class_share, self.hardness = temperature, class_share, hardness
        self.near_weight, self.spurious_weight, self.exclude_same_volume = near_weight, spurious_weight, exclude_same_volume
        kernels: dict[str, Kernel] = {}
        if near_position_mm is not None:
            kernels["near_position_mm"] = Kernel(samples.position_mm.astype(np.float64), near_position_mm, within=True)
        if near_place is not None:
            kernels["near_place"] = Kernel(of_place(samples), near_place)
        if near_label:
            kernels["near_label"] = Kernel(of_label(samples), 0.0)
        for column, width in near_records.items():
            kernels[f"the record {column!r}"] = _kernel(column, samples.records[column], width)
        for name, kernel in kernels.items():
            if np.isnan(kernel.values).all():
                raise StudyError(f"guided_contrast: {name} is known of none of the {len(samples)} samples. Leave it out.")
        self.kinship = Kinship(samples, list(kernels.values()))
        self._volume_of = samples.volume
        order = np.argsort(samples.volume, kind="stable")
        starts = np.searchsorted(samples.volume[order], np.arange(len(samples.volumes) + 1))
        self._of_volume = [order[start:stop] for start, stop in pairwise(starts)] if self.kinship.within else []
        self.projector = perceptron([backbone.channels[-1], *projector])
        self.columns = tuple(spurious)
        self.heads = nn.ModuleList()
        for number, name in enumerate(spurious):
            record = samples.records[name]
            if len(record.levels) == 1:
                raise _equal(name)
            values = record.values if record.levels else _standardised(name, record.values)
            self.register_buffer(f"spurious_{number}", torch.from_numpy(values), persistent=False)
            self.heads.append(perceptron([backbone.channels[-1], 256, len(record.levels) or 1], norm=False))

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[Int64[np.ndarray, "_"]]:
        """Random batches; if these hold less than one sample of kin for each, pairs of kin."""
        batches = super().batches(seed, epoch, batch_size)
        if not self.kinship.widths or self._expected_kin(seed, batch_size) >= 1:
            return batches
        return [self._paired(batch, rng(seed, "kin", epoch, number)) for number, batch in enumerate(batches)]

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        # one view at a time, as in the released code: each is its own batch for batch norm
        features = [pooled(self.backbone(view)) for view in views]
        a, b = (wide(self.projector(feature)) for feature in features)
        found = {"z_a": a, "z_b": b, **health_outputs(features, [a, b])}
        strength = self.spurious_weight * strength_at(self.progress)
        for number, head in enumerate(self.heads):
            predicted = [wide(head(reversed_gradient(feature, strength))) for feature in features]
            found[f"spurious_{number}"] = torch.stack(predicted, 1)
        return found

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        a, b, everyone = outputs["z_a"], outputs["z_b"], gather(batch.rows)
        kin = self.kinship(batch.rows, everyone)
        value = guided_nt_xent(
            normalised(a),
            normalised(b),
            kin,
            temperature=self.temperature,
            kin_weight=self.near_weight,
            class_share=self.class_share,
            hardness=self.hardness,
            volume=batch.volume if self.exclude_same_volume else None,
        )
        parts: dict[str, float | Tensor] = {}
        if self.kinship.widths:
            alike = kin * (batch.rows[:, None] != everyone[None])
            parts["kin"] = averaged((alike > KIN).double().sum(1).mean())
            parts["kin_share"] = averaged(self.near_weight * (alike.sum(1) > 0).double().mean())
        for number, name in enumerate(self.columns):
            added, score = self._of_spurious(number, outputs[f"spurious_{number}"], batch)
            value, parts[f"spurious_{name}"] = value + added, score
        return Loss(value, parts)

    def _of_spurious(self, number: int, predicted: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a head, and its share of right levels (of a number: the share of the variance that it explains)."""
        wanted = self.get_buffer(f"spurious_{number}")[batch.rows][:, None].expand(-1, 2)
        known = ~wanted.isnan()
        wanted = wanted.nan_to_num()
        if predicted.shape[-1] == 1:
            each = (predicted[..., 0] - wanted.to(predicted)).square()
            loss = mean_of_chosen(each, known)
            return loss, 1 - averaged(loss)
        each = F.cross_entropy(predicted.flatten(0, 1), wanted.long().flatten(), reduction="none").view(wanted.shape)
        right = (predicted.argmax(-1) == wanted).to(predicted)
        return mean_of_chosen(each, known), averaged(mean_of_chosen(right, known))

    def _expected_kin(self, seed: int, batch_size: int) -> float:
        """How many kin a sample has in a random batch, on average, by some anchors and others."""
        random, count = rng(seed, "expected kin"), self.num_samples
        anchors = random.permutation(count)[:LOOKED_AT]
        others = random.permutation(count)[:ASKED] if not self.kinship.within else np.arange(count)
        found = self._alike(anchors, others) > KIN
        found &= anchors[:, None] != others[None]
        return float(found.mean(1).mean() * (batch_size - 1))

    def _paired(self, batch: Int64[np.ndarray, "b"], random: np.random.Generator) -> Int64[np.ndarray, "b"]:
        """The first samples of the batch, each followed by one of its kin that the batch does not hold yet, if there is any."""
        others = random.permutation(self.num_samples)[:ASKED]
        alike = None if self.kinship.within else self._alike(batch, others)
        rows: dict[int, None] = {}  # in their order
        for number, anchor in enumerate(batch.tolist()):
            if anchor in rows or len(rows) == len(batch):
                continue
            rows[anchor] = None
            asked = others if alike is not None else self._of_volume[self._volume_of[anchor]]
            likeness = self._alike(np.array([anchor]), asked)[0] if alike is None else alike[number]
            near = np.flatnonzero(likeness > KIN)
            near = near[[row not in rows for row in asked[near].tolist()]]
            if len(near) and len(rows) < len(batch):
                rows[int(random.choice(asked[near], p=likeness[near] / likeness[near].sum()))] = None
        return np.array(list(rows), dtype=np.int64)

    def _alike(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        device = self.kinship.volume.device
        return self.kinship(torch.from_numpy(rows).to(device), torch.from_numpy(others).to(device)).cpu().numpy()


def _kernel(name: str, record: Record, width: float) -> Kernel:
    """The kernel of a column.

    Raises:
        StudyError: a category has a width, or a number has none.
    """
    if record.levels and width > 0:
        raise StudyError(f"guided_contrast: near_records: {name} holds categories, which are equal or not. Set its width to 0.")
    if not record.levels and width == 0:
        raise StudyError(f"guided_contrast: near_records: {name} holds numbers. Give their standard deviation, above 0.")
    return Kernel(record.values, width)


def _standardised(name: str, values: np.ndarray) -> np.ndarray:
    deviation = float(np.nanstd(values))
    if deviation == 0:
        raise _equal(name)
    standard: np.ndarray = (values - np.nanmean(values)) / deviation
    return standard


def _equal(name: str) -> StudyError:
    return StudyError(f"guided_contrast: spurious: {name} is equal in all training samples. Leave it out.")
