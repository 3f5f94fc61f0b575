"""Each loss equals a slow float64 reference written from its paper; analytic limits hold."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretraining import made_batch, made_objective, made_samples
from torch import Tensor

from medssl.core.errors import StudyError
from medssl.nn.clustering import sinkhorn, spherical_kmeans
from medssl.nn.contrast import nt_xent
from medssl.nn.momentum import cosine_momentum
from medssl.nn.optimizers import LAMB, LARS, cosine_between, warmup_cosine
from medssl.nn.whitening import shuffled_group_whitening
from medssl.pretrain.learner import set_schedule
from medssl.pretrain.objectives.gsimclr import clean_batches
from medssl.pretrain.options import TrainingOptions
from medssl.pretrain.partitions import rank_within


def unit(n: int, d: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("exclude", [False, True])
def test_nt_xent_is_the_double_loop_of_the_paper(temperature: float, exclude: bool) -> None:
    a, b, volume = unit(6, 5, 0), unit(6, 5, 1), [0, 0, 1, 1, 1, 2]
    everyone, terms = torch.cat([a, b]), []
    for i in range(12):
        partner = (i + 6) % 12
        allowed = [k for k in range(12) if k != i and (k == partner or not exclude or volume[k % 6] != volume[i % 6])]
        denominator = sum(math.exp(float(everyone[i] @ everyone[k]) / temperature) for k in allowed)
        terms.append(-math.log(math.exp(float(everyone[i] @ everyone[partner]) / temperature) / denominator))
    found = nt_xent(a.float(), b.float(), temperature=temperature, volume=torch.tensor(volume) if exclude else None)
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-5)


def test_nt_xent_is_finite_at_a_low_temperature_where_plain_exponentials_are_not() -> None:
    z = unit(8, 4, 0).float()
    assert math.isfinite(float(nt_xent(z, z, temperature=1e-3)))
    assert not math.isfinite(float(torch.exp(z @ z.T / 1e-3).sum()))


@pytest.mark.parametrize("name", ["simclr", "gsimclr", "moco"])
def test_negatives_of_other_volumes_need_other_volumes(name: str) -> None:
    with pytest.raises(StudyError, match="are of 1"):
        made_objective(name, 2, samples=made_samples(volumes=1), exclude_same_volume=True)
    made_objective(name, 2, samples=made_samples(volumes=2), exclude_same_volume=True)


def test_moco_tells_its_key_from_the_queue() -> None:
    samples = made_samples()
    objective = made_objective("moco", 2, queue=10, projector=(16, 6), temperature=0.3)
    batch = made_batch(samples, [0, 1, 2, 3], 2)
    q, k = unit(4, 6, 2), unit(4, 6, 3)
    objective.queue_row[:4] = torch.tensor([0, 9, 2, 9])
    terms = []
    for i in range(4):
        positive = math.exp(float(q[i] @ k[i]) / 0.3)
        negative = [
            math.exp(float(q[i] @ objective.queue[j].double()) / 0.3) for j in range(10) if int(objective.queue_row[j]) != i
        ]
        terms.append(-math.log(positive / (positive + sum(negative))))
    found = objective.loss({"query": q.float(), "key": k.float()}, batch).value
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-5)


def test_the_queue_forgets_the_oldest_first_and_knows_its_age() -> None:
    samples, objective = made_samples(), made_objective("moco", 2, queue=10, projector=(16, 6))
    for number in range(3):
        objective.before_step(0.0, number)
        keys = torch.full((4, 6), float(number))
        objective.after_step({"key": keys}, made_batch(samples, [4 * number + i for i in range(4)], 2), 0.0)
    assert objective.queue[:, 0].tolist() == [2, 2, 0, 0, 1, 1, 1, 1, 2, 2]
    assert objective.queue_row.tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert objective.figures() == {"queue_age": pytest.approx((2 * 2 + 4 * 1) / 10), "queue_filled": 1.0}


def test_the_key_network_follows_with_its_running_statistics() -> None:
    objective = made_objective("byol", 2, projector=(16, 6), predictor_hidden=8, momentum=0.9)
    before = objective.target[0].bn1.running_mean.clone()
    objective.backbone.bn1.running_mean += 1.0
    objective.after_step({}, made_batch(made_samples(), [0, 1], 2), 0.0)
    assert torch.allclose(objective.target[0].bn1.running_mean, before + 0.1)


def test_byol_is_the_squared_distance_of_unit_vectors_both_ways() -> None:
    p_a, p_b, t_a, t_b = (unit(5, 7, s) for s in range(4))
    objective = made_objective("byol", 2, projector=(16, 6), predictor_hidden=8)
    outputs = {"prediction_a": p_a, "prediction_b": p_b, "target_a": t_a, "target_b": t_b}
    reference = sum(float((p_a[i] - t_b[i]).square().sum() + (p_b[i] - t_a[i]).square().sum()) for i in range(5)) / 5
    found = objective.loss({n: v.float() for n, v in outputs.items()}, made_batch(made_samples(), [0, 1, 2, 3, 4], 2)).value
    assert float(found) == pytest.approx(reference, rel=1e-6)


def test_the_momentum_goes_from_its_start_to_one_at_the_true_end() -> None:
    assert [cosine_momentum(0.996, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.996, 0.998, 1.0])


def reference_sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The pseudo-code of SwAV's appendix A.1, in plain exponentials."""
    q = torch.exp(scores.double() / epsilon).T
    q /= q.sum()
    k, b = q.shape
    for _ in range(iterations):
        q /= q.sum(1, keepdim=True) * k
        q /= q.sum(0, keepdim=True) * b
    return (q * b).T


def test_sinkhorn_is_the_papers() -> None:
    scores = unit(12, 4, 0) @ unit(7, 4, 1).T
    assert torch.allclose(sinkhorn(scores, epsilon=0.05, iterations=3), reference_sinkhorn(scores, 0.05, 3), atol=1e-10)


def test_sinkhorn_gives_equal_shares_in_the_limit_and_uniform_codes_for_uniform_scores() -> None:
    codes = sinkhorn(unit(12, 4, 0) @ unit(6, 4, 1).T, epsilon=0.1, iterations=500)
    assert torch.allclose(codes.sum(1), torch.ones(12, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(codes.sum(0), torch.full((6,), 2.0, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(sinkhorn(torch.zeros(5, 4), epsilon=0.05, iterations=3), torch.full((5, 4), 0.25))


def test_sinkhorn_survives_scores_whose_exponentials_do_not() -> None:
    assert bool(sinkhorn(100 * unit(8, 4, 0).float(), epsilon=0.05, iterations=3).isfinite().all())


def test_swav_predicts_each_code_from_all_other_crops() -> None:
    objective = made_objective("swav", 2, prototypes=5, projector=(16, 6), small_crops=2, epsilon=0.3)
    scores = (unit(4 * 4, 6, 0) @ unit(5, 6, 1).T).view(4, 4, 5)
    total = []
    for code_view in range(2):
        q = reference_sinkhorn(scores[:, code_view], 0.3, 3)
        for other in range(4):
            if other != code_view:
                for i in range(4):
                    p = torch.exp(scores[i, other] / 0.1) / torch.exp(scores[i, other] / 0.1).sum()
                    total.append(-float((q[i] * p.log()).sum()))
    found = objective.loss({"scores": scores.float()}, made_batch(made_samples(), [0, 1, 2, 3], 2)).value
    assert float(found) == pytest.approx(np.mean(total), rel=1e-5)


def test_prototypes_are_frozen_for_iterations_not_epochs() -> None:
    objective = made_objective("swav", 2, freeze_prototypes_steps=3)
    for number in range(5):
        objective.prototypes.weight.grad = torch.ones_like(objective.prototypes.weight)
        objective.after_backward(number)
        assert (objective.prototypes.weight.grad is None) == (number < 3)


def test_prototypes_are_frozen_for_a_hundredth_of_the_run_by_default() -> None:
    objective = made_objective("swav", 2)
    for number in range(300):
        objective.before_step(number / 300, number)
        objective.prototypes.weight.grad = torch.ones_like(objective.prototypes.weight)
        objective.after_backward(number)
        assert (objective.prototypes.weight.grad is None) == (number < 3)


def test_deepcluster_classifies_by_centroids_and_passes_over_unknown_samples() -> None:
    objective = made_objective("deepcluster_v2", 2, prototypes=4, heads=2, projector=(16, 6), temperature=0.2)
    objective.clusters.centroids.copy_(torch.stack([unit(4, 6, 5), unit(4, 6, 6)]))
    objective.clusters.assignment[0, :4] = torch.tensor([0, 1, -100, 3])
    objective.clusters.assignment[1, :4] = torch.tensor([2, -100, -100, 1])
    z, terms = unit(8, 6, 7).view(4, 2, 6), []
    for head in range(2):
        for i in range(4):
            for view in range(2):
                target = int(objective.clusters.assignment[head, i])
                if target >= 0:
                    s = z[i, view] @ objective.clusters.centroids[head].double().T / 0.2
                    terms.append(-float(s[target] - torch.logsumexp(s, 0)))
    found = objective.loss({"z": z.float()}, made_batch(made_samples(), [0, 1, 2, 3], 2)).value
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-5)


def test_the_memory_is_keyed_by_the_global_sample_number() -> None:
    samples, objective = made_samples(), made_objective("deepcluster_v2", 2, projector=(16, 6))
    z = unit(6, 6, 0).float().view(3, 2, 6)
    objective.after_step({"z": z}, made_batch(samples, [30, 2, 17], 2), 0.0)
    assert torch.equal(objective.clusters.memory[0, [30, 2, 17]], z[:, 0]) and torch.equal(
        objective.clusters.memory[1, [30, 2, 17]], z[:, 1]
    )
    assert sorted(torch.nonzero(objective.clusters.known)[:, 0].tolist()) == [2, 17, 30]


def test_spherical_kmeans_finds_separate_directions_with_unit_centroids() -> None:
    axes = torch.eye(5).repeat_interleave(20, 0)
    x = F.normalize(axes + 0.05 * torch.randn(100, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    best = 0.0
    for seed in range(5):
        centroids, assignment = spherical_kmeans(x, 5, iterations=10, seed=seed, names=("test",))
        assert torch.allclose(centroids.norm(dim=1), torch.ones(5))
        best = max(best, float((x * centroids[assignment]).sum(1).mean()))
    assert best > 0.99


def test_a_paper_deck_has_as_many_clean_batches_as_its_smallest_cluster_has_members() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(3, 30, 8)
    cluster = random.permutation(np.repeat(np.arange(8), sizes))
    objective = made_objective("gsimclr", 2, samples=made_samples(1, len(cluster)), deck="paper")
    objective.cluster.copy_(torch.from_numpy(cluster))
    batches = objective.batches(0, 0, 8)
    clean = [len(set(cluster[b])) == 8 for b in batches]
    assert sum(clean) == sizes.min()
    assert len(np.unique(np.concatenate(batches))) == 8 * len(batches)
    assert rank_within(np.array([3, 1, 3, 3, 1])).tolist() == [0, 0, 1, 2, 1]


def test_resampled_batches_are_all_clean_and_cover_small_clusters_before_repeating() -> None:
    random = np.random.default_rng(1)
    cluster = np.repeat(np.arange(20), random.integers(2, 60, 20))
    batches = clean_batches(cluster, 8, len(cluster) // 8, np.random.default_rng(2))
    assert all(len(set(cluster[b])) == 8 for b in batches)
    drawn = np.bincount(np.concatenate(batches), minlength=len(cluster))
    for c in range(20):
        assert drawn[cluster == c].max() - drawn[cluster == c].min() <= 1


def test_whitened_groups_are_uncorrelated_and_channels_keep_their_places() -> None:
    z = unit(400, 12, 0) @ torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    white = shuffled_group_whitening(z, 3, step=5, eps=0.0)
    from medssl.core.rng import rng

    for group in np.split(rng(0, "whitening", 5, 0).permutation(12), 3):
        part = white[:, torch.from_numpy(group)]
        assert torch.allclose(part.T @ part / 400, torch.eye(4, dtype=torch.float64), atol=1e-8)
    alone = shuffled_group_whitening(z, 12, step=9, eps=0.0)
    assert torch.allclose(alone, (z - z.mean(0)) / z.std(0, correction=0), atol=1e-10)


def test_whitening_has_a_right_gradient_also_where_eigenvalues_coincide() -> None:
    z = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: shuffled_group_whitening(x, 2, step=0), z)
    twin = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64, requires_grad=True)
    shuffled_group_whitening(twin, 1, step=0, eps=0.0).pow(3).sum().backward()
    assert twin.grad is not None and bool(twin.grad.isfinite().all())


def test_the_schedule_is_zero_one_zero() -> None:
    assert [warmup_cosine(s, 100, 0.1) for s in (0, 10, 100)] == pytest.approx([0.0, 1.0, 0.0])
    assert warmup_cosine(100, 100, 0.1, 0.2) == pytest.approx(0.2)


def test_lars_and_lamb_scale_a_step_by_the_norms() -> None:
    w, g = unit(4, 3, 0) * 2, unit(4, 3, 1)
    p = torch.nn.Parameter(w.clone())
    p.grad = g.clone()
    LARS([{"params": [p], "weight_decay": 0.1}], lr=0.5, momentum=0.9, trust=0.01).step()
    trust = 0.01 * w.norm() / (g.norm() + 0.1 * w.norm() + 1e-9)
    assert torch.allclose(p.detach(), w - 0.5 * trust * (g + 0.1 * w))
    p = torch.nn.Parameter(w.clone())
    p.grad = g.clone()
    LAMB([{"params": [p], "weight_decay": 0.1}], lr=0.5, eps=1e-6).step()
    r = g / (g.abs() + 1e-6) + 0.1 * w
    assert torch.allclose(p.detach(), w - 0.5 * (w.norm() / r.norm()) * r, atol=1e-6)


@pytest.mark.parametrize("optimizer", [LARS, LAMB])
def test_a_closure_gives_the_gradients_of_the_step_it_is_handed_to(optimizer: type[torch.optim.Optimizer]) -> None:
    target, moved = unit(4, 3, 1), {}
    for way in ("before", "closure"):
        p = torch.nn.Parameter(unit(4, 3, 0))
        made = optimizer([p], lr=0.5)

        def loss(p: torch.nn.Parameter = p) -> float:
            value = (p - target).square().sum()
            value.backward()
            return value.item()

        if way == "closure":
            assert made.step(loss) == float((unit(4, 3, 0) - target).square().sum())
        else:
            loss()
            assert made.step() is None
        moved[way] = p.detach()
    assert torch.equal(moved["before"], moved["closure"])
    assert not torch.equal(moved["closure"], unit(4, 3, 0))


def test_the_weight_decay_goes_from_the_first_to_the_final_value_along_half_a_cosine() -> None:
    shares = [0.0, 0.25, 0.5, 0.75, 1.0, 2.0]
    halves = [0.0, (2 - math.sqrt(2)) / 4, 0.5, (2 + math.sqrt(2)) / 4, 1.0, 1.0]
    assert [cosine_between(0.04, 0.2, share) for share in shares] == pytest.approx([0.04 + 0.16 * half for half in halves])
    assert [cosine_between(0.2, 0.04, share) for share in shares] == pytest.approx([0.2 - 0.16 * half for half in halves])


def test_a_run_gives_the_final_weight_decay_to_what_decays_and_to_nothing_else() -> None:
    options = TrainingOptions(weight_decay=0.04, final_weight_decay=0.2)
    groups = [{"decays": True, "weight_decay": 0.04, "share": 1.0}, {"decays": False, "weight_decay": 0.0, "share": 1.0}]
    optimizer = SimpleNamespace(param_groups=groups)
    for step, wanted in ((0, 0.04), (5, 0.12), (10, 0.2)):
        set_schedule(optimizer, options, step, 10)
        assert [group["weight_decay"] for group in groups] == pytest.approx([wanted, 0.0])
