"""Low-rank adapters: nothing at the start, little at the end, and gone when they are merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medssl.core.errors import StudyError
from medssl.nn.backbone import Backbone, build
from medssl.nn.lora import LowRank, add_adapters, merge_adapters

WIDTH, BLOCKS = 36, 3
SMALL: dict[str, Any] = {"width": WIDTH, "blocks": BLOCKS, "heads": 3, "patch": 8, "layer_scale": 1.0}


def made(dims: int = 2, form: str = "timm") -> Backbone:
    torch.manual_seed(0)
    return build("vit", SMALL | {"form": form}, dims, 1).eval()


def maps(network: Backbone) -> torch.Tensor:
    images = torch.rand(2, 1, *[16] * network.spatial_dims, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.stack(network(images))


@pytest.mark.parametrize(("dims", "form"), [(2, "timm"), (3, "timm"), (3, "primus")])
def test_adapters_start_as_nothing_and_merge_into_the_same_network(dims: int, form: str) -> None:
    network = made(dims, form)
    plain, before = maps(network), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    parameters = add_adapters(network, rank=4, alpha=8.0)
    assert sum(p.numel() for p in parameters) == BLOCKS * 2 * 2 * 4 * WIDTH  # queries and values, down and up
    assert torch.equal(maps(network), plain)
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.3)
    adapted = maps(network)
    assert not torch.allclose(adapted, plain, atol=1e-2)
    merge_adapters(network)
    assert torch.allclose(maps(network), adapted, atol=1e-6)
    after = network.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        if "qkv.weight" not in name:
            assert torch.equal(after[name], tensor), name
            continue
        queries, keys, values = (after[name] - tensor).view(3, WIDTH, WIDTH)
        assert keys.abs().max() == 0
        for change in (queries, values):
            assert torch.linalg.matrix_rank(change, atol=1e-4) == 4


def test_the_change_is_alpha_by_rank_times_the_product() -> None:
    adapter = LowRank(6, 2, alpha=5.0)
    torch.nn.init.normal_(adapter.up)
    matrix = torch.randn(18, 6)
    wanted = [2.5 * adapter.up[0] @ adapter.down[0], torch.zeros(6, 6), 2.5 * adapter.up[1] @ adapter.down[1]]
    assert torch.allclose(adapter(matrix), matrix + torch.cat(wanted), atol=1e-6)


def test_a_network_without_attention_and_a_rank_that_saves_nothing_are_refused() -> None:
    with pytest.raises(StudyError, match="matrices of attention, and ResNet18 has none"):
        add_adapters(build("resnet18", {"width": 0.125}, 2, 1), 4, 8.0)
    with pytest.raises(StudyError, match="lora_rank 36 is not below the network's width, 36"):
        add_adapters(made(), WIDTH, 8.0)
