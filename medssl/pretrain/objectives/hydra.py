"""Hydra: any two classes make positive pairs, in the subspace in which they are alike.

Source: Wu et al., "Rethinking positive pairs in contrastive learning", arXiv 2410.18200.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Bins, Count, Distinct, Positive, Weight, Widths
from medssl.core.errors import StudyError
from medssl.core.rng import key, uniforms
from medssl.nn.backbone import Backbone, pooled, wide
from medssl.nn.class_pairs import PairGate, gated_likeness, pair_losses
from medssl.nn.contrast import nt_xent
from medssl.nn.gather import averaged, gather, mean_of_chosen, normalised
from medssl.nn.heads import perceptron
from medssl.nn.kinship import of_label, of_place
from medssl.nn.loading import Batch, Samples
from medssl.pretrain.objective import Loss, Objective, health_outputs, require_other_volumes

TITLE = "Hydra"
SOURCE = "Wu et al., preprint 2024, arXiv 2410.18200"
ON_PICTURES = {"exclude_same_volume": False}
LABEL_OPTION = "label"
RECORD_OPTIONS = {"records": "category"}
PICTURES = (
    "Which classes run {run} finds alike after {when}: the likeness of the mean features of two classes in the subspace of their "
    "pair (top), and in all channels (bottom); white is equal, black is opposite. Classes are in their order."
)
"""Captions of a run's pictures, for the report."""
UNKNOWN = -1
SHARPEST = math.log(100)
"""Logarithm of the largest inverse temperature (Radford et al., "CLIP", arXiv 2103.00020)."""
MEANS_KEPT = 0.9
"""Share of a class's mean that stays at a step in which the class occurs."""


class Hydra(Objective):
    """NT-Xent, and a contrast between classes: an anchor's positives are all samples of a class that is drawn for it, compared in
    the subspace that a gate chooses for the two classes. Samples of other classes are negatives.

    A sample without a class, or whose drawn class or whose negatives are not in the batch, has NT-Xent alone.

    Options:
        label: whether classes are the labels. The run is then not without labels.
        records: one column of the records, of categories, whose levels are the classes.
        bins: without either, classes are this many equal parts of the way through each volume.
        pairs: which class is drawn for an anchor: `arbitrary`, as often as it occurs; `identical`, its own; `distinct`, another.
        gate: `sigmoid`, `stochastic`, or `open`, all channels, the control of what a gate is worth.
        fuse: whether a pair has a gate of its own, from the mean of both embeddings; else the product of the gates of both.
        embedding: width of the embedding of a class.
        projector: widths of the layers of the projector; the last is the embedding's.
        temperature: of the softmax; lower is sharper.
        learn_temperature: whether the temperature of the pairs of classes is learned, from that value on, and never below 0.01.
        ungated: weight of NT-Xent.
        exclude_same_volume: whether slices of the same volume are neither positives nor negatives.
    """

    seed: Int64[Tensor, ""]
    classes: Int64[Tensor, "samples"]
    means: Float32[Tensor, "classes d"]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        label: bool = False,
        records: Distinct[str] = [],  # noqa: B006  (a plug-in's defaults are read, never changed)
        bins: Bins = 16,
        pairs: Literal["arbitrary", "identical", "distinct"] = "arbitrary",
        gate: Literal["sigmoid", "stochastic", "open"] = "sigmoid",
        fuse: bool = True,
        embedding: Count = 512,
        projector: Widths = (2048, 256),
        temperature: Positive = 0.1,
        learn_temperature: bool = False,
        ungated: Weight = 0.5,
        exclude_same_volume: bool = False,
    ) -> None:
        super().__init__(backbone, samples)
        if exclude_same_volume:
            require_other_volumes(samples, "exclude_same_volume takes positives and negatives", "set it to false")
        self.pairs, self.temperature, self.ungated = pairs, temperature, ungated
        self.exclude_same_volume = exclude_same_volume
        classes = _classes(samples, label=label, records=records, bins=bins)
        self.known = classes[classes != UNKNOWN]
        self.num_classes = int(self.known.max()) + 1 if len(self.known) else 0
        if len(np.unique(self.known)) < 2:
            found = f"hydra: the samples are of {len(np.unique(self.known))} known classes, and it compares two or more"
            raise StudyError(
                f"{found}. Choose another column, or leave label and records out: classes are then places in a volume."
            )
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        # the samples say these again after a restart
        self.register_buffer("classes", torch.from_numpy(classes), persistent=False)
        self.register_buffer("means", torch.zeros(self.num_classes, projector[-1]))
        self.projector = perceptron([backbone.channels[-1], *projector])
        self.gate = PairGate(self.num_classes, embedding, projector[-1], kind=gate, fuse=fuse)
        self.scale = nn.Parameter(torch.tensor(1 / temperature).log()) if learn_temperature else None

    def start_epoch(self, epoch: int, seed: int) -> None:
        """New pairs are drawn for each epoch and seed."""
        self.seed.fill_(seed)

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        # one view at a time, as in the released code: each is its own batch for batch norm
        features = [pooled(self.backbone(view)) for view in views]
        a, b = (wide(self.projector(feature)) for feature in features)
        own, other = self.classes[batch.rows].clamp_min(0), self.drawn(batch).clamp_min(0)
        gate = self.gate(own, other, self._noise(batch) if self.gate.kind == "stochastic" else None)
        return {
            "z_a": a,
            "z_b": b,
            "gate": wide(gate),
            **({} if self.scale is None else {"scale": self.scale.clamp(max=SHARPEST).exp().expand(len(a))}),
            **health_outputs(features, [a, b]),
        }

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        a, b, gate = normalised(outputs["z_a"]), normalised(outputs["z_b"]), outputs["gate"]
        own, other, everyone = self.classes[batch.rows], self.drawn(batch), self.classes[gather(batch.rows)]
        itself = batch.rows[:, None] == gather(batch.rows)[None]
        allowed = torch.ones_like(itself)
        if self.exclude_same_volume:
            allowed = (batch.volume[:, None] != gather(batch.volume)[None]) | itself
        known = (own[:, None] != UNKNOWN) & (everyone != UNKNOWN) & allowed
        positive = known & (everyone == other[:, None])
        negative = known & (everyone != own[:, None]) & (everyone != other[:, None])
        value, scale = torch.zeros((), device=a.device), outputs.get("scale", torch.full_like(a[:, 0], 1 / self.temperature))
        share = torch.zeros((), device=a.device)
        for z, k in ((a, b), (b, a)):
            each, counted = pair_losses(gated_likeness(z, gate, gather(k)) * scale[:, None], positive, negative)
            value = value + mean_of_chosen(each, counted) / 2
            share = share + averaged(counted.float().mean()) / 2
        plain = nt_xent(a, b, temperature=self.temperature)
        opened = gate.detach()
        entropy = -(opened * opened.clamp_min(1e-12).log() + (1 - opened) * (1 - opened).clamp_min(1e-12).log())
        parts: dict[str, float | Tensor] = {
            "paired_share": share,
            "scale": averaged(scale.mean()),
            "gate_open": averaged(opened.mean()),
            "gate_entropy": averaged(entropy.mean()),
        }
        return Loss(value + self.ungated * plain, parts)

    def after_step(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch, progress: float) -> None:
        """Updates the mean embedding of each class in the batch, for the picture."""
        rows, z = self.classes[gather(batch.rows)], normalised(gather(outputs["z_a"])).float()
        member = (rows[None] == torch.arange(self.num_classes, device=rows.device)[:, None]).float()
        count = member.sum(1, keepdim=True)
        mean = member @ z / count.clamp_min(1)
        kept = MEANS_KEPT * self.means.any(1, keepdim=True)
        self.means.copy_(torch.where(count > 0, kept * self.means + (1 - kept) * mean, self.means))

    def drawn(self, batch: Batch) -> Int64[Tensor, "n"]:
        """The class that is drawn for each sample, by epoch and sample; unknown for one without a class."""
        own = self.classes[batch.rows]
        if self.pairs == "identical":
            return own
        number = uniforms(key(int(self.seed), "class", batch.epoch), batch.keys, 1)[:, 0]
        if self.pairs == "arbitrary":
            found = self.known[(number * len(self.known)).astype(np.int64)]
        else:
            found = (number * (self.num_classes - 1)).astype(np.int64)
        drawn = torch.from_numpy(found).to(own)
        if self.pairs == "distinct":
            drawn = drawn + (drawn >= own)  # the own class is left out of the count
        return torch.where(own == UNKNOWN, own, drawn)

    def pictures(self, outputs: dict[str, Shaped[Tensor, "n ..."]]) -> list[Float[Tensor, "n c ..."]]:
        """The likeness of the mean embeddings of all pairs of classes: through the gates, and in all channels."""
        count = torch.arange(self.num_classes, device=self.means.device)
        one, other = (grid.flatten() for grid in torch.meshgrid(count, count, indexing="ij"))
        with torch.no_grad():
            gates = (self.gate(one, other), torch.ones(len(one), self.means.shape[1], device=one.device))
            rows = [torch.nn.functional.cosine_similarity(self.means[one] * g, self.means[other] * g) for g in gates]
        shape = (1, 1, self.num_classes, self.num_classes)
        return [((row + 1) / 2).clamp(0, 1).view(shape) for row in rows]

    def _noise(self, batch: Batch) -> Float[Tensor, "n d"]:
        """Standard normal numbers by step and sample (Box and Muller)."""
        count = self.gate.channels
        drawn = uniforms(key(int(self.seed), "gate", self.step), batch.keys, 2 * count)
        first, second = drawn[:, :count], drawn[:, count:]
        normal = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
        return torch.from_numpy(normal).float().to(batch.stored.device)


def _classes(samples: Samples, *, label: bool, records: list[str], bins: int) -> Int64[np.ndarray, "n"]:
    """The class of each sample from 0, or −1.

    Raises:
        StudyError: a column of numbers.
    """
    if records:
        record = samples.records[records[0]]
        if not record.levels:
            raise StudyError(f"hydra: records: {records[0]} holds numbers, and classes are levels of a category.")
        values = record.values
    elif label:
        values = of_label(samples)
    else:
        values = np.minimum(np.floor(of_place(samples) * bins), bins - 1)
    return np.where(np.isnan(values), UNKNOWN, values).astype(np.int64)
