"""Masked images: what objectives share that see some patches of an image and predict the others."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.core.rng import key, uniforms
from medssl.nn.backbone import Backbone, wide
from medssl.nn.gather import averaged
from medssl.nn.loading import Batch, Samples
from medssl.nn.sparse import join, split
from medssl.nn.stochastic_depth import StochasticDepth
from medssl.pretrain.objective import Loss, Objective

EPSILON = 1e-6
CONSTANT_STD = 1e-3
"""Below this standard deviation (of intensities in [0, 1]) a patch is constant: ε outweighs its variance."""
MASK_GREY = 0.5


class MaskedPrediction(Objective):
    """Draws which patches are visible, and takes the loss of the others: mean squared error of normalised patches.

    Outputs of `forward`: `images` and `prediction` `(n, c, *size)`, the latter in units of each patch's mean and deviation, and
    `active` (bool, `(n, *grid)`), the patches that were visible.
    """

    seed: Int64[Tensor, ""]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        patch: tuple[int, ...],
        mask_ratio: float,
        foreground: bool,
        exclude_constant: bool,
        drop_path: float,
    ) -> None:
        super().__init__(backbone, samples)
        if not 0 < mask_ratio < 1:
            raise StudyError(f"mask_ratio {mask_ratio}: a share between 0 and 1.")
        self.patch, self.mask_ratio, self.foreground, self.exclude_constant = patch, mask_ratio, foreground, exclude_constant
        self.contrasts = exclude_constant  # the number of patches in the loss then depends on the whole batch
        self.stochastic_depth = StochasticDepth(backbone, drop_path) if drop_path else None
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))

    def start_epoch(self, epoch: int, seed: int) -> None:
        """New masks are drawn for each epoch and seed."""
        self.seed.fill_(seed)

    def visible(self, images: Float[Tensor, "n c *size"], batch: Batch) -> Int64[Tensor, "n k"]:
        """Which patches of each image are visible, int64 `(n, k)`: the same number in all, drawn by epoch and sample."""
        count = math.prod(self._grid(images.shape[2:]))
        kept = self._num_visible(count)
        drawn = uniforms(key(int(self.seed), "mask", batch.epoch), batch.keys, count)
        noise = torch.from_numpy(drawn).to(images.device)
        if self.foreground:
            noise = self._stratified(noise, self._deviation(images) < CONSTANT_STD, kept)
        return noise.argsort(1)[:, :kept].sort(1).values

    def branches(self, batch: Batch) -> contextlib.AbstractContextManager[None]:
        """A context in which residual branches are skipped, drawn by epoch and sample."""
        if self.stochastic_depth is None:
            return contextlib.nullcontext()
        stream = key(int(self.seed), "drop path", batch.epoch)
        return self.stochastic_depth.of(self.stochastic_depth.factors(stream, batch.keys).to(batch.stored.device))

    def _num_visible(self, count: int) -> int:
        """How many of `count` patches are visible: at least one, and not all."""
        return min(max(round(count * (1 - self.mask_ratio)), 1), count - 1)

    def _stratified(self, noise: Tensor, constant: Tensor, kept: int) -> Tensor:
        """Numbers `(n, patches)` whose `kept` smallest apply the ratio to foreground and air equally."""
        places = noise.argsort(1).argsort(1) + constant * noise.shape[1]
        places = places.argsort(1).argsort(1)  # foreground first, each in the order of the noise
        foreground = (~constant).sum(1, keepdim=True)
        air = noise.shape[1] - foreground
        wanted = (foreground * (1 - self.mask_ratio)).round().long()
        wanted = wanted.clamp(min=kept - air).minimum(foreground).clamp(max=kept)
        seen = torch.where(constant, places - foreground < kept - wanted, places < wanted)
        return noise + ~seen

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        """Mean squared error of the hidden patches, each in units of its own mean and deviation."""
        images = wide(outputs["images"].detach())
        active = outputs["active"].flatten(1)
        grid = self._grid(images.shape[2:])
        target, prediction = (split(x, grid).flatten(2) for x in (images, outputs["prediction"]))
        errors = (prediction - normalised_patches(target)).square().mean(2)
        constant = self._deviation(images) < CONSTANT_STD
        varied, same = ~active & ~constant, ~active & constant
        counted = varied if self.exclude_constant else ~active
        value = (errors * counted).sum() / averaged(counted.sum().to(errors.dtype)).clamp(min=1e-3)
        sums = [(errors * varied).sum(), varied.sum(), (errors * same).sum(), same.sum()]
        loss_varied, num_varied, loss_same, num_same = averaged(torch.stack([total.to(errors.dtype) for total in sums]))
        return Loss(
            value,
            {
                "loss_varied": loss_varied / num_varied.clamp(min=1e-3),
                "loss_constant": loss_same / num_same.clamp(min=1e-3),
                "constant_frac": num_same / (num_varied + num_same),
            },
        )

    def pictures(self, outputs: dict[str, Shaped[Tensor, "n ..."]]) -> list[Float[Tensor, "n c ..."]]:
        """Image, its visible part, and the prediction in place of the rest, each `(n, c, *size)` in [0, 1]."""
        images = outputs["images"].float()
        grid, active = self._grid(images.shape[2:]), outputs["active"].flatten(1)
        target = split(images, grid)
        seen = active.view(*active.shape, *[1] * (target.ndim - 2))
        axes = tuple(range(2, target.ndim))
        mean, variance = target.mean(axes, keepdim=True), target.var(axes, keepdim=True)
        predicted = split(outputs["prediction"].float(), grid) * (variance + EPSILON).sqrt() + mean
        columns = (target, torch.where(seen, target, MASK_GREY), torch.where(seen, target, predicted.clamp(0, 1)))
        return [join(column, grid) for column in columns]

    def _grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(s // p for s, p in zip(size, self.patch, strict=False))

    def _deviation(self, images: Tensor) -> Tensor:
        """Standard deviation of the intensities of each patch, `(n, patches)`; of several channels the largest."""
        return split(wide(images), self._grid(images.shape[2:])).flatten(2, -2).std(2).amax(-1)


def normalised_patches(target: Float[Tensor, "n patches values"]) -> Float[Tensor, "n patches values"]:
    """Patches `(n, patches, values)` minus their own mean, divided by their own standard deviation.

    Source: He et al., arXiv 2111.06377, §4 ("reconstruction target"); Tian et al., §3.3.
    """
    variance, mean = torch.var_mean(target, 2, keepdim=True)
    return (target - mean) / (variance + EPSILON).sqrt()
