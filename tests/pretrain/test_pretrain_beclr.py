"""BECLR: its loss by loops, the memory that it looks up neighbours in, and what the released form of the loss amounts to."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from prepared import made_volume
from pretraining import made_batch, made_objective, made_samples, train_world
from test_pretrain_world import COHORT, SMALL, STEPS, agree
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.nn.clustering import mean_directions
from medssl.nn.neighbour_memory import NeighbourMemory
from medssl.nn.separation import uniformity_of_pairs
from medssl.pretrain.hidden_patches import hide_blocks
from medssl.pretrain.options import TrainingOptions

D, K = 6, 3
ROWS = [0, 5, 9, 14]
USED: dict[str, Any] = {"projector": [8, D], "predictor_hidden": 4, "memory": 32, "clusters": 2, "neighbours": K}


def unit(*shape: int, seed: int = 0) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(made, dim=-1)


def outputs(n: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Unit rows of both views."""
    return {name: unit(n, 2, D, seed=3 * seed + at) for at, name in enumerate(("prediction", "target", "projection"))}


def filled(*, samples: Any = None, steps: int = 8, **options: Any) -> Any:
    """An objective in the middle of its run, whose memory has rows of all samples in turn."""
    samples = samples or made_samples()
    objective = made_objective("beclr", 2, samples=samples, **USED | options).double()
    objective.start_epoch(0, 3)
    for step in range(steps):
        rows = [(4 * step + at) % len(samples) for at in range(4)]
        objective.before_step(step / (2 * steps), step)
        objective.after_step(outputs(seed=step + 1), made_batch(samples, rows, 2), (step + 1) / (2 * steps))
    objective.before_step(0.5, steps)
    return objective


def plain_loss(found: dict[str, Tensor], weight: float = 0.1, temperature: float = 2.0) -> float:
    """BYOL's cosine both ways and the released uniformity, by loops and without a memory."""
    p, z, u = (found[name] for name in ("prediction", "target", "projection"))
    n = len(p)
    positive = -sum(float(p[i, v] @ z[i, 1 - v]) for i, v in product(range(n), range(2))) / (2 * n)
    rows = [(i, v) for i in range(n) for v in range(2)]
    means = []
    for i, v in rows:
        everything = sum(float(torch.exp(u[i, v] @ u[j, w] / temperature)) if j != i else 1.0 for j, w in rows)
        means.append((everything - 2) / (2 * n - 2))
    return positive + weight * float(np.log(np.mean(means)))


@pytest.mark.parametrize("options", [{"neighbour_weight": 0.0}, {"memory_start": 0.6}, {"pairing": "paper", "memory_start": 0.6}])
def test_without_neighbours_it_is_the_loop_that_knows_no_memory(options: dict[str, Any]) -> None:
    objective, found = filled(**options), outputs()
    loss = objective.loss(found, made_batch(made_samples(), ROWS, 2))
    assert float(loss.value) == pytest.approx(plain_loss(found), abs=1e-12)
    assert loss.parts == {}


def looked_up(objective: Any, z: Tensor, row: int, volume: np.ndarray) -> list[int]:
    """The places of the neighbours of a row, by loops."""
    memory = objective.memory
    cosine = [float(z @ memory.embeddings[m, 0]) for m in range(len(memory.rows))]
    others = [m for m, other in enumerate(memory.rows.tolist()) if other >= 0 and volume[other] != volume[row]]
    own = max(range(len(memory.prototypes)), key=lambda c: float(z @ memory.prototypes[c]))
    inside = [m for m in others if int(memory.cluster[m]) == own]
    return sorted(inside if len(inside) >= objective.neighbours else others, key=lambda m: -cosine[m])[: objective.neighbours]


@pytest.mark.parametrize(("neighbours", "weight"), [(3, 1.0), (15, 0.7)])
def test_the_loss_is_the_loop_over_neighbours(neighbours: int, weight: float) -> None:
    objective, found, volume = filled(neighbours=neighbours, neighbour_weight=weight), outputs(), made_samples().volume
    terms, extra = [], 0.0
    for i, v in product(range(4), range(2)):
        p, z = found["prediction"][i, v], found["target"][i, v]
        near = looked_up(objective, z, ROWS[i], volume)
        assert len(near) == neighbours
        memories = objective.memory.embeddings[near, 0]
        shares = torch.softmax(memories @ z / 0.1, 0)
        terms.append(float(p @ found["target"][i, 1 - v]) + weight * float(shares @ (memories @ p)))
        extra += float(p @ found["target"][i, 1 - v]) / 8
    expected = plain_loss(found) + extra - np.mean(terms) / (1 + weight)
    loss = objective.loss(found, made_batch(made_samples(), ROWS, 2))
    assert float(loss.value) == pytest.approx(expected, abs=1e-12)
    assert float(loss.parts["neighbours_found"]) == 1


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_the_released_pairing_divides_the_gradient_and_does_nothing_else_to_it(neighbours: int) -> None:
    gradients = []
    for start in (0.0, 0.6):
        objective = filled(pairing="paper", neighbours=neighbours, memory_start=start, uniformity=0.0)
        found = outputs()
        found["prediction"].requires_grad_()
        objective.loss(found, made_batch(made_samples(), ROWS, 2)).value.backward()
        gradients.append(found["prediction"].grad)
    assert torch.allclose((1 + neighbours) * gradients[0], gradients[1], atol=1e-12)


def test_the_released_loss_is_that_of_the_enhanced_batch() -> None:
    objective, found, volume = filled(pairing="paper"), outputs(), made_samples().volume
    enhanced = {name: [found[name]] for name in found}
    near = [[looked_up(objective, found["target"][i, v], ROWS[i], volume) for v in range(2)] for i in range(4)]
    for i, at in product(range(4), range(K)):
        stored = torch.stack([objective.memory.embeddings[near[i][v][at]] for v in range(2)])
        for kind, name in enumerate(("target", "prediction", "projection")):
            enhanced[name].append(stored[None, :, kind])
    expected = plain_loss({name: torch.cat(rows) for name, rows in enhanced.items()})
    assert float(objective.loss(found, made_batch(made_samples(), ROWS, 2)).value) == pytest.approx(expected, abs=1e-12)


def test_neighbours_carry_gradient_of_their_own_in_the_usual_pairing() -> None:
    gradients = []
    for start in (0.0, 0.6):
        objective, found = filled(memory_start=start, memory_ramp=0.0, uniformity=0.0), outputs()
        found["prediction"].requires_grad_()
        objective.loss(found, made_batch(made_samples(), ROWS, 2)).value.backward()
        gradients.append(found["prediction"].grad.flatten())
    assert float(F.cosine_similarity(gradients[0], gradients[1], dim=0)) < 0.99


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("exclude", [True, False])
def test_no_neighbour_is_of_the_same_volume_or_sample(seed: int, exclude: bool) -> None:
    samples = made_samples(3, 4)
    objective = filled(samples=samples, exclude_same_volume=exclude, neighbours=6)
    rows = torch.arange(12)
    near, cosine = objective.memory.nearest(unit(12, D, seed=seed), rows, 6)
    there = cosine > -torch.inf
    other = objective.memory.rows[near]
    assert bool(there.all()) and not bool((other == rows[:, None]).any())
    volume = torch.from_numpy(samples.volume)
    assert bool((volume[other] == volume[rows][:, None]).any()) != exclude
    assert all(len(set(found)) == 6 for found in near.tolist())


def test_images_of_a_set_are_not_of_one_volume() -> None:
    volume = replace(made_volume("v-0", "nowhere", (16, 16, 32), subject_id=None, low=(0.0,), high=(1.0,)), kind="images")
    samples = replace(made_samples(1, 32), volumes=(volume,))
    objective = filled(samples=samples)
    _, cosine = objective.memory.nearest(unit(4, D), torch.tensor(ROWS), K)
    assert bool((cosine > -torch.inf).all())


def test_a_sample_without_neighbours_keeps_its_other_view() -> None:
    samples = replace(made_samples(2, 16), label=(None,) * 32)
    objective = filled(samples=samples, steps=4)  # the first volume alone is in the memory
    rows, found = [0, 1, 20, 21], outputs()
    found["prediction"].requires_grad_()
    loss = objective.loss(found, made_batch(samples, rows, 2))
    loss.value.backward()
    assert float(loss.parts["neighbours_found"]) == 0.5
    assert bool(found["prediction"].grad.isfinite().all()) and bool(loss.value.isfinite())
    agreement = (found["prediction"] * found["target"].flip(1)).sum(2).mean()
    plain = torch.autograd.grad(-agreement, found["prediction"])[0]
    assert torch.allclose(found["prediction"].grad[:2], plain[:2]) and not torch.allclose(found["prediction"].grad[2:], plain[2:])


def test_the_weight_of_the_neighbours_rises_once_the_memory_is_used() -> None:
    objective = made_objective("beclr", 2, **USED, neighbour_weight=2.0)
    weights = {}
    for progress in (0.0, 0.1499, 0.15, 0.2, 0.25, 0.9):
        objective.before_step(progress, 0)
        weights[progress] = objective.weight_now()
    assert list(weights.values()) == pytest.approx([0, 0, 0, 1, 2, 2])
    at_once = made_objective("beclr", 2, **USED, memory_start=0.0, memory_ramp=0.0)
    assert at_once.weight_now() == 1


def made_memory(places: int = 24, clusters: int = 3, **options: Any) -> NeighbourMemory:
    usual: dict[str, Any] = {"kinds": 1, "clusters": clusters, "epsilon": 0.05, "iterations": 10, "momentum": 0.0}
    return NeighbourMemory(torch.arange(100), places, D, **usual | options).double()


def test_a_turn_of_the_ring_keeps_every_row() -> None:
    memory, everything = made_memory(places=26), unit(80, 1, D)
    for step in range(10):
        memory.enter(everything[8 * step : 8 * step + 8], torch.arange(8 * step, 8 * step + 8), step, clustered=False)
        last = torch.arange(8 * step + 8)[-26:]
        order = memory.rows.argsort()[-len(last) :]
        assert memory.rows[order].tolist() == last.tolist()
        assert torch.equal(memory.embeddings[order], everything[last])
        assert memory.figures()["memory_filled"] == pytest.approx(len(last) / 26)


def test_new_rows_get_clusters_in_equal_shares() -> None:
    axes = torch.eye(D, dtype=torch.float64)[:3]
    memory = made_memory(epsilon=1e-3, iterations=200)
    memory.prototypes.copy_(axes)
    near = F.normalize(axes.repeat_interleave(8, 0) + 0.05 * unit(24, D), dim=1)
    memory.enter(near[:, None], torch.arange(24), 0, clustered=True)
    assert memory.cluster.tolist() == [0] * 8 + [1] * 8 + [2] * 8  # the nearest prototype, not the farthest
    crowded = F.normalize(axes[:1] + 0.3 * unit(24, D, seed=1), dim=1)  # all nearest to the first
    memory = made_memory(epsilon=0.05, iterations=200)
    memory.prototypes.copy_(axes)
    memory.enter(crowded[:, None], torch.arange(24), 0, clustered=True)
    assert sorted(torch.bincount(memory.cluster, minlength=3).tolist())[0] >= 4


def test_an_empty_cluster_keeps_its_prototype_and_others_get_their_members_mean() -> None:
    memory = made_memory(epsilon=1e-3, iterations=1)
    memory.prototypes.copy_(torch.eye(D, dtype=torch.float64)[:3])
    rows = F.normalize(torch.eye(D, dtype=torch.float64)[[0, 0, 1, 1]] + 0.1 * unit(4, D), dim=1)
    assignment = torch.tensor([0, 0, 1, 1])
    found = mean_directions(rows, assignment, memory.prototypes)
    assert torch.equal(found[2], memory.prototypes[2])
    assert torch.allclose(found[0], F.normalize(rows[0] + rows[1], dim=0))
    memory.enter(rows[:2, None], torch.arange(2), 0, clustered=True)
    used = memory.cluster[:2].unique()
    unused = [c for c in range(3) if c not in used.tolist()]
    assert unused and all(torch.equal(memory.prototypes[c], torch.eye(D, dtype=torch.float64)[c]) for c in unused)
    assert torch.allclose(memory.prototypes.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_a_prototype_may_keep_a_share_of_itself() -> None:
    memory = made_memory(clusters=2, momentum=0.9)
    memory.prototypes.copy_(torch.eye(D, dtype=torch.float64)[:2])
    rows = unit(8, D)
    memory.enter(rows[:, None], torch.arange(8), 0, clustered=True)
    means = mean_directions(rows, memory.cluster[:8], torch.eye(D, dtype=torch.float64)[:2])
    expected = F.normalize(0.9 * torch.eye(D, dtype=torch.float64)[:2] + 0.1 * means, dim=1)
    assert torch.allclose(memory.prototypes, expected)


def test_the_memory_is_clustered_when_it_is_first_used_and_again_after_each_share_of_the_run() -> None:
    objective = made_objective("beclr", 2, **USED, memory_start=0.2, recluster=0.3)
    assert [objective.clusterings(p, 32) for p in (0.0, 0.19, 0.2, 0.49, 0.51, 0.81, 1.0)] == [0, 0, 1, 1, 2, 3, 3]
    assert objective.clusterings(0.9, 1) == 0  # fewer rows than clusters
    made: list[Any] = []
    objective.memory.make_clusters = lambda iterations, seed, names: made.append((objective.step, seed, names))
    objective.start_epoch(0, 7)
    for step in range(20):
        objective.before_step(step / 20, step)
        objective.after_step(outputs(), made_batch(made_samples(), ROWS, 2), (step + 1) / 20)
    assert [(step, seed) for step, seed, _ in made] == [(3, 7), (9, 7), (15, 7)]
    assert len({names for _, _, names in made}) == 3


def test_clusters_are_found_and_every_row_has_one() -> None:
    objective = filled(memory_start=0.0, clusters=4)
    memory = objective.memory
    assert torch.equal(memory.cluster.unique(), torch.arange(4))
    assert objective.figures() == {"prototype_usage": 1.0, "memory_filled": 1.0}
    assert torch.allclose(memory.prototypes.norm(dim=1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("known", ["label", "place", "none"])
def test_purity_is_the_share_of_neighbours_with_the_same_label_or_place(known: str) -> None:
    samples = made_samples(8, 4)
    if known != "label":
        samples = replace(samples, label=(None,) * 32)
    if known == "none":
        samples = replace(samples, position_mm=np.full(32, np.nan, dtype=np.float32))
    objective, found = filled(samples=samples, memory_ramp=0.0), outputs()
    purity = float(objective.loss(found, made_batch(samples, ROWS, 2)).parts["neighbour_purity"])
    same = []
    for i, v in product(range(4), range(2)):
        for m in looked_up(objective, found["target"][i, v], ROWS[i], samples.volume):
            other = int(objective.memory.rows[m])
            same.append(
                samples.label[other] == samples.label[ROWS[i]]
                if known == "label"
                else samples.index[other] == samples.index[ROWS[i]]
            )
    assert purity == pytest.approx(0.0 if known == "none" else np.mean(same))
    assert known == "none" or 0 < purity < 1


def test_the_student_alone_sees_hidden_blocks() -> None:
    samples, objective = made_samples(), made_objective("beclr", 2, **USED, patch=2)
    batch, seen = made_batch(samples, ROWS, 2), {}
    views = [torch.rand(4, 1, 16, 16) + 0.1 for _ in range(2)]
    for name, network in (("student", objective.backbone), ("teacher", objective.teacher[0])):
        network.register_forward_pre_hook(lambda _, given, name=name: seen.__setitem__(name, given[0]))
    objective(views, batch)
    assert torch.equal(seen["teacher"], torch.cat(views))
    hidden = (seen["student"] == 0).flatten(1)
    assert torch.equal(seen["student"][seen["student"] != 0], torch.cat(views)[seen["student"] != 0])
    assert bool((hidden.double().mean(1) >= 0.03).all()) and bool((hidden.double().mean(1) <= 0.25).all())
    assert not torch.equal(hidden[:4], hidden[4:])
    objective.hidden_patches = None
    objective(views, batch)
    assert torch.equal(seen["student"], torch.cat(views))


@pytest.mark.parametrize("size", [(16, 16), (10, 15), (9, 8, 7)])
def test_hidden_blocks_are_whole_patches_in_a_drawn_share(size: tuple[int, ...]) -> None:
    keys, patch = np.arange(40, dtype=np.uint64), 2
    images = torch.ones(40, 2, *size)
    hidden = hide_blocks(images, patch, (0.1, 0.5), 5, keys)[:, 0] == 0
    corners = hidden[(slice(None), *[slice(None, None, patch)] * len(size))]
    whole = corners
    for axis, side in enumerate(size, start=1):
        whole = whole.repeat_interleave(patch, axis).narrow(axis, 0, side)
    assert torch.equal(whole, hidden)
    shares = corners.flatten(1).double().mean(1)
    assert 0.07 < float(shares.min()) < 0.2 and 0.4 < float(shares.max()) <= 0.5
    assert torch.equal(hide_blocks(images[7:9], patch, (0.1, 0.5), 5, keys[7:9])[:, 0] == 0, hidden[7:9])


def test_uniformity_counts_only_what_it_is_asked_for() -> None:
    z, counted = unit(5, 2, D), torch.ones(5, 2, dtype=torch.bool)
    counted[3:] = False
    whole = uniformity_of_pairs(z[:3], counted[:3], temperature=2.0)
    assert float(uniformity_of_pairs(z, counted, temperature=2.0)) == pytest.approx(float(whole), abs=1e-12)
    assert float(uniformity_of_pairs(z[:1, :1].expand(4, 2, D), counted[:1].expand(4, 2), temperature=2.0)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": 127}, "memory of the objective beclr is 127, and must be 128 or more: 2 × batch_size 64"),
        ({"memory": 128, "clusters": 200}, "128, and must be 200 or more: 1 × clusters 200. Raise memory, or lower clusters"),
        ({"memory": 128, "neighbours": 129}, "1 × neighbours 129"),
        ({"clusters": 1}, "clusters"),
        ({"memory": 128, "clusters": 128, "neighbours": 128}, None),
        ({}, None),
    ],
)
def test_a_memory_that_is_too_small_is_refused_before_work(options: dict[str, Any], words: str | None) -> None:
    if words is None:
        TrainingOptions(objective={"beclr": options}, batch_size=64)
        return
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        TrainingOptions(objective={"beclr": options}, batch_size=64)


def test_a_cohort_of_one_volume_has_no_neighbours_and_the_sentence_says_what_to_do() -> None:
    with pytest.raises(
        StudyError,
        match=r"neighbours of other volumes, .* are of 1 \(pictures of one source .*\)\. Add volumes, or set it to false",
    ):
        made_objective("beclr", 2, samples=made_samples(1, 32))
    made_objective("beclr", 2, samples=made_samples(1, 32), exclude_same_volume=False)


def test_the_number_of_processes_does_not_change_the_released_pairing(make_plan: Any, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--full"):
        pytest.skip("the usual pairing is in test_pretrain_world.py; this one with --full")
    options = {"objective": {"beclr": SMALL["beclr"] | {"pairing": "paper"}}, **STEPS}
    results = {}
    for world in (1, 2, 4):
        error, results[world] = train_world(make_plan(str(world), COHORT, **options), world, precision="double")
        assert error is None
        agree(results[1], results[world], 1e-9)
    assert results[1][2]["rows"][-1]["neighbours_found"] == 1


def test_patches_are_hidden_in_views_of_any_side() -> None:
    objective = made_objective("beclr", 2, **USED)
    keys = np.arange(64, dtype=np.uint64)
    for side, patch in ((48, 16), (28, 8)):
        objective.patch = patch
        assert [crop.size for crop in objective.crops((side, side))] == [(side, side)]
        hidden = hide_blocks(torch.ones(64, 1, side, side), patch, (0.05, 0.25), 3, keys) == 0
        assert float(hidden.double().mean()) > 0
    objective.patch = None
    assert [objective.patch_of((side, side)) for side in (224, 32, 8)] == [16, 2, 1] and len(objective.crops((28, 28))) == 1
    objective.patch, objective.hidden_patches = 16, None
    assert len(objective.crops((28, 28))) == 1
