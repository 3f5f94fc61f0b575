"""MAE: the loss is of exactly the patches that the encoder did not see, in 2-D and in 3-D."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pretraining import made_batch, made_objective, made_samples
from torch import Tensor

from medssl.core import plugins
from medssl.nn.backbone import build
from medssl.nn.sparse import join, split
from medssl.pretrain.options import TrainingOptions

BATCH = made_batch(made_samples(), [0, 1, 4, 9, 13, 17, 21, 30], 2)
WIDE: dict[str, Any] = {"width": 36, "blocks": 2, "heads": 3, "layer_scale": 1.0}
SIZES = {2: (24, 40), 3: (16, 24, 32)}
"""Grids with different numbers of patches along each axis: 3 × 5, and 2 × 3 × 4."""


def made(dims: int = 2, patch: int = 8, **options: Any) -> Any:
    torch.manual_seed(0)
    backbone = build("vit", plugins.find("backbone", "vit").check(WIDE | {"patch": patch}), dims, 1)
    plugin = plugins.find("objective", "mae")
    return plugin.load()(backbone, made_samples(), **plugin.check(options))


def grid_of(dims: int) -> tuple[int, ...]:
    return tuple(side // 8 for side in SIZES[dims])


def places(dims: int) -> Tensor:
    """Images in which every patch has its own flat number as value."""
    count = int(torch.tensor(grid_of(dims)).prod())
    blocks = torch.arange(count).float().view(1, count, *[1] * dims, 1).expand(8, count, *[8] * dims, 1)
    return join(blocks, grid_of(dims))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_encoder_gets_the_visible_patches_and_the_loss_is_of_all_others(dims: int) -> None:
    """Where order of tokens and order of the mask differ, hidden patches are seen (MIC-DKFZ/nnssl, pull request 23)."""
    objective, images = made(dims, constant_patches="keep"), places(dims)
    visible = objective.visible(images, BATCH)
    weight = objective.backbone.patch_embed.proj.weight
    weight.data.zero_()
    weight.data[0] = 1 / 8**dims  # the first channel of a token is the mean of its patch
    seen: list[Tensor] = []
    objective.backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    outputs = objective([images], BATCH)
    assert torch.allclose(seen[0][:, -visible.shape[1] :, 0], visible.float(), atol=1e-4)
    assert torch.equal(outputs["active"].flatten(1).nonzero()[:, 1].view(8, -1), visible)
    base = objective.loss(outputs, BATCH).value
    for place in range(int(outputs["active"][0].numel())):
        blocks = split(outputs["prediction"], grid_of(dims)).detach().clone()
        blocks[:, place] += 1
        changed = objective.loss(outputs | {"prediction": join(blocks, grid_of(dims))}, BATCH).value
        assert torch.equal(changed, base) == bool((visible == place).any(1).all())
        blocks[1:, place] -= 1  # now in the first image alone
        changed = objective.loss(outputs | {"prediction": join(blocks, grid_of(dims))}, BATCH).value
        assert torch.equal(changed, base) == bool((visible[0] == place).any())


def test_what_is_hidden_does_not_reach_the_prediction() -> None:
    objective, images = made().double().eval(), torch.rand(8, 1, *SIZES[2], dtype=torch.float64)
    visible = objective.visible(images, BATCH)
    before = objective([images], BATCH)["prediction"]
    blocks = split(images, grid_of(2)).clone()
    hidden = torch.ones(8, 15, dtype=torch.bool).scatter_(1, visible, False)
    blocks[hidden] = torch.rand_like(blocks[hidden])
    changed = join(blocks, grid_of(2))
    assert torch.equal(objective.visible(changed, BATCH), visible)
    assert torch.allclose(objective([changed], BATCH)["prediction"], before, rtol=0, atol=1e-12)
    blocks[~hidden] += 0.1 * torch.rand_like(blocks[~hidden])
    assert not torch.allclose(objective([join(blocks, grid_of(2))], BATCH)["prediction"], before, rtol=0, atol=1e-4)


def test_all_patches_visible_in_any_order_is_the_whole_network() -> None:
    backbone = made().backbone.double().eval()
    images = torch.rand(2, 1, *SIZES[2], dtype=torch.float64)
    orders = torch.stack([torch.randperm(15, generator=torch.Generator().manual_seed(n)) for n in range(2)])
    tokens = backbone.visible_tokens(images, orders)[:, -15:]
    whole = backbone(images)[-1].flatten(2).transpose(1, 2)
    for n, order in enumerate(orders):
        assert torch.allclose(tokens[n], whole[n, order], atol=1e-12)


def test_the_decoder_puts_each_token_where_it_was_taken_from() -> None:
    objective = made().double().eval()
    images = torch.rand(8, 1, *SIZES[2], dtype=torch.float64)
    visible = objective.visible(images, BATCH)
    order = torch.arange(visible.shape[1]).roll(1)
    one, other = (
        objective.decoded(objective.backbone.visible_tokens(images, places), places, (3, 5))
        for places in (visible, visible[:, order])
    )
    assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_encoders_work_is_that_of_the_visible_patches(dims: int) -> None:
    objective = made(dims, mask_ratio=0.75)
    seen: list[int] = []
    for block in objective.backbone.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    objective([torch.rand(8, 1, *SIZES[dims])], BATCH)
    count = int(torch.tensor(grid_of(dims)).prod())
    assert seen == [1 + 4 + round(0.25 * count)] * 2


def test_patterns_that_repeat_are_learned() -> None:
    """Every image is stripes along one of two axes: the visible quarter says which, and the rest follows."""
    objective = made(mask_ratio=0.5, decoder_blocks=1)
    stripes = (torch.arange(16) // 2 % 2).float()
    images = torch.stack([stripes.expand(16, 16) if n % 2 else stripes.expand(16, 16).T for n in range(8)])[:, None]
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective.loss(objective([images], BATCH), BATCH).value
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.8 and losses[-1] < 0.05


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the objective mae needs another backbone than resnet18: vit"):
        TrainingOptions(objective="mae")
    assert made_objective("mae", 3).backbone.patch == 2
