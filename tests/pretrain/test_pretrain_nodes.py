"""A run over two nodes, each with its own network namespace, is the run of one process; srun gets its size once."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import warm
from prepared import write_prepared
from pretraining import TINY

from medssl.cli.step import run_step
from medssl.core import launch, tables
from medssl.core.errors import PreemptedError, StudyError
from medssl.core.job import Machine, Spec
from medssl.core.lock import hold
from medssl.pretrain.options import RunOptions


def write_spec(root: Path, **options: Any) -> Path:
    """A spec file of a tiny run and all it reads."""
    inputs = write_prepared(root)
    values = {**TINY, "epochs": 1, "warmup_frac": 0.0, "device": "cpu", **options}
    resolved = RunOptions(**values, seed=0).model_dump(mode="json")
    spec = Spec(
        stage="pretrain", name="ct/simclr-all-seed0", study="t", root=str(root), seed=0, code="c",
        options=resolved, inputs=inputs, out=str(root / "4_pretrain" / "ct" / "simclr-all-seed0"),
        machine=Machine(values.get("nodes", 1)), watch={"tensorboard": False},
    )  # fmt: skip
    path = root / "specs" / "pretrain.json"
    path.parent.mkdir()
    path.write_text(spec.to_json())
    return path


def medssl(spec: Path) -> list[str]:
    return [warm.python(), "-m", "medssl", "pretrain", str(spec), "--threads", "1"]


@pytest.fixture
def two_nodes() -> Iterator[list[tuple[list[str], str]]]:
    """(what a command begins with, address) of two network namespaces that a cable joins."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    names = [f"medssl-{os.getpid()}-{n}" for n in (0, 1)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    with contextlib.ExitStack() as stack:
        try:
            for name in names:
                ip("netns", "add", name)
                stack.callback(subprocess.run, ["ip", "netns", "del", name], capture_output=True)
            ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        for number, name in enumerate(names):
            ip("-n", name, "address", "add", f"10.99.0.{number + 1}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [(["ip", "netns", "exec", name], f"10.99.0.{number + 1}") for number, name in enumerate(names)]


@pytest.mark.full
def test_two_nodes_give_the_losses_of_one_process(tmp_path: Path, two_nodes: list[tuple[list[str], str]]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = write_spec(tmp_path / "one"), write_spec(tmp_path / "two", nodes=2)
    started = [subprocess.Popen(medssl(one), stderr=subprocess.PIPE, text=True)]
    for number, (inside, _) in enumerate(two_nodes):
        # what torchrun sets on each node
        environment = {
            "RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "GROUP_RANK": str(number), "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": two_nodes[0][1], "MASTER_PORT": "29533", "TORCHELASTIC_RUN_ID": "test", "GLOO_SOCKET_IFNAME": "cable",
        }  # fmt: skip
        command = [*inside, *medssl(two)]
        started.append(subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True))
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said[-3000:]
    curves = [tables.read_tsv(tmp_path / name / "4_pretrain/ct/simclr-all-seed0/curve.tsv") for name in ("one", "two")]
    assert curves[0]["step"].tolist() == curves[1]["step"].tolist() == [1, 2, 3]
    assert curves[0]["loss"].tolist() == pytest.approx(curves[1]["loss"].tolist(), abs=2e-3)
    assert curves[0]["loss"][0] == pytest.approx(curves[1]["loss"][0], abs=1e-5)


def test_only_the_first_process_of_a_job_takes_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medssl.core.job import job

    spec = Spec.read(write_spec(tmp_path, nodes=2))
    lock = tmp_path / "state" / "locks" / "pretrain-ct-simclr-all-seed0.lock"
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert launch.rank(spec) == 1
    with hold(lock), job(spec, joins=launch.rank(spec) > 0) as work:
        assert work.out == Path(spec.out)


@pytest.mark.parametrize("number", [0, 1])
def test_the_first_process_of_a_stopped_job_asks_for_the_queue_before_the_others_may_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    spec, did = write_spec(tmp_path, nodes=2), []

    def stopped(_: Any) -> None:
        raise PreemptedError("stopped")

    for name, value in {"SLURM_PROCID": str(number), "SLURM_STEP_NUM_TASKS": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("medssl.pretrain.run.run", stopped)
    monkeypatch.setattr("medssl.cli.step.limit_threads", lambda _: None)
    monkeypatch.setattr("medssl.core.cluster.requeue", lambda *_: did.append("requeue"))
    monkeypatch.setattr("medssl.core.launch.time.sleep", lambda seconds: did.append("wait"))
    with pytest.raises(PreemptedError):
        run_step("pretrain", "run", spec, None, 1)
    assert did == [["requeue"], ["wait"]][number]


def test_a_process_number_means_nothing_to_a_job_of_one_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert launch.rank(Spec.read(write_spec(tmp_path))) == 0


def test_srun_gets_nodes_and_devices_once() -> None:
    line = launch.srun_line(2, 4, 16, ["python", "-m", "medssl", "pretrain", "spec.json"])
    assert line[:5] == ["srun", "--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=4"]
    assert line[-2:] == ["pretrain", "spec.json"]
    assert launch.started({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}, 8)
    assert not launch.started({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, 8)


def test_several_nodes_without_an_allocation_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StudyError, match="nodes: 2, and this is one machine"):
        launch.spread(Spec.read(write_spec(tmp_path, nodes=2)), 1)
