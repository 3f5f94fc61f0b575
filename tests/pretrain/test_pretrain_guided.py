"""Guided contrast: its loss as double loops and closed forms, its kernels, its heads, and that a factor can be forgotten."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pretraining import made_batch, made_objective, made_samples
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.nn.contrast import guided_nt_xent, nt_xent
from medssl.nn.kinship import Kernel, Kinship, of_label, of_place
from medssl.nn.records import Record
from medssl.nn.reversal import reversed_gradient, strength_at

PLAIN = {"kin_weight": 0.0, "class_share": 0.0, "hardness": 0.0}


def unit(n: int, d: int = 5, seed: int = 0) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=1)


def by_loops(a: Tensor, b: Tensor, kin: Tensor, t: float, w: float, share: float, beta: float) -> float:
    """The loss, anchor by anchor and pair by pair."""
    u, n = torch.cat([a, b]), len(a)
    total = 0.0
    for r in range(2 * n):
        partner = (r + n) % (2 * n)
        others = [q for q in range(2 * n) if q not in (r, partner)]
        s = [float(u[r] @ u[q]) / t for q in range(2 * n)]
        importance = [math.exp(beta * s[q]) for q in others]
        weights = [len(others) * value / sum(importance) for value in importance]
        mass = sum(weight * math.exp(s[q]) for weight, q in zip(weights, others, strict=True))
        negatives = (mass - share * len(others) * math.exp(s[partner])) / (1 - share)
        negatives = max(negatives, len(others) * math.exp(-1 / t))
        alike = {q: float(kin[r % n, q % n]) for q in others}
        known = sum(alike.values())
        target = {partner: 1 - w * (known > 0)} | ({q: w * value / known for q, value in alike.items()} if known else {})
        assert sum(target.values()) == pytest.approx(1)
        total -= sum(part * (s[q] - math.log(math.exp(s[partner]) + negatives)) for q, part in target.items())
    return total / (2 * n)


def test_with_all_options_zero_it_is_the_loss_of_simclr() -> None:
    a, b, kin = unit(6), unit(6, seed=1), torch.rand(6, 6, dtype=torch.float64)
    volume = torch.tensor([0, 0, 1, 1, 2, 2])
    for group in (None, volume):
        found = guided_nt_xent(a, b, kin, temperature=0.1, **PLAIN, volume=group)
        assert float(found) == pytest.approx(float(nt_xent(a, b, temperature=0.1, volume=group)), abs=1e-12)


@pytest.mark.parametrize(("w", "share", "beta"), [(0.5, 0, 0), (0, 0.1, 0), (0, 0, 1.0), (0.3, 0.2, 0.5), (1.0, 0.1, 2.0)])
def test_the_loss_is_the_loop_over_pairs(w: float, share: float, beta: float) -> None:
    a, b = unit(5), F.normalize(unit(5) + 0.3 * unit(5, seed=1), dim=1)
    kin = torch.tensor(np.random.default_rng(0).random((5, 5)) * (np.random.default_rng(1).random((5, 5)) > 0.5))
    kin[2] = 0
    found = guided_nt_xent(a, b, kin, temperature=0.3, kin_weight=w, class_share=share, hardness=beta)
    assert float(found) == pytest.approx(by_loops(a, b, kin, 0.3, w, share, beta), abs=1e-12)


def test_debiasing_lowers_the_loss_of_aligned_pairs_down_to_its_floor() -> None:
    a = torch.eye(6, dtype=torch.float64)
    plain, less, floor = (
        float(guided_nt_xent(a, a, torch.zeros(6, 6), temperature=0.1, **PLAIN | {"class_share": share}))
        for share in (0, 1e-5, 0.5)
    )
    assert less < plain
    count = 10 * math.exp(-1 / 0.1)  # the floor: ten negatives as far away as unit vectors can be
    assert floor == pytest.approx(math.log(math.exp(10) + count) - 10, abs=1e-12)


def test_hard_negatives_do_not_overflow() -> None:
    a = F.normalize(torch.ones(8, 3) + 1e-3 * torch.randn(8, 3), dim=1)
    assert guided_nt_xent(a, a, torch.zeros(8, 8), temperature=0.01, **PLAIN | {"hardness": 10.0}).isfinite()


def test_where_all_are_kin_the_whole_target_is_theirs() -> None:
    n = 4
    u = torch.eye(2 * n, dtype=torch.float64)
    found = guided_nt_xent(u[:n], u[n:], torch.ones(n, n), temperature=0.5, **PLAIN | {"kin_weight": 1.0})
    assert float(found) == pytest.approx(math.log(2 * n - 1), abs=1e-12)  # of orthogonal rows every logit is 0


def test_the_order_of_a_batch_does_not_matter() -> None:
    a, b, kin = unit(7), unit(7, seed=1), torch.rand(7, 7, dtype=torch.float64)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    options = {"temperature": 0.2, "kin_weight": 0.4, "class_share": 0.1, "hardness": 0.5}
    once, again = guided_nt_xent(a, b, kin, **options), guided_nt_xent(a[order], b[order], kin[order][:, order], **options)
    assert float(once) == pytest.approx(float(again), abs=1e-12)


def test_slices_at_one_place_are_alike_and_those_of_other_volumes_never() -> None:
    samples = made_samples(3, 4)
    position = np.tile([0.0, 0.0, 10.0, 20.0], 3)
    kinship = Kinship(samples, [Kernel(position, 10.0, within=True)])
    found = kinship(torch.arange(4), torch.arange(12)).numpy()
    assert found[0, 1] == 1 and found[0, 2] == pytest.approx(math.exp(-0.5)) and found[1, 3] == pytest.approx(math.exp(-2))
    assert not found[:, 4:].any()


def test_the_place_is_the_share_of_the_way_through_a_volume() -> None:
    samples = replace(made_samples(2, 4), position_mm=np.array([5, 6, 7, 9, -10, -30, -50, np.nan], np.float32))
    assert of_place(samples)[:7] == pytest.approx([0, 0.25, 0.5, 1, 1, 0.5, 0]) and np.isnan(of_place(samples)[7])
    single = replace(made_samples(2, 1), position_mm=np.array([3, 4], np.float32))
    assert np.isnan(of_place(single)).all(), "one slice has no place between two"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([None, "a", "b"]), min_size=8, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_what_is_unknown_is_like_nothing(labels: list[str | None], known: list[bool]) -> None:
    samples = replace(made_samples(2, 4), label=tuple(labels))
    ages = np.where(known, 50.0, np.nan)
    kinship = Kinship(samples, [Kernel(of_label(samples), 0.0), Kernel(ages, 5.0)])
    found = kinship(torch.arange(8), torch.arange(8)).numpy()
    for i in range(8):
        for j in range(8):
            alike = labels[i] is not None and labels[i] == labels[j] and known[i] and known[j]
            assert found[i, j] == (1 if alike else 0)


def test_without_kernels_no_sample_has_kin() -> None:
    assert not Kinship(made_samples(), [])(torch.arange(4), torch.arange(8)).any()


def recorded(**columns: list[Any]) -> Any:
    samples = made_samples()
    records = {
        name: Record.of("number" if isinstance(values[0], float) else "category", [None if v is None else str(v) for v in values])
        for name, values in columns.items()
    }
    return replace(samples, records=records)


def test_the_backbone_gets_the_gradient_of_a_head_reversed_and_the_head_its_own() -> None:
    x, weight = torch.randn(4, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    (reversed_gradient(x, 0.25) @ weight).sum().backward()
    of_x, of_weight = x.grad.clone(), weight.grad.clone()
    x.grad = weight.grad = None
    (x @ weight).sum().backward()
    assert torch.equal(of_x, -0.25 * x.grad) and torch.equal(of_weight, weight.grad)
    assert strength_at(0) == 0 and strength_at(1) == pytest.approx(2 / (1 + math.exp(-10)) - 1)


def test_a_head_learns_only_from_the_samples_whose_value_is_known() -> None:
    scanner = ["x" if row % 2 else None for row in range(32)]
    scanner[1] = "y"
    objective = made_objective("guided_contrast", 2, samples=recorded(scanner=scanner), spurious=["scanner"], projector=[8])
    batch = made_batch(made_samples(), [0, 1, 2, 3], 2)
    logits = torch.randn(4, 2, 2, requires_grad=True)
    z = unit(4).float()
    found = objective.loss({"z_a": z, "z_b": z, "spurious_0": logits}, batch)
    found.value.backward()
    assert logits.grad[[1, 3]].abs().sum() > 0 and not logits.grad[[0, 2]].any()
    expected = F.cross_entropy(logits[[1, 3]].flatten(0, 1), torch.tensor([1, 1, 0, 0]))
    plain = guided_nt_xent(z, z, torch.zeros(4, 4), temperature=0.1, **PLAIN)
    assert found.value.item() == pytest.approx((plain + expected).item(), rel=1e-6)


def test_batches_are_made_of_kin_where_random_ones_hold_none() -> None:
    ages = [float(row // 2) * 100 for row in range(32)]  # one other sample of each age
    objective = made_objective("guided_contrast", 2, samples=recorded(age=ages), near_records={"age": 1.0}, projector=[8])
    for batch in objective.batches(0, 0, 8):
        assert len(set(batch.tolist())) == 8
        kin = objective.kinship(torch.from_numpy(batch), torch.from_numpy(batch)).numpy() - np.eye(8)
        assert (kin > 0.9).any(1).sum() >= 6, "the first half brings its kin, where the batch does not hold it yet"
    assert all(np.array_equal(a, b) for a, b in zip(objective.batches(0, 0, 8), objective.batches(0, 0, 8), strict=True))
    alike = made_objective("guided_contrast", 2, near_label=True, projector=[8])
    plain = made_objective("guided_contrast", 2, projector=[8])
    assert all(np.array_equal(a, b) for a, b in zip(alike.batches(0, 0, 8), plain.batches(0, 0, 8), strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"near_records": {"sex": 1.0}}, "sex holds categories"),
        ({"near_records": {"age": 0.0}}, "age holds numbers"),
        ({"spurious": ["same"]}, "same is equal in all"),
        ({"spurious": ["site"]}, "site is equal in all"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], words: str) -> None:
    samples = recorded(sex=["f", "m"] * 16, age=[float(row) for row in range(32)], same=[1.0] * 32, site=["a"] * 32)
    with pytest.raises(StudyError, match=words):
        made_objective("guided_contrast", 2, samples=samples, projector=[8], **options)


def test_a_kernel_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(StudyError, match="near_label is known of none of the 32 samples"):
        made_objective("guided_contrast", 2, samples=replace(made_samples(), label=(None,) * 32), near_label=True, projector=[8])


def trained_and_probed(seed: int, *, forget: bool) -> tuple[float, float]:
    """How often linear probes of trained features predict the scanner, and the shape.

    Images: a square or a bar somewhere (shape) over stripes of one of two frequencies (scanner).
    """
    from sklearn.linear_model import LogisticRegression

    from medssl.nn.backbone import pooled

    random, count, steps = np.random.default_rng(seed), 512, 200
    shape, scanner = random.integers(0, 2, (2, count))
    place, phase = random.integers(4, 12, (count, 2)), random.uniform(0, 2 * np.pi, count)
    row, column = np.mgrid[:16, :16]
    frequency = np.where(scanner, 2.2, 1.1)[:, None, None]
    images = 0.25 + 0.25 * np.sin(frequency * column + phase[:, None, None])
    half = np.array([[5, 2], [3, 3]])[shape]
    inside = (abs(row - place[:, 0, None, None]) < half[:, 0, None, None]) & (
        abs(column - place[:, 1, None, None]) < half[:, 1, None, None]
    )
    images = torch.from_numpy(np.where(inside, 1.0, images)[:, None]).float()
    samples = replace(made_samples(count, 1), records={"scanner": Record.of("category", [str(value) for value in scanner])})
    guided = {"spurious": ["scanner"]} if forget else {}
    objective = made_objective("guided_contrast", 2, samples=samples, projector=[32, 16], seed=seed, **guided)
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(objective.parameters(), lr=1e-3)
    for step in range(steps):
        rows = random.permutation(count)[:64].tolist()
        objective.before_step(step / steps, step)
        moved = [torch.roll(images[rows], tuple(random.integers(-3, 4, 2).tolist()), (2, 3)) for _ in range(2)]
        views = [view + 0.05 * torch.randn_like(view) for view in moved]
        batch = made_batch(samples, rows, 2)
        loss = objective.loss(objective(views, batch), batch).value
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        features = pooled(objective.backbone.eval()(images)).numpy()

    def probed(wanted: np.ndarray) -> float:
        return float(LogisticRegression(max_iter=500).fit(features[:256], wanted[:256]).score(features[256:], wanted[256:]))

    return probed(scanner), probed(shape)


def test_a_scanner_can_be_forgotten_and_the_shape_stays(request: pytest.FixtureRequest) -> None:
    """On average over three trainings that learn the scanner if they may."""
    if not request.config.getoption("--full"):
        pytest.skip("six trainings of 200 steps: with --full")
    kept, forgotten = (np.mean([trained_and_probed(seed, forget=forget) for seed in (0, 3, 4)], 0) for forget in (False, True))
    assert forgotten[0] < kept[0] - 0.1 and forgotten[1] >= kept[1], (kept, forgotten)
