"""Hidden patches of large crops: which they are, and the tokens of a network in their places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt64
from torch import Tensor

from medssl.core.rng import key, uniforms
from medssl.nn.block_masks import block_masks, even_ratios
from medssl.nn.loading import Batch


@dataclass(frozen=True)
class HiddenPatches:
    """One of the two large crops of each image, and its hidden patches."""

    crop: Int64[Tensor, "n"]
    mask: Bool[Tensor, "n places"]
    where: Int64[Tensor, "n most"]
    """Places of hidden patches; as many for all images, so that the last ones may not be hidden."""
    counted: Bool[Tensor, "n most"]
    """Which of `where` are hidden."""

    @property
    def of_crops(self) -> Bool[Tensor, "twice places"]:
        """The masks of both crops of all images, crop by crop; the other crop of an image hides nothing."""
        crops = torch.arange(2, device=self.crop.device)[:, None] == self.crop
        return (crops[:, :, None] & self.mask).flatten(0, 1)

    def tokens(self, deepest: Float[Tensor, "twice d *grid"]) -> Float[Tensor, "n most d"]:
        """The tokens at `where` in the map of both crops of all images, crop by crop."""
        n = len(self.crop)
        tokens = deepest.flatten(2).transpose(1, 2).unflatten(0, (2, n))[self.crop, torch.arange(n, device=deepest.device)]
        return tokens.gather(1, self.where[:, :, None].expand(-1, -1, tokens.shape[2]))


def hide_blocks(
    images: Float[Tensor, "n c *size"], patch: int, ratios: tuple[float, float], stream: int, keys: UInt64[np.ndarray, "n"]
) -> Float[Tensor, "n c *size"]:
    """The images with blocks of patches at 0: of each a share between `ratios` of its patches, drawn by (stream, key) alone."""
    size = images.shape[2:]
    grid = [math.ceil(side / patch) for side in size]
    shares = ratios[0] + (ratios[1] - ratios[0]) * uniforms(key(stream, "share"), keys, 1)[:, 0]
    counts = np.floor(shares * math.prod(grid)).astype(np.int64)
    hidden = torch.from_numpy(block_masks(grid, counts, stream, keys)).to(images.device).view(-1, 1, *grid)
    for axis, side in enumerate(size, start=2):
        hidden = hidden.repeat_interleave(patch, axis).narrow(axis, 0, side)
    return images.masked_fill(hidden, 0)


def draw_hidden_patches(grid: Sequence[int], ratios: tuple[float, float], batch: Batch, seed: int) -> HiddenPatches:
    """Draw hidden patches by seed, epoch and sample: half of the large crops have some, one of each image.

    The shares of patches are spread evenly between `ratios` over the images of the whole batch.

    Source: Zhou et al., iBOT, arXiv 2111.07832, §3.2 and appendix E; even shares: Oquab et al., arXiv 2304.07193, released code.
    """
    stream, places, device = key(seed, "hidden", batch.epoch), math.prod(grid), batch.stored.device
    shares = even_ratios(ratios, stream, batch.keys, batch.keys if batch.whole is None else batch.whole)
    mask = block_masks(grid, np.floor(shares * places).astype(np.int64).clip(1), stream, batch.keys)
    most = max(1, math.floor(ratios[1] * places))
    where = np.argsort(~mask, axis=1, kind="stable")[:, :most]
    crop = (uniforms(key(seed, "hidden crop", batch.epoch), batch.keys, 1)[:, 0] < 0.5).astype(np.int64)
    arrays = (crop, mask, where, np.take_along_axis(mask, where, 1))
    return HiddenPatches(*(torch.from_numpy(array).to(device) for array in arrays))
