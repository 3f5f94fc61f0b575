"""Packed patches against the paper's dense emulation, written with hooks on the plain network; and what cannot be seen."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.nn.backbone import Backbone, build
from medssl.nn.channel_norm import ChannelNorm
from medssl.nn.resnet import SeparableMaxPool3d
from medssl.nn.sparse import Patches, join, make_sparse, sparse_maps, split

NARROW: dict[str, tuple[dict[str, Any], int]] = {
    "resnet18": ({"width": 0.0625}, 32), "resnet34": ({"width": 0.0625, "stem": "small"}, 8),
    "resnet50": ({"width": 0.0625, "stem": "small"}, 8), "convnext_tiny": ({"width": 0.03, "layer_scale": 1.0}, 32),
    "unet": ({"features": (4, 4, 8, 8, 8, 4)}, 16), "resenc": ({"features": (4, 8, 8, 8), "blocks": (1, 2, 1, 1)}, 8),
}  # fmt: skip
"""Options and deepest stride, which is the patch."""
DENSE = {"slicewise", "bottleneck", "vit"}
"""The first two run another network: spark refuses the one, and the other is only for fine-tuning. A transformer leaves out
tokens instead, see test_pretrain_mae.py.
"""
every_backbone = pytest.mark.parametrize("name", sorted(set(plugins.names("backbone")) - DENSE))
both_ranks = pytest.mark.parametrize("dims", [2, 3])
torch.set_num_threads(1)


def made(name: str, dims: int) -> tuple[Backbone, Tensor, Patches]:
    """A narrow network in float64, two images, and half of their patches."""
    torch.manual_seed(0)
    options, patch = NARROW[name]
    grid = (3, 2) if dims == 2 else (2, 2, 1) if patch < 32 else (2, 1, 1)
    images = torch.randn(2, 1, *(size * patch for size in grid), dtype=torch.float64)
    chosen = torch.stack([torch.randperm(math.prod(grid))[: math.prod(grid) // 2].sort().values for _ in range(2)])
    return build(name, options, dims, 1).double(), images, Patches(chosen, grid)


def spread_mask(active: Tensor, size: torch.Size) -> Tensor:
    """The mask `(n, 1, *size)` of a map."""
    for axis, whole in enumerate(size):
        active = active.repeat_interleave(whole // active.shape[1 + axis], 1 + axis)
    return active[:, None].double()


def emulated(backbone: nn.Module, images: Tensor, active: Tensor) -> Any:
    """The paper's sparse encoder: dense layers, the mask after each, norms over gathered active positions."""

    def masked(module: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        last = isinstance(module, (nn.Linear, nn.LayerNorm)) and not isinstance(module, ChannelNorm)
        mask = spread_mask(active, out.shape[1:-1] if last else out.shape[2:])
        return out * (mask.movedim(1, -1) if last else mask)

    def normed(module: Any, inputs: Any, out: Tensor) -> Tensor:
        x = inputs[0]
        inside = spread_mask(active, x.shape[2:])[:, 0].bool()
        result = torch.zeros_like(x)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.load_state_dict(kept[module])  # the dense pass has moved the running statistics
            gathered = x.movedim(1, -1)[inside]
            stats = (module.running_mean, module.running_var) if not module.training else (None, None)
            values = F.batch_norm(gathered, *stats, module.weight, module.bias, module.training, 0.0, module.eps)
            if module.training:
                module.running_mean += 0.1 * (gathered.mean(0).detach() - module.running_mean)
                module.running_var += 0.1 * (gathered.var(0).detach() - module.running_var)
            return result.movedim(1, -1).index_put((inside,), values).movedim(-1, 1)
        rows = []
        for image, own in zip(x, inside, strict=True):
            gathered = image[:, own]  # (c, positions)
            groups = gathered.view(getattr(module, "num_groups", len(gathered)), -1)
            variance, mean = torch.var_mean(groups, 1, correction=0, keepdim=True)
            value = ((groups - mean) / (variance + module.eps).sqrt()).view_as(gathered)
            value = value * module.weight[:, None] + module.bias[:, None]
            rows.append(torch.zeros_like(image).masked_scatter(own.expand_as(image), value))
        return torch.stack(rows)

    kept, hooks = {}, []
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            kept[module] = copy.deepcopy(module.state_dict())
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm)):
            hooks.append(module.register_forward_hook(normed))
        elif isinstance(module, (nn.Conv2d, nn.Conv3d, nn.MaxPool2d, SeparableMaxPool3d, nn.AvgPool2d, nn.AvgPool3d,
                                 nn.Linear, nn.LayerNorm)):  # fmt: skip
            hooks.append(module.register_forward_hook(masked))
    maps = backbone(images * spread_mask(active, images.shape[2:]))
    for hook in hooks:
        hook.remove()
    return maps


@every_backbone
@both_ranks
def test_packed_patches_equal_the_dense_emulation(name: str, dims: int) -> None:
    plain, images, patches = made(name, dims)
    sparse = copy.deepcopy(plain)
    scope = make_sparse(sparse)
    wanted = emulated(plain, images, patches.active)
    found = [patches.unpack(blocks) for blocks in sparse_maps(sparse, scope, images, patches)]
    pulls = [torch.randn_like(m) for m in wanted]
    for a, b in zip(wanted, found, strict=True):
        assert a.shape == b.shape and bool(a.any())
        assert torch.allclose(a, b, atol=1e-9)
    for maps in (wanted, found):
        sum((m * pull).sum() for m, pull in zip(maps, pulls, strict=True)).backward()
    for (parameter, a), b in zip(plain.named_parameters(), sparse.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-8 * max(1.0, float(a.grad.abs().max()))), parameter
    for (buffer, a), b in zip(plain.named_buffers(), sparse.buffers(), strict=True):
        if a.is_floating_point():
            assert torch.allclose(a, b, atol=1e-9), buffer  # running statistics are those of active positions


@every_backbone
@both_ranks
def test_masked_pixels_are_invisible_bit_for_bit(name: str, dims: int) -> None:
    backbone, images, patches = made(name, dims)
    scope = make_sparse(backbone)
    hidden = ~spread_mask(patches.active, images.shape[2:]).bool()
    before = sparse_maps(backbone, scope, images, patches)
    for other in (torch.randn_like(images), torch.full_like(images, math.nan)):
        after = sparse_maps(backbone, scope, torch.where(hidden, other, images), patches)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@every_backbone
@both_ranks
def test_with_all_patches_active_it_is_the_dense_network(name: str, dims: int) -> None:
    backbone, images, patches = made(name, dims)
    everything = torch.arange(math.prod(patches.grid)).repeat(2, 1)
    patches = Patches(everything, patches.grid)
    for training in (True, False):
        dense, sparse = copy.deepcopy(backbone).train(training), copy.deepcopy(backbone).train(training)
        scope = make_sparse(sparse)
        wanted, found = dense(images), sparse_maps(sparse, scope, images, patches)
        assert all(torch.allclose(a, patches.unpack(b), atol=1e-9) for a, b in zip(wanted, found, strict=True))
        again = sparse(images)  # outside of a call with patches it is the dense network itself
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(dense(images), again, strict=True))
    assert list(sparse.state_dict()) == list(backbone.state_dict())


def test_running_means_are_those_of_active_positions() -> None:
    backbone, images, patches = made("resnet18", 2)
    scope = make_sparse(backbone)
    sparse_maps(backbone, scope, images, patches)
    mask = spread_mask(patches.active, images.shape[2:])
    stem = F.conv2d(images * mask, backbone.conv1.weight, stride=2, padding=3)  # type: ignore[union-attr,arg-type]
    inside = spread_mask(patches.active, stem.shape[2:])[:, 0].bool()
    gathered = stem.movedim(1, -1)[inside]
    assert torch.allclose(backbone.bn1.running_mean, 0.1 * gathered.mean(0))  # type: ignore[union-attr,arg-type]
    assert torch.allclose(backbone.bn1.running_var, 0.9 + 0.1 * gathered.var(0))  # type: ignore[union-attr,arg-type]


class Small(Backbone):
    """Layers that no backbone has: group norm, and max-pooling of signed values."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial_dims, self.in_channels, self.channels, self.strides = 2, 1, (4,), (2,)
        self.conv, self.norm, self.pool = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor, depth: int | None = None) -> list[Tensor]:
        return [self.pool(self.norm(self.conv(x)))]


def test_group_norm_and_signed_max_pooling_see_active_positions_only() -> None:
    torch.manual_seed(0)
    plain = Small().double()
    images, patches = torch.randn(2, 1, 12, 8, dtype=torch.float64), Patches(torch.tensor([[0, 3], [2, 5]]), (3, 2))
    sparse = copy.deepcopy(plain)
    scope = make_sparse(sparse)
    found = patches.unpack(sparse_maps(sparse, scope, images, patches)[0])
    normed = emulated(nn.Sequential(plain.conv, plain.norm), images, patches.active)
    inside = spread_mask(patches.active, normed.shape[2:]).bool()
    wanted = F.max_pool2d(torch.where(inside, normed, -math.inf), 3, 2, 1)
    mask = spread_mask(patches.active, found.shape[2:]).bool()
    assert torch.allclose(found, torch.where(mask, wanted, 0.0))
    assert bool((found < 0).any())


def test_the_border_has_the_right_gradient() -> None:
    torch.manual_seed(0)
    for grid, block in (((2, 2), (2, 3)), ((2, 2, 1), (1, 2, 1))):
        patches = Patches(torch.tensor([[0, 1, 3]]), grid)
        blocks = torch.randn(3, 1, *block, dtype=torch.float64, requires_grad=True)
        width = tuple(min(1, b) for b in block)
        assert torch.autograd.gradcheck(lambda x, p=patches, w=width: p.bordered(x, w), blocks)


def test_what_is_split_is_joined_again_and_what_is_packed_unpacked() -> None:
    x = torch.randn(2, 3, 6, 4, 8)
    assert torch.equal(join(split(x, (3, 2, 2)), (3, 2, 2)), x)
    patches = Patches(torch.tensor([[0, 5], [1, 11]]), (3, 2, 2))
    inside = spread_mask(patches.active, x.shape[2:]).bool()
    fill = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(patches.unpack(patches.pack(x), fill), torch.where(inside, x, fill.view(1, 3, 1, 1, 1)))


def test_two_networks_and_two_masks_do_not_meet() -> None:
    one, images, patches = made("resnet18", 2)
    two = copy.deepcopy(one)
    other = Patches(torch.tensor([[0, 1, 2], [3, 4, 5]]), patches.grid)
    scope_one, scope_two = make_sparse(one), make_sparse(two)
    wanted = {}
    for network, scope, chosen in ((one, scope_one, patches), (two, scope_two, other)):
        sparse_maps(network, scope, images, chosen)[-1].square().sum().backward()
        wanted[scope is scope_one] = [p.grad.clone() for p in network.parameters()]
        network.zero_grad()
    # forward, forward, then both backward passes: each gradient is that of its own mask
    a = sparse_maps(one, scope_one, images, patches)[-1].square().sum()
    b = sparse_maps(two, scope_two, images, other)[-1].square().sum()
    (a + b).backward()
    for first, network in ((True, one), (False, two)):
        assert all(torch.equal(g, p.grad) for g, p in zip(wanted[first], network.parameters(), strict=True))


def test_a_second_wrapper_of_a_network_leaves_the_first_alone() -> None:
    backbone, images, patches = made("resnet18", 2)
    first = make_sparse(backbone)
    wanted = [blocks.detach().clone() for blocks in sparse_maps(backbone.eval(), first, images, patches)]
    second = make_sparse(backbone)
    assert second is first
    for scope in (first, second):
        assert all(torch.equal(a, b) for a, b in zip(wanted, sparse_maps(backbone, scope, images, patches), strict=True))


def test_parts_that_were_made_sparse_separately_are_not_a_sparse_network() -> None:
    one, two = Small(), Small()
    make_sparse(one), make_sparse(two)
    with pytest.raises(StudyError, match="2 parts of Sequential were made sparse one by one"):
        make_sparse(nn.Sequential(one, two))


def test_recomputing_activations_uses_the_mask_of_its_own_call() -> None:
    backbone, images, patches = made("unet", 2)
    scope = make_sparse(backbone)
    other = Patches(torch.tensor([[0, 1, 2], [3, 4, 5]]), patches.grid)
    sparse_maps(backbone, scope, images, patches)[-1].square().sum().backward()
    wanted = [p.grad.clone() for p in backbone.parameters()]
    backbone.zero_grad()
    maps = checkpoint(sparse_maps, backbone, scope, images, patches, use_reentrant=False)
    with torch.no_grad():
        sparse_maps(backbone, scope, images, other)  # another call in between
    maps[-1].square().sum().backward()
    assert all(torch.equal(g, p.grad) for g, p in zip(wanted, backbone.parameters(), strict=True))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """torch cannot compile the suite's checks of shapes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
def test_a_compiled_network_takes_a_new_mask_in_every_call() -> None:
    torch.manual_seed(0)
    backbone, images = Small(), torch.randn(2, 1, 12, 8)
    scope, compiled = make_sparse(backbone), copy.deepcopy(backbone)
    compiled_scope = compiled.conv.scope
    assert compiled_scope is not scope
    compiled.compile(backend="eager", fullgraph=True)
    for chosen in (torch.tensor([[0, 3], [2, 5]]), torch.tensor([[1, 2], [0, 4]])):
        patches = Patches(chosen, (3, 2))
        wanted = sparse_maps(backbone, scope, images, patches)
        assert torch.allclose(wanted[0], sparse_maps(compiled, compiled_scope, images, patches)[0])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, padding=2, dilation=2), nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(1, 1, 3, padding=1, padding_mode="circular"), nn.Conv2d(1, 1, 3, padding="same"),
        nn.AvgPool2d(3, 1, 1), nn.AvgPool3d(3, 2, 1), nn.MaxPool3d(3, 2, 1), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.ConvTranspose2d(1, 1, 4, 2, 1), nn.ConvTranspose3d(1, 1, 3, 2, 1, output_padding=1), nn.LPPool2d(2, 3, 1),
    ],
    ids=str,
)  # fmt: skip
def test_layers_that_have_no_sparse_form_are_refused(layer: nn.Module) -> None:
    with pytest.raises(StudyError, match="cannot be computed on patches"):
        make_sparse(nn.Sequential(layer))


@pytest.mark.parametrize("layer", [nn.AvgPool2d(2), nn.ConvTranspose2d(1, 1, 2, 2), nn.LPPool2d(2, 2), nn.Conv2d(1, 1, 2, 2)])
def test_layers_within_their_block_stay_as_they_are(layer: nn.Module) -> None:
    images, patches = torch.randn(1, 1, 8, 8), Patches(torch.tensor([[0, 3]]), (2, 2))
    network = nn.Sequential(layer)
    make_sparse(network)
    assert torch.allclose(network(patches.pack(images)), patches.pack(layer(images)), atol=1e-6)


def test_a_layer_that_mixes_all_positions_is_refused_in_the_call() -> None:
    squeezing = Small()
    squeezing.norm = nn.AdaptiveAvgPool2d(4)  # type: ignore[assignment]
    scope = make_sparse(squeezing)
    with pytest.raises(StudyError, match="mixes all positions"):
        sparse_maps(squeezing, scope, torch.rand(1, 1, 8, 8), Patches(torch.tensor([[0]]), (2, 1)))
