"""Methods for few labels: mixtures, predicted labels, a pre-trained decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from finetuning import one_scan

from medssl.finetune.mixup import mixup
from medssl.finetune.self_training import self_trained


def test_images_and_masks_are_mixed_with_the_same_partner_in_the_same_share() -> None:
    masks = torch.eye(5)[torch.randint(5, (8, 6, 6), generator=torch.Generator().manual_seed(0))].movedim(-1, 1)
    values = torch.arange(5.0).view(1, 5, 1, 1)
    images, mixed = mixup((masks * values).sum(1, keepdim=True), masks, 0.4, 0, 3)
    assert torch.allclose(images, (mixed * values).sum(1, keepdim=True), atol=1e-6)
    assert torch.allclose(mixed.sum(1), torch.ones(8, 6, 6)) and not torch.equal(mixed, masks)


def test_the_share_of_a_mixture_is_drawn_from_a_symmetric_beta() -> None:
    alpha, one = 0.5, torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    both = np.array([mixup(one, one, alpha, 0, step)[0][:, 0].tolist() for step in range(3000)])
    # of two cases, partners are swapped in half of the steps: then the first is λ and the second 1 − λ of another draw
    swapped = both[both[:, 0] < 1]
    assert 0.45 < len(swapped) / len(both) < 0.55
    assert (
        np.abs(np.maximum(swapped, 1 - swapped).mean(0) - (0.5 + 1 / np.pi)).max() < 0.02
    )  # max(λ, 1 − λ) under the arcsine law
    assert abs(np.corrcoef(swapped.T)[0, 1]) < 0.1  # a draw for each image


def test_without_a_share_nothing_is_mixed() -> None:
    images, targets = torch.rand(4, 1, 3, 3), torch.rand(4, 2)
    assert mixup(images, targets, 0.0, 0, 0) == (images, targets)


@dataclass
class Fit:
    learnt_from: list[str]
    facts: dict[str, Any] = field(default_factory=dict)


def test_each_round_learns_from_the_guesses_of_the_round_before_alone() -> None:
    known = ["labelled"]

    def guess(fit: Fit) -> tuple[list[str], int]:
        return [f"guess of ({', '.join(fit.learnt_from)})"], 3

    turns: list[int] = []
    done = self_trained(Fit(known), 2, guess, lambda guesses, turn: turns.append(turn) or Fit(known + guesses))
    assert turns == [1, 2]
    assert done.learnt_from == ["labelled", "guess of (labelled, guess of (labelled))"]
    assert done.facts == {"self_training_rounds": 2, "num_pseudo": 3}


def test_self_training_ends_where_nothing_is_guessed_or_asked() -> None:
    first = Fit(["labelled"])
    assert self_trained(first, 3, lambda fit: ([], 0), lambda guesses, turn: Fit([])) is first
    assert self_trained(first, 0, lambda fit: ([], 1), lambda guesses, turn: Fit([])) is first


def test_a_segmentation_starts_with_the_pretrained_decoder() -> None:
    from medssl.finetune.recipe import Recipe
    from medssl.finetune.task import Setup
    from medssl.finetune.tasks.segmentation import Segmentation
    from medssl.nn.backbone import build
    from medssl.nn.decoder import Decoder
    from medssl.nn.weights import part_tensors

    torch.manual_seed(0)
    backbone = build("resnet18", {"stem": "small", "width": 0.125}, 2, 1)
    learnt = part_tensors({"decoder": Decoder(backbone, blocks=3)})
    data = one_scan(np.random.default_rng(0).normal(0, 1, (16, 16, 4)).astype(np.float32))
    recipe = Recipe(max_steps=1, batch_size=2, lr=1e-12, weight_decay=0.0, calibration_batches=0)

    def fitted(decoder: dict[str, torch.Tensor]) -> Any:
        setup = Setup("full", backbone, np.array([0]), recipe, 0, torch.device("cpu"), decoder)
        return Segmentation().fit(data, setup)

    with_it, without = fitted(learnt), fitted({})
    assert (with_it.facts["decoder_tensors"], without.facts["decoder_tensors"]) == (len(learnt), 0)
    for name, tensor in with_it.network.state_dict().items():
        inside = name in learnt
        other = learnt[name] if inside else without.network.state_dict()[name]
        assert torch.allclose(tensor, other, atol=1e-6), name  # the rest is drawn as without it
    assert not torch.allclose(without.network.decoder.levels[0].conv_0.conv.weight, learnt["decoder.levels.0.conv_0.conv.weight"])
