"""G-SimCLR: batches hold images of different clusters of an auto-encoder's codes, so that negatives really differ.

Source: Chakraborty et al., "G-SimCLR", ICDM workshops 2020, arXiv 2009.12007.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from medssl.core.bounds import Count, Positive, Weight, Whole, Widths
from medssl.core.errors import StudyError
from medssl.core.rng import rng
from medssl.nn.backbone import Backbone
from medssl.nn.denoiser import fit_denoiser
from medssl.nn.gather import from_first
from medssl.nn.loading import Samples
from medssl.pretrain.objective import PlainImages
from medssl.pretrain.objectives.simclr import SimCLR
from medssl.pretrain.partitions import rank_within

TITLE = "G-SimCLR"
SOURCE = "Chakraborty et al., ICDM workshops 2020, arXiv 2009.12007"
ON_PICTURES = {"exclude_same_volume": False}


class GSimCLR(SimCLR):
    """SimCLR whose batches hold at most one member of each cluster.

    `deck: resampled` draws new clusters for each batch, in proportion to their size but never twice, so that all batches of all
    epochs are clean. `deck: paper` uses one fixed deck, whose later batches come only from the largest clusters.

    Options:
        clusters: of the denoiser's codes; a batch holds at most one member of each, so at least as many as `batch_size`.
        deck: whether batches are drawn for each epoch from all clusters (`resampled`), or fixed once as in the paper
            (`paper`).
        denoiser_epochs: passes over the samples that train the denoising auto-encoder, at most.
        denoiser_patience: epochs without progress after which its training ends.
        denoiser_noise: standard deviation of the noise that it removes, as a share of the window.
        denoiser_lr: its learning rate.
        temperature: of the softmax; lower is sharper.
        projector: widths of the layers of the projector, a perceptron on the mean of the deepest map; the last is the
            embedding's.
        exclude_same_volume: whether slices of the same volume are excluded from the negatives.
        whitening_groups: groups of the backbone's features that are whitened over the batch before the projector, drawn
            for each step and view; 0 turns whitening off.
        projector_norm: batch norm in the projector: in its `hidden` layers, after `all` of them, or `none`.
    """

    views_separately = True

    cluster: Int64[Tensor, "samples"]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        clusters: Count = 64,
        deck: Literal["resampled", "paper"] = "resampled",
        denoiser_epochs: Whole = 20,
        denoiser_patience: Whole = 2,
        denoiser_noise: Weight = 0.01,
        denoiser_lr: Positive = 1e-3,
        temperature: Positive = 0.1,
        projector: Widths = (256, 128, 50),
        exclude_same_volume: bool = False,
        whitening_groups: Whole = 0,
        projector_norm: Literal["hidden", "all", "none"] = "none",
    ) -> None:
        super().__init__(
            backbone,
            samples,
            temperature=temperature,
            projector=projector,
            exclude_same_volume=exclude_same_volume,
            whitening_groups=whitening_groups,
            projector_norm=projector_norm,
        )
        self.deck, self.clusters = deck, min(clusters, len(samples))
        self.denoiser: dict[str, Any] = {
            "epochs": denoiser_epochs, "patience": denoiser_patience, "noise": denoiser_noise, "lr": denoiser_lr,
        }  # fmt: skip
        # Until the denoiser is trained, every sample is its own cluster.
        self.register_buffer("cluster", torch.arange(len(samples)))

    def prepare(self, images: PlainImages, seed: int, device: Any) -> None:
        """Denoise, encode, cluster."""
        from sklearn.cluster import KMeans

        codes = fit_denoiser(images, self.num_samples, seed=seed, device=device, **self.denoiser)
        found = KMeans(self.clusters, n_init=1, random_state=seed % 2**32).fit_predict(codes.cpu().numpy())
        self.cluster.copy_(from_first(torch.from_numpy(found).to(self.cluster)))

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[Int64[np.ndarray, "_"]]:
        """Batches without two members of one cluster (`paper`: as far as its deck goes).

        Raises:
            StudyError: there are fewer clusters than a batch has places.
        """
        cluster = self.cluster.cpu().numpy()
        count = len(cluster) // batch_size
        if self.deck == "paper":
            order = np.argsort(rank_within(cluster), kind="stable")
            return [order[at : at + batch_size] for at in range(0, count * batch_size, batch_size)]
        if len(np.unique(cluster)) < batch_size:
            raise StudyError(
                f"gsimclr: batch_size {batch_size} is larger than the number of clusters, {len(np.unique(cluster))}, and a batch "
                "takes one sample of each. Raise the option clusters, or lower batch_size."
            )
        return clean_batches(cluster, batch_size, count, rng(seed, "deck", epoch))


def clean_batches(
    cluster: Int[np.ndarray, "n"], batch_size: int, count: int, random: np.random.Generator
) -> list[Int64[np.ndarray, "{batch_size}"]]:
    """`count` batches of members of distinct clusters; a cluster's probability is proportional to its size, at most 1 per batch.

    Within a cluster every member is drawn once before any is drawn again. Source of the draw: Madow, systematic sampling with
    unequal probabilities, Annals of Mathematical Statistics 20, 1949.
    """
    names, sizes = np.unique(cluster, return_counts=True)
    chance = _capped_shares(sizes, batch_size)
    members = [random.permutation(np.flatnonzero(cluster == name)) for name in names]
    used = np.zeros(len(names), dtype=np.int64)
    batches = []
    for _ in range(count):
        order = random.permutation(len(names))
        edges = np.concatenate([[0.0], np.cumsum(chance[order])]) * (batch_size / chance.sum())
        ticks = random.random() + np.arange(batch_size)
        chosen = order[np.clip(np.searchsorted(edges, ticks, side="right") - 1, 0, len(order) - 1)]
        batches.append(np.array([members[c][used[c] % sizes[c]] for c in chosen]))
        used[chosen] += 1
    return batches


def _capped_shares(sizes: np.ndarray, total: int) -> np.ndarray:
    """Shares in proportion to `sizes`, none above 1, that add up to `total`."""
    shares = np.zeros(len(sizes))
    free = np.ones(len(sizes), dtype=bool)
    while True:
        shares[free] = sizes[free] * (total - (~free).sum()) / sizes[free].sum()
        above = free & (shares >= 1)
        if not above.any():
            return shares
        shares[above], free = 1.0, free & ~above
        if not free.any():
            return shares
