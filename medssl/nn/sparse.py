"""Networks that see only some patches of an image: only the active patches are computed.

Each active patch of a batch is a block of its map, and the blocks `(n · k, c, *block)` are the batch for the network. Norms
over positions, activations, sums and convolutions within a block then cover exactly the active positions, without any change.
A layer that reads beyond its block takes the border from active neighbours, and zeros (in max-pooling: nothing) elsewhere.
Inactive patches are never read.

Equal to multiplying by the mask after every layer (the paper's dense emulation), at the active share of its work.

Source: Tian et al., "Designing BERT for Convolutional Networks", arXiv 2301.03580, §3.1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from medssl.core.errors import StudyError
from medssl.nn.backbone import Backbone
from medssl.nn.pass_state import PassState
from medssl.nn.resnet import SeparableMaxPool3d, max_pool3d

CONVOLVE = {2: F.conv2d, 3: F.conv3d}
MATMUL_BLOCK = 2
"""Up to this many output positions per axis of a block, a convolution is computed as one matrix product, which is then faster."""


class Patches:
    """Which patches of a batch are active: `chosen` int64 `(n, k)` numbers them along the flattened `grid` of an image."""

    def __init__(self, chosen: Int64[Tensor, "n k"], grid: Sequence[int]) -> None:
        self.chosen, self.grid = chosen, tuple(grid)
        self.num_images, self.per_image = chosen.shape
        self.rows = (chosen + math.prod(self.grid) * torch.arange(len(chosen), device=chosen.device)[:, None]).flatten()

    @property
    def active(self) -> Bool[Tensor, "n *grid"]:
        """Active or not, bool `(n, *grid)`."""
        flat = torch.zeros(self.num_images, math.prod(self.grid), dtype=torch.bool, device=self.chosen.device)
        return flat.scatter_(1, self.chosen, True).view(-1, *self.grid)

    @cached_property
    def neighbours(self) -> Int64[Tensor, "directions nk"]:
        """int64 `(3 ** d, n · k)`: the block next to each in every direction of {−1, 0, 1}^d, or `n · k` if it is inactive."""
        none, dims = len(self.rows), len(self.grid)
        number = torch.full((self.num_images * math.prod(self.grid),), none, device=self.rows.device)
        number[self.rows] = torch.arange(none, device=self.rows.device)
        around = F.pad(number.view(-1, *self.grid), (1, 1) * dims, value=none)
        moved = (
            around[(slice(None), *(slice(step, step + size) for step, size in zip(steps, self.grid, strict=True)))]
            for steps in itertools.product(range(3), repeat=dims)
        )
        return torch.stack([number.flatten()[self.rows] for number in moved])

    def pack(self, x: Shaped[Tensor, "n c *size"]) -> Shaped[Tensor, "nk c *block"]:
        """The active blocks `(n · k, c, *block)` of a map `(n, c, *size)`."""
        return split(x, self.grid).flatten(0, 1).index_select(0, self.rows).movedim(-1, 1)

    def unpack(
        self, blocks: Shaped[Tensor, "nk c *block"], fill: float | Float[Tensor, "c"] = 0.0
    ) -> Shaped[Tensor, "n c *size"]:
        """The map `(n, c, *size)` of active blocks, elsewhere `fill`: a number, or one for each channel `(c,)`."""
        shape = (self.num_images * math.prod(self.grid), *blocks.shape[2:], blocks.shape[1])
        ground = fill.to(blocks.dtype).expand(shape) if isinstance(fill, Tensor) else blocks.new_full(shape, fill)
        whole = ground.index_copy(0, self.rows, blocks.movedim(1, -1))
        return join(whole.view(self.num_images, -1, *whole.shape[1:]), self.grid)

    def bordered(
        self, blocks: Float[Tensor, "nk c *block"], width: Sequence[int], fill: float = 0.0
    ) -> Float[Tensor, "nk c *bordered"]:
        """Blocks `(n · k, c, *block)` with `width` positions of their neighbours around, `fill` for inactive ones."""
        bordered: Tensor = _Bordered.apply(blocks, self.neighbours, tuple(width), fill)
        return bordered


def split(x: Shaped[Tensor, "n c *size"], grid: Sequence[int]) -> Shaped[Tensor, "n patches *block c"]:
    """A map `(n, c, *size)` cut along a grid: `(n, patches, *block, c)`."""
    dims = len(grid)
    pairs = [(size, whole // size) for size, whole in zip(grid, x.shape[2:], strict=True)]
    cut = x.movedim(1, -1).reshape(len(x), *itertools.chain(*pairs), x.shape[1])
    order = (0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1)
    return cut.permute(order).reshape(len(x), -1, *(block for _, block in pairs), x.shape[1])


def join(blocks: Shaped[Tensor, "n patches *block c"], grid: Sequence[int]) -> Shaped[Tensor, "n c *size"]:
    """The inverse of `split`: `(n, patches, *block, c)` to `(n, c, *size)`."""
    dims, block, channels = len(grid), blocks.shape[2:-1], blocks.shape[-1]
    order = (0, *(axis for d in range(dims) for axis in (1 + d, 1 + dims + d)), 2 * dims + 1)
    whole = blocks.reshape(len(blocks), *grid, *block, channels).permute(order)
    return whole.reshape(len(blocks), *(g * b for g, b in zip(grid, block, strict=True)), channels).movedim(-1, 1)


class _Bordered(torch.autograd.Function):
    """Forward and backward pass only gather, so that they are deterministic on every device."""

    @staticmethod
    def forward(context: Any, blocks: Tensor, neighbours: Tensor, width: tuple[int, ...], fill: float) -> Tensor:
        context.save_for_backward(neighbours)
        context.regions = _regions(blocks.shape[2:], width)
        x = blocks.movedim(1, -1)
        out = x.new_empty((len(x), *(b + 2 * w for b, w in zip(blocks.shape[2:], width, strict=True)), x.shape[-1]))
        for number, (inside, outside) in enumerate(context.regions):
            own = number == len(context.regions) // 2
            out[outside] = x if own else _rows(x[inside], neighbours[number], fill)
        return out.movedim(-1, 1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (neighbours,) = context.saved_tensors
        regions, g = context.regions, gradients[0].movedim(1, -1)
        own = len(regions) // 2
        total = g[regions[own][1]].clone()
        for number, (inside, outside) in enumerate(regions):
            if number != own:  # what the block on the opposite side took from this one
                total[inside] += _rows(g[outside], neighbours[len(regions) - 1 - number], 0.0)
        return total.movedim(-1, 1), None, None, None


def _regions(block: Sequence[int], width: Sequence[int]) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """For each direction of {−1, 0, 1}^d: which part of the neighbour's block, and where it goes in the bordered block."""
    along = [
        ((slice(b - w, b), slice(0, w)), (slice(0, b), slice(w, w + b)), (slice(0, w), slice(w + b, 2 * w + b)))
        for b, w in zip(block, width, strict=True)
    ]
    everything = (slice(None),)
    return [
        (everything + tuple(inside for inside, _ in steps), everything + tuple(outside for _, outside in steps))
        for steps in itertools.product(*along)
    ]


def _rows(part: Tensor, rows: Tensor, fill: float) -> Tensor:
    """The given rows of `part`; `fill` for the row after its last."""
    return torch.cat([part, part.new_full((1, *part.shape[1:]), fill)]).index_select(0, rows)


class Scope(PassState[Patches]):
    """The patches of the current call, for the sparse layers of one network; without patches they act as dense layers."""

    @property
    def patches(self) -> Patches | None:
        """The patches of the current call."""
        return self.value


def make_sparse(backbone: nn.Module) -> Scope:
    """Turn the layers that read beyond a block into sparse ones, in place: weights, names and the dense behaviour stay.

    A network that is already sparse keeps its scope, so that existing references stay valid.

    Raises:
        StudyError: the output of a layer does not fit the blocks; parts of the network are sparse, each with its own scope.
    """
    known = {id(scope): scope for scope in map(_scope, backbone.modules()) if scope is not None}
    if len(known) > 1:
        raise StudyError(
            f"{len(known)} parts of {type(backbone).__name__} were made sparse one by one, and a call has one mask. Make the "
            "whole network sparse, and not its parts."
        )
    scope: Scope = next(iter(known.values()), None) or Scope(backbone)
    for name, module in backbone.named_modules():
        if not _keeps_blocks(module):
            raise StudyError(
                f"{name} ({module}) cannot be computed on patches: a convolution or max-pooling takes (kernel − 1) / 2 padding "
                "with zeros, or kernel = stride, without dilation; other layers that join positions take kernel = stride alone."
            )
        if isinstance(module, _GLOBAL) and _scope(module) is None:
            _give_scope(module, scope)
            module.register_forward_pre_hook(_refuse)
        for dense, sparse in _SPARSE.items():
            if isinstance(module, dense):
                module.__class__ = sparse
                _give_scope(module, scope)
    return scope


def sparse_maps(
    backbone: Backbone, scope: Scope, images: Float[Tensor, "n c *size"], patches: Patches, depth: int | None = None
) -> list[Float[Tensor, "nk _ ..."]]:
    """The first `depth` maps of the active patches of images `(n, c, *size)`, packed: `(n · k, channels[m], *block)`.

    A block of map m has patch / strides[m] positions per axis. Only this network's layers know the patches, and only inside this
    call.
    """
    backbone.check(images)
    with scope.of(patches):
        return backbone(patches.pack(images), depth)


class _Sparse:
    scope: Scope


class _SparseConvolution(_Sparse):
    """A convolution whose blocks see the active neighbours, and zeros elsewhere."""

    def forward(self: Any, x: Tensor) -> Tensor:
        patches, padding = self.scope.patches, self.padding
        if patches is None or not any(padding):
            return super().forward(x)  # type: ignore[misc]
        block = x.shape[2:]
        if any(p > b for p, b in zip(padding, block, strict=True)):  # further than the next block
            return patches.pack(super().forward(patches.unpack(x)))  # type: ignore[misc]
        bordered = patches.bordered(x, padding)
        if self.groups == 1 and max(b // s for b, s in zip(block, self.stride, strict=True)) <= MATMUL_BLOCK:
            return _matrix_product(bordered, self.weight, self.bias, self.stride)
        return CONVOLVE[len(block)](bordered, self.weight, self.bias, self.stride, groups=self.groups)


class SparseConv2d(_SparseConvolution, nn.Conv2d):
    """2-D."""


class SparseConv3d(_SparseConvolution, nn.Conv3d):
    """3-D."""


def _matrix_product(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int]) -> Tensor:
    """A convolution without padding as one matrix product: `(n, c, *size)` to `(n, channels, *out)`."""
    kernel = weight.shape[2:]
    out = [(size - k) // s + 1 for size, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    last = x.movedim(1, -1)
    taps = [
        last[(slice(None), *(slice(t, t + s * o, s) for t, s, o in zip(tap, stride, out, strict=True)))]
        for tap in itertools.product(*(range(k) for k in kernel))
    ]
    columns = torch.cat(taps, -1).flatten(0, -2)
    product = F.linear(columns, weight.movedim(1, -1).flatten(1), bias)
    return product.view(len(x), *out, -1).movedim(-1, 1)


class _SparseMaxPool(_Sparse):
    """The maximum over active positions only: correct for signed values too, where the paper's code uses zeros."""

    def forward(self: Any, x: Tensor) -> Tensor:
        patches = self.scope.patches
        dims = x.ndim - 2
        padding = _tuple(self.padding, dims)
        if patches is None or not any(padding):
            return super().forward(x)  # type: ignore[misc]
        pool = F.max_pool2d if dims == 2 else max_pool3d
        return pool(patches.bordered(x, padding, -math.inf), self.kernel_size, self.stride)


class SparseMaxPool2d(_SparseMaxPool, nn.MaxPool2d):
    """2-D."""


class SparseMaxPool3d(_SparseMaxPool, SeparableMaxPool3d):
    """3-D."""


class _SparsePositionNorm(_Sparse):
    """A norm over all positions of an image becomes one over all its active blocks."""

    def forward(self: Any, x: Tensor) -> Tensor:
        patches = self.scope.patches
        if patches is None:
            return super().forward(x)  # type: ignore[misc]
        block = x.shape[2:]
        images = x.reshape(patches.num_images, patches.per_image, x.shape[1], -1).transpose(1, 2)
        images = images.reshape(*images.shape, *[1] * (len(block) - 2))
        normed = super().forward(images)  # type: ignore[misc]
        return normed.transpose(1, 2).reshape(x.shape)


class SparseInstanceNorm2d(_SparsePositionNorm, nn.InstanceNorm2d):
    """2-D."""


class SparseInstanceNorm3d(_SparsePositionNorm, nn.InstanceNorm3d):
    """3-D."""


class SparseGroupNorm(_SparsePositionNorm, nn.GroupNorm):
    """Any number of dimensions."""


_SPARSE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: SparseConv2d,
    nn.Conv3d: SparseConv3d,
    nn.MaxPool2d: SparseMaxPool2d,
    SeparableMaxPool3d: SparseMaxPool3d,
    nn.InstanceNorm2d: SparseInstanceNorm2d,
    nn.InstanceNorm3d: SparseInstanceNorm3d,
    nn.GroupNorm: SparseGroupNorm,
}
_BORDERED = (nn.Conv2d, nn.Conv3d, nn.MaxPool2d, SeparableMaxPool3d)
"""Layers whose sparse form takes a border from the neighbours."""
_WITHIN = (
    nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool3d, nn.LPPool2d, nn.LPPool3d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
"""Layers without a sparse form, correct only within a block."""
_GLOBAL = (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)


def _scope(module: nn.Module) -> Scope | None:
    found = getattr(module, "scope", None)
    return found if isinstance(found, Scope) else None


def _give_scope(module: nn.Module, scope: Scope) -> None:
    """Set a plain attribute: torch's types allow only tensors and modules on a module."""
    module.__dict__["scope"] = scope


def _refuse(module: Any, inputs: Any) -> None:
    if module.scope.patches is not None:
        raise StudyError(f"{type(module).__name__} mixes all positions of a map; the network has no sparse form.")


def _tuple(value: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)


def _keeps_blocks(layer: Any) -> bool:
    """Whether blocks stay blocks: output positions are every stride-th input position, or each comes from its own block.

    A layer that joins no positions keeps them.
    """
    if not isinstance(layer, (*_BORDERED, *_WITHIN)):
        return True
    dims = 3 if type(layer).__name__.endswith("3d") else 2
    dilation, more = (_tuple(getattr(layer, name, default), dims) for name, default in (("dilation", 1), ("output_padding", 0)))
    if isinstance(getattr(layer, "padding", 0), str) or any(d != 1 for d in dilation) or any(more):
        return False
    kernel, padding = (_tuple(getattr(layer, name, 0), dims) for name in ("kernel_size", "padding"))
    stride = kernel if layer.stride is None else _tuple(layer.stride, dims)
    disjoint = [k == s and p == 0 for k, s, p in zip(kernel, stride, padding, strict=True)]
    if isinstance(layer, _WITHIN):
        return all(disjoint)
    if any(padding) and (getattr(layer, "padding_mode", "zeros") != "zeros" or getattr(layer, "ceil_mode", False)):
        return False
    centred = [k % 2 == 1 and p == k // 2 for k, p in zip(kernel, padding, strict=True)]
    return all(a or c for a, c in zip(disjoint, centred, strict=True))
