"""Loggers are imported when asked for, get numbers and words of the method alone, and never stop or change a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pretraining import TINY

from medssl.pretrain import loggers
from medssl.pretrain.loggers import Asked, Named, opened, write_all
from medssl.pretrain.options import RunOptions, WatchOptions, not_installed

SECRETS = {"init_weights": "/home/jane/DOE.safetensors", "licences": {"ct": "of Dr Doe"}}
ROW = {"epoch": 0, "step": 3, "loss": 0.5, "grad_norm": None}


class Fake:
    """A package that records every call and what it was given; calls return itself, so that chains are recorded too."""

    def __init__(self, said: list[Any]) -> None:
        self.said = said

    def __getattr__(self, name: str) -> Any:
        def called(*given: Any, **named: Any) -> Any:
            self.said.append((name, given, named))
            if name == "Settings":
                return named
            return {"get_experiment_by_name": None, "search_runs": []}.get(name, self)

        return SimpleNamespace(run_id="r") if name == "info" else "e" if name == "experiment_id" else called


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that the packages get."""
    found: list[Any] = []
    monkeypatch.setattr(loggers, "import_module", lambda name: Fake(found))
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return found


def asked(folder: Path, *names: Any) -> Asked:
    options = RunOptions(**TINY | {"epochs": 1, "seed": 0} | SECRETS)
    return Asked(names, folder, Named.of("demo", "ct/simclr-all-seed0", "abc", options))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_gets_numbers_and_no_path_or_person(name: str, said: list[Any], tmp_path: Path) -> None:
    with opened(asked(tmp_path, name), print) as found:
        write_all(found, 3, ROW, print)
    sent = [(name, given, {key: value for key, value in named.items() if key != "settings"}) for name, given, named in said]
    told = json.dumps([call for call in sent if call[0] not in ("Settings", "MlflowClient")], default=str)
    assert "loss" in told and "0.5" in told and "grad_norm" not in told and "ct/simclr-all-seed0" in told
    assert not [word for word in (str(tmp_path), "jane", "Doe", "DOE", "init_weights") if word in told]
    places = [call for call in said if call[0] in ("Settings", "MlflowClient")]
    assert str(tmp_path / name) in json.dumps(places, default=str), "the files lie beside the run"


def test_they_are_offline_unless_the_person_says_otherwise(
    said: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def places() -> str:
        said.clear()
        with opened(asked(tmp_path, "wandb", "mlflow"), print):
            pass
        return json.dumps([call[2] for call in said if call[0] in ("Settings", "MlflowClient")])

    first = places()
    assert '"mode": "offline"' in first and "file:///" in first
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example")
    assert '"mode": "online"' in (asked_for := places()) and "https://tracking.example" in asked_for


def test_a_logger_that_fails_is_dropped_and_the_run_continues() -> None:
    class Broken:
        def write(self, step: int, row: dict[str, Any]) -> None:
            raise OSError("the service is gone")

        def close(self) -> None:
            raise OSError

    found: list[Any] = [Broken()]
    lines: list[str] = []
    write_all(found, 3, ROW, lines.append)
    assert found == [] and "Broken failed at step 3" in lines[0]


def test_closing_never_stops_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closes:
        def __init__(self, *_: Any) -> None:
            pass

        def write(self, step: int, row: dict[str, Any]) -> None:
            pass

        def close(self) -> None:
            raise OSError

    monkeypatch.setitem(loggers.KINDS, "wandb", Closes)
    with opened(asked(tmp_path, "wandb"), print) as found:
        assert len(found) == 1


def test_a_logger_that_cannot_be_opened_is_dropped_and_the_others_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    lines: list[str] = []

    class Opens:
        def __init__(self, *_: Any) -> None:
            pass

        def write(self, step: int, row: dict[str, Any]) -> None:
            pass

        def close(self) -> None:
            closed.append("wandb")

    def fails(*_: Any) -> None:
        raise OSError("the server does not answer")

    monkeypatch.setitem(loggers.KINDS, "mlflow", fails)
    monkeypatch.setitem(loggers.KINDS, "wandb", Opens)
    with opened(asked(tmp_path, "mlflow", "wandb"), lines.append) as found:
        assert [type(one) for one in found] == [Opens]
    assert closed == ["wandb"] and lines == ["mlflow could not be opened and is dropped: OSError: the server does not answer"]


def test_what_is_missing_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl.pretrain.options.find_spec", lambda name: None)
    (sentence,) = not_installed(["mlflow"])
    assert "pip install mlflow-skinny" in sentence
    assert not_installed([]) == [] and WatchOptions().loggers == []


def test_nothing_is_imported_that_was_not_asked_for() -> None:
    code = (
        "import sys; from medssl.pretrain.loggers import opened\n"
        "with opened(None, print) as found: assert found == []\n"
        "assert not {'wandb', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
