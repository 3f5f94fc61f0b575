"""Laws of the recipe and the loop."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medssl.artefacts.names import Arm, Start
from medssl.core.errors import NotFiniteError
from medssl.core.progress import progress
from medssl.finetune import training
from medssl.finetune.fitting import Work
from medssl.finetune.lifting import Lift
from medssl.finetune.mixup import mixup
from medssl.finetune.options import TaskOptions
from medssl.finetune.plan import plan
from medssl.finetune.recipe import Recipe
from medssl.finetune.run import Ahead
from medssl.finetune.saving import Saving, Steps
from medssl.finetune.scoring import measure, score
from medssl.finetune.starting import Starting, draws_of_scratch
from medssl.finetune.subsets import shares_of
from medssl.finetune.whole_images import ImageHead
from medssl.nn.backbone import build, pooled

NARROW = {"stem": "small", "width": 0.125}


def network(seed: int = 0) -> ImageHead:
    with training.seeded(seed, "test"):
        return ImageHead(build("resnet18", NARROW, 2, 1), 3)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.rand(8, 1, 16, 16, generator=generator), torch.randint(0, 3, (8,), generator=generator)


def batches(steps: Iterable[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return map(batch, steps)


cross_entropy = torch.nn.functional.cross_entropy


def test_rate_warms_up_peaks_and_ends_near_zero() -> None:
    rates = [Recipe(warmup_frac=0.1).lr_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == 1.0
    assert rates[-1] < 0.001
    assert np.all(np.diff(rates[10:]) < 0)


def test_unfreezing_follows_the_published_protocol() -> None:
    """70 epochs of one step: frozen for 10, a tenth of the rate at the 11th, doubled each epoch until equal."""
    shares = [Recipe(frozen_frac=10 / 70).unfrozen_at(step, 70) for step in range(70)]
    assert shares[:10] == [0.0] * 10
    assert shares[10:15] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0])
    assert set(shares[15:]) == {1.0}


def test_the_last_step_is_always_evaluated() -> None:
    for steps in (1, 2, 7, 100):
        assert Recipe(evaluations=8).evaluation_steps(steps)[-1] == steps


def test_the_network_ends_with_the_weights_of_its_best_step() -> None:
    model, seen = network(), []

    def score(current: torch.nn.Module) -> float:
        seen.append(current.head.weight.detach().clone())
        return [0.1, 0.9, 0.5, 0.9][len(seen) - 1]

    trained = training.Fit(model, batches, cross_entropy, score, Recipe(evaluations=4), 4).run()
    assert (trained.best_step, trained.best_score) == (2, 0.9)
    assert torch.equal(model.head.weight, seen[1])


def test_a_fit_that_resumes_says_which_steps_an_earlier_try_did(tmp_path: Path) -> None:
    def cut_short(steps: Iterable[int]) -> Iterator[Any]:
        yield from itertools.islice(batches(steps), 2)
        raise InterruptedError

    told: list[Steps] = []
    for given in (cut_short, batches):
        told.clear()
        fit = training.Fit(
            network(), given, cross_entropy, lambda _: float("nan"), Recipe(calibration_batches=1, evaluations=1), 4,
            saving=Saving(tmp_path, 0.0), report=told.append,
        )  # fmt: skip
        with contextlib.suppress(InterruptedError):
            fit.run()
    assert told[0] == Steps(2, earlier=True) and not any(steps.earlier for steps in told[1:])
    assert sum(steps.done for steps in told) == 4


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_task_is_as_far_as_its_fits_with_every_rate_and_round(rounds: int) -> None:
    work = Work.__new__(Work)
    work.task, work.recipe = SimpleNamespace(self_training_rounds=rounds), Recipe(lr=[1e-3, 1e-4])
    work.num_steps = lambda fit: 10  # type: ignore[method-assign, assignment]
    one, other = "one", "other"
    assert work.length(one) == 20 * (1 + rounds) + 1
    with progress("t", 2 * work.length(one), "steps", log=io.StringIO()) as bar:
        ahead = Ahead(bar, work, 2)
        ahead.steps(one, Steps(12, earlier=True))
        ahead.steps(one, Steps(8))
        ahead.steps(other, Steps(1000))
        assert bar.done == 20 + work.length(other) - 1 and bar.how_far(0.0).before == 12
        ahead.ended(one, 0.5)
        ahead.ended(other, 0.5)
        assert bar.done == bar.total


def test_frozen_mode_leaves_all_of_the_backbone() -> None:
    model = network()
    model.head = torch.nn.Sequential(torch.nn.BatchNorm1d(model.head.in_features), model.head)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training.Fit(model, batches, cross_entropy, lambda _: float("nan"), Recipe(), 3, mode="frozen").run()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"} | {
        f"head.0.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_layer_decay_gives_deeper_blocks_the_larger_rate() -> None:
    model = network()
    share = {id(p): g["share"] for g in training.parameter_groups(model, Recipe(layer_decay=0.5)) for p in g["params"]}
    named = dict(model.named_parameters())
    assert share[id(named["head.weight"])] == 1
    assert share[id(named["backbone.layer4.0.conv1.weight"])] == 0.5
    assert share[id(named["backbone.layer1.0.conv1.weight"])] == 0.5**4
    assert len(share) == len(named)


@pytest.mark.parametrize(
    ("name", "options", "stage"),
    [
        ("convnext_tiny", {"width": 0.05}, "stages.{}.blocks.0.conv_dw.weight"),
        ("resenc", {"features": (4, 4, 4, 4), "blocks": (1, 1, 1, 1)}, "encoder.stages.{}.blocks.0.conv1.conv.weight"),
    ],
)
def test_layer_decay_knows_the_stages_of_every_backbone(name: str, options: dict, stage: str) -> None:
    model = torch.nn.Module()
    model.backbone, model.head = build(name, options, 2, 1), torch.nn.Linear(2, 2)
    share = {id(p): g["share"] for g in training.parameter_groups(model, Recipe(layer_decay=0.5)) for p in g["params"]}
    named = dict(model.named_parameters())
    assert [share[id(named["backbone." + stage.format(m)])] for m in range(4)] == [0.5**4, 0.5**3, 0.5**2, 0.5]
    stems = [share[id(p)] for n, p in named.items() if "stem" in n]
    assert stems and set(stems) == {0.5**5}


def test_biases_and_norms_are_not_decayed() -> None:
    for group in training.parameter_groups(network(), Recipe(weight_decay=0.3)):
        assert group["weight_decay"] == (0.3 if all(p.ndim > 1 for p in group["params"]) else 0.0)


def test_a_loss_that_is_not_finite_stops_with_a_sentence() -> None:
    with pytest.raises(NotFiniteError, match="step 1 of 3"):
        training.Fit(network(), batches, lambda out, _: out.sum() * float("nan"), lambda _: 0.0, Recipe(), 3).run()


def test_an_epoch_shows_every_case_once() -> None:
    row = np.concatenate([training.order(10, 4, 0, step) for step in range(10)])
    for epoch in range(4):
        assert sorted(row[epoch * 10 : epoch * 10 + 10]) == list(range(10))


def test_torch_generator_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    with training.seeded(0, "a"):
        first = torch.rand(3)
    with training.seeded(0, "a"):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_mixup_draws_a_share_for_each_image_and_keeps_the_sum_of_the_targets() -> None:
    targets = torch.eye(8)
    mixed, soft = mixup(targets[..., None, None], targets, 0.4, 0, 5)
    assert torch.allclose(soft.sum(1), torch.ones(8)) and torch.equal(mixed[..., 0, 0], soft)
    own = soft.diagonal()
    assert len(set(own[own < 1].tolist())) > 4  # one share for the batch would be one number


def test_max_steps_is_the_length_whatever_the_labels_and_epochs_only_where_it_alone_is_given() -> None:
    assert {Recipe(max_steps=4000, epochs=epochs).steps(count) for epochs in (None, 1, 30) for count in (1, 500)} == {4000}
    assert [Recipe(epochs=3, batch_size=8).steps(count) for count in (1, 8, 9)] == [3, 3, 6]
    with pytest.raises(ValueError, match="max_steps or epochs"):
        Recipe().steps(1)


def test_a_task_has_a_length_of_its_own_where_the_study_gives_none() -> None:
    given = [
        TaskOptions(source="s", task=task, **length)
        for task in ("classification", "segmentation")
        for length in ({}, {"epochs": 2})
    ]
    assert [(options.max_steps, options.epochs) for options in given] == [(1000, None), (None, 2), (2000, None), (None, 2)]


def test_the_last_step_is_kept_where_too_few_choose() -> None:
    scores = iter([0.9, 0.2, 0.5] * 2)
    for choose, step, best in ((True, 1, 0.9), (False, 3, 0.5)):
        trained = training.Fit(
            network(), batches, cross_entropy, lambda _: next(scores), Recipe(evaluations=3), 3, choose=choose
        ).run()
        assert (trained.best_step, trained.best_score) == (step, best)


def test_the_running_mean_is_scored_and_kept() -> None:
    """Of weights w1 … wn under decay d from w0: the closed form, with weights taken from a run without it."""
    decay, steps, seen = 0.6, 4, []
    plain = network()
    start = [p.detach().clone() for p in plain.parameters()]
    path: list[list[torch.Tensor]] = []
    recipe = Recipe(evaluations=4, calibration_batches=0)
    training.Fit(
        plain,
        batches,
        cross_entropy,
        lambda now: path.append([p.detach().clone() for p in now.parameters()]) or 0.0,
        recipe,
        steps,
    ).run()
    mean = network()
    training.Fit(
        mean, batches, cross_entropy, lambda now: seen.append(now) or 0.0, recipe.model_copy(update={"ema_decay": decay}), steps,
        choose=False,
    ).run()  # fmt: skip
    for number, parameter in enumerate(mean.parameters()):
        expected = start[number] * decay**steps + sum(
            (1 - decay) * decay ** (steps - 1 - step) * path[step][number] for step in range(steps)
        )
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-6)
    assert all(one is not mean for one in seen)


class DropOut(torch.nn.Module):
    """A classifier that draws in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = network().backbone
        self.head = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(64, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(pooled(self.backbone(images)))


class StoppedError(Exception):
    """What ends a fit midway."""


@pytest.mark.parametrize("changed", [{}, {"ema_decay": 0.5}, {"clip_norm": 0.1}, {"precision": "bf16"}])
@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_fit_that_was_stopped_resumes_and_ends_with_the_same_bits(changed: dict, stop_at: int, tmp_path: Path) -> None:
    """Stopped in a step, resumed from the state of the one before, by a process that drew other numbers in between."""
    scores = {2: 0.3, 4: 0.9, 6: float("nan")}
    recipe = Recipe(evaluations=3, calibration_batches=2, **changed)

    def made(saving: Saving | None, stop_at: int = 99) -> tuple[training.Trained, dict[str, torch.Tensor]]:
        torch.manual_seed(5)
        model, taken = DropOut(), []

        def batches(steps: Iterable[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for step in steps:
                if step == stop_at:
                    raise StoppedError
                taken.append(step)
                yield batch(step)

        def score(current: torch.nn.Module) -> float:
            return scores[1 + max(step for step in taken if step < 6)]

        torch.manual_seed(stop_at)
        trained = training.Fit(model, batches, cross_entropy, score, recipe, 6, seed=3, saving=saving).run()
        assert saving is None or min(taken) == (saving.first or 0)
        return trained, model.state_dict()

    class Counted(Saving):
        first = None

        def resume(self, fit: training.Fit) -> None:
            super().resume(fit)
            self.first = fit.progress.step

    whole, weights = made(None)
    with pytest.raises(StoppedError):
        made(Counted(tmp_path, 0.0), stop_at)
    going_on = Counted(tmp_path, 0.0)
    again, same = made(going_on)
    assert going_on.first == stop_at
    assert str(again) == str(whole)
    assert [name for name, tensor in weights.items() if not torch.equal(tensor, same[name])] == []


def test_a_gradient_is_not_longer_than_clip_norm() -> None:
    """One step of AdamW from gradients of any length is the same, so the law is held on what the optimiser is given."""
    seen: list[float] = []

    class Noted(training.Stepper):
        def update(self, norm: torch.Tensor) -> None:
            taken = self.optimizer.step
            self.optimizer.step = lambda: seen.append(float(self.figures(norm)[1])) or taken()
            super().update(norm)
            self.optimizer.step = taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Stepper", Noted)
        for clip_norm in (None, 0.05):
            training.Fit(network(), batches, cross_entropy, lambda _: 0.0, Recipe(clip_norm=clip_norm), 3).run()
    assert min(seen[:3]) > 0.05 and seen[3:] == pytest.approx([0.05] * 3, rel=1e-3)


def test_bf16_computes_in_bf16_and_keeps_and_scores_weights_in_float32() -> None:
    inside: set[torch.dtype] = set()
    model = network()
    model.backbone.conv1.register_forward_hook(lambda *given: inside.add(given[2].dtype))

    def score(current: torch.nn.Module) -> float:
        inside.clear()
        with torch.no_grad():
            current(batch(0)[0])
        assert inside == {torch.float32}
        return 0.0

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert inside == {torch.bfloat16} and logits.dtype == torch.float32
        inside.clear()
        return cross_entropy(logits, targets)

    training.Fit(model, batches, loss, score, Recipe(precision="bf16", evaluations=1, calibration_batches=0), 2).run()
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_macro_auc_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 4, 80)
    values = generator.random((80, 4)).round(1)
    values /= values.sum(1, keepdims=True)
    expected = roc_auc_score(truth, values, multi_class="ovr", average="macro")
    assert score(values, np.eye(4)[truth]) == pytest.approx(expected, abs=1e-12)


def test_a_score_is_what_its_name_says() -> None:
    values, targets = np.array([[0.2, 0.8], [0.6, 0.4]]), np.eye(2)
    assert measure(targets) == "macro AUC" and score(values, targets) == 0
    for one_class in (targets[[1]], targets[[0, 0]]):
        assert measure(one_class) == "negative log loss"
        of_truth = (values[: len(one_class)] * one_class).sum(axis=1)
        assert score(values[: len(one_class)], one_class) == pytest.approx(np.log(of_truth).mean())
    assert measure(targets[:0]) is None and np.isnan(score(values[:0], targets[:0]))


def test_ids_of_fits_are_distinct_names() -> None:
    scratch = Start(Arm.of_scratch("resnet18"))
    starts = [Start.of_run("simclr-hash-seed0"), Start.of_run("simclr-hash-seed1"), scratch]
    fits = plan(starts, ["linear", "full"], shares_of([0.05, 0.5, 1.0], [1, 6], 100), [0, 1])
    assert len({str(fit) for fit in fits}) == len(fits) == 3 * 2 * 5 * 2
    assert len(plan(starts, ["full"], shares_of([1.0], [], 100), [0], [0, 1, 2])) == 9, "a fit for each fold"


def test_paired_seeds_give_scratch_as_many_fits_as_an_arm() -> None:
    starts = [Start.of_run(f"simclr-hash-seed{seed}") for seed in (0, 1, 2)] + [Start(Arm.of_scratch("resnet18"))]
    fits = plan(starts, ["full"], shares_of([1.0], [], 100), [0, 1, 2], pair_seeds=True)
    arm = [(fit.start.seed, fit.seed) for fit in fits if fit.start.arm.is_run]
    assert arm == [(0, 0), (1, 1), (2, 2)]
    assert [fit.seed for fit in fits if fit.start.arm.is_scratch] == [0, 1, 2]


def test_calibrated_statistics_are_those_of_the_batches() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    batches = [torch.rand(5, 1, 8, 8) * n for n in (1, 2, 3)]
    training.calibrate(model, iter(batches))
    with torch.no_grad():
        maps = [model[0](batch).movedim(1, 0).flatten(1) for batch in batches]
    assert torch.allclose(model[1].running_mean, torch.stack([m.mean(1) for m in maps]).mean(0), atol=1e-5)
    assert torch.allclose(model[1].running_var, torch.stack([m.var(1) for m in maps]).mean(0), atol=1e-5)
    assert model[1].momentum == 0.1
    before = model[1].running_mean.clone()
    training.calibrate(model, iter([]))
    assert torch.equal(model[1].running_mean, before)


def test_random_weights_are_drawn_as_often_as_pretrained_ones() -> None:
    learnt = [Start.of_run(f"simclr-all-seed{seed}") for seed in range(3)]
    assert draws_of_scratch(learnt, [0]) == [0, 1, 2]
    assert draws_of_scratch(learnt, [0, 1, 2]) == [None]  # each of these seeds has a new draw
    assert draws_of_scratch(learnt[:1], [0]) == draws_of_scratch([], [0]) == [None]

    contract = {
        "backbone": "resnet18",
        "backbone_options": {"width": 0.125, "stem": "small"},
        "spatial_dims": 2,
        "in_channels": 1,
    }
    starts = [Start(Arm.of_scratch("resnet18"), draw) for draw in (0, 1, None)]
    starting = Starting(starts, {str(start): contract for start in starts}, {}, {}, Lift.of("own", {}))
    weights = [starting.backbone(start, 0).conv1.weight.detach().clone() for start in [*starts, starts[0]]]
    assert torch.equal(weights[0], weights[3])
    assert not any(torch.equal(weights[a], weights[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
