"""The vision transformer: what positions are, what it refuses, and what is built on it. Parity with timm: test_nn_transfer.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretraining import made_batch, made_samples, step
from torch import nn

from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.nn.backbone import backbones_in, build, pooled
from medssl.nn.decoder import Decoder
from medssl.nn.momentum import momentum_copy
from medssl.nn.positions import resampled, rotary_angles, rotated
from medssl.nn.stochastic_depth import StochasticDepth

SMALL: dict[str, Any] = {"width": 36, "blocks": 4, "heads": 3, "patch": 8}


def made(dims: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    return build("vit", plugins.find("backbone", "vit").check(SMALL | options), dims, 1)


def test_rotary_angles_are_those_of_their_definition() -> None:
    angles = rotary_angles((2, 3), 16, torch.device("cpu"))
    for place, (i, j) in enumerate((i, j) for i in range(2) for j in range(3)):
        y, x = 2 * (i + 0.5) / 2 - 1, 2 * (j + 0.5) / 3 - 1
        wanted = [2 * math.pi * coordinate / 100 ** (k / 4) for coordinate in (y, x) for k in range(4)]
        assert angles[place].tolist() == pytest.approx(2 * wanted, abs=1e-5)


@pytest.mark.parametrize("grid", [(5, 5), (4, 4, 4)])
def test_attention_sees_differences_of_rotary_positions_alone(grid: tuple[int, ...]) -> None:
    """Equal contents everywhere: the product of two places depends on the offset between them."""
    width = 12 * len(grid)
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(width, generator=draw).expand(1, 1, math.prod(grid), width) for _ in range(2))
    angles = rotary_angles(grid, width, torch.device("cpu"))
    products = (rotated(q, angles) @ rotated(k, angles).transpose(-1, -2))[0, 0].view(*grid, *grid)
    one = (1,) * len(grid)
    for corner in np.ndindex(*[n - 1 for n in grid]):
        shifted = tuple(c + 1 for c in corner)
        for other in np.ndindex(*[n - 1 for n in grid]):
            after = tuple(o + s for o, s in zip(other, one, strict=True))
            assert products[corner + other].item() == pytest.approx(products[shifted + after].item(), abs=1e-3)
    first = products[(0,) * len(grid)]
    assert len({round(value, 3) for value in first.flatten().tolist()}) == math.prod(grid)  # and on nothing less


def test_tokens_that_stand_for_no_patch_are_not_turned() -> None:
    x, angles = torch.rand(1, 2, 3 + 4, 8), rotary_angles((2, 2), 8, torch.device("cpu"))
    turned = rotated(x, angles)
    assert torch.equal(turned[:, :, :3], x[:, :, :3]) and not torch.equal(turned[:, :, 3:], x[:, :, 3:])
    assert torch.allclose(turned.norm(dim=3), x.norm(dim=3), atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_turned_images_give_turned_maps_once_axes_of_weights_are_exchanged(dims: int) -> None:
    """No axis is another's: exchange two axes of the image, of the patches' weights and of the angles, and the maps exchange."""
    backbone = made(dims).double().eval()
    x = torch.rand(2, 1, *[(16, 24, 32)[axis] for axis in range(dims)], dtype=torch.float64)
    before = backbone(x)
    weight = backbone.patch_embed.proj.weight
    weight.data = weight.data.transpose(2, 3).contiguous()
    of_axis, heads = backbone.of_head // (2 * dims), 3
    order = torch.arange(backbone.of_head).view(2, dims, of_axis)
    order = order[:, [1, 0, 2][:dims]].flatten()
    for block in backbone.blocks:
        for tensor in (block.attn.qkv.weight, block.attn.qkv.bias):
            parts = tensor.data.view(3, heads, backbone.of_head, *tensor.shape[1:])
            parts[:2] = parts[:2][:, :, order].clone()
    after = backbone(x.transpose(2, 3).contiguous())
    assert all(torch.allclose(a, b.transpose(2, 3), atol=1e-9) for a, b in zip(before, after, strict=True))


def test_a_size_that_cuts_a_patch_is_refused_with_the_nearest_that_does_not() -> None:
    with pytest.raises(StudyError, match=r"\[28, 35\] cuts patches of 8 pixels.* \[32, 32\]"):
        made()(torch.rand(1, 1, 28, 35))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 5}, "36 channels in 5 heads"),
        ({"width": 30, "heads": 3}, "a multiple of 4 for rotary positions in 2-D"),
        ({"positions": "learned"}, "Give the patches along each of 2 axes"),
        ({"learned_grid": (4, 4)}, "none with rotary ones"),
        ({"positions": "learned", "learned_grid": (4, 4, 4)}, "along each of 2 axes"),
        ({"positions": "both"}, "with positions: learned or both"),
        ({"positions": "learned", "learned_grid": (4, 4), "rescale": 2.0}, "positions: learned has none"),
        ({"stem": "residual", "patch": 14}, "patch must be a power of 2, got 14. The nearest: 16"),
        ({"form": "primus"}, "form: primus is 3-D and has no class token, got 2-D"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        made(**options)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("size", ["tiny", "small", "medium", "base"])
def test_every_size_has_heads_with_channels_for_each_axis(dims: int, size: str) -> None:
    with torch.device("meta"):
        options = plugins.find("backbone", "vit").check({"size": size})
        backbone: Any = plugins.find("backbone", "vit").load()(dims, 1, **options)
    assert backbone.of_head % (2 * dims) == 0 and len(backbone.blocks) == (16 if (dims, size) == (3, "medium") else 12)


def test_learned_positions_are_resampled_and_kept_where_the_grid_is_theirs() -> None:
    positions = torch.arange(16.0).view(1, 16, 1)
    assert resampled(positions, (4, 4), (4, 4)) is positions
    assert resampled(torch.full((1, 8, 2), 3.0), (2, 2, 2), (3, 4, 5)).flatten().tolist() == pytest.approx([3.0] * 120)


@pytest.mark.parametrize(("old", "new"), [((4, 5), (7, 3)), ((14, 14), (6, 16)), ((1, 4), (1, 6)), ((3, 4, 5), (6, 4, 2))])
def test_positions_are_resampled_as_torch_does_by_products_alone(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    """On a GPU, torch's cubic interpolation has no deterministic gradient; a product has."""
    places = torch.randn(1, math.prod(old), 3, requires_grad=True)
    found = resampled(places, old, new)
    way: dict[str, Any] = {"mode": "bicubic", "antialias": True} if len(old) == 2 else {"mode": "trilinear"}
    wanted = torch.nn.functional.interpolate(places.transpose(1, 2).unflatten(2, old), size=new, **way)
    torch.testing.assert_close(found, wanted.flatten(2).transpose(1, 2))
    done, left = set(), [found.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in done:
            done.add(node)
            left += [before for before, _ in node.next_functions]
    assert not [name for name in (type(node).__name__ for node in done) if "Upsample" in name]


def test_coordinates_are_rescaled_in_training_alone_by_at_most_the_factor() -> None:
    backbone = made(rescale=2.0)
    grid, device = (3, 3), torch.device("cpu")
    plain = backbone.eval()._angles(grid, device)
    assert torch.equal(plain, rotary_angles(grid, 12, device))
    backbone.train()
    assert torch.equal(backbone._angles(grid, device), plain)  # nothing was drawn
    follower = momentum_copy(backbone)
    pair, factors = backbones_in(nn.ModuleList([backbone, follower])), []
    for number in range(200):
        for each in pair:
            each.draw(0, number)
        factors.append((backbone._angles(grid, device)[0, 0] / plain[0, 0]).item())
        assert torch.equal(follower._angles(grid, device), plain)
    assert torch.equal(backbone.eval()._angles(grid, device), plain)
    assert 0.5 <= min(factors) < 0.55 and 1.8 < max(factors) <= 2
    assert abs(np.mean(np.log(factors))) < 0.1  # as often smaller as larger


@pytest.mark.parametrize("dims", [2, 3])
def test_convolutions_of_the_residual_stem_see_nothing_of_hidden_patches(dims: int) -> None:
    """Their kernels and their norms reach beyond a patch."""
    network = made(dims, stem="residual").double().eval()
    size = (16, 24, 32)[:dims]
    grid = tuple(side // 8 for side in size)
    images, token = torch.rand(2, 1, *size, dtype=torch.float64), torch.zeros(36, dtype=torch.float64)
    hidden = torch.zeros(2, math.prod(grid), dtype=torch.bool)
    hidden[:, [1, -2]] = True
    mask = hidden.view(2, 1, *grid)
    for axis in range(2, 2 + dims):
        mask = mask.repeat_interleave(8, axis)
    changed = torch.where(mask, torch.rand_like(images), images)
    visible = (~hidden).nonzero()[:, 1].view(2, -1)
    before, after = ([network(x, hidden=hidden, token=token)[-1], network.visible_tokens(x, visible)] for x in (images, changed))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    seen = torch.where(mask, images, torch.rand_like(images))
    assert not torch.equal(network(seen, hidden=hidden, token=token)[-1], before[0])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_decoder_over_maps_of_one_resolution_refines_them_step_by_step(dims: int) -> None:
    backbone = made(dims, blocks=8)
    images = torch.rand(1, 1, *[32] * dims)
    decoder, seen = Decoder(backbone), []
    for level in decoder.levels:
        level.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
    out = decoder(images, backbone(images))
    assert decoder.skips == (1, 3, 5, 7) and seen == [8, 16, 32, 32]
    assert out.shape == (1, decoder.width, *[32] * dims)
    out.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in decoder.parameters())


def test_stochastic_depth_leaves_out_whole_branches() -> None:
    backbone = made(layer_scale=1.0).train()
    depth = StochasticDepth(backbone, 0.5)
    assert len(depth.rates) == 8
    x = torch.rand(1, 1, 16, 16)
    none = torch.zeros(8, 1)
    with depth.of(none):
        first, *_, last = backbone(x)
    tokens = backbone._tokens(backbone.patch_embed(x).flatten(2).transpose(1, 2), (2, 2))[:, -4:]
    assert torch.allclose(first.flatten(2).transpose(1, 2), tokens, atol=1e-6)
    assert torch.allclose(last.flatten(2).transpose(1, 2), backbone.norm(tokens), atol=1e-5)


@pytest.mark.parametrize(
    ("dims", "options"),
    [
        (2, {"perceptron": "swiglu"}),
        (2, {"stem": "residual", "patch": 16, "positions": "both", "learned_grid": (2, 3)}),
        (3, {"form": "primus", "layer_scale": 0.1}),
        (3, {"form": "primus", "stem": "residual", "positions": "both", "learned_grid": (2, 2, 2), "registers": 2}),
    ],
)
def test_every_form_keeps_the_contract_of_a_backbone(dims: int, options: dict[str, Any]) -> None:
    network = made(dims, **options)
    maps = network(torch.rand(2, 1, *[32] * dims))
    assert [m.shape for m in maps] == [(2, 36, *[32 // network.patch] * dims)] * 4
    sum((m * torch.rand_like(m)).sum() for m in maps).backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in network.parameters())
    assert len(StochasticDepth(network, 0.5).rates) == 8
    if dims == 3:
        plugin, samples = plugins.find("objective", "mae"), made_samples()
        objective = plugin.load()(made(dims, **options), samples, **plugin.check({"mask_ratio": 0.5}))
        loss, _ = step(objective, made_batch(samples, [0, 1], 3), (16,) * 3, samples)
        assert bool(loss.value.isfinite())


@pytest.mark.parametrize("dims", [2, 3])
def test_the_class_token_is_a_map_of_one_place_which_is_what_is_pooled(dims: int) -> None:
    plain, x = made(dims, layer_scale=1.0).eval(), torch.rand(2, 1, *[16] * dims)
    for pool in ("class", "class_and_mean"):
        network = made(dims, layer_scale=1.0, pool=pool).eval()
        maps, others = network(x), plain(x)
        assert all(torch.equal(a, b) for a, b in zip(maps, others, strict=False)) and len(maps) == 5
        tokens = network._tokens(network.patch_embed(x).flatten(2).transpose(1, 2), (2,) * dims)
        for block in network.blocks:
            tokens = block(tokens, rotary_angles((2,) * dims, 12, torch.device("cpu")))
        cls, mean = network.norm(tokens)[:, 0], pooled(others)
        wanted = cls if pool == "class" else torch.cat([cls, mean], 1)
        assert torch.allclose(pooled(maps), wanted, atol=1e-6) and network.channels[-1] == wanted.shape[1]
        assert len(network(x, 4)) == 4 and Decoder(network).skips == Decoder(plain).skips
        assert network.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", ["simclr", "dino", "lejepa", "mae"])
def test_objectives_train_what_is_pooled(name: str) -> None:
    plugin, samples = plugins.find("objective", name), made_samples()
    options = {key: value for key, value in {"hidden": 16, "bottleneck": 8, "patch_weight": 1.0}.items()}
    chosen = {key: value for key, value in options.items() if key in plugin.options.model_fields}
    objective = plugin.load()(made(pool="class_and_mean"), samples, **plugin.check(chosen))
    loss, outputs = step(objective, made_batch(samples, [0, 1, 4, 9], 2, side=32), (32, 32), samples)
    assert bool(loss.value.isfinite()) and objective.backbone.cls_token.grad.abs().sum() > 0
    assert outputs["feature_a"].shape[1] == (36 if name == "mae" else 72)


def test_an_encoder_with_a_class_token_goes_through_its_folder(tmp_path: Path) -> None:
    from made_encoders import make_run

    from medssl.nn.transfer import export, open_encoder

    ours, x = make_run(tmp_path / "run", "vit", **SMALL, pool="class_and_mean"), torch.rand(2, 1, 32, 32)
    export(tmp_path / "run", "hf", tmp_path / "out")
    for folder in (tmp_path / "run", tmp_path / "out"):
        contract, again = open_encoder(folder)
        assert contract.backbone_options["pool"] == "class_and_mean"
        assert torch.equal(pooled(again.eval()(x)), pooled(ours(x))) and pooled(ours(x)).shape == (2, 72)


@pytest.mark.parametrize(
    ("name", "words"), [("spark", "masks patches of convolutional networks"), ("local_contrast", "all have one resolution")]
)
def test_methods_that_need_finer_maps_refuse_it_with_the_reason(name: str, words: str) -> None:
    plugin = plugins.find("objective", name)
    with pytest.raises(StudyError, match=words):
        plugin.load()(made(), made_samples(), **plugin.check({}))


@pytest.mark.parametrize("name", ["simclr", "swav", "dino", "lejepa"])
def test_objectives_train_it_and_small_crops_are_whole_patches(name: str) -> None:
    plugin, samples = plugins.find("objective", name), made_samples()
    small = {key: value for key, value in {"small_size_frac": 0.43, "hidden": 16, "bottleneck": 8}.items()}
    options = {key: value for key, value in small.items() if key in plugin.options.model_fields}
    objective = plugin.load()(made(), samples, **plugin.check(options))
    assert {side % 8 for crop in objective.crops((32, 32)) for side in crop.size} == {0}
    loss, _ = step(objective, made_batch(samples, [0, 1, 4, 9], 2, side=32), (32, 32), samples)
    assert bool(loss.value.isfinite())
    assert all(p.grad is not None for p in objective.backbone.parameters())
