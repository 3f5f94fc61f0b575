"""Laws of gates: what they let through, what their information costs, and that they keep the channels that are informative."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medssl.core.rng import rng
from medssl.finetune import training
from medssl.finetune.gating import add_gates
from medssl.finetune.recipe import BottleneckOptions, Recipe
from medssl.nn.gates import Gate, Gates

NORMAL = torch.distributions.Normal


def gates(channels: dict[int, int], *, price: float = 1.0, twin: float = 0.0) -> Gates:
    torch.manual_seed(0)
    return Gates(channels, price=price, twin=twin, temperature=0.5)


def set_to(gate: nn.Module, mean: Tensor, log_variance: Tensor) -> None:
    with torch.no_grad():
        gate.get_parameter("mean").copy_(mean)
        gate.get_parameter("log_variance").copy_(log_variance)


def only(module: Gates) -> Gate:
    (gate,) = module.of_map.values()
    assert isinstance(gate, Gate)
    return gate


def test_open_gates_pass_maps_on_and_noise_has_their_deviation() -> None:
    module, x = gates({1: 8}), torch.rand(512, 8, 3, 3) + 0.5
    set_to(only(module), torch.ones(8), torch.full((8,), -99.0))  # bounded to -12
    first, seen = module.eval()([x[:, :2], x])
    assert torch.equal(first, x[:, :2]) and torch.allclose(seen, x, rtol=1e-5)
    module.train()
    assert torch.equal(module([x, x])[1], x), "without a generator the means are the factors"
    with module.noise.of(rng(0, "gates", 0)):
        factor = module([x, x])[1] / x
    assert torch.allclose(factor, factor[..., :1, :1].expand_as(factor), atol=1e-6), "one draw for each image and channel"
    assert factor[..., 0, 0].std().item() == pytest.approx(math.exp(-6), rel=0.05)


def test_a_channel_whose_noise_exceeds_its_signal_is_closed() -> None:
    module, x = gates({0: 5}), torch.rand(2, 5, 4)
    mean = torch.tensor([1.0, -0.5, 0.1, 0.0, 2.0])
    set_to(only(module), mean, torch.tensor([-1.0, -3.0, -3.0, -99.0, 99.0]))  # bounded to 4 > log 2² and -12
    assert torch.equal(module.eval()([x])[0], x * torch.tensor([1.0, -0.5, 0, 0, 0]).view(1, 5, 1))
    assert module.kept() == ([2], [5])
    assert torch.equal(module([x])[0], module([x])[0])


def test_the_divergence_is_that_from_the_best_prior_of_mean_zero() -> None:
    module = gates({0: 3})
    mean, log_variance = torch.tensor([1.0, -0.3, 0.02]), torch.tensor([-2.0, 0.5, -6.0])
    set_to(only(module), mean, log_variance)
    deviation, wide = (log_variance / 2).exp(), (mean.square() + log_variance.exp()).sqrt()
    torch.manual_seed(1)
    drawn = NORMAL(mean, deviation).sample((200_000,))
    estimated = (NORMAL(mean, deviation).log_prob(drawn) - NORMAL(torch.zeros(3), wide).log_prob(drawn)).mean(0).sum()
    exact = only(module).kl()
    assert exact.item() == pytest.approx(estimated.item(), abs=1e-2) and exact >= 0
    assert exact.item() == pytest.approx(torch.distributions.kl_divergence(NORMAL(mean, deviation), NORMAL(0, wide)).sum().item())
    for narrower in (0.9, 1.1):  # any other prior of mean 0 costs more
        other = torch.distributions.kl_divergence(NORMAL(mean, deviation), NORMAL(0, narrower * wide)).sum()
        assert other > exact
    exact.backward()
    assert (only(module).log_variance.grad < 0).all(), "where only the divergence acts, noise grows"


def test_the_divergence_is_computed_in_float32_whatever_the_precision() -> None:
    module, patient = gates({0: 64}, price=0.5), torch.arange(4)
    expected = module.cost(patient)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module.cost(patient)
        with module.noise.of(rng(0, "gates", 0)):
            assert module([torch.rand(4, 64, 2, 2, dtype=torch.bfloat16)])[0].dtype == torch.bfloat16
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert expected.item() == pytest.approx(0.5 * 64 * 0.5 * math.log1p(math.exp(9)), rel=0.01)
    half = gates({0: 64}, price=0.5).half()
    assert half.cost(patient).dtype == torch.float32


def test_a_pass_is_drawn_by_its_generator_alone() -> None:
    module, x = gates({0: 4}), torch.rand(3, 4, 2)

    def drawn(step: int) -> Tensor:
        torch.manual_seed(np.random.default_rng().integers(2**31))
        with module.noise.of(rng(7, "gates", step)):
            return module([x])[0]

    before = torch.get_rng_state()
    with module.noise.of(rng(7, "gates", 0)):
        module([x])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))


def test_the_twin_draws_each_side_to_the_other_among_images_of_other_patients() -> None:
    """Against loops over anchors: InfoNCE of plain features and mean-gated ones, and of drawn ones and plain ones."""
    module = gates({0: 6}, price=0.0, twin=0.7)
    maps, patient = torch.rand(5, 6, 3, requires_grad=True), torch.tensor([0, 1, 1, 2, 0])
    with module.noise.of(rng(3, "gates", 0)):
        (y,) = module([maps])
    plain, drawn = (torch.nn.functional.normalize(m.mean(2), dim=1) for m in (maps, y))
    mean = torch.nn.functional.normalize(maps.mean(2) * only(module).mean, dim=1)

    def nce(anchors: Tensor, others: Tensor) -> Tensor:
        losses = []
        for n in range(5):
            scores = {m: anchors[n] @ others[m].detach() / 0.5 for m in range(5) if m == n or patient[m] != patient[n]}
            losses.append(torch.logsumexp(torch.stack(list(scores.values())), 0) - scores[n])
        return torch.stack(losses).mean()

    expected = 0.7 * (nce(plain, mean) + nce(drawn, plain))
    found = module.cost(patient)
    assert torch.allclose(found, expected, atol=1e-6)
    slopes = [torch.autograd.grad(loss, [maps, *module.parameters()], retain_graph=True) for loss in (found, expected)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*slopes, strict=True))
    with module.noise.of(rng(3, "gates", 0)):
        module([maps])
    assert module.cost(torch.zeros(5, dtype=torch.int64)).item() == pytest.approx(0, abs=1e-6), "one patient has no negative"


class Features(nn.Module):
    """A classifier of vectors, whose backbone passes them on as its only map."""

    reads = (0,)

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.gates = nn.Identity(), nn.Identity()
        self.backbone.channels = (32,)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gates([self.backbone(x)])[0])


def informative(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Vectors of 32 numbers, of which the first four decide the class."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 32)).astype(np.float32)
    y = generator.random(count) < 1 / (1 + np.exp(-4 * x[:, :4].sum(1)))
    return torch.from_numpy(x)[..., None], torch.from_numpy(y.astype(np.int64))


def toy(seed: int, weight: float | None) -> tuple[int, int, float]:
    """400 vectors: open informative channels, open others, and accuracy on 4,000 new ones."""
    x, y = informative(400, seed)
    bottleneck = None if weight is None else BottleneckOptions(weight=weight)
    torch.manual_seed(seed)
    network = Features()
    add_gates(network, bottleneck, seed, num_cases=len(x))

    def batches(steps: Iterable[int]) -> Iterator[training.Inputs]:
        for step in steps:
            at = torch.from_numpy(training.order(len(x), 100, seed, step))
            yield x[at], y[at], *(() if weight is None else (at,))

    recipe = Recipe(lr=[1e-2], evaluations=1, calibration_batches=0, bottleneck=bottleneck)
    loss = nn.functional.cross_entropy
    training.Fit(network, batches, loss, lambda _: float("nan"), recipe, 100, seed=seed).run()
    x, y = informative(4000, 1000 + seed)
    with torch.no_grad():
        accuracy = float((network.eval()(x).argmax(1) == y).float().mean())
    if weight is None:
        return 4, 28, accuracy
    is_open = only(network.gates).is_open  # type: ignore[arg-type]
    return int(is_open[:4].sum()), int(is_open[4:].sum()), accuracy


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.full) for seed in (2, 3, 4))])
def test_informative_channels_stay_open_others_close_and_new_cases_gain(seed: int) -> None:
    """In five of five draws, which is p = 1/32 by the sign test."""
    kept, noise, accuracy = toy(seed, 1.0)
    assert kept == 4 and noise <= 4 and accuracy > toy(seed, None)[2]


def test_at_no_price_all_stay_open_and_at_a_high_one_all_close() -> None:
    assert toy(0, 0.0)[:2] == (4, 28)
    assert toy(0, 400.0)[:2] == (0, 0)
