"""MAE: a vision transformer sees a quarter of an image's patches, and a small decoder predicts the others.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from medssl.core.bounds import Count, Fold, Share
from medssl.nn.backbone import Backbone, wide
from medssl.nn.loading import Batch, Samples
from medssl.nn.positions import rotary_angles
from medssl.nn.sparse import join
from medssl.nn.transformer import Block
from medssl.nn.views import Crop
from medssl.pretrain.masked import MaskedPrediction

TITLE = "MAE"
SOURCE = "He et al., CVPR 2022, arXiv 2111.06377"
NEEDS = "LEAVES_TOKENS_OUT"
PICTURES = (
    "What run {run} makes of hidden patches after {when}: the image (top), what was seen of it (middle), and the prediction in "
    "its place (bottom), with the true mean and contrast of each patch."
)
"""Captions of a run's pictures, for the report."""


class MAE(MaskedPrediction):
    """Hidden patches are left out of the encoder, whose work is that of the visible ones; the decoder is discarded.

    Each hidden patch is predicted in units of its own mean and deviation. Views have no noise, which cannot be predicted.

    Options:
        mask_ratio: share of the patches that are hidden.
        masking: whether patches are hidden anywhere, or in equal shares among those that are constant and those that are
            not (`foreground`).
        constant_patches: whether hidden patches of one value, such as air and padding, count in the loss.
        decoder_width: channels of the decoder; by default those of the network.
        decoder_blocks: blocks of the decoder.
        drop_path: share of images for which the last residual branch is skipped in each step (stochastic depth); it grows
            from 0 at the first branch.
    """

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        mask_ratio: Share = 0.75,
        masking: Literal["anywhere", "foreground"] = "anywhere",
        constant_patches: Literal["keep", "exclude"] = "exclude",
        decoder_width: Count | None = None,
        decoder_blocks: Count = 2,
        drop_path: Fold = 0.0,
    ) -> None:
        transformer: Any = backbone
        patch = (transformer.patch,) * backbone.spatial_dims
        super().__init__(
            backbone,
            samples,
            patch=patch,
            mask_ratio=mask_ratio,
            foreground=masking == "foreground",
            exclude_constant=constant_patches == "exclude",
            drop_path=drop_path,
        )
        width, self.of_head = decoder_width or backbone.channels[0], int(transformer.of_head)
        self.embed = nn.Linear(backbone.channels[0], width)
        self.hidden = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.trunc_normal_(self.hidden, std=0.02)
        self.decoder = nn.ModuleList(Block(width, width // self.of_head, 0.0) for _ in range(decoder_blocks))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, backbone.in_channels * math.prod(patch))
        for module in (self.embed, self.head, *self.decoder.modules()):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def crops(self, size: tuple[int, ...]) -> list[Crop]:
        """One view."""
        return [Crop(1, size, noise=False)]

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        transformer: Any = self.backbone
        images = views[0]
        transformer.check(images)
        visible, grid = self.visible(images, batch), self._grid(images.shape[2:])
        with self.branches(batch):
            tokens = transformer.visible_tokens(images, visible)
        active = torch.zeros(len(images), math.prod(grid), dtype=torch.bool, device=images.device).scatter_(1, visible, True)
        return {
            "prediction": self.decoded(tokens, visible, grid),
            "images": images.detach(),
            "active": active.view(-1, *grid),
            "feature_a": tokens[:, -visible.shape[1] :].detach().mean(1).float(),
        }

    def decoded(
        self, tokens: Float[Tensor, "n tokens d"], visible: Int64[Tensor, "n k"], grid: tuple[int, ...]
    ) -> Float[Tensor, "n c *size"]:
        """The encoder's tokens, with one learned token in each hidden place, to the predicted image in units of its patches."""
        embedded, count = self.embed(tokens), visible.shape[1]
        places = self.hidden.to(embedded).expand(len(tokens), math.prod(grid), -1)
        places = places.scatter(1, visible[:, :, None].expand(-1, -1, embedded.shape[2]), embedded[:, -count:])
        x, angles = torch.cat([embedded[:, :-count], places], 1), rotary_angles(grid, self.of_head, tokens.device)
        for block in self.decoder:
            x = block(x, angles)
        blocks = wide(self.head(self.norm(x[:, -math.prod(grid) :])))
        return join(blocks.unflatten(2, (*self.patch, -1)), grid)
