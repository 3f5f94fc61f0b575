"""Activation checkpointing changes memory, not bits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl.nn.backbone import build, pooled
from medssl.nn.checkpointing import checkpoint_stages

CASES = [
    ("resnet18", 2, 32),
    ("resnet18", 3, 32),
    ("convnext_tiny", 2, 32),
    ("unet", 2, 32),
    ("slicewise", 3, 16),
    ("resenc", 2, 64),
]


def step(backbone: Any, images: Tensor) -> tuple[dict[str, Tensor], int]:
    """Gradients and buffers after a step, and the bytes that were kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)  # of dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = pooled(backbone(images)).square().sum()
    size = sum(kept.values())
    loss.backward()
    found = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
    return found | {name: b.clone() for name, b in backbone.named_buffers()}, size


@pytest.mark.parametrize(("name", "dims", "side"), CASES)
def test_gradients_and_statistics_are_equal_and_less_is_kept(name: str, dims: int, side: int) -> None:
    torch.manual_seed(0)
    backbone = build(name, {}, dims, 1).train()
    other = copy.deepcopy(backbone)
    checkpoint_stages(other)
    again = copy.deepcopy(other)
    images = torch.rand(2, 1, *(side,) * dims)
    plain, needed = step(backbone, images)
    for one in (other, again):
        found, less = step(one, images)
        assert found.keys() == plain.keys()
        assert all(torch.equal(value, found[key]) for key, value in plain.items())
        assert less < needed


def test_two_views_of_two_volumes_of_128_need_far_less_than_24_gb_with_checkpoints() -> None:
    """ViT-S with patches of 8, in bf16: bytes of tensors that are never computed, attention matrices of a processor included."""

    def kept(blocks: int, checkpoints: bool) -> tuple[int, int]:
        sizes: list[int] = []

        def keep(tensor: Tensor) -> Tensor:
            sizes.append(tensor.untyped_storage().nbytes())
            return tensor

        with torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
            backbone = build("vit", {"size": "small", "blocks": blocks}, 3, 1).train()
            if checkpoints:
                checkpoint_stages(backbone)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                backbone(torch.rand(4, 1, 128, 128, 128))
        return sum(sizes), sum(p.numel() for p in backbone.parameters())

    (between, weights), (block, _) = kept(12, True), kept(1, False)
    at_once = between + block + 16 * weights  # one block is computed again; weights, gradients, and Adam's two means
    assert at_once < 6 * 2**30 and 12 * block > 5 * at_once
