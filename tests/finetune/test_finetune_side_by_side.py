"""Fits side by side are the fits of one after another, and lose nothing when one dies."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from finetuning import SMALL, finetune_spec, write_scans

from medssl.core import tables
from medssl.core.errors import OutOfMemoryError, PreemptedError
from medssl.core.files import read_json
from medssl.core.job import Job, Spec, job
from medssl.finetune import run as stage
from medssl.finetune import training
from medssl.finetune.options import TaskOptions
from medssl.finetune.side_by_side import Peak, Room

SETTINGS: dict[str, Any] = {"modes": ["linear", "full"], "max_steps": 2, "fractions": [0.5, 1.0]}
"""Scratch and one encoder: eight fits."""


def with_options(spec: Spec, **changed: Any) -> Spec:
    return dataclasses.replace(spec, options=spec.options | changed)


def make(spec: Spec, threads: int) -> Path:
    with job(spec, threads=threads) as work:
        stage.run(work)
    return Path(spec.out)


def made_of(folder: Path) -> dict[str, Any]:
    """Every file but the receipt, without the time that fits took, and without the spec, which says how many at once."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "receipt.json":
            found[str(path.relative_to(folder))] = path.read_bytes() if path.suffix != ".json" else read_json(path) | {"spec": ""}
    found["fits.tsv"] = tables.read_tsv(folder / "fits.tsv").drop(columns="seconds").to_csv()
    return found


def forget(spec: Spec) -> None:
    shutil.rmtree(spec.out)
    shutil.rmtree(Path(spec.root) / "state")


@pytest.fixture(params=["classification", "segmentation"])
def spec(request: pytest.FixtureRequest, tmp_path: Path, image_source: Path, encoder: Path) -> Spec:
    if request.param == "classification":
        return finetune_spec(image_source, encoder, **SETTINGS)
    return finetune_spec(write_scans(tmp_path / "study"), encoder, **SMALL, max_steps=2)


def test_fits_side_by_side_have_the_bytes_of_one_after_another(spec: Spec) -> None:
    alone = made_of(make(with_options(spec, parallel=1), threads=4))
    forget(spec)
    processes: set[int] = set()
    before = stage.take
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            stage, "take", lambda state, fit: (processes.add(len(multiprocessing.active_children())), before(state, fit))
        )
        beside = made_of(make(with_options(spec, parallel=2), threads=4))
    assert max(processes) == 2
    assert alone.keys() == beside.keys()
    assert [name for name in alone if alone[name] != beside[name]] == []


def test_random_weights_learn_without_layer_decay(spec: Spec, tmp_path: Path) -> None:
    """Their fits, weights and all, are those of a task without it; fits from an encoder are others."""
    predicted = {}
    for layer_decay in (0.5, 1.0):
        out = make(with_options(spec, layer_decay=layer_decay, modes=["full"], fractions=[1.0]), threads=1)
        fits = tables.read_tsv(out / "fits.tsv").set_index("fit_id")
        random = fits["init"].str.startswith("scratch")
        assert set(fits["layer_decay"][random]) == {1.0} and set(fits["layer_decay"][~random]) == {layer_decay}
        weights = {path.parent.name: path.read_bytes() for path in out.rglob("model.safetensors")}
        predicted[layer_decay] = {name: weights[name] for name in sorted(weights)}
        forget(spec)
    same = {name: predicted[0.5][name] == predicted[1.0][name] for name in predicted[1.0]}
    assert same and all(is_same == name.startswith("scratch") for name, is_same in same.items()), same


@pytest.mark.parametrize(("step", "work"), [("_take_step", "training"), ("_evaluate", "validation")])
def test_a_step_that_does_not_fit_into_memory_is_a_sentence(
    spec: Spec, step: str, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError("allocation failed")

    monkeypatch.setattr(training.Fit, step, too_large)
    with pytest.raises(OutOfMemoryError, match=rf"{work} at step \d of 2 does not fit: .*Lower finetune.batch_size or size"):
        make(with_options(spec, parallel=1, modes=["full"]), threads=1)


@pytest.mark.parametrize("changed", [{"data": "device"}, {"workers": 2}, {"workers": 1, "parallel": 2}])
def test_where_images_lie_and_who_reads_them_changes_no_byte(spec: Spec, changed: dict[str, Any]) -> None:
    whole = made_of(make(with_options(spec, data="loader"), threads=2))
    forget(spec)
    again = made_of(make(with_options(spec, **{"data": "loader"} | changed), threads=2))
    assert [name for name in whole if whole[name] != again[name]] == []


def test_a_task_that_is_stopped_in_a_fit_resumes_in_it_and_ends_with_the_same_bytes(spec: Spec) -> None:
    """Each step saves its state; the process dies in the fifth of a fit, which resumes there."""
    long = with_options(spec, max_steps=6, modes=["full"], parallel=1, checkpoint_every_s=1e-9)
    whole = made_of(make(long, threads=1))
    forget(spec)
    taken: list[int] = []
    take_step = training.Fit._take_step

    def stopped(fit: training.Fit, batch: Any) -> None:
        taken.append(fit.progress.step)
        if len(taken) == 5:
            raise PreemptedError("stopped")
        take_step(fit, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Fit, "_take_step", stopped)
        with pytest.raises(PreemptedError):
            make(long, threads=1)
        again = made_of(make(long, threads=1))
    assert taken[:6] == [0, 1, 2, 3, 4, 4]
    assert [name for name in whole if whole[name] != again[name]] == []
    assert not list((Path(spec.root) / "state" / "finetune" / "unfinished").iterdir())


def test_a_fit_that_is_killed_loses_no_other(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made_of(make(with_options(spec, parallel=2), threads=2))
    forget(spec)
    made, fit, kept = [], stage.Work.fit, Path(spec.root) / "state" / "finetune" / "fits"

    def killed(work: Any, which: Any, report: Any) -> Any:
        if which == work.fits[2]:
            while not list(kept.glob("[0-9a-f]*")):
                time.sleep(0.02)  # until a fit of the other process is stored
            os.kill(os.getpid(), signal.SIGKILL)
        return fit(work, which, report)

    with monkeypatch.context() as patch:
        patch.setattr(stage.Work, "fit", killed)
        with pytest.raises(OutOfMemoryError, match="parallel"):
            make(with_options(spec, parallel=2), threads=2)
        made = list(kept.glob("[0-9a-f]*"))
    assert len(made) >= 1 and not multiprocessing.active_children()
    assert made_of(make(with_options(spec, parallel=2), threads=2)) == whole


def test_a_signal_ends_fits_side_by_side_and_leaves_nothing_half_made(spec: Spec) -> None:
    slow = with_options(spec, parallel=2, max_steps=3000, epochs=3000)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(PreemptedError):
        make(slow, threads=2)
    assert not multiprocessing.active_children()
    assert not [path for path in (Path(spec.root) / "state").rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "threads", "free", "peaks", "most"),
    [
        ({}, 8, Peak(16000, 0), [], 2),
        ({}, 1, Peak(16000, 0), [], 1),
        ({}, 8, Peak(6000, 0), [], 1),
        ({"device": "cuda"}, 8, Peak(64000, 10000), [], 1),
        ({}, 8, Peak(16000, 0), [Peak(1000, 0)], 8),
        ({}, 8, Peak(4000, 0), [Peak(1000, 0)], 3),
        ({}, 8, Peak(4000, 0), [Peak(500, 0), Peak(2000, 0)], 1),
        ({}, 8, Peak(100, 0), [Peak(1000, 0)], 1),
        ({"threads_per_fit": 4}, 8, Peak(16000, 0), [Peak(1000, 0)], 2),
        ({"parallel": 3}, 8, Peak(100, 0), [], 3),
        ({"device": "cuda"}, 8, Peak(64000, 10000), [Peak(1000, 2000)], 4),
    ],
)
def test_how_many_fits_there_is_room_for(options: Any, threads: int, free: Peak, peaks: list[Peak], most: int) -> None:
    device = torch.device(options.get("device", "cpu"))
    assert Room(TaskOptions(source="s", **options), threads, device, free, peaks).most() == most


@pytest.mark.parametrize(("parallel", "threads"), [(1, 2), (2, 1)])
def test_a_fit_runs_on_the_threads_that_the_study_says(spec: Spec, tmp_path: Path, parallel: int, threads: int) -> None:
    """Whatever the job has, or else its bits would depend on the machine."""
    seen, fit = tmp_path / "threads", stage.Work.fit

    def noted(work: Any, which: Any, report: Any) -> Any:
        with seen.open("a") as file:
            print(torch.get_num_threads(), file=file)
        return fit(work, which, report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.Work, "fit", noted)
        make(with_options(spec, parallel=parallel, threads_per_fit=threads), threads=4)
    assert set(seen.read_text().split()) == {str(threads)}


def test_fits_of_several_threads_side_by_side_have_the_same_bytes_too(image_source: Path) -> None:
    """They cannot be forked: a fork has no threads, and waits for them for ever."""
    spec = finetune_spec(image_source, modes=["full"], fractions=[0.5, 1.0], max_steps=2, threads_per_fit=2)
    alone = made_of(make(with_options(spec, parallel=1), threads=4))
    forget(spec)
    assert made_of(make(with_options(spec, parallel=2), threads=4)) == alone


def test_a_peak_is_of_this_process() -> None:
    held = pd.DataFrame({"a": range(1000)})
    assert 10 < Peak.here().ram_mb < 100_000 and Peak.here().gpu_mb == 0 and len(held)


def test_each_round_of_self_training_begins_from_the_start_however_often_a_state_is_saved(spec: Spec) -> None:
    """Rounds may learn from equally many cases: the state of one is not the beginning of the next."""
    rounds = {"self_training_rounds": 2} | ({} if spec.options["task"] == "segmentation" else {"self_training_confidence": 0.34})
    made = []
    for every_s in (1e9, 1e-9):
        options = {"modes": ["full"], "fractions": [0.5], "max_steps": 3, "options": rounds, "checkpoint_every_s": every_s}
        made.append(made_of(make(with_options(spec, **options), threads=1)))
        forget(spec)
    assert made[0] == made[1]


def test_tasks_that_make_the_same_fit_at_once_keep_its_states_apart(spec: Spec) -> None:
    works = [stage.State.open(Job(dataclasses.replace(spec, name=name), None, 1)).work for name in ("one", "other")]
    for fit in works[0].fits:
        assert works[0].key(fit) == works[1].key(fit) and works[0].unfinished(fit) != works[1].unfinished(fit)


@pytest.mark.parametrize(("parallel", "processes"), [("auto", 0), (2, 2)])
def test_what_the_study_says_of_fits_at_once_holds_with_one_thread_too(image_source: Path, parallel: Any, processes: int) -> None:
    spec = finetune_spec(image_source, modes=["linear"], parallel=parallel)
    seen: set[int] = set()
    before = stage.take
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "take", lambda state, fit: (seen.add(len(multiprocessing.active_children())), before(state, fit)))
        make(spec, threads=1)
    assert max(seen) == processes
