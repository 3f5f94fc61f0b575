"""A step of the released codes apart from its loss: the batches of batch norm, whitening and decay."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pretraining import made_batch, made_objective, made_samples
from torch import Tensor, nn

from medssl.core.rng import key, rng, uniforms
from medssl.nn.clustering import sinkhorn
from medssl.nn.heads import perceptron
from medssl.nn.optimizers import build_optimizer, warmup_cosine
from medssl.nn.whitening import shuffled_group_whitening

ROWS = [0, 1, 4, 9, 13, 17, 21, 30]


def views(count: int = 2, seed: int = 0) -> list[Tensor]:
    """Views of eight images with different brightness and contrast, so that statistics over all views suit none."""
    generator = torch.Generator().manual_seed(seed)
    return [(1 + v) * torch.rand(8, 1, 16, 16, generator=generator, dtype=torch.float64) + v for v in range(count)]


def made(name: str, **options: Any) -> Any:
    return made_objective(name, 2, **options).double().train()


def byol_by_hand(networks: dict[str, Any], passes: list[list[Tensor]]) -> float:
    """Algorithm 1 of the paper: squared distances of unit vectors, both ways; each of `passes` is one pass of both networks."""
    online, target = [], []
    for images in passes:
        together = torch.cat(images)
        z = networks["projector"](networks["backbone"](together)[-1].mean((2, 3)))
        online += F.normalize(networks["predictor"](z), dim=1).split(8)
        target += F.normalize(networks["target"][1](networks["target"][0](together)[-1].mean((2, 3))), dim=1).split(8)
    return ((online[0] - target[1]).square().sum(1) + (online[1] - target[0]).square().sum(1)).mean().item()


def test_byol_passes_each_view_through_batch_norm_on_its_own() -> None:
    objective, batch = made("byol", projector=(32, 16), predictor_hidden=32), made_batch(made_samples(), ROWS, 2)
    apart, together = (
        {name: copy.deepcopy(getattr(objective, name)) for name in ("backbone", "projector", "predictor", "target")}
        for _ in range(2)
    )
    a, b = views()
    found = objective.loss(objective([a, b], batch), batch).value.item()
    assert found == pytest.approx(byol_by_hand(apart, [[a], [b]]), rel=1e-9)
    assert abs(found - byol_by_hand(together, [[a, b]])) > 0.05
    for name, network in apart.items():  # and batch norm remembers the one view after the other
        for wanted, buffer in zip(network.buffers(), getattr(objective, name).buffers(), strict=True):
            assert torch.allclose(wanted.double(), buffer.double(), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "backbone", "projector"),
    [
        ("simclr", {}, [16], [16]),  # google-research/simclr: views side by side
        ("gsimclr", {}, [8, 8], [8, 8]),  # ariG23498/G-SimCLR: the model is called for each view
        ("moco", {"queue": 16}, [8], [8]),  # facebookresearch/moco: the query; the key has its own network
        ("byol", {}, [8, 8], [8, 8]),  # google-deepmind/deepmind-research: `apply_once_fn` for each view
        ("swav", {"small_crops": 3}, [16, 24], [40]),  # facebookresearch/swav: crops of a size together, then all
        ("deepcluster_v2", {"small_crops": 3}, [16, 24], [40]),  # the same
        ("lejepa", {"small_crops": 3}, [16, 24], [40]),  # rbalestr-lab/lejepa: as SwAV
        ("dino", {"small_crops": 3}, [16, 24], [40]),  # facebookresearch/dino: `MultiCropWrapper`, the same
        ("sepclr", {}, [8, 8], [8, 8]),  # the released scripts: `student(view)` for each view
        ("guided_contrast", {}, [8, 8], [8, 8]),  # Duplums/yAwareContrastiveLearning: `self.model` of each of the inputs
        ("hydra", {"label": True}, [8, 8], [8, 8]),  # erow/FastSSL: projector and backbone of x1, then of x2
    ],
)
def test_batch_norm_sees_what_it_sees_in_the_released_code(
    name: str, options: dict[str, Any], backbone: list[int], projector: list[int]
) -> None:
    objective, seen = made(name, **options), {"backbone": [], "projector": []}
    objective.backbone.register_forward_pre_hook(lambda _, inputs: seen["backbone"].append(len(inputs[0])))
    head = getattr(objective, {"sepclr": "common_projector", "dino": "head"}.get(name, "projector"))
    head.register_forward_pre_hook(lambda _, inputs: seen["projector"].append(len(inputs[0])))
    objective.before_step(0.0, 0)
    objective(views(5 if "small_crops" in options else 2), made_batch(made_samples(), ROWS, 2))
    assert seen == {"backbone": backbone, "projector": projector}


def slow_whitening(x: Tensor, order: Any, groups: int) -> Tensor:
    """WhitenedCSE's §3.2 by singular values: of each group of permuted channels X = U S Vᵀ, U Vᵀ √n, at the channels' places."""
    white = torch.empty_like(x)
    centred = x - x.mean(0)
    for group in order.reshape(groups, -1):
        u, _, v = torch.linalg.svd(centred[:, group], full_matrices=False)
        white[:, group] = u @ v * math.sqrt(len(x))
    return white


@pytest.mark.parametrize("name", ["simclr", "gsimclr"])
def test_features_are_whitened_before_the_projector_each_view_in_groups_of_its_own(name: str) -> None:
    objective = made(name, projector=(32, 16), whitening_groups=16, projector_norm="none")
    objective.before_step(0.0, 5)
    reference = copy.deepcopy(objective)
    outputs = objective(views(), made_batch(made_samples(), ROWS, 2))
    maps = [reference.backbone(view)[-1] for view in views()]
    if name == "simclr":
        maps = list(reference.backbone(torch.cat(views()))[-1].split(8))
    orders = [rng(0, "whitening", 5, view).permutation(64) for view in range(2)]
    assert (orders[0] != orders[1]).any()
    for found, deepest, order in zip((outputs["z_a"], outputs["z_b"]), maps, orders, strict=True):
        first, _, last = reference.projector
        wanted = last(F.relu(first(slow_whitening(deepest.mean((2, 3)), order, 16))))
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3)  # theirs has no ridge


def test_whitening_is_in_single_precision_also_where_the_network_is_not() -> None:
    z = torch.randn(64, 24, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = shuffled_group_whitening(z, 6, step=0)
    assert torch.equal(found, shuffled_group_whitening(z, 6, step=0))


@pytest.mark.parametrize(("norm", "last_norm"), [(True, False), (False, False), (True, True)])
def test_a_perceptron_has_its_norms_where_it_says(norm: bool, last_norm: bool) -> None:
    torch.manual_seed(0)
    network, x = perceptron([6, 5, 4], norm=norm, last_norm=last_norm).double(), torch.randn(9, 6, dtype=torch.float64)

    def standard(y: Tensor) -> Tensor:
        return (y - y.mean(0)) / (y.var(0, correction=0) + 1e-5).sqrt()

    first, last = (layer for layer in network if isinstance(layer, nn.Linear))
    hidden = x @ first.weight.T + (0 if norm else first.bias)
    wanted = F.relu(standard(hidden) if norm else hidden) @ last.weight.T + (0 if last_norm else last.bias)
    assert torch.allclose(network(x), standard(wanted) if last_norm else wanted, atol=1e-10)
    offsets = [layer.bias.requires_grad for layer in network if isinstance(layer, nn.BatchNorm1d)]
    assert offsets == [True] * norm + [False] * last_norm  # SimCLR's last norm has a scale alone


def test_gsimclr_has_no_norm_in_its_projector_as_theirs() -> None:
    kinds = [type(layer) for layer in made("gsimclr").projector]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_codes_of_single_precision_scores_are_those_of_the_papers_loop_in_double() -> None:
    generator = torch.Generator().manual_seed(0)
    z, prototypes = (F.normalize(torch.randn(n, 128, generator=generator), dim=1) for n in (256, 500))
    scores = z @ prototypes.T
    q = torch.exp(scores.double() / 0.05).T
    for _ in range(3):
        q /= q.sum(1, keepdim=True) * len(q)
        q /= q.sum(0, keepdim=True) * q.shape[1]
    wanted = (q * q.shape[1]).T
    found = sinkhorn(scores, epsilon=0.05, iterations=3)
    assert found.dtype == torch.float32
    assert float(((found.double() - wanted) / wanted).abs().max()) < 1e-6
    exact = sinkhorn(scores.double(), epsilon=0.05, iterations=3)
    assert torch.allclose(exact, wanted, rtol=1e-12, atol=0)


def test_adam_adds_its_decay_to_the_gradient_and_adamw_takes_it_off_the_weights() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(4, 3), torch.randn(4, 3)
    for name, decay in (("adam", 0.5), ("adamw", 0.5)):
        layer = nn.Linear(3, 4, bias=False)
        layer.weight.data, layer.weight.grad = start.clone(), gradient.clone()
        build_optimizer(name, layer, lr=0.01, weight_decay=decay).step()
        slope = gradient + (decay * start if name == "adam" else 0)
        wanted = start * (1 - (0.01 * decay if name == "adamw" else 0)) - 0.01 * slope / (slope.abs() + 1e-8)
        assert torch.allclose(layer.weight, wanted, atol=1e-6), name


def test_a_rate_that_ends_at_itself_is_constant() -> None:
    assert {warmup_cosine(step, 100, 0.0, 1.0) for step in range(101)} == {1.0}


def test_spark_leaves_out_branches_by_seed_epoch_and_sample() -> None:
    images, batch = views()[0].float(), made_batch(made_samples(), ROWS, 2)
    plain = made_objective("spark", 2)
    dropping = made_objective("spark", 2, drop_path=0.5)
    assert list(dropping.state_dict()) == list(plain.state_dict())
    factors = []
    weigh = dropping.stochastic_depth.of
    dropping.stochastic_depth.of = lambda given: factors.append(given) or weigh(given)
    for epoch in (0, 3):
        batch.epoch = epoch
        dropping.start_epoch(epoch, 11)
        dropping([images], batch)
    for epoch, found in zip((0, 3), factors, strict=True):
        drawn = uniforms(key(11, "drop path", epoch), batch.keys, 8)
        for branch in range(8):
            rate = 0.5 * branch / 7
            assert found[branch].tolist() == pytest.approx([0.0 if u < rate else 1 / (1 - rate) for u in drawn[:, branch]])
    plain.start_epoch(3, 11)
    assert not torch.equal(plain([images], batch)["prediction"], dropping([images], batch)["prediction"])
    assert torch.equal(plain.eval()([images], batch)["active"], dropping.eval()([images], batch)["active"])
