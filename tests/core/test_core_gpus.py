"""Two jobs of one machine never hold the same GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medssl.core import gpus

HOLD = """\
import sys
from medssl.core.gpus import lease
with lease(int(sys.argv[1])) as got:
    print(*got, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine whose `nvidia-smi` lists two GPUs that no other test knows."""
    uuids = [f"GPU-{os.getpid()}-{number}" for number in (0, 1)]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n" + "".join(f"echo {uuid}\n" for uuid in uuids))
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "LOOK_AGAIN_S", 0.05)
    return uuids


def holder(count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_each_job_gets_its_own_gpu(two_gpus: list[str]) -> None:
    other = holder(1)
    assert other.stdout and other.stdout.readline().split() == two_gpus[:1]
    with gpus.lease(1) as got:
        assert got == two_gpus[1:]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == two_gpus[1]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    other.communicate()


def test_a_job_waits_until_the_kernel_frees_the_gpus_of_a_killed_one(two_gpus: list[str]) -> None:
    other = holder(2)
    assert other.stdout and other.stdout.readline().split() == two_gpus
    waiting = holder(1)
    assert waiting.stderr and "waiting for 1 of 2 GPUs" in waiting.stderr.readline()
    other.kill()
    other.wait()
    assert waiting.stdout and waiting.stdout.readline().split() == two_gpus[:1]
    waiting.communicate()


def test_only_gpus_the_job_was_given_are_leased(two_gpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("1", two_gpus[1]):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        with gpus.lease(1) as got:
            assert got == two_gpus[1:]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with gpus.lease(1) as got:
        assert got == []


def test_more_than_there_are_is_left_to_the_stage_to_refuse(two_gpus: list[str]) -> None:
    with gpus.lease(3) as got:
        assert got == [] and "CUDA_VISIBLE_DEVICES" not in os.environ
