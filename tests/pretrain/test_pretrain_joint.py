"""Joint 2D-3D: attention between slices, bags of slices, what is clustered, hidden and frozen."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretraining import made_batch, made_objective, made_samples, step, train_here, train_world
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.nn.clustering import ClusterMemory, Prototypes, sinkhorn
from medssl.nn.slice_attention import DeformableAttention, VolumeEncoder, hat, in_bags, volume_embedding
from medssl.pretrain.bags import Bags, runs_of_equal, spread

SMALL = {
    "width": 16, "attention_heads": 2, "layers": 1, "feed_forward": 16, "projector": (16, 8), "prototypes": 4, "heads": 2,
}  # fmt: skip

COHORT = {"volumes": 4}


def mixed_samples() -> Any:
    """Six volumes of four slices, and a stack of eight images that are not neighbours."""
    samples = made_samples(volumes=8)
    kinds = [replace(v, kind="volume" if n < 6 else "images") for n, v in enumerate(samples.volumes)]
    return replace(samples, volumes=tuple(kinds))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Attention


def test_reading_between_slices_is_linear_interpolation() -> None:
    x, places = random(7, 3), torch.tensor([0.0, 0.25, 3.5, 6.0, 5.9], dtype=torch.float64)
    grid = torch.stack([torch.zeros_like(places), places / 6 * 2 - 1], -1)[None, :, None]
    wanted = F.grid_sample(x.T[None, :, :, None], grid, align_corners=True)[0, :, :, 0].T
    assert torch.allclose(hat(places, 7) @ x, wanted, atol=1e-12)


def test_attention_is_the_loop_over_heads_queries_and_keys_of_the_paper() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(6, 2).double()
    x = random(1, 9, 6)
    query = attention.query(x)
    places = attention.places(query.unflatten(2, (2, 3)))
    out = torch.zeros(9, 6, dtype=torch.float64)
    read = torch.zeros(places.shape[2], 6, dtype=torch.float64)
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        for m, p in enumerate(places[0, head].tolist()):
            low = min(int(p), 7)
            read[m, part] = (1 - (p - low)) * x[0, low, part] + (p - low) * x[0, low + 1, part]
    key, value = read @ attention.key.weight.T, read @ attention.value.weight.T
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        for s in range(9):
            logits = []
            for m, p in enumerate(places[0, head].tolist()):
                away = math.copysign(math.log1p(abs(s - p)), s - p)
                near = float(attention.distance(torch.tensor([[away]], dtype=torch.float64)).detach())
                logits.append(float((query[0, s, part] @ key[m, part]).detach()) / math.sqrt(3) + near)
            weights = np.exp(np.array(logits) - max(logits))
            out[s, part] = torch.from_numpy(weights / weights.sum()) @ value[:, part]
    assert torch.allclose(attention(x)[0], attention.out(out), atol=1e-10)


def test_attention_mixes_far_slices() -> None:
    torch.manual_seed(0)
    encoder = VolumeEncoder((4, 6), width=16, layers=2, heads=2, feed_forward=16)
    x = random(1, 32, 16).float().requires_grad_()
    encoder(x)[0, 0].square().sum().backward()
    reached = torch.nonzero(x.grad[0].abs().sum(1) > 0)[:, 0]
    assert reached.max() >= 28


def test_shuffled_slices_are_another_volume() -> None:
    torch.manual_seed(0)
    encoder = VolumeEncoder((4, 6), width=16, layers=1, heads=2, feed_forward=16)
    x = random(1, 12, 16).float()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    a, b = (volume_embedding(encoder(slices))[0, 0] for slices in (x, x[:, order]))
    assert (a - b).abs().max() > 1e-3
    assert torch.allclose(a.norm(), torch.ones(()))


def test_slices_of_equal_content_differ_by_their_place_alone() -> None:
    torch.manual_seed(0)
    same = random(16).float().expand(1, 12, 16)
    for positions in (True, False):
        encoder = VolumeEncoder((4, 6), width=16, layers=1, heads=2, feed_forward=16, positions=positions)
        apart = (encoder(same) - encoder(same).mean(1, keepdim=True)).abs().max()
        assert bool(apart > 1e-2) == positions


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(StudyError, match="cannot be divided among 3 heads"):
        VolumeEncoder((4,), width=16, heads=3)


def test_rows_of_bags_come_back_in_their_places() -> None:
    x = random(2, 7, 3)
    bags = [torch.tensor([[6], [0]]), torch.tensor([[4, 1, 3, 2, 5]])]
    assert torch.equal(in_bags(lambda s: s * 2, x, bags), x * 2)
    summed = in_bags(lambda s: s.sum(1, keepdim=True).expand(s.shape), x, bags)
    assert torch.allclose(summed[:, [1, 5]], x[:, 1:6].sum(1, keepdim=True).expand(2, 2, 3))
    assert torch.equal(summed[:, 6], x[:, 6])


# Bags


@pytest.mark.parametrize(("rows", "slices"), [(4, 4), (17, 4), (9, 8), (100, 16)])
def test_a_bag_has_one_slice_of_each_strip_in_order(rows: int, slices: int) -> None:
    bags = spread(np.arange(rows), slices, math.ceil(rows / slices), np.random.default_rng(0))
    assert (np.diff(bags, axis=1) > 0).all()
    strips = np.arange(slices + 1) * rows // slices
    assert ((bags >= strips[:-1]) & (bags < strips[1:])).all()
    assert len(np.unique(bags)) >= 0.6 * rows


def test_a_volume_shorter_than_a_bag_repeats_slices_in_order() -> None:
    bag = spread(np.array([5, 6, 9]), 8, 1, np.random.default_rng(0))[0]
    assert (np.diff(bag) >= 0).all() and set(bag.tolist()) == {5, 6, 9}


def test_images_fill_bags_of_their_own_and_everything_is_dealt() -> None:
    bags = Bags(mixed_samples(), 16)
    assert bags.slices == 4 and bags.images.tolist() == list(range(24, 32))
    dealt = bags.deal(0, 0)
    assert sorted(dealt.flatten().tolist()) == list(range(32))
    assert all(len(set((bag // 4).tolist())) == 1 or bag.min() >= 24 for bag in dealt)
    assert (dealt != bags.deal(0, 1)).any() and (dealt == bags.deal(0, 0)).all()


@pytest.mark.parametrize("slices", [16, 17, 20, 24, 31, 33, 70])
def test_slices_are_dealt_about_once(slices: int) -> None:
    """Within a third: a volume has a whole number of bags."""
    dealt = Bags(made_samples(6, slices), 16).deal(0, 0)
    assert 2 / 3 <= dealt.size / (6 * slices) <= 4 / 3


def test_images_that_fill_no_bag_come_in_another_epoch() -> None:
    samples = made_samples(volumes=4, slices=10)
    loose = replace(samples, volumes=tuple(replace(v, kind="images") if n > 1 else v for n, v in enumerate(samples.volumes)))
    bags = Bags(loose, 8)
    epochs = [bags.deal(0, epoch).flatten() for epoch in range(12)]
    assert len({len(rows) for rows in epochs}) == 1, "every epoch has as many steps"
    images = [rows[rows >= 20] for rows in epochs]
    assert all(len(set(rows.tolist())) == len(rows) == 16 for rows in images), "none twice"
    assert set(np.concatenate(images).tolist()) == set(range(20, 40))


def test_runs_of_equal_volumes_are_cut_where_two_bags_of_one_volume_meet() -> None:
    bags = runs_of_equal(np.array([3, 3, 3, 3, 1, 3, 3]), 2)
    assert [bag.tolist() for bag in bags] == [[[4]], [[0, 1], [2, 3], [5, 6]]]


def test_slices_of_a_volume_are_moved_alike_and_images_each_in_its_way() -> None:
    samples = mixed_samples()
    objective = made_objective("joint_2d3d", 2, samples=samples, **SMALL)
    keys = objective.view_keys(made_batch(samples, [0, 1, 4, 24, 25], 2))
    assert keys[0] == keys[1] != keys[2]
    assert len(set(keys.tolist())) == 4


def test_a_bag_stays_on_one_process(make_plan: Any) -> None:
    error, _ = train_here(make_plan(objective={"joint_2d3d": SMALL | {"slices": 8}}, batch_size=12, cohort={"volumes": 4}))
    assert error is not None and "1 (devices × accumulate) × 8 slices of a volume" in str(error)
    assert "a multiple of 8, such as 8" in str(error)


# Losses


def test_the_volume_loss_is_that_of_volumes_alone() -> None:
    samples = mixed_samples()
    objective = made_objective("joint_2d3d", 2, samples=samples, slice_weight=0.0, mask_weight=0.0, **SMALL)
    memory: ClusterMemory = objective.volume_clusters
    memory.centroids.data.copy_(F.normalize(random(*memory.centroids.shape).float(), dim=2))
    memory.assignment[:] = torch.arange(8) % 2
    batch = made_batch(samples, [4, 5, 8, 9, 24, 30], 2)
    z = F.normalize(random(6, 2, 16, seed=1), dim=2)
    terms = []
    for row, volume in enumerate([1, 1, 2, 2]):
        for view in range(2):
            for head in range(2):
                s = z[row, view] @ memory.centroids[head].double().T / 0.1
                terms.append(float(torch.logsumexp(s, 0) - s[volume % 2]))
    made = {"volumes": memory(z.float())}
    assert float(objective.loss(made, batch).value.detach()) == pytest.approx(np.mean(terms), rel=1e-5)
    memory.known[:] = False
    objective.after_step({"volumes": made["volumes"].detach()}, batch, 0.0)
    assert torch.nonzero(memory.known)[:, 0].tolist() == [1, 2]
    assert torch.allclose(memory.memory[0, 2], F.normalize(z[2, 0] + z[3, 0], dim=0).float(), atol=1e-6)


def test_the_mask_loss_is_the_squared_distance_of_hidden_slices_of_volumes() -> None:
    samples = mixed_samples()
    objective = made_objective("joint_2d3d", 2, samples=samples, slice_weight=0.0, volume_weight=0.0, mask_frac=0.5, **SMALL)
    batch = made_batch(samples, [0, 1, 2, 3, 8, 9, 10, 11, 24, 25], 2)
    bags = [torch.from_numpy(bag) for bag in objective.bags_of(batch)]
    hidden = objective.hidden(batch, bags)
    assert hidden[:4].sum() == hidden[4:8].sum() == 2
    error = random(10, 2).float().square()
    wanted = np.mean([float(error[row].mean()) for row in range(8) if hidden[row]])
    assert float(objective.loss({"hidden": hidden, "mask_error": error}, batch).value) == pytest.approx(wanted, rel=1e-6)
    later = made_batch(samples, [0, 1, 2, 3, 8, 9, 10, 11, 24, 25], 2)
    later.epoch = 1
    assert (objective.hidden(later, bags) != hidden).any()
    objective.start_epoch(0, 1)
    assert (objective.hidden(batch, bags) != hidden).any()  # another seed of the run hides others
    objective.start_epoch(0, 0)
    assert torch.equal(objective.hidden(batch, bags), hidden)


def test_a_hidden_slice_is_not_seen_where_it_is_predicted() -> None:
    samples = made_samples()
    objective = made_objective("joint_2d3d", 2, slice_weight=0.0, volume_weight=0.0, **SMALL).eval()
    batch = made_batch(samples, [0, 1, 2, 3], 2)
    hidden = objective.hidden(batch, [torch.arange(4)[None]])
    seen: list[Tensor] = []
    objective.predictor.register_forward_hook(lambda module, inputs, output: seen.append(output))
    views = [torch.rand(4, 1, 16, 16), torch.rand(4, 1, 16, 16)]
    objective(views, batch)
    objective([torch.where(hidden[:, None, None, None], torch.rand_like(view), view) for view in views], batch)
    assert hidden.sum() == 1 and torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("slices", [3, 5, 7])
def test_a_slice_that_stands_twice_in_a_bag_is_hidden_in_both_places(slices: int) -> None:
    """Volumes shorter than a bag repeat slices; the twin of a hidden one would reveal it."""
    samples = made_samples(6, slices)
    objective = made_objective("joint_2d3d", 2, samples=samples, slice_weight=0.0, volume_weight=0.0, slices=8, **SMALL).eval()
    objective.bags.slices = 8
    seen: list[Tensor] = []
    objective.predictor.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for epoch in range(6):
        bag = objective.bags.deal(0, epoch)[0].tolist()
        assert len(bag) == 8 > len(set(bag))
        batch = made_batch(samples, bag, 2)
        batch.epoch = epoch
        hidden = objective.hidden(batch, [torch.arange(8)[None]])
        rows = np.array(bag)
        assert len(set(rows[hidden])) == 1 and not set(rows[hidden]) & set(rows[~hidden])
        views = [torch.rand(len(samples), 1, 16, 16)[bag] for _ in range(2)]
        objective(views, batch)
        objective([torch.where(hidden[:, None, None, None], torch.rand_like(view), view) for view in views], batch)
        assert torch.equal(seen[-2], seen[-1])


def test_each_head_clusters_the_memory_of_its_view() -> None:
    """DeepCluster-v2: head h clusters bank h mod 2."""
    memory = ClusterMemory(8, 4, clusters=2, heads=3, temperature=0.1, iterations=10)
    first, second = torch.eye(4)[:2], torch.eye(4)[2:]
    memory.memory[0], memory.memory[1] = first.repeat(4, 1), second.repeat_interleave(4, 0)
    memory.known[:] = True
    memory.start_epoch(0, 0)
    for head, own in enumerate((first, second, first)):
        assert sorted(memory.centroids[head].round().tolist()) == sorted(own.tolist())
    assert len(set(memory.assignment[0, ::2].tolist())) == 1 and len(set(memory.assignment[1, :4].tolist())) == 1


def test_prototypes_stay_during_the_first_steps_and_move_then(make_plan: Any) -> None:
    ends = []
    for frozen in (0, 1, 2):
        options = SMALL | {"clustering": "swav", "freeze_prototypes_steps": frozen}
        plan = make_plan(f"{frozen}", objective={"joint_2d3d": options}, max_steps=3, cohort=COHORT)
        error, state = train_here(plan)
        assert error is None and state is not None
        tensors = state[1]
        ends.append(next(tensor for name, tensor in tensors.items() if name.endswith("slice_clusters.weight")))
    assert not torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
    torch.manual_seed(0)
    objective = made_objective("joint_2d3d", 2, clustering="swav", freeze_prototypes_steps=1, **SMALL)
    step(objective, made_batch(made_samples(), list(range(8)), 2), (16, 16), made_samples())
    assert objective.slice_clusters.weight.grad.abs().sum() > 0
    objective.after_backward(1)
    assert objective.slice_clusters.weight.grad is not None
    objective.after_backward(0)
    assert objective.slice_clusters.weight.grad is None and objective.volume_clusters.weight.grad is None


def test_usage_of_volume_prototypes_is_that_of_volumes() -> None:
    prototypes = Prototypes(6, 8, temperature=0.1)
    scores = torch.eye(8)[[0, 0, 1, 2, 3, 4, 5, 6]][:, None].repeat(1, 2, 1)
    prototypes.remember(scores, torch.arange(8), torch.arange(8) < 2)
    assert prototypes.figures() == {"prototype_usage": 1 / 8}


def test_the_memory_pass_looks_at_every_slice_and_at_a_bag_of_each_volume() -> None:
    samples = mixed_samples()
    objective = made_objective("joint_2d3d", 2, samples=samples, **SMALL)
    order = objective.memory_order(0, 8)
    assert order[:32].tolist() == list(range(32)) and len(order) % 8 == 0
    bags = order[32:].reshape(-1, 4)
    assert set(samples.volume[bags].flatten().tolist()) == set(range(6)), "bags of volumes, whole"
    assert all(len(set(samples.volume[bag].tolist())) == 1 for bag in bags)


def test_slices_of_a_volume_are_cropped_alike_in_a_run(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys that the objective asks for reach the views, and not only the objective's own test."""
    from medssl.nn import views as module

    seen: list[tuple[np.ndarray, np.ndarray]] = []
    make = module.Views.__call__

    def watched(self: Any, batch: Any) -> Any:
        seen.append((batch.volume.numpy().copy(), np.asarray(batch.keys).copy()))
        return make(self, batch)

    monkeypatch.setattr(module.Views, "__call__", watched)
    error, _ = train_here(make_plan(objective={"joint_2d3d": SMALL}, max_steps=1, batch_size=8, cohort={"volumes": 4}))
    assert error is None and seen
    volumes, keys = seen[-1]
    assert len(set(keys.tolist())) == len(set(volumes.tolist())) < len(volumes)


def test_codes_of_volumes_share_prototypes_among_volumes_alone() -> None:
    torch.manual_seed(0)
    prototypes = Prototypes(6, 3, temperature=0.1).double()
    z = F.normalize(random(5, 2, 6), dim=2)
    chosen = torch.tensor([True, True, False, True, True])
    scores = prototypes(z)
    terms = []
    for view in range(2):
        code = sinkhorn(scores[chosen, view].detach(), epsilon=0.05, iterations=3)
        terms.append(-(code * F.log_softmax(scores[chosen, 1 - view] / 0.1, 1)).sum(1).mean())
    assert float(prototypes.loss(scores, torch.arange(5), chosen).detach()) == pytest.approx(
        float(sum(terms).detach() / 2), rel=1e-9
    )
    prototypes.weight.data *= 3
    prototypes.remember(scores, torch.arange(5), chosen)
    assert torch.allclose(prototypes.weight.norm(dim=1), torch.ones(3, dtype=torch.float64))


# Parts and stages


def test_a_part_without_weight_is_left_out() -> None:
    flat = made_objective("joint_2d3d", 2, volume_weight=0.0, mask_weight=0.0, **SMALL)
    assert not flat.parts() and not any(name.startswith(("volume", "predictor")) for name, _ in flat.named_parameters())
    loss, _ = step(flat, made_batch(made_samples(), [0, 1, 4, 5], 2), (16, 16), made_samples())
    assert set(loss.parts) == {"slice_loss"}


def test_images_alone_are_not_volumes() -> None:
    samples = made_samples()
    images = replace(samples, volumes=tuple(replace(v, kind="images") for v in samples.volumes))
    with pytest.raises(StudyError, match="0 of the training volumes"):
        made_objective("joint_2d3d", 2, samples=images)
    flat = made_objective("joint_2d3d", 2, samples=images, volume_weight=0.0, mask_weight=0.0, **SMALL)
    assert sorted(np.concatenate(flat.batches(0, 0, 8)).tolist()) == list(range(32))


def test_a_frozen_backbone_and_the_projection_stay_bit_for_bit(make_plan: Any) -> None:
    options = SMALL | {"slice_weight": 0.0, "volume_weight": 0.0, "freeze_backbone": True, "slices": 4}
    plan = make_plan(objective={"joint_2d3d": options}, max_steps=3)
    before = {name: t.clone() for name, t in plan.objective().state_dict().items()}
    error, state = train_here(plan)
    assert error is None
    for name, tensor in before.items():
        still = name.startswith(("backbone.", "volume_encoder.projection."))
        assert torch.equal(state[1]["model/" + name], tensor) or not still, name
    assert not torch.equal(state[1]["model/predictor.weight"], before["predictor.weight"])


@pytest.mark.parametrize("clustering", ["deepcluster_v2", "swav"])
def test_each_of_the_three_losses_falls_by_its_name_on_its_own_targets(clustering: str) -> None:
    # one epoch: the next one has other clusters, and DeepCluster's losses start again
    samples = made_samples()
    objective = made_objective("joint_2d3d", 2, clustering=clustering, slices=4, **SMALL)
    batches = [made_batch(samples, list(range(at, at + 16)), 2) for at in (0, 16)]
    for batch in batches:  # each volume has its own stripes
        stripes = torch.sin(torch.arange(16)[:, None] * (1 + batch.volume.float()) / 4)
        batch.stored = 0.2 * batch.stored + stripes.T[:, None, :, None]
    if objective.memory_pass:
        for batch in batches:
            with torch.no_grad():
                objective.after_step(objective([batch.stored, batch.stored], batch), batch, 0.0)
    objective.start_epoch(0, 0)
    optimizer = torch.optim.Adam((p for p in objective.parameters() if p.requires_grad), 3e-3)
    found: list[dict[str, float]] = []
    for number in range(40):
        batch = batches[number % 2]
        outputs = objective([batch.stored, batch.stored.flip(2)], batch)
        loss = objective.loss(outputs, batch)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        if not objective.memory_pass:
            with torch.no_grad():
                objective.after_step({name: out.detach() for name, out in outputs.items()}, batch, 0.0)
        found.append({name: float(value) for name, value in loss.parts.items()})
    assert set(found[0]) == {"slice_loss", "volume_loss", "mask_loss"}
    for name in found[0]:
        first, last = (sum(row[name] for row in rows) for rows in (found[:2], found[-2:]))
        assert last < 0.9 * first, (name, first, last)


@pytest.mark.parametrize("clustering", ["deepcluster_v2", "swav"])
def test_the_sum_falls_in_training_and_the_curve_has_all_parts(make_plan: Any, clustering: str) -> None:
    options = SMALL | {"slices": 4, "clustering": clustering, "freeze_prototypes_steps": 1}
    error, state = train_here(make_plan(objective={"joint_2d3d": options}, cohort={"volumes": 6}, epochs=4, lr=3e-3))
    assert error is None
    first, last = state[2]["rows"][0], state[2]["rows"][-1]
    assert last["loss"] < first["loss"]
    assert {"slice_loss", "volume_loss", "mask_loss", "slices_prototype_usage", "volumes_prototype_usage"} <= set(last)


def test_the_next_run_takes_up_encoder_transformer_and_projection(make_plan: Any, tmp_path: Path) -> None:
    from medssl.nn.state import under
    from medssl.nn.weights import save_tensors

    options = SMALL | {"slices": 4}
    _, state = train_here(make_plan("first", objective={"joint_2d3d": options}, cohort=COHORT, max_steps=2))
    before = {name: tmp_path / f"{name}.safetensors" for name in ("encoder", "parts")}
    for name, path in before.items():
        save_tensors(path, under(name, state[1]))
    last = options | {"slice_weight": 0.0, "mask_weight": 0.0}
    plan = replace(make_plan("second", objective={"joint_2d3d": last}, cohort=COHORT, seed=5), before=before)
    tensors = plan.objective().state_dict()
    for name in (n for n in tensors if n.startswith(("backbone.", "volume_encoder."))):
        assert torch.equal(tensors[name], state[1]["model/" + name]), name


def test_volumes_and_images_on_two_processes_are_one_batch_of_codes(make_plan: Any) -> None:
    from test_pretrain_world import STEPS, agree

    options = SMALL | {"slices": 4, "clustering": "swav", "freeze_prototypes_steps": 0}
    found = []
    for world in (1, 2):
        cohort = {"volumes": 6, "shape": (20, 20, 8)}
        plan = make_plan(str(world), cohort, objective={"joint_2d3d": options}, **STEPS | {"max_steps": 2, "batch_size": 16})
        kinds = [replace(v, kind="images" if n < 2 else "volume") for n, v in enumerate(plan.samples.volumes)]
        plan = replace(plan, samples=replace(plan.samples, volumes=tuple(kinds)))
        error, state = train_world(plan, world, precision="double")
        assert error is None
        found.append(state)
    agree(*found, 1e-9)
