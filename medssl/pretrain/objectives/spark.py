"""SparK: a convolutional network sees some patches of an image, and predicts the content of the others.

Source: Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling", arXiv 2301.03580.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Count, Fold, Share
from medssl.core.errors import StudyError
from medssl.nn.backbone import Backbone, wide
from medssl.nn.channel_norm import ChannelNorm
from medssl.nn.decoder import Decoder
from medssl.nn.light_decoder import CONVOLUTION, NORM, Filling, LightDecoder
from medssl.nn.loading import Batch, Samples
from medssl.nn.sparse import Patches, make_sparse, sparse_maps
from medssl.nn.views import Crop
from medssl.pretrain.masked import MaskedPrediction

TITLE = "SparK"
SOURCE = "Tian et al., ICLR 2023, arXiv 2301.03580"
REFUSES = {"ONE_RESOLUTION": "it masks patches of convolutional networks. Take a ResNet, ConvNeXt, U-Net or residual encoder"}
"""Literals of a backbone's file with which it does not go, and the reason."""
NEEDS_WITH = {"drop_path": ("HAS_BRANCHES", "there are no residual branches to skip")}
"""Options that, above 0, need a backbone whose file declares the first word, and why."""
PAPER_WIDTH = 768

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


class SparK(MaskedPrediction):
    """Masked patches are predicted from the others, each normalised by its own mean and deviation.

    Views have no noise: noise cannot be predicted, and air would no longer be constant.

    `patch`: one number or one for each axis; by default the network's deepest stride. A smaller patch skips the maps whose stride
    does not fit it (those stages are not trained); `stem: small` of a ResNet keeps them all.
    `masking: foreground` applies the ratio separately to constant patches (air) and to the others, so that no image has its
    anatomy all masked or all visible by chance. `constant_patches: exclude` removes constant patches from the loss, where
    predicting zero would solve them; the curve reports them separately in either case.
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
        full = _full(patch or (backbone.strides[-1],), dims)
        depth = _depth(backbone, full)
        super().__init__(
            backbone,
            samples,
            patch=full,
            mask_ratio=mask_ratio,
            foreground=masking == "foreground",
            exclude_constant=constant_patches == "exclude",
            drop_path=drop_path,
        )
        self.depth, self.scope = depth, make_sparse(backbone)
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

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        images = views[0]
        self.backbone.check(images)
        patches = Patches(self.visible(images, batch), self._grid(images.shape[2:]))
        with self.branches(batch):
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
