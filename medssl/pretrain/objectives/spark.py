"""SparK: a convolutional network sees some patches of an image, and predicts the content of the others.

Source: Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling", arXiv 2301.03580.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Count, Fold, Share
from medssl.core.errors import StudyError
from medssl.core.rng import key, uniforms
from medssl.nn.backbone import Backbone, wide
from medssl.nn.channel_norm import ChannelNorm
from medssl.nn.decoder import Decoder
from medssl.nn.gather import averaged
from medssl.nn.light_decoder import CONVOLUTION, NORM, Filling, LightDecoder
from medssl.nn.loading import Batch, Samples
from medssl.nn.sparse import Patches, join, make_sparse, sparse_maps, split
from medssl.nn.stochastic_depth import StochasticDepth
from medssl.nn.views import Crop
from medssl.pretrain.objective import Loss, Objective

TITLE = "SparK"
SOURCE = "Tian et al., ICLR 2023, arXiv 2301.03580"
EPSILON = 1e-6
CONSTANT_STD = 1e-3
"""Below this standard deviation (of intensities in [0, 1]) a patch is constant: ε outweighs its variance."""
PAPER_WIDTH = 768
MASK_GREY = 0.5

NOT_COMPILED = (
    "torch.compile takes minutes for the borders of its sparse layers (100 s of a core for a ResNet-18), and its steps are then "
    "as fast as before."
)
PICTURES = (
    "What run {run} makes of hidden patches after {when}: the image (top), what was seen of it (middle), and the prediction in "
    "its place (bottom), with the true mean and contrast of each patch."
)
"""Captions of a run's pictures, for the report."""
PARTS = {"decoder": {"encoder": "own", "places": {"decoder": "decoder"}, "required": False}}
"""The decoder initialises that of a segmentation."""


class SparK(Objective):
    """Masked patches are predicted from the others, each normalised by its own mean and deviation.

    Views have no noise: noise cannot be predicted, and air would no longer be constant.

    `patch`: one number or one for each axis; by default the network's deepest stride. A smaller patch skips the maps whose stride
    does not fit it (those stages are not trained); `stem: small` of a ResNet keeps them all.
    `masking: foreground` applies the ratio separately to constant patches (air) and to the others, so that no image has its
    anatomy
    all masked or all visible by chance. `constant_patches: exclude` removes constant patches from the loss, where predicting zero
    would solve them; the curve reports them separately in either case.
    `decoder: unet` trains the decoder of the segmentation task, which then starts from it; `light` is the paper's, which is
    discarded; `auto` is `unet` for the encoders of U-Nets, `light` for others.

    Options:
        mask_ratio: share of the patches that are hidden.
        patch: side of a patch in pixels or voxels, one number or one for each axis; by default the network's deepest
            stride.
        masking: whether patches are hidden anywhere, or in equal shares among those that are constant and those that are
            not (`foreground`).
        constant_patches: whether hidden patches of one value count in the loss.
        decoder: `light`: the paper's, discarded; `unet`: that of the segmentation task, which then starts from it;
            `auto`: `unet` for the encoders of U-Nets, `light` for others.
        decoder_width: channels of the light decoder's deepest map; by default 768 as in the paper, at most those of the
            network's.
        drop_path: share of images for which the last residual branch is skipped in each step (stochastic depth); it grows
            from 0 at the first branch.
    """

    seed: Int64[Tensor, ""]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        mask_ratio: Share = 0.6,
        patch: tuple[Count, ...] = (),
        masking: Literal["anywhere", "foreground"] = "anywhere",
        constant_patches: Literal["keep", "exclude"] = "keep",
        decoder: Literal["auto", "light", "unet"] = "auto",
        decoder_width: Count | None = None,
        drop_path: Fold = 0.0,
    ) -> None:
        super().__init__(backbone, samples)
        dims = backbone.spatial_dims
        if backbone.cuts_slices:
            raise StudyError(
                f"spark masks patches of convolutional networks; {type(backbone).__name__} also mixes whole slices. Take the 2-D "
                "network inside it, with spatial_dims: 2."
            )
        if backbone.one_resolution:
            raise StudyError(
                f"spark masks patches of convolutional networks; {type(backbone).__name__} is not one. "
                "Take a ResNet, ConvNeXt, U-Net or residual encoder."
            )
        self.patch = _full(patch or (backbone.strides[-1],), dims)
        self.depth = _depth(backbone, self.patch)
        if not 0 < mask_ratio < 1:
            raise StudyError(f"spark.mask_ratio {mask_ratio}: a share between 0 and 1.")
        self.mask_ratio, self.masking, self.exclude_constant = mask_ratio, masking, constant_patches == "exclude"
        self.contrasts = self.exclude_constant  # the number of patches in the loss then depends on the whole batch
        self.scope = make_sparse(backbone)
        self.stochastic_depth = StochasticDepth(backbone, drop_path) if drop_path else None
        for name, parameter in backbone.named_parameters():
            part = backbone.part_of(name)
            parameter.requires_grad_(part is not None and part <= self.depth)  # the prediction uses no others
        channels, strides = backbone.channels[: self.depth], backbone.strides[: self.depth]
        self.fillings: nn.ModuleList | None = None
        if decoder == "unet" or (decoder == "auto" and backbone.is_unet):
            if self.depth < len(backbone.channels):
                raise StudyError(
                    f"spark.patch {list(self.patch)} leaves out the deepest maps, which a U-Net's decoder begins with. "
                    f"Make it a multiple of {backbone.strides[-1]}, or set decoder: light."
                )
            self.fillings = nn.ModuleList(Filling(count) for count in channels)
            self.decoder: nn.Module = Decoder(backbone)
            self.head = CONVOLUTION[dims](self.decoder.width, backbone.in_channels, 1)
        else:
            norm = ChannelNorm if any(isinstance(module, nn.LayerNorm) for module in backbone.modules()) else NORM[dims]
            width = decoder_width or min(PAPER_WIDTH, channels[-1])
            self.decoder = LightDecoder(dims, channels, strides, width, backbone.in_channels, norm)
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))

    def crops(self, size: tuple[int, ...]) -> list[Crop]:
        """One view; its size is a whole number of patches.

        Raises:
            StudyError: it is not, or an instance norm would cover a single position.
        """
        if any(s % p for s, p in zip(size, self.patch, strict=False)) or math.prod(self._grid(size)) < 2:
            raise StudyError(
                f"size {list(size)} is not two or more whole patches of {list(self.patch)}. Change pretrain.size, or spark.patch "
                f"(a multiple of one of the backbone's strides {list(self.backbone.strides)})."
            )
        seen, stride = self._num_visible(math.prod(self._grid(size))), self.backbone.strides[self.depth - 1]
        normed = any(isinstance(module, (nn.InstanceNorm2d, nn.InstanceNorm3d)) for module in self.backbone.modules())
        if normed and seen * math.prod(p // stride for p in self.patch) < 2:
            raise StudyError(
                f"size {list(size)} with spark.mask_ratio {self.mask_ratio} shows one patch, one position of the deepest map: "
                "its instance norm has nothing to compare it with. Raise pretrain.size, or lower spark.mask_ratio."
            )
        return [Crop(1, size, noise=False)]

    def start_epoch(self, epoch: int, seed: int) -> None:
        """New masks are drawn for each epoch and seed."""
        self.seed.fill_(seed)

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        images = views[0]
        self.backbone.check(images)
        patches = Patches(self.visible(images, batch), self._grid(images.shape[2:]))
        with self._branches(batch):
            maps = sparse_maps(self.backbone, self.scope, images, patches, self.depth)
        deepest = wide(maps[-1].detach()).reshape(len(images), patches.per_image, maps[-1].shape[1], -1)
        return {
            "prediction": wide(self.decoded(images, maps, patches)),
            "images": images.detach(),
            "active": patches.active,
            "feature_a": deepest.mean((1, 3)).float(),
        }

    def decoded(
        self, images: Float[Tensor, "n c *size"], maps: list[Float[Tensor, "nk _ ..."]], patches: Patches
    ) -> Float[Tensor, "n c *size"]:
        """Packed maps to the predicted image `(n, c, *size)`, in units of each patch's mean and deviation."""
        if self.fillings is None:
            return self.decoder(maps, patches)
        whole = [filling(blocks, patches) for filling, blocks in zip(self.fillings, maps, strict=True)]
        return self.head(self.decoder(patches.unpack(patches.pack(images)), whole))

    def parts(self) -> dict[str, nn.Module]:
        """The decoder, if the segmentation task has the same."""
        return {} if self.fillings is None else {"decoder": self.decoder}

    def visible(self, images: Float[Tensor, "n c *size"], batch: Batch) -> Int64[Tensor, "n k"]:
        """Which patches of each image are visible, int64 `(n, k)`: the same number in all, drawn by epoch and sample."""
        count = math.prod(self._grid(images.shape[2:]))
        kept = self._num_visible(count)
        drawn = uniforms(key(int(self.seed), "mask", batch.epoch), batch.keys, count)
        noise = torch.from_numpy(drawn).to(images.device)
        if self.masking == "foreground":
            noise = self._stratified(noise, self._deviation(images) < CONSTANT_STD, kept)
        return noise.argsort(1)[:, :kept].sort(1).values

    def _branches(self, batch: Batch) -> contextlib.AbstractContextManager[None]:
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


def _full(patch: Sequence[int], dims: int) -> tuple[int, ...]:
    """One number for each axis.

    Raises:
        StudyError: the number of values is wrong.
    """
    if len(patch) not in (1, dims):
        raise StudyError(f"spark.patch {list(patch)} has {len(patch)} numbers; give one, or {dims} (spatial_dims).")
    return tuple(patch) * (dims if len(patch) == 1 else 1)


def _depth(backbone: Backbone, patch: tuple[int, ...]) -> int:
    """How many maps have a stride that divides the patch.

    Raises:
        StudyError: not even the first.
    """
    fitting = [all(p % stride == 0 for p in patch) for stride in backbone.strides]
    depth = fitting.index(False) if False in fitting else len(fitting)
    if not depth:
        raise StudyError(
            f"spark.patch {list(patch)} is not a multiple of the backbone's first stride {backbone.strides[0]}; its strides are "
            f"{list(backbone.strides)}. Take a larger patch, or a ResNet with stem: small."
        )
    return depth
