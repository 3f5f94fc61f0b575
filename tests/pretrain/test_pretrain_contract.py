"""The battery that every objective passes, in 2-D and in 3-D, from its name alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pretraining import made_batch, made_objective, made_samples, step
from safetensors.torch import load_file, save_file

from medssl.core import plugins
from medssl.core.errors import StudyError

ROWS = [0, 1, 4, 9, 13, 17, 21, 30]
both_ranks = pytest.mark.parametrize("dims", [2, 3])
every_objective = pytest.mark.parametrize("name", plugins.names("objective"))
VARIANTS = {
    "gr": ("global_contrast", {"variant": "gr"}), "gd_minus": ("global_contrast", {"variant": "gd_minus"}),
    "ld": ("local_contrast", {"variant": "ld"}),
}  # fmt: skip
"""Forms of an objective with views, batches or terms of their own, beside the form that its defaults are."""
every_form = pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in plugins.names("objective")), *VARIANTS.values()],
    ids=[*plugins.names("objective"), *VARIANTS],
)  # fmt: skip


@every_form
@both_ranks
def test_one_step_is_finite_reaches_all_parameters_and_repeats(name: str, options: dict[str, Any], dims: int) -> None:
    samples = made_samples()
    first = None
    for _ in range(2):
        objective = made_objective(name, dims, **options)
        batch = made_batch(samples, ROWS, dims)
        stored = batch.stored.clone()
        if objective.memory_pass:
            fill_memory(objective, samples, dims)
        objective.start_epoch(0, 0)
        objective.before_step(0.0, 0)
        loss, outputs = step(objective, batch, (16,) * dims, samples)
        assert bool(loss.value.isfinite())
        assert torch.equal(batch.stored, stored)
        for parameter_name, p in objective.named_parameters():
            if p.requires_grad:
                assert p.grad is not None and bool(p.grad.isfinite().all()), parameter_name
                assert bool((p.grad != 0).any()), parameter_name
        with torch.no_grad():
            objective.after_step({n: t.detach() for n, t in outputs.items()}, batch, 0.1)
        gradients = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
        if first is not None:
            assert torch.equal(first[0], loss.value)
            assert all(torch.equal(a, b) for a, b in zip(first[1], gradients, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(first[2], objective.state_dict().values(), strict=True))
        first = (loss.value.detach(), gradients, [t.clone() for t in objective.state_dict().values()])


@every_form
@both_ranks
def test_forward_and_loss_leave_all_but_batch_statistics_alone(name: str, options: dict[str, Any], dims: int) -> None:
    samples, objective = made_samples(), made_objective(name, dims, **options)
    if objective.memory_pass:
        fill_memory(objective, samples, dims)
        objective.start_epoch(0, 0)
    before = copy.deepcopy(objective.state_dict())
    step(objective, made_batch(samples, ROWS, dims), (16,) * dims, samples)
    for key, value in objective.state_dict().items():
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(value, before[key]), key


@every_objective
@both_ranks
def test_the_state_round_trips_through_safetensors(name: str, dims: int, tmp_path: Path) -> None:
    samples, objective = made_samples(), made_objective(name, dims)
    save_file({n: t.clone() for n, t in objective.state_dict().items()}, tmp_path / "state.safetensors")
    other = made_objective(name, dims, seed=7)
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    batch = made_batch(samples, ROWS, dims)
    a, b = (step(o, batch, (16,) * dims, samples)[0].value for o in (objective, other))
    assert torch.equal(a, b)


@every_objective
def test_the_wrong_rank_is_refused_with_a_sentence(name: str) -> None:
    objective, samples = made_objective(name, 2), made_samples()
    with pytest.raises(StudyError, match=r"takes \(n, 1, h, w\)"):
        step(objective, made_batch(samples, ROWS, 3), (16, 16, 16), samples)


@every_objective
def test_the_encoder_is_the_backbone(name: str) -> None:
    objective = made_objective(name, 2)
    assert objective.encoder() is objective.backbone


@every_objective
def test_every_batch_of_an_epoch_is_whole_and_epochs_differ(name: str) -> None:
    objective = made_objective(name, 2)
    epochs = [objective.batches(0, epoch, 8) for epoch in range(2)]
    assert [len(batches) for batches in epochs] == [4, 4]
    assert all(len(set(batch.tolist())) == 8 for batches in epochs for batch in batches)
    assert any((a != b).any() for a, b in zip(*epochs, strict=True))


def fill_memory(objective: Any, samples: Any, dims: int) -> None:
    for at in range(0, len(samples), 8):
        batch = made_batch(samples, list(range(at, at + 8)), dims)
        with torch.no_grad():
            from medssl.nn.options import ViewOptions
            from medssl.nn.views import Views

            views = Views(ViewOptions(), objective.crops((16,) * dims), samples, seed=0)(batch)
            objective.after_step(objective(views, batch), batch, 0.0)
