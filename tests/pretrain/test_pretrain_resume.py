"""A run that was stopped anywhere ends with the weights of one that was not."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import pytest
import torch
from pretraining import TRANSFORMER, train_forked, train_here
from test_pretrain_world import SMALL, cohort_of

from medssl.nn import loading


def same(a: Any, b: Any) -> None:
    (step_a, tensors_a, values_a), (step_b, tensors_b, values_b) = a, b
    assert step_a == step_b
    assert tensors_a.keys() == tensors_b.keys()
    assert [n for n in tensors_a if not torch.equal(tensors_a[n], tensors_b[n])] == []
    for row_a, row_b in zip(values_a["rows"], values_b["rows"], strict=True):
        assert {k: v for k, v in row_a.items() if k != "images_per_s"} == {k: v for k, v in row_b.items() if k != "images_per_s"}


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_stopped_run_ends_like_an_unstopped_one(make_plan: Any, signal_number: int, num_kills: int) -> None:
    whole = train_here(make_plan("whole"))[1]
    steps = whole[0]
    for trial in range(num_kills if signal_number == signal.SIGKILL else 1):
        at = random.Random(trial).randrange(1, steps)
        plan = make_plan(f"stopped{trial}")
        status = train_forked(plan, lambda pid, done, at=at: os.kill(pid, signal_number) if done >= at * 8 else None)
        if signal_number == signal.SIGKILL:
            assert os.WIFSIGNALED(status)
        else:
            assert os.waitstatus_to_exitcode(status) == 75
        error, resumed = train_here(plan)
        assert error is None
        same(whole, resumed)


@pytest.mark.parametrize(
    ("objective", "options", "settings"),
    [
        *[(name, {}, {}) for name in sorted(SMALL)],
        ("byol", {}, {"optimizer": "lars", "ema_decay": 0.9}),
        ("simclr", {}, {"optimizer": "lamb", "accumulate": 2}),
        ("joint_2d3d", {"dropout": 0.3}, {"accumulate": 2}),
        ("simclr", {}, {"spatial_dims": 3, "size": [16, 16, 4]}),
        ("deepcluster_v2", {}, {"spatial_dims": 3, "size": [16, 16, 4]}),
    ],
)
def test_every_objective_resumes_within_its_second_epoch_as_if_never_stopped(
    make_plan: Any, objective: str, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    chosen = {"objective": {objective: SMALL[objective] | options}, "batch_size": 16, "max_steps": 6, **settings}

    def plan(state: str) -> Any:
        return make_plan(state, cohort_of(objective), checkpoint_every_s=60.0, **chosen)

    error, whole = train_here(plan("whole"))
    assert error is None and whole[0] == 6
    error, stopped = train_here(
        plan("stopped"), after=lambda bar: os.kill(os.getpid(), signal.SIGTERM) if bar.done == 80 else None
    )
    assert error is not None and error.exit_code == 75 and stopped[0] == 5
    same(whole, train_here(plan("stopped"))[1])


def test_the_bar_of_a_resumed_run_continues_where_it_was(make_plan: Any) -> None:
    seen: list[tuple[int, int]] = []
    plan = make_plan("stopped")
    train_here(plan, after=lambda bar: os.kill(os.getpid(), signal.SIGTERM) if bar.done == 24 else None)
    train_here(plan, after=lambda bar: seen.append((bar.done, bar.total)))
    assert seen == [(done, 72) for done in range(32, 73, 8)]


def test_a_state_that_is_cut_short_is_passed_over_for_the_one_before(make_plan: Any) -> None:
    whole = train_here(make_plan("whole"))[1]
    plan = make_plan("cut")

    def stop(bar: Any) -> None:
        if bar.done >= 40:
            os.kill(os.getpid(), signal.SIGTERM)

    error, _ = train_here(plan, after=stop)
    assert error is not None and error.exit_code == 75
    states = sorted(plan.state.glob("*.safetensors"))
    assert len(states) == 2
    states[-1].write_bytes(states[-1].read_bytes()[:1000])
    same(whole, train_here(plan)[1])


def test_the_deadline_of_the_job_stops_and_saves(make_plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1")
    error, state = train_here(make_plan("late"))
    assert error is not None and error.exit_code == 75
    assert state[0] == 1
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    same(train_here(make_plan("whole"))[1], train_here(make_plan("late"))[1])


def test_workers_do_not_change_a_run(make_plan: Any) -> None:
    same(train_here(make_plan("none"))[1], train_here(make_plan("two", workers=2))[1])


HIDDEN_PATCHES = {
    "objective": {"dino": SMALL["dino"] | {"patch_weight": 1.0, "drop_path": 0.5}},
    "backbone": {"vit": TRANSFORMER | {"pool": "class_and_mean", "layer_scale": 1.0}},
}


@pytest.mark.parametrize("objective", [{}, {"objective": {"spark": {"drop_path": 0.5}}}, HIDDEN_PATCHES])
def test_activation_checkpointing_does_not_change_a_run(make_plan: Any, objective: dict[str, Any]) -> None:
    """Neither where a pass depends on more than its images: on the patches that it sees, the branches that it leaves out."""
    again = make_plan("again", activation_checkpointing=True, **objective)
    same(train_here(make_plan("kept", **objective))[1], train_here(again)[1])


@pytest.mark.parametrize("spatial", [{}, {"spatial_dims": 3, "size": [8, 8, 4]}])
def test_where_samples_lie_does_not_change_a_run(make_plan: Any, spatial: dict[str, Any]) -> None:
    same(train_here(make_plan("disk", **spatial))[1], train_here(make_plan("device", data="device", **spatial))[1])


@pytest.mark.parametrize(
    ("signal_number", "start_method"),
    [(signal.SIGINT, "fork"), (signal.SIGTERM, "fork"), (signal.SIGUSR1, "fork"), (signal.SIGTERM, "forkserver")],
)
def test_a_signal_to_all_processes_of_a_job_stops_it_like_one_to_the_first(
    make_plan: Any, signal_number: int, start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loading.START_METHODS, "cpu", start_method)
    plan = make_plan("group", workers=2)

    def stop(pid: int, done: int) -> None:
        if done == 8:
            os.killpg(os.getpgrp(), signal_number)

    assert os.waitstatus_to_exitcode(train_forked(plan, stop, alone=True)) == 75
    monkeypatch.undo()
    same(train_here(make_plan("whole"))[1], train_here(plan)[1])


def test_another_seed_is_another_run(make_plan: Any) -> None:
    a, b = train_here(make_plan("a", seed=0))[1], train_here(make_plan("b", seed=1))[1]
    assert not torch.equal(a[1]["encoder/conv1.weight"], b[1]["encoder/conv1.weight"])
