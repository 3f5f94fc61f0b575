"""Vision transformer in 2-D and 3-D, with timm's names."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from medssl.core.bounds import AtLeastOne, Count, Positive, Weight, Whole, Widths
from medssl.core.errors import StudyError
from medssl.nn.backbone import Backbone
from medssl.nn.positions import resampled, rotary_angles
from medssl.nn.transformer import Block

TITLE = "Vision transformer"
SOURCE = "Dosovitskiy et al., ICLR 2021, arXiv 2010.11929"
LEAVES_TOKENS_OUT = True
"""Whether it has `visible_tokens`, which computes some patches alone."""
TAKES_MASKS = True
"""Whether its `forward` takes `hidden` patches and a `token` in their place."""
SHAPES = {
    2: {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)},
    3: {"tiny": (180, 12, 3), "small": (396, 12, 6), "base": (792, 12, 12)},
}
"""Width, blocks and heads. In 3-D those of Primus (Wald et al., arXiv 2503.01835), whose heads have channels for three axes."""
PATCH = {2: 16, 3: 8}
TAPS = 4


class ViT(Backbone):
    """Patches, a class token and registers go through blocks of attention and a perceptron; each block's patches are a map.

    All maps have the stride `patch`; the last one is normalised. A decoder joins four of them, evenly spaced.

    Options:
        size: width, blocks and heads: `tiny`, `small` or `base`.
        patch: side of a patch in pixels; 16 in 2-D and 8 in 3-D if it is not given.
        registers: tokens beside the class token that stand for no patch.
        positions: how a patch knows its place: `rotary` (any size of image), or `learned` for the grid `learned_grid`.
        learned_grid: patches along each axis for which positions are learned; they are resampled for other images.
        rescale: in training, rotary coordinates are multiplied by a random factor up to this one, or divided by it.
        layer_scale: initial factor of each branch; 0 leaves the factors out.
        epsilon: of the norms; 1e-5 for weights of DINOv3.
        pool: what stands for the whole image: the `mean` of its patches, the `class` token, or both one after the other. A class
            token is a map of one place after the others.
        width: channels, instead of those of `size`.
        blocks: blocks, instead of those of `size`.
        heads: heads of attention, instead of those of `size`.

    Source: Dosovitskiy et al., arXiv 2010.11929, §3.1; registers: Darcet et al., arXiv 2309.16588; factors: Touvron et al.,
    arXiv 2103.17239.
    """

    one_resolution = True
    reg_token: nn.Parameter | None

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        size: Literal["tiny", "small", "base"] = "small",
        patch: Count | None = None,
        registers: Whole = 4,
        positions: Literal["rotary", "learned"] = "rotary",
        learned_grid: Widths | None = None,
        rescale: AtLeastOne = 1.0,
        layer_scale: Weight = 1e-5,
        epsilon: Positive = 1e-6,
        pool: Literal["mean", "class", "class_and_mean"] = "mean",
        width: Count | None = None,
        blocks: Count | None = None,
        heads: Count | None = None,
    ) -> None:
        super().__init__()
        usual = SHAPES[spatial_dims][size]
        width, blocks, heads = width or usual[0], blocks or usual[1], heads or usual[2]
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.multiple = self.patch = patch or PATCH[spatial_dims]
        self.channels, self.strides = (width,) * blocks, (self.patch,) * blocks
        self.stage_names = tuple(f"blocks.{number}" for number in range(blocks))
        self.branch_ends = tuple(f"blocks.{number}.{end}" for number in range(blocks) for end in ("ls1", "ls2"))
        self.skips = tuple(sorted({max(0, blocks * tap // TAPS - 1) for tap in range(1, TAPS + 1)}))
        self.rescale, self.of_head, self.pool = rescale, width // heads, pool
        if pool != "mean":
            self.channels += (width if pool == "class" else 2 * width,)
            self.strides += (self.patch,)
            self.stage_names += ("norm",)
        if width % heads or (positions == "rotary" and width // heads % (2 * spatial_dims)):
            raise StudyError(
                f"vit: {width} channels in {heads} heads. The channels of a head must be a whole number, a multiple of "
                f"{2 * spatial_dims} for rotary positions in {spatial_dims}-D. Change width or heads."
            )
        if (positions == "learned") != (learned_grid is not None) or (learned_grid and len(learned_grid) != spatial_dims):
            raise StudyError(
                f"vit: positions: {positions}, learned_grid {learned_grid}. Give the patches along each of {spatial_dims} axes "
                "with positions: learned, such as [14, 14] for 224² and patches of 16, and none with rotary ones."
            )
        self.learned_grid = learned_grid
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.patch_embed = PatchEmbedding(convolution(in_channels, width, self.patch, stride=self.patch))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_parameter("reg_token", nn.Parameter(torch.zeros(1, registers, width)) if registers else None)
        if learned_grid is not None:  # with registers the class token has no position, as in timm's networks
            self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(learned_grid) + (registers == 0), width))
        self.blocks = nn.Sequential(*(Block(width, heads, layer_scale, epsilon) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self._initialise()

    def forward(
        self,
        x: Float[Tensor, "n c *size"],
        depth: int | None = None,
        hidden: Bool[Tensor, "n places"] | None = None,
        token: Float[Tensor, "d"] | None = None,
    ) -> list[Float[Tensor, "n _ ..."]]:
        """Images to maps; `hidden` patches are replaced by `token` before the first block."""
        self.check(x)
        embedded = self.patch_embed(x)
        grid = embedded.shape[2:]
        patches = embedded.flatten(2).transpose(1, 2)
        if hidden is not None and token is not None:
            patches = torch.where(hidden[:, :, None], token.to(patches), patches)
        tokens, angles = self._tokens(patches, grid), self._angles(grid, x.device)
        maps = []
        for number, block in enumerate(list(self.blocks)[:depth]):
            tokens = block(tokens, angles)
            shown = self.norm(tokens) if number == len(self.blocks) - 1 else tokens
            maps.append(shown[:, -math.prod(grid) :].transpose(1, 2).unflatten(2, grid))
        if self.pool != "mean" and (depth is None or depth > len(self.blocks)):
            maps.append(self._whole(self.norm(tokens)[:, 0], maps[-1]))
        return maps

    def _whole(self, cls: Float[Tensor, "n d"], patches: Float[Tensor, "n d *grid"]) -> Float[Tensor, "n _ ..."]:
        """What stands for the whole image, as a map of one place."""
        parts = [cls, *([patches.flatten(2).mean(2)] if self.pool == "class_and_mean" else [])]
        return torch.cat(parts, 1).view(len(cls), -1, *[1] * self.spatial_dims)

    def visible_tokens(
        self, x: Float[Tensor, "n c *size"], visible: Int64[Tensor, "n k"]
    ) -> Float[Tensor, "n tokens d"]:  # fmt: skip
        """Class token, registers and the `visible` patches of each image after all blocks; no block computes the others.

        Source: He et al., arXiv 2111.06377, §3 ("MAE encoder").
        """
        self.check(x)
        patches = self.patch_embed(x)
        grid, count = patches.shape[2:], visible.shape[1]
        tokens = self._tokens(patches.flatten(2).transpose(1, 2), grid)
        before = tokens.shape[1] - math.prod(grid)
        kept = tokens[:, before:].gather(1, visible[:, :, None].expand(-1, -1, tokens.shape[2]))
        tokens, angles = torch.cat([tokens[:, :before], kept], 1), self._angles(grid, x.device)
        if angles is not None:
            angles = angles[visible].view(len(x), 1, count, -1)
        for block in self.blocks:
            tokens = block(tokens, angles)
        return self.norm(tokens)

    def of_elsewhere(self, found: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Files of DINOv2, DINOv3 and timm: names of registers, positions of another grid, tensors for training alone."""
        found, changes = dict(found), []
        for name in ("register_tokens", "storage_tokens"):
            if name in found:
                found["reg_token"] = found.pop(name)
                changes.append(f"{name} are the registers")
        for name in [name for name in found if name.endswith("attn.qkv.bias_mask")]:
            bias, mask = name.removesuffix("_mask"), found.pop(name)
            found[bias] = torch.where(mask == 0, torch.zeros_like(found[bias]), found[bias])
        for name in ("mask_token", "rope_embed.periods"):
            if found.pop(name, None) is not None:
                changes.append(f"{name} is left")
        if self.learned_grid is not None and "pos_embed" in found:
            found["cls_token"], found["pos_embed"], of_positions = self._own_positions(found["cls_token"], found["pos_embed"])
            changes += of_positions
        return found, changes

    def _own_positions(self, cls: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, list[str]]:
        """Class token, and positions for this network's grid; those of a file are for a square one."""
        grid, changes = self.learned_grid or (), []
        side = round((positions.shape[1] - 1) ** (1 / self.spatial_dims))
        of_cls = int(side**self.spatial_dims == positions.shape[1] - 1)
        side = round((positions.shape[1] - of_cls) ** (1 / self.spatial_dims))
        before, places = positions[:, :of_cls], positions[:, of_cls:]
        if side**self.spatial_dims == places.shape[1] and (side,) * self.spatial_dims != tuple(grid):
            places = resampled(places, (side,) * self.spatial_dims, grid)
            changes.append(f"positions resampled from {side} patches along each axis to {list(grid)}")
        if of_cls and self.reg_token is not None:  # then the class token has no position here: it is part of the token
            cls, before = cls + before, before[:, :0]
            changes.append("the position of the class token added to it")
        return cls, torch.cat([before, places], 1), changes

    def part_of(self, parameter: str) -> int | None:
        return len(self.blocks) if parameter.startswith("norm.") else super().part_of(parameter)

    def check(self, x: Float[Tensor, "..."]) -> None:
        super().check(x)
        size = tuple(x.shape[2:])
        if any(side % self.patch for side in size):
            nearest = [max(1, round(side / self.patch)) * self.patch for side in size]
            raise StudyError(f"vit: {list(size)} cuts patches of {self.patch} pixels. The nearest size that does not: {nearest}.")

    def _tokens(self, patches: Tensor, grid: tuple[int, ...]) -> Float[Tensor, "n tokens d"]:
        """Class token, registers and patches, with learned positions where there are some."""
        n = len(patches)
        cls, registers = self.cls_token.expand(n, -1, -1), [] if self.reg_token is None else [self.reg_token.expand(n, -1, -1)]
        if self.learned_grid is not None:
            of_cls = self.pos_embed.shape[1] - math.prod(self.learned_grid)
            patches = patches + resampled(self.pos_embed[:, of_cls:], self.learned_grid, grid)
            cls = cls + self.pos_embed[:, :of_cls].sum(1, keepdim=True)
        return torch.cat([cls, *registers, patches], 1)

    def _angles(self, grid: tuple[int, ...], device: torch.device) -> Float[Tensor, "places d"] | None:
        if self.learned_grid is not None:
            return None
        factor: float | Tensor = 1.0
        if self.training and self.rescale > 1:
            factor = self.rescale ** (2 * torch.rand((), device=device) - 1)
        return rotary_angles(grid, self.of_head, device, factor)

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


class PatchEmbedding(nn.Module):
    """A dense layer of each patch, as a convolution."""

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.proj = projection

    def forward(self, x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n d *grid"]:
        return self.proj(x)
