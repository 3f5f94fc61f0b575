"""Stochastic depth: which branches of which images are left out, and that all else stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.core.rng import ids_to_keys
from medssl.nn.backbone import build
from medssl.nn.sparse import Patches, make_sparse, sparse_maps
from medssl.nn.stochastic_depth import StochasticDepth

NARROW: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 0.0625, "stem": "small"},
    "resnet50": {"width": 0.0625, "stem": "small"},
    "convnext_tiny": {"width": 0.03, "layer_scale": 1.0},
    "resenc": {"features": (4, 8, 8), "blocks": (1, 2, 1)},
}
IMAGES = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
KEYS = ids_to_keys([f"slice {number}" for number in range(4000)])


def made(name: str) -> Any:
    """In float64; no branch begins at zero, as those of nnU-Net's encoder do."""
    torch.manual_seed(0)
    network = build(name, NARROW[name], 2, 1).double().train()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return network


def blocks(network: Any, name: str) -> list[Any]:
    """All residual blocks, in order; what halves a map of ConvNeXt belongs to the first block behind it."""
    if name.startswith("resnet"):
        return [block for stage in (network.layer1, network.layer2, network.layer3, network.layer4) for block in stage]
    stages = network.stages if name == "convnext_tiny" else network.encoder.stages
    return [block for stage in stages for block in stage.blocks]


def slow_deepest_map(network: Any, name: str, x: Tensor, factors: Tensor) -> Tensor:
    """The deepest map, block by block as the papers draw them; the branch of block b, image i is multiplied by factors[b, i]."""
    if name.startswith("resnet"):
        x = F.relu(network.bn1(network.conv1(x)))
    else:
        x = network.stem(x) if name == "convnext_tiny" else network.encoder.stem(x)
    at = 0
    first = {id(stage.blocks[0]): stage for stage in network.stages} if name == "convnext_tiny" else {}
    for block in blocks(network, name):
        factor = factors[at].view(-1, 1, 1, 1)
        at += 1
        if name.startswith("resnet"):
            branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
            if name == "resnet50":
                branch = block.bn3(block.conv3(F.relu(branch)))
            shortcut = x if block.downsample is None else block.downsample(x)
            x = F.relu(shortcut + factor * branch)
        elif name == "convnext_tiny":
            x = first[id(block)].downsample(x) if id(block) in first else x
            inner = block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm(block.conv_dw(x).permute(0, 2, 3, 1)))))
            x = x + factor * (block.gamma * inner).permute(0, 3, 1, 2)
        else:
            x = F.leaky_relu(block.skip(x) + factor * block.conv2(block.conv1(x)))
    assert at == len(factors)
    return x


@pytest.mark.parametrize("name", sorted(NARROW))
def test_each_branch_of_each_image_is_weighed_before_the_shortcut_is_added(name: str) -> None:
    network = made(name)
    plain = copy.deepcopy(network)
    depth = StochasticDepth(network, 0.5)
    factors = depth.factors(7, KEYS[:3])
    assert len(factors) == len(blocks(network, name)) and bool((factors == 0).any())
    with depth.of(factors):
        found = network(IMAGES)[-1]
    assert torch.allclose(found, slow_deepest_map(plain, name, IMAGES, factors), atol=1e-10)
    assert not torch.allclose(found, slow_deepest_map(plain, name, IMAGES, torch.ones_like(factors)), atol=1e-3)


def test_all_packed_patches_of_an_image_lose_a_branch_together() -> None:
    network, seen = made("resnet18"), {}
    end = network.layer3[1].bn2
    end.register_forward_hook(lambda _m, _i, out: seen.update(before=out.detach().clone()))
    scope, depth = make_sparse(network), StochasticDepth(network, 0.5)
    end.register_forward_hook(lambda _m, _i, out: seen.update(after=out.detach().clone()))
    patches = Patches(torch.tensor([[0, 3, 5], [1, 2, 15], [4, 8, 9]]), (4, 4))
    factors = depth.factors(1, KEYS[:3])
    factors[5] = torch.tensor([2.0, 0.0, 3.0])
    with depth.of(factors):
        sparse_maps(network, scope, IMAGES, patches)
    image_of_row = patches.rows // 16
    assert torch.equal(seen["after"], seen["before"] * factors[5][image_of_row].view(-1, 1, 1, 1))


def test_the_share_grows_from_none_at_the_first_branch_and_the_mean_stays() -> None:
    factors = StochasticDepth(made("resnet50"), 0.3).factors(3, KEYS)
    for number, row in enumerate(factors):
        rate = 0.3 * number / 15
        assert float((row == 0).double().mean()) == pytest.approx(rate, abs=0.03)
        assert bool(torch.isclose(row[row != 0], torch.tensor(1 / (1 - rate), dtype=torch.float64)).all())
    assert float(factors.mean()) == pytest.approx(1.0, abs=0.01)


def test_what_is_left_out_depends_on_the_image_and_the_stream_alone() -> None:
    depth = StochasticDepth(made("resnet18"), 0.5)
    whole, order = depth.factors(3, KEYS[:40]), np.random.default_rng(0).permutation(40)
    assert torch.equal(depth.factors(3, KEYS[:40][order]), whole[:, order])
    assert torch.equal(depth.factors(3, KEYS[10:20]), whole[:, 10:20])
    assert not torch.equal(depth.factors(4, KEYS[:40]), whole)


def test_names_weights_and_a_network_outside_training_stay_as_they_are() -> None:
    network = made("resnet18")
    plain = copy.deepcopy(network)
    depth = StochasticDepth(network, 0.5)
    assert list(network.state_dict()) == list(plain.state_dict())
    assert torch.equal(network(IMAGES)[-1], plain(IMAGES)[-1])  # in training, outside of `of`
    with depth.of(depth.factors(7, KEYS[:3])):
        assert not torch.equal(network(IMAGES)[-1], plain(IMAGES)[-1])
        network.load_state_dict(plain.state_dict())
        assert torch.equal(network.eval()(IMAGES)[-1], plain.eval()(IMAGES)[-1])


def test_a_network_without_residual_branches_is_refused() -> None:
    with pytest.raises(StudyError, match="has no residual branches"):
        StochasticDepth(build("unet", {"features": (4, 4, 8, 8, 8, 4)}, 2, 1), 0.1)
