"""Fine-tuning of part of a network: attentive probes, adapters, the last blocks, rates that fall from block to block."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from finetuning import NARROW_VIT, SIDE, finetune, finetune_spec, write_encoder, write_image_source
from torch import Tensor

from medssl.artefacts.fits import FITS
from medssl.core.errors import StudyError
from medssl.finetune import training
from medssl.finetune.predicting import Model
from medssl.finetune.recipe import Recipe
from medssl.finetune.saving import Saving
from medssl.finetune.segmenter import Segmenter
from medssl.finetune.tasks.classification import Classification
from medssl.finetune.whole_images import ImageHead
from medssl.nn.backbone import Backbone, build, last_pooled, pooled
from medssl.nn.weights import read_tensors

WIDTH, BLOCKS = 36, 4
SMALL: dict[str, Any] = {"width": WIDTH, "blocks": BLOCKS, "heads": 3, "patch": 8, "layer_scale": 1.0}


def made(name: str = "vit", dims: int = 2, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build(name, (SMALL if name == "vit" else {"width": 0.125}) | options, dims, 1)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.rand(4, 1, 16, 16, generator=generator), torch.randint(0, 3, (4,), generator=generator)


def batches(steps: Iterable[int]) -> Iterator[tuple[Tensor, Tensor]]:
    return map(batch, steps)


def fitted(network: torch.nn.Module, mode: str, *, steps: int = 3, given: Any = batches, **more: Any) -> training.Trained:
    recipe = Recipe(evaluations=1, calibration_batches=1, lr=[0.05], **more.pop("recipe", {}))
    loss = torch.nn.functional.cross_entropy
    return training.Fit(network, given, loss, lambda _: 0.5, recipe, steps, mode=mode, **more).run()


def changed(network: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def copied(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


# Attentive probe


@pytest.mark.parametrize("pool", ["mean", "class_and_mean"])
def test_an_attentive_probe_is_softmax_attention_of_one_query_over_the_places(pool: str) -> None:
    """Against numpy, head by head; whatever else the backbone pools, the places are those of its deepest patches."""
    network = ImageHead(made(pool=pool), 3, mode="attentive").double().eval()
    images = torch.rand(2, 1, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        for parameter in network.pool.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        found, deepest = network(images).numpy(), network.backbone(images)[BLOCKS - 1].flatten(2).transpose(1, 2).numpy()
    held = {name.removeprefix("pool."): tensor.numpy() for name, tensor in network.state_dict().items()}
    heads, of_head = 4, WIDTH // 4  # the largest common divisor of 36 and 8
    for case, places in enumerate(deepest):
        centred = places - places.mean(1, keepdims=True)
        normed = centred / np.sqrt(places.var(1, keepdims=True) + 1e-5) * held["norm.weight"] + held["norm.bias"]
        inside = np.split(held["attention.in_proj_weight"], 3), np.split(held["attention.in_proj_bias"], 3)
        query, keys, values = (x @ w.T + b for x, w, b in zip((held["query"][0], normed, normed), *inside, strict=True))
        seen = []
        for head in range(heads):
            own = slice(head * of_head, (head + 1) * of_head)
            weights = np.exp(query[:, own] @ keys[:, own].T / np.sqrt(of_head))
            seen.append(weights / weights.sum() @ values[:, own])
        out = np.concatenate(seen, 1) @ held["attention.out_proj.weight"].T + held["attention.out_proj.bias"]
        assert found[case] == pytest.approx((out @ held["head.weight"].T + held["head.bias"])[0], abs=1e-9)


@pytest.mark.parametrize("name", ["vit", "resnet18"])
def test_an_attentive_probe_leaves_the_backbone_as_it_was_statistics_included(name: str) -> None:
    network = ImageHead(made(name), 3, mode="attentive")
    before = copied(network)
    trained = fitted(network, "frozen")
    own = {name for name in before if not name.startswith("backbone.")}
    assert changed(network, before) == own
    assert trained.num_trained == sum(before[name].numel() for name in own)


# Adapters


def test_a_fit_with_adapters_changes_queries_and_values_by_a_low_rank_and_nothing_else_of_the_backbone() -> None:
    network = ImageHead(made(), 3)
    before = copied(network)
    trained = fitted(network, "lora", recipe={"lora_rank": 2})
    matrices = {f"backbone.blocks.{block}.attn.qkv.weight" for block in range(BLOCKS)}
    assert changed(network, before) == matrices | {"head.weight", "head.bias"}
    for name in matrices:
        queries, keys, values = (network.state_dict()[name] - before[name]).view(3, WIDTH, WIDTH)
        assert keys.abs().max() == 0
        assert 1 <= torch.linalg.matrix_rank(queries, rtol=1e-3) <= 2 >= torch.linalg.matrix_rank(values, rtol=1e-3) >= 1
    assert trained.num_trained == BLOCKS * 4 * 2 * WIDTH + 3 * (WIDTH + 1)
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("form", ["timm", "primus"])
def test_adapters_of_a_segmentation_of_volumes_are_merged_and_its_decoder_is_trained(form: str) -> None:
    network = Segmenter(made(dims=3, form=form), 2)
    before = copied(network)

    def volumes(steps: Iterable[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for step in steps:
            drawn = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(step))
            yield drawn, (drawn[:, 0] > 0.5).long()

    trained = fitted(network, "lora", given=volumes, steps=2)
    inside = {name for name in changed(network, before) if name.startswith("backbone.")}
    assert inside == {f"backbone.blocks.{block}.attn.qkv.weight" for block in range(BLOCKS)}
    decoder = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("backbone."))
    assert trained.num_trained == BLOCKS * 4 * 8 * WIDTH + decoder


def test_a_fit_with_adapters_that_was_stopped_resumes_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    def cut_short(steps: Iterable[int]) -> Iterator[Any]:
        yield from itertools.islice(batches(steps), 2)
        raise InterruptedError

    ends = []
    for folder, tries in (("whole", [batches]), ("stopped", [cut_short, batches])):
        for given in tries:
            torch.manual_seed(len(ends))  # the adapters' own start is drawn from the seed of the fit
            network = ImageHead(made(), 3)
            with torch.no_grad():
                network.head.weight.fill_(0.1)
                network.head.bias.zero_()
            with contextlib.suppress(InterruptedError):
                fitted(network, "lora", steps=4, given=given, seed=3, saving=Saving(tmp_path / folder, 0.0))
        ends.append(copied(network))
    assert changed(network, ends[0]) == set()


# The last blocks


@pytest.mark.parametrize(("name", "stage"), [("vit", "blocks.{}."), ("resnet18", "layer{}.")])
def test_the_last_blocks_alone_are_trained(name: str, stage: str) -> None:
    network = ImageHead(made(name), 3)
    before = copied(network)
    trained = fitted(network, "full", recipe={"unfrozen_blocks": 2})
    last = tuple("backbone." + stage.format(number + (name == "resnet18")) for number in (2, 3))
    learning = {n for n, _ in network.named_parameters() if n.startswith((*last, "backbone.norm.", "head."))}
    parameters = dict(network.named_parameters())
    assert changed(network, before) & set(parameters) == learning
    assert trained.num_trained == sum(parameters[n].numel() for n in learning)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("pool", ["mean", "class"])
def test_rates_of_a_transformer_fall_block_by_block(dims: int, pool: str) -> None:
    """The closed form: decay to the power of the blocks between a parameter and the head; the embeddings lie deepest."""
    network = Segmenter(made(dims=dims, pool=pool), 2)
    share = {
        id(p): group["share"] for group in training.parameter_groups(network, Recipe(layer_decay=0.65)) for p in group["params"]
    }
    for name, parameter in network.named_parameters():
        parts = name.split(".")
        depth = 0
        if parts[0] == "backbone":
            depth = BLOCKS - int(parts[2]) if parts[1] == "blocks" else 1 if parts[1] == "norm" else BLOCKS + 1
        assert share[id(parameter)] == pytest.approx(0.65**depth), name


def test_the_features_of_several_blocks_lie_side_by_side_the_deepest_last() -> None:
    for network in (made(), made("resnet18")):
        found = network(torch.rand(2, 1, 32, 32))
        wanted = torch.cat([m.flatten(2).mean(2) for m in found[-3:]], 1)
        assert torch.equal(last_pooled(found, 3), wanted) and torch.equal(last_pooled(found, 1), pooled(found))
    with pytest.raises(StudyError, match=r"blocks is 5, and the backbone has 4\. Lower finetune"):
        last_pooled(found, 5)


def test_a_probe_of_several_blocks_is_saved_with_them_and_opens_again(tmp_path: Path) -> None:
    source = write_image_source(tmp_path / "study" / "2_prepare" / "pictures", {"train": 30, "val": 15, "test": 18})
    encoder = write_encoder(tmp_path / "study" / "4_pretrain" / "ct" / "one-all-seed0", backbone=("vit", NARROW_VIT))
    settings = {"modes": ["linear", "knn"], "fractions": [1.0], "size": [SIDE], "scratch": False}
    out = finetune(finetune_spec(source, encoder, options={"blocks": 2}, **settings))
    numbers = FITS.read(out / FITS.file).set_index("mode")["trained_parameters"]
    assert numbers["linear"] == 3 * (2 * 24 + 1) and pd.isna(numbers["knn"])
    assert Model.open(next((out / "models").iterdir())).network.head.weight.shape == (3, 2 * 24)


def test_a_model_with_adapters_is_a_plain_network(tmp_path: Path) -> None:
    source = write_image_source(tmp_path / "study" / "2_prepare" / "pictures", {"train": 30, "val": 15, "test": 18})
    encoder = write_encoder(tmp_path / "study" / "4_pretrain" / "ct" / "one-all-seed0", backbone=("vit", NARROW_VIT))
    out = finetune(finetune_spec(source, encoder, modes=["lora"], fractions=[1.0], size=[SIDE], scratch=False, lora_rank=3))
    held = read_tensors(next((out / "models").iterdir()) / "model.safetensors")
    plain = build("vit", NARROW_VIT, 2, 1).state_dict()
    assert {name.removeprefix("backbone.") for name in held if name.startswith("backbone.")} == plain.keys()
    (number,) = FITS.read(out / FITS.file)["trained_parameters"]
    assert number == 2 * 4 * 3 * 24 + 3 * (24 + 1)


def test_a_task_opens_the_network_of_each_mode() -> None:
    contract = {"classes": ["a", "b"]}
    task = Classification(blocks=2)
    opened = {m: task.network(made(), contract | {"fit": {"mode": m}}) for m in ("linear", "attentive", "lora")}
    assert {mode: network.head.in_features for mode, network in opened.items()} == {"linear": 72, "attentive": 36, "lora": 36}
    assert [mode for mode, network in opened.items() if network.pool is not None] == ["attentive"]
