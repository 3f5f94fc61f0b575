"""What every test can use."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil
import pytest
from sentences import DOUBLED
from shapes import install

install()

from medssl.core.errors import MedsslError  # noqa: E402  (after the hook)

# A suite that a shell starts in the background inherits ignored signals; the programs that it signals must not.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the long counts as well")


def pytest_configure() -> None:
    """Temporary folders lie in memory where that has room: some disks take a tenth of the suite to remove them."""
    memory = Path("/dev/shm")
    if memory.is_dir() and min(shutil.disk_usage(memory).free, psutil.virtual_memory().available) > ROOM_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


ROOM_BYTES = 12 * 2**30


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "pipeline" not in item.path.parts)  # whole studies first: at the end a core would wait for them
    for item in items:
        if item.get_closest_marker("full") and not config.getoption("--full"):
            item.add_marker(pytest.mark.skip(reason="long count: make test-full"))
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="needs ../shared/data, which is not here"))


def pytest_collection_finish() -> None:
    """What is imported by now stays to the end: no collection of garbage needs to look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def each_sentence_ends_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A law over every error that any test brings about: its sentences have one mark at their end."""
    said: list[str] = []

    def keep(self: MedsslError, *arguments: Any) -> None:
        said.extend(map(str, arguments))
        Exception.__init__(self, *arguments)

    monkeypatch.setattr(MedsslError, "__init__", keep)
    yield
    assert [text for text in said if DOUBLED.search(text)] == []


@pytest.fixture(autouse=True)
def processes_start_as_before() -> Iterator[None]:
    """Reset how processes start after each test: a fork of several threads would wait for them for ever,
    and a fork server has the signal mask of its parent.
    """
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if before is not None:
        sys.modules["torch"].set_num_threads(before)
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  (the standard library has no public name for it)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real images; the test skips where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data, which is not here")
    return SHARED


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    """How often a seeded test repeats: few in `make test`, many in `make test-full`."""
    return 25 if request.config.getoption("--full") else 3


@pytest.fixture
def num_kills(request: pytest.FixtureRequest) -> int:
    """How often a run is killed: 50 random steps in `make test-full`."""
    return 50 if request.config.getoption("--full") else 3


os.fsync = lambda descriptor: None  # no test cuts the power: what is written need not reach the disk
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait leave their core to the other tests
