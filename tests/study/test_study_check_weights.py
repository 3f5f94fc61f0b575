"""Files of weights that do not fit the network that starts from them are refused with the study file, before any work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from medssl.core.errors import StudyError
from medssl.nn.backbone import build
from medssl.nn.header_check import misfit
from medssl.nn.weights import load_encoder, save_encoder
from medssl.study import check_weights

Notes = Callable[..., list[str]]
Refusal = Callable[..., str]

SMALL = {"width": 0.125}
VIT = {"width": 24, "blocks": 2, "heads": 2, "patch": 4}
STUDY = """\
study: fits
sources:
  organs: {path: organs}
reduce: {controls: false}
pretrain:
  flat: {cohort: organs, backbone: {resnet18: {width: 0.125}}, size: [32], batch_size: 2%s}
"""


def study(start: str = "", task: str = "") -> str:
    """A study whose pre-training starts from a file, or whose task does."""
    found = STUDY % (f", init_weights: {start}" if start else "")
    return f"{found}finetune:\n  t: {{source: organs, {task}}}\n" if task else found


def made(path: Path, name: str = "resnet18", dims: int = 2, channels: int = 1, **options: Any) -> Path:
    """A file of a network's weights."""
    save_encoder(path, build(name, options, dims, channels))
    return path


@pytest.mark.usefixtures("fitting_weights")
def test_weights_of_another_network_are_refused_at_their_line_and_answers_are_kept(
    folder: Path, notes: Notes, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(folder / "good.safetensors", **SMALL)
    made(folder / "colour.safetensors", channels=3, **SMALL)
    made(folder / "wide.safetensors", width=0.25)
    made(folder / "deep.safetensors", dims=3, **SMALL)
    tries: list[int] = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: tries.append(1) or run(*a, **k))
    weights = "weights: {a: good.safetensors, b: colour.safetensors, c: wide.safetensors}, inits: []"
    task = f"{weights}, backbone: {{resnet18: {{width: 0.125}}}}"
    found = refusal(study("wide.safetensors", task)).splitlines()
    assert [line.split(": ")[0:2] for line in found] == [
        ["mine.yaml:6", "pretrain.flat.init_weights"],
        ["mine.yaml:8", "finetune.t.weights.c"],
    ]
    assert all("wide.safetensors: only " in line and "in the model). Use the backbone" in line for line in found)
    assert len(tries) == 1
    assert refusal(study("wide.safetensors", task)).splitlines() == found and len(tries) == 1
    assert "deep.safetensors: only " in refusal(study("deep.safetensors")) and len(tries) == 2
    assert notes(study("good.safetensors")) == [] and len(tries) == 2  # the same question as the task's
    made(folder / "wide.safetensors", **SMALL)
    os.utime(folder / "wide.safetensors", (1, 1))
    assert notes(study("wide.safetensors", task)) == [] and len(tries) == 3


@pytest.mark.usefixtures("fitting_weights")
def test_a_task_without_a_backbone_takes_its_weights_into_the_first_runs_and_inside_what_wraps_it(
    folder: Path, notes: Notes, refusal: Refusal
) -> None:
    made(folder / "good.safetensors", **SMALL)
    made(folder / "wide.safetensors", width=0.25)
    (folder / "organs" / "IM0001").write_bytes(b"x")
    for encoder in ("own", "inflated", "volume"):
        size = "" if encoder == "own" else ", size: [16, 16, 16]"
        rest = f"inits: [flat], encoder: {encoder}, modes: [full]{size}"
        assert not any("safetensors" in note for note in notes(study(task=f"weights: {{a: good.safetensors}}, {rest}")))
        assert "wide.safetensors: only " in refusal(study(task=f"weights: {{a: wide.safetensors}}, {rest}"))


@pytest.mark.parametrize(
    ("name", "options", "dims", "given"),
    [
        ("resnet18", SMALL, 2, {}),
        ("resnet18", SMALL, 2, {"width": 0.25}),
        ("resnet18", SMALL, 2, {"prefix": "module."}),
        ("vit", VIT, 2, {}),
        ("vit", VIT | {"positions": "learned", "learned_grid": [4, 4], "registers": 0}, 2, {"learned_grid": [7, 7]}),
        ("vit", VIT, 2, {"blocks": 3}),
        ("vit", VIT | {"form": "primus", "width": 36}, 3, {}),
        ("resnet18", SMALL, 2, {"integers": True}),
    ],
)
def test_a_header_has_the_answer_of_the_job(tmp_path: Path, name: str, options: Any, dims: int, given: dict[str, Any]) -> None:
    prefix, integers = given.get("prefix", ""), given.get("integers", False)
    other = {key: value for key, value in given.items() if key not in ("prefix", "integers")}
    path, network = tmp_path / "net.safetensors", build(name, options, dims, 1)
    tensors = build(name, options | other, dims, 3).state_dict()
    save_file({prefix + key: tensor.to(torch.int8) if integers else tensor for key, tensor in tensors.items()}, path)
    try:
        load_encoder(path, network, foreign=True)
        said = ""
    except StudyError as error:
        said = str(error).removesuffix(".")
    assert misfit(str(path), name, options, dims) == said and bool(said) == bool(given and "learned_grid" not in given)


def test_a_cut_file_is_reported_and_other_checks_report_a_network_that_cannot_be_built(tmp_path: Path) -> None:
    path = made(tmp_path / "net.safetensors", **SMALL)
    path.write_bytes(path.read_bytes()[:-5])
    assert "is not a whole safetensors file" in misfit(str(path), "resnet18", SMALL, 2)
    assert misfit(str(path), "vit", VIT | {"heads": 7}, 2) == ""


@pytest.mark.usefixtures("fitting_weights")
def test_without_an_answer_a_note_says_that_the_jobs_compare_and_none_is_kept(
    folder: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(folder / "wide.safetensors", width=0.25)
    monkeypatch.setattr(check_weights, "CHECK", "medssl.nn.there_is_no_such_module")
    monkeypatch.setattr(check_weights, "_key", lambda start: start.path)
    (note,) = notes(study("wide.safetensors"))
    assert "init_weights: 'wide.safetensors' was not compared with the network" in note
    assert not (folder / ".medssl" / "code" / "wide.safetensors").exists()
