"""A run that was stopped anywhere ends with the weights of one that was not."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import pytest
import torch
from pretraining import train_forked, train_here


def same(a: Any, b: Any) -> None:
    (step_a, tensors_a, values_a), (step_b, tensors_b, values_b) = a, b
    assert step_a == step_b
    assert tensors_a.keys() == tensors_b.keys()
    assert [n for n in tensors_a if not torch.equal(tensors_a[n], tensors_b[n])] == []
    for row_a, row_b in zip(values_a["rows"], values_b["rows"], strict=True):
        assert {k: v for k, v in row_a.items() if k != "images_per_s"} == {k: v for k, v in row_b.items() if k != "images_per_s"}


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
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


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_of_a_job_stops_it_like_one_to_the_first(make_plan: Any, signal_number: int) -> None:
    plan = make_plan("group", workers=2)

    def stop(pid: int, done: int) -> None:
        if done == 8:
            os.killpg(os.getpgrp(), signal_number)

    assert os.waitstatus_to_exitcode(train_forked(plan, stop, alone=True)) == 75
    same(train_here(make_plan("whole"))[1], train_here(plan)[1])


def test_another_seed_is_another_run(make_plan: Any) -> None:
    a, b = train_here(make_plan("a", seed=0))[1], train_here(make_plan("b", seed=1))[1]
    assert not torch.equal(a[1]["encoder/conv1.weight"], b[1]["encoder/conv1.weight"])
