"""Vision transformer in 2-D and 3-D, with timm's names; in 3-D also the form of nnU-Net's Primus."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from medssl.artefacts.encoder import ExportedContract
from medssl.core.bounds import AtLeastOne, Count, Positive, Weight, Whole, Widths
from medssl.core.errors import StudyError
from medssl.core.rng import rng
from medssl.nn.backbone import Backbone
from medssl.nn.positions import counted_angles, resampled, rotary_angles
from medssl.nn.residual_stem import ResidualStem
from medssl.nn.transformer import Block
from medssl.nn.vit_files import of_dino, of_primus
from medssl.nn.vit_outline import misfit, shape_of

TITLE = "Vision transformer"
SOURCE = "Dosovitskiy et al., ICLR 2021, arXiv 2010.11929"
LIBRARIES = {"timm": {"spatial_dims": 2, "stem": "patch"}, "nnunet": {"spatial_dims": 3, "form": "primus", "stem": "patch"}}
"""Libraries that have this network (files of `nn/adapters`), and the required options."""
LEAVES_TOKENS_OUT = True
"""Whether it has `visible_tokens`, which computes some patches alone."""
HAS_BRANCHES = True
"""Whether it has residual branches, which training may skip (stochastic depth)."""
HAS_ATTENTION = True
"""Whether its attention can have low-rank adapters."""
TAKES_MASKS = True
"""Whether its `forward` takes `hidden` patches and a `token` in their place."""
ONE_RESOLUTION = True
"""Whether all its maps have one stride."""
OUTLINE = "vit_outline"
"""The file of `nn` that knows, without torch, how many maps it has and which options do not fit each other."""
PATCH = {2: 16, 3: 8}
"""Side of a patch by dimensions, if the option `patch` is not given; sizes of images are multiples of it."""
TAPS = 4


class ViT(Backbone):
    """Patches, a class token and registers go through blocks of attention and a perceptron; each block's patches are a map.

    All maps have the stride `patch`; the last one is normalised. A decoder joins four of them, evenly spaced.

    Options:
        size: width, blocks and heads: `tiny`, `small`, `medium` or `base`; in 3-D the last three are Primus-S, -M and -B.
        patch: side of a patch in pixels; 16 in 2-D and 8 in 3-D if it is not given.
        form: `timm`, or in 3-D `primus`, nnU-Net's transformer: norms inside attention and perceptron, which is gated, positions
            by number of the patch, and no class token.
        stem: what makes a token of a patch: one dense layer (`patch`), or convolutions that halve the image until the patch is
            one place (`residual`, PrimusV2).
        perceptron: `gelu`, or with a gate and as many weights, `swiglu`. Primus has a gate.
        registers: tokens beside the class token that stand for no patch; 4, and none in Primus, if it is not given.
        positions: how a patch knows its place: `rotary` (any size of image), `learned` for the grid `learned_grid`, or `both`.
        learned_grid: patches along each axis for which positions are learned; they are resampled for other images.
        rescale: in each step of training, rotary coordinates are multiplied by one random factor up to this one, or divided by
            it. A network that follows slowly, such as a teacher, has the coordinates as they are.
        layer_scale: initial factor of each branch; 0 leaves the factors out. Primus has 0.1.
        epsilon: of the norms; 1e-6, and 1e-5 in Primus, if it is not given. Weights of DINOv3 have 1e-5.
        pool: what stands for the whole image: the `mean` of its patches, the `class` token, or both one after the other. A class
            token is a map of one place after the others.
        width: channels, instead of those of `size`.
        blocks: blocks, instead of those of `size`.
        heads: heads of attention, instead of those of `size`.

    Source: Dosovitskiy et al., arXiv 2010.11929, §3.1; registers: Darcet et al., arXiv 2309.16588; factors: Touvron et al.,
    arXiv 2103.17239; Primus: Wald et al., arXiv 2503.01835.
    """

    one_resolution = ONE_RESOLUTION
    cls_token: nn.Parameter | None
    reg_token: nn.Parameter | None

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        size: Literal["tiny", "small", "medium", "base"] = "small",
        patch: Count | None = None,
        form: Literal["timm", "primus"] = "timm",
        stem: Literal["patch", "residual"] = "patch",
        perceptron: Literal["gelu", "swiglu"] = "gelu",
        registers: Whole | None = None,
        positions: Literal["rotary", "learned", "both"] = "rotary",
        learned_grid: Widths | None = None,
        rescale: AtLeastOne = 1.0,
        layer_scale: Weight = 1e-5,
        epsilon: Positive | None = None,
        pool: Literal["mean", "class", "class_and_mean"] = "mean",
        width: Count | None = None,
        blocks: Count | None = None,
        heads: Count | None = None,
    ) -> None:
        super().__init__()
        given: dict[str, Any] = {
            "size": size,
            "patch": patch,
            "form": form,
            "stem": stem,
            "pool": pool,
            "positions": positions,
            "rescale": rescale,
        }
        given |= {"learned_grid": learned_grid, "width": width, "blocks": blocks, "heads": heads}
        if why := misfit(spatial_dims, given):
            raise StudyError(f"{why}.")
        width, blocks, heads = shape_of(spatial_dims, given)
        primus = form == "primus"
        registers = (0 if primus else 4) if registers is None else registers
        epsilon = epsilon or (1e-5 if primus else 1e-6)
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.multiple = self.patch = patch or PATCH[spatial_dims]
        self.form, self.stem, self.pool, self.rotary = form, stem, pool, positions != "learned"
        self.learned_grid, self.rescale, self.of_head = learned_grid, rescale, width // heads
        self.channels, self.strides = (width,) * blocks, (self.patch,) * blocks
        self.stage_names = tuple(f"blocks.{number}" for number in range(blocks))
        self.branch_ends = tuple(f"blocks.{number}.{end}" for number in range(blocks) for end in ("ls1", "ls2"))
        self.skips = tuple(sorted({max(0, blocks * tap // TAPS - 1) for tap in range(1, TAPS + 1)}))
        if pool != "mean":
            self.channels += (width if pool == "class" else 2 * width,)
            self.strides += (self.patch,)
            self.stage_names += ("norm",)
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.patch_embed = (
            ResidualStem(spatial_dims, in_channels, width, self.patch)
            if stem == "residual"
            else PatchEmbedding(convolution(in_channels, width, self.patch, stride=self.patch))
        )
        self.register_parameter("cls_token", None if primus else nn.Parameter(torch.zeros(1, 1, width)))
        self.register_parameter("reg_token", nn.Parameter(torch.zeros(1, registers, width)) if registers else None)
        if learned_grid is not None:  # with registers the class token has no position, as in timm's networks
            of_cls = registers == 0 and not primus
            self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(learned_grid) + of_cls, width))
        made = (Block(width, heads, layer_scale, epsilon, perceptron, normed=primus) for _ in range(blocks))
        self.blocks = nn.Sequential(*made)
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self._factor: Tensor | None = None
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
        grid = self._grid(x)
        patches = self._patches(x, hidden)
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

    def visible_tokens(
        self, x: Float[Tensor, "n c *size"], visible: Int64[Tensor, "n k"]
    ) -> Float[Tensor, "n tokens d"]:  # fmt: skip
        """Class token, registers and the `visible` patches of each image after all blocks; no block computes the others.

        Source: He et al., arXiv 2111.06377, §3 ("MAE encoder").
        """
        self.check(x)
        grid, count = self._grid(x), visible.shape[1]
        hidden = torch.ones(len(x), math.prod(grid), dtype=torch.bool, device=x.device).scatter_(1, visible, False)
        tokens = self._tokens(self._patches(x, hidden), grid)
        before = tokens.shape[1] - math.prod(grid)
        kept = tokens[:, before:].gather(1, visible[:, :, None].expand(-1, -1, tokens.shape[2]))
        tokens, angles = torch.cat([tokens[:, :before], kept], 1), self._angles(grid, x.device)
        if angles is not None:
            angles = angles[visible].view(len(x), 1, count, -1)
        for block in self.blocks:
            tokens = block(tokens, angles)
        return self.norm(tokens)

    def of_elsewhere(
        self, found: dict[str, Tensor], exported: ExportedContract | None = None
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Files of DINOv2, DINOv3, timm, and in the form of Primus those of nnU-Net and OpenMind."""
        return (of_primus if self.form == "primus" else of_dino)(self, found, exported)

    def part_of(self, parameter: str) -> int | None:
        return len(self.blocks) if parameter.startswith("norm.") else super().part_of(parameter)

    def draw(self, seed: int, step: int) -> None:
        if self.rescale > 1 and any(parameter.requires_grad for parameter in self.parameters()):
            if self._factor is None:
                self._factor = torch.ones((), device=next(self.parameters()).device)
            self._factor.fill_(self.rescale ** rng(seed, "rescale", step).uniform(-1, 1))

    def check(self, x: Float[Tensor, "..."]) -> None:
        super().check(x)
        size = tuple(x.shape[2:])
        if any(side % self.patch for side in size):
            nearest = [max(1, round(side / self.patch)) * self.patch for side in size]
            raise StudyError(f"vit: {list(size)} cuts patches of {self.patch} pixels. The nearest size that does not: {nearest}.")

    def _grid(self, x: Float[Tensor, "n c *size"]) -> tuple[int, ...]:
        return tuple(side // self.patch for side in x.shape[2:])

    def _patches(self, x: Float[Tensor, "n c *size"], hidden: Bool[Tensor, "n places"] | None) -> Float[Tensor, "n places d"]:
        """A token of each patch. Convolutions that reach beyond a patch see 0 in place of hidden ones."""
        if hidden is not None and self.stem == "residual":
            mask = hidden.unflatten(1, self._grid(x))
            for axis in range(self.spatial_dims):
                mask = mask.repeat_interleave(self.patch, 1 + axis)
            x = x.masked_fill(mask[:, None], 0)
        return self.patch_embed(x).flatten(2).transpose(1, 2)

    def _tokens(self, patches: Tensor, grid: tuple[int, ...]) -> Float[Tensor, "n tokens d"]:
        """Class token, registers and patches, with learned positions where there are some."""
        n = patches.shape[0]
        before = [token.expand(n, -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        if self.learned_grid is not None:
            of_cls = self.pos_embed.shape[1] - math.prod(self.learned_grid)
            patches = patches + resampled(self.pos_embed[:, of_cls:], self.learned_grid, grid)
            if of_cls:
                before[0] = before[0] + self.pos_embed[:, :1]
        return torch.cat([*before, patches], 1)

    def _angles(self, grid: tuple[int, ...], device: torch.device) -> Float[Tensor, "places d"] | None:
        if not self.rotary:
            return None
        factor = 1.0 if self._factor is None or not self.training else self._factor
        return (counted_angles if self.form == "primus" else rotary_angles)(grid, self.of_head, device, factor)

    def _whole(self, cls: Float[Tensor, "n d"], patches: Float[Tensor, "n d *grid"]) -> Float[Tensor, "n _ ..."]:
        """What stands for the whole image, as a map of one place."""
        parts = [cls, *([patches.flatten(2).mean(2)] if self.pool == "class_and_mean" else [])]
        return torch.cat(parts, 1).view(cls.shape[0], -1, *[1] * self.spatial_dims)

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.startswith("patch_embed.") and self.stem == "residual":
                continue
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
