"""The SLURM test is skipped only where no SLURM can be had; one that is there and does not start fails it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import cluster as slurm
import pytest
import slurm_test


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """`main` takes SIGTERM for itself."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_machine_that_cannot_have_slurm_skips(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    slurm_test.main()
    assert capsys.readouterr().out.startswith("SKIPPED slurm-test: a test SLURM needs root")


@pytest.mark.parametrize("broken", ["_start_munge", "_wait_until_idle"])
def test_a_daemon_that_does_not_start_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str) -> None:
    def never(*_: object) -> None:
        slurm._wait(lambda: False, "it did not start", timeout_s=0)

    monkeypatch.setattr(slurm, "CONFIGURED", tmp_path / "slurm.conf")
    monkeypatch.setattr(slurm, "install", lambda: None)
    for name in ("_start", "_start_munge", "_wait_until_idle"):
        monkeypatch.setattr(slurm, name, never if name == broken else lambda *_: contextlib.nullcontext())
    with pytest.raises(slurm.BrokenSlurmError, match="it did not start"):
        slurm_test.main()
    assert not (tmp_path / "slurm.conf").is_symlink()
