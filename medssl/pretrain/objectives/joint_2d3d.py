"""Joint 2D-3D: slices are clustered, volumes are clustered from their slices, and hidden slices are predicted from the others.

Source: Nguyen et al., "Joint self-supervised image-volume representation learning with intra-inter contrastive clustering",
AAAI 2023, arXiv 2212.01893.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt64
from torch import Tensor, nn

from medssl.core.bounds import Count, Fold, Positive, Several, Share, Weight, Whole, Widths
from medssl.core.errors import StudyError
from medssl.core.rng import ids_to_keys, key, uniforms
from medssl.nn.backbone import Backbone, pooled, wide
from medssl.nn.clustering import ClusterMemory, Prototypes
from medssl.nn.gather import mean_of_chosen, normalised
from medssl.nn.heads import perceptron
from medssl.nn.loading import Batch, Samples
from medssl.nn.slice_attention import VolumeEncoder, in_bags, volume_embedding
from medssl.pretrain.bags import Bags, runs_of_equal
from medssl.pretrain.objective import Loss, Objective, health_outputs

TITLE = "joint 2D-3D"
SOURCE = "Nguyen et al., AAAI 2023, arXiv 2212.01893"
PARTS = {
    "volume_encoder": {
        "encoder": "volume",
        "places": {"encoder": "slices", "volume_encoder": "volume"},
        "backbone": "slicewise",
        "inner": "slices",
        "spatial_dims": 3,
        "options": {
            "width": "width",
            "layers": "layers",
            "heads": "attention_heads",
            "feed_forward": "feed_forward",
            "positions": "positions",
        },
        "required": False,
    }
}
"""The transformer initialises that of the network of `encoder: volume`."""


class Joint2D3D(Objective):
    """A slice encoder, a transformer between the slices of a volume, and a weighted sum of three losses.

    `slice_weight`: both views of a slice belong to its cluster. `volume_weight`: both views of a volume, the mean of its slices
    after the transformer, belong to its cluster. `mask_weight`: the embedding of a hidden slice is predicted from the others.
    Here
    embeddings are fixed, so that this loss trains only the transformer. A weight of 0 removes the part, so the three stages of
    the
    released code are three runs with one weight each.

    The first two losses train the 2-D network, and the second trains the projection of its maps. Without its losses each keeps
    its
    initial weights. Volumes come in bags of `slices` spread over them, and the slices of a bag share the geometry of a view.
    Images
    without neighbours form their own bags and count only in the slice loss.

    Options:
        clustering: how slices and volumes are clustered: with a memory (`deepcluster_v2`) or by learned prototypes
            (`swav`).
        slice_weight: weight of the loss that clusters slices; 0 removes it.
        volume_weight: weight of the loss that clusters volumes; 0 removes it.
        mask_weight: weight of the loss that predicts hidden slices; 0 removes it.
        slices: slices of a volume in a batch; those of the median volume if they are fewer.
        prototypes: clusters of slices; with a memory a quarter of the slices if that is fewer.
        volume_prototypes: clusters of volumes; with a memory a quarter of the volumes if that is fewer.
        heads: clusterings of a memory per epoch.
        projector: widths of the layers of the projector, a perceptron on the mean of the deepest map; the last is the
            embedding's.
        temperature: of the softmax; lower is sharper.
        iterations: of spherical k-means.
        freeze_prototypes_steps: first steps in which learned prototypes stay fixed: those of `swav`, and with a memory those
            of volumes, which each epoch start at its centroids. A hundredth of the run by default.
        width: of the slice embeddings that the transformer takes.
        layers: of the transformer between slices.
        attention_heads: of each of its layers; they divide `width`.
        feed_forward: width of the hidden layer after each attention.
        dropout: share of the transformer's activations that are set to 0 in training.
        positions: whether slices carry their relative place in the volume.
        mask_frac: share of a volume's slices that are hidden, rounded up.
        freeze_backbone: whether the 2-D network keeps its initial weights, whatever the losses.
    """

    in_volume: Bool[Tensor, "samples"]
    seed: Int64[Tensor, ""]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        clustering: Literal["deepcluster_v2", "swav"] = "deepcluster_v2",
        slice_weight: Weight = 1.0,
        volume_weight: Weight = 1.0,
        mask_weight: Weight = 1.0,
        slices: Count = 16,
        prototypes: Several = 500,
        volume_prototypes: Several = 16,
        heads: Count = 3,
        projector: Widths = (2048, 128),
        temperature: Positive = 0.1,
        iterations: Count = 10,
        freeze_prototypes_steps: Whole | None = None,
        width: Count = 640,
        layers: Count = 4,
        attention_heads: Count = 8,
        feed_forward: Count = 720,
        dropout: Fold = 0.0,
        positions: bool = False,
        mask_frac: Share = 0.1,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(backbone, samples)
        self.weights = {"slice_loss": slice_weight, "volume_loss": volume_weight, "mask_loss": mask_weight}
        self.mask_frac, self.freeze_backbone = mask_frac, freeze_backbone or not (slice_weight or volume_weight)
        self.freeze_prototypes_steps = freeze_prototypes_steps
        self.bags = Bags(samples, slices)
        self.together = self.bags.slices
        known = len(self.bags.volumes)
        if (volume_weight and known < 4) or (mask_weight and not known):
            raise StudyError(
                f"joint_2d3d: {known} of the training volumes have two kept slices or more, and volumes are to be clustered "
                "(at least 4) or their slices predicted. Add volumes, or set volume_weight and mask_weight to 0."
            )
        self.memory_pass = clustering == "deepcluster_v2" and bool(slice_weight or volume_weight)
        volume_ids = ids_to_keys([volume.volume_id for volume in samples.volumes])
        self.keys = np.where(self.bags.in_volume, volume_ids[samples.volume], samples.keys)
        self.register_buffer("in_volume", torch.from_numpy(self.bags.in_volume), persistent=False)

        def clusters(
            items: int, channels: int, wanted: int, out_of: int, name: str, *, trainable: bool
        ) -> ClusterMemory | Prototypes:
            if clustering == "swav":
                return Prototypes(channels, wanted, temperature=temperature)
            count = max(2, min(wanted, out_of // 4))
            options: dict[str, Any] = {"temperature": temperature, "iterations": iterations, "name": name, "trainable": trainable}
            return ClusterMemory(items, channels, clusters=count, heads=heads, **options)

        if slice_weight:
            self.projector = perceptron([backbone.channels[-1], *projector])
            # VISSL, which trains slices in the released code, keeps centroids fixed; its stage of volumes trains them
            self.slice_clusters = clusters(len(samples), projector[-1], prototypes, len(samples), "slices", trainable=False)
        if volume_weight or mask_weight:
            options: dict[str, Any] = {"layers": layers, "heads": attention_heads, "feed_forward": feed_forward}
            self.volume_encoder = VolumeEncoder(backbone.channels, width=width, dropout=dropout, positions=positions, **options)
            self.volume_encoder.projection.requires_grad_(bool(volume_weight))
        if volume_weight:
            self.volume_clusters = clusters(len(samples.volumes), width, volume_prototypes, known, "volumes", trainable=True)
        if mask_weight:
            self.hidden_slice = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
            self.predictor = nn.Linear(width, width)
        if self.freeze_backbone:
            backbone.requires_grad_(False).eval()
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> Joint2D3D:
        """A frozen backbone stays unchanged, statistics included."""
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        return self

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[Int64[np.ndarray, "_"]]:
        bags = self.bags.deal(seed, epoch)
        count = max(1, batch_size // self.bags.slices)
        return [bags[at : at + count].flatten()[:batch_size] for at in range(0, len(bags) - count + 1, count)]

    def memory_order(self, seed: int, batch_size: int) -> Int64[np.ndarray, "_"]:
        """All slices and images, and then, if volumes have a memory, a bag of each volume."""
        parts = [np.arange(self.num_samples)] if "slice_loss" in self._counted() else []
        parts += [self.bags.one_each().flatten()] if "volume_loss" in self._counted() else []
        return np.concatenate([np.resize(part, -(-len(part) // batch_size) * batch_size) for part in parts])

    def view_keys(self, batch: Batch) -> UInt64[np.ndarray, "n"]:
        """Slices of one volume get the same geometry."""
        return self.keys[batch.rows.cpu().numpy()]

    def start_epoch(self, epoch: int, seed: int) -> None:
        """New slices are hidden for each epoch and seed."""
        self.seed.fill_(seed)
        for _, clusters in self._clusterings():
            clusters.start_epoch(epoch, seed)

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        n = len(batch)
        maps = self.backbone(torch.cat(views))
        features = pooled(maps).view(2, n, -1)
        found: dict[str, Tensor] = {}
        seen = features
        if "mask_loss" in self._counted() or "volume_loss" in self._counted():
            slices = self.volume_encoder.embed(maps).view(2, n, -1)
            bags = [torch.from_numpy(bag).to(slices.device) for bag in self.bags_of(batch)]
            seen = slices
        if "mask_loss" in self._counted():
            hidden = self.hidden(batch, bags)
            given = slices.detach()
            shown = torch.where(hidden[:, None], self.hidden_slice.to(given), given)
            error = wide(self.predictor(in_bags(self.volume_encoder, shown, bags))) - wide(given)
            found |= {"hidden": hidden, "mask_error": error.square().sum(2).transpose(0, 1)}
        if "volume_loss" in self._counted():
            seen = in_bags(lambda x: volume_embedding(self.volume_encoder(x)), slices, bags)
            found["volumes"] = self.volume_clusters(seen.transpose(0, 1))
        if "slice_loss" in self._counted():
            seen = normalised(self.projector(features.flatten(0, 1))).view(2, n, -1)
            found["slices"] = self.slice_clusters(seen.transpose(0, 1))
        return found | health_outputs(features, seen)

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        in_volume = self.in_volume[batch.rows]
        parts: dict[str, Tensor] = {}
        if "slices" in outputs:
            parts["slice_loss"] = self.slice_clusters.loss(outputs["slices"], batch.rows)
        if "volumes" in outputs:
            parts["volume_loss"] = self.volume_clusters.loss(outputs["volumes"], batch.volume, in_volume)
        if "hidden" in outputs:
            parts["mask_loss"] = mean_of_chosen(outputs["mask_error"].mean(1), outputs["hidden"] & in_volume)
        total = torch.stack([self.weights[name] * value for name, value in parts.items()]).sum()
        return Loss(total, {name: value.detach() for name, value in parts.items()})

    def after_backward(self, step: int) -> None:
        """Learned prototypes stay fixed during the first steps."""
        for _, clusters in self._clusterings():
            weights = clusters.weights()
            if weights is not None and self.is_fixed(self.freeze_prototypes_steps, step):
                weights.grad = None

    def after_step(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch, progress: float) -> None:
        """Store the batch in the memories; images are not volumes."""
        for name, clusters in self._clusterings():
            if name == "slices":
                clusters.remember(outputs[name], batch.rows)
            else:
                clusters.remember(outputs[name], batch.volume, self.in_volume[batch.rows])

    def figures(self) -> dict[str, float]:
        return {f"{name}_{what}": value for name, clusters in self._clusterings() for what, value in clusters.figures().items()}

    def parts(self) -> dict[str, nn.Module]:
        return {"volume_encoder": self.volume_encoder} if hasattr(self, "volume_encoder") else {}

    def bags_of(self, batch: Batch) -> list[Int64[np.ndarray, "_ _"]]:
        """The rows of the batch in bags by length, `(bags, length)`; an image is its own bag, which no volume loss counts."""
        rows = batch.rows.cpu().numpy()
        number = np.where(self.bags.in_volume[rows], batch.volume.cpu().numpy(), -1 - rows)
        return runs_of_equal(number, self.bags.slices)

    def hidden(self, batch: Batch, bags: list[Int64[Tensor, "_ _"]]) -> Bool[Tensor, "n"]:
        """Which slices are hidden, bool `(n,)`: a share of each bag, rounded up, drawn by seed, epoch and sample.

        A slice that occurs twice in a bag is hidden in both places: otherwise the other would reveal it.
        """
        draw = torch.from_numpy(uniforms(key(int(self.seed), "hidden", batch.epoch), batch.keys, 1)[:, 0]).to(batch.rows.device)
        chosen = torch.zeros_like(draw, dtype=torch.bool)
        for bag in bags:
            count = int(np.ceil(self.mask_frac * bag.shape[1]))
            first = draw[bag].argsort(dim=1, stable=True)[:, :count]
            rows, hidden = batch.rows[bag], batch.rows[bag.gather(1, first)]
            chosen[bag] = (rows[:, :, None] == hidden[:, None, :]).any(2)
        return chosen

    def _counted(self) -> set[str]:
        return {name for name, weight in self.weights.items() if weight}

    def _clusterings(self) -> list[tuple[str, ClusterMemory | Prototypes]]:
        """The modules that cluster slices and volumes, by the name of their output."""
        found = [("slices", getattr(self, "slice_clusters", None)), ("volumes", getattr(self, "volume_clusters", None))]
        return [(name, clusters) for name, clusters in found if clusters is not None]
