"""Checks of files of weights before work: that they are there, are safetensors, and fit the networks that start from them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from medssl.core.code import PACKAGE, code_hash
from medssl.core.errors import did_you_mean
from medssl.core.files import canonical_json, sha256_text, write_json
from medssl.core.layout import PRIVATE
from medssl.core.listing import nothing_at
from medssl.core.options import PluginChoice, choice_of
from medssl.finetune.options import DEFAULT_BACKBONE, FinetuneOptions
from medssl.study.check_ranks import deepens, rank_of
from medssl.study.dag import Dag
from medssl.study.file import Loc

CHECK = "medssl.nn.header_check"
"""The module that builds the networks, in another process: a study file is read without torch."""
LIMIT_S = 120


@dataclass(frozen=True)
class _Start:
    """A file of weights in a study file, and the network that starts from it."""

    loc: Loc
    path: str
    backbone: PluginChoice
    spatial_dims: int


class CheckedWeights(NamedTuple):
    """What was found of the files of weights in a study.

    problems: files that are missing, are not safetensors, or do not fit the network; notes: files that could not be compared.
    """

    problems: list[tuple[Loc, str]]
    notes: list[tuple[Loc, str]]


def check_weights(dag: Dag) -> CheckedWeights:
    """Check the files of weights that runs, tasks and arms start from."""
    found = CheckedWeights([], [])
    sound: list[_Start] = []
    for start in _starts(dag):
        if text := no_weights_at(start.path):
            found.problems.append((start.loc, text))
        else:
            sound.append(start)
    for start, answer in zip(sound, answers(sound), strict=True):
        if answer is None:
            text = f"{start.path!r} was not compared with the network: the check failed, or took more than {LIMIT_S} s"
            found.notes.append((start.loc, f"{text}. The job that starts from it does so"))
        elif answer:
            found.problems.append((start.loc, answer))
    found.problems.extend(_wrong_encoders(dag))
    return found


def _wrong_encoders(dag: Dag) -> Iterator[tuple[Loc, str]]:
    """Encoders of arms that are neither a run nor a file. Their networks are recognised by their files, in the job."""
    runs = [str(run) for _, run in dag.runs()]
    for name, arm in dag.arms.items():
        loc: Loc = ("reduce", "arms", name, "encoder")
        if arm.encoder is None or arm.encoder in runs:
            continue
        if not Path(arm.encoder).suffix and "/" not in arm.encoder and not Path(arm.encoder).exists():
            yield loc, f"no run and no file has the name {arm.encoder!r}.{did_you_mean(arm.encoder, runs)}"
        elif text := no_weights_at(arm.encoder):
            yield loc, text


def _starts(dag: Dag) -> Iterator[_Start]:
    """Those of `init_weights` and of the `weights` of tasks."""
    for name, run in dag.study.pretrain.items():
        if run.init_weights is not None:
            yield _Start(("pretrain", name, "init_weights"), run.init_weights, run.backbone, run.spatial_dims)
    for name, task in dag.study.finetune.items():
        rank = 2 if deepens(task.encoder) else rank_of(dag, task) or 2  # a 2-D network inside a 3-D one takes them up
        for given, path in task.weights.items():
            yield _Start(("finetune", name, "weights", given), path, _backbone_of(dag, task), rank)


def _backbone_of(dag: Dag, task: FinetuneOptions) -> PluginChoice:
    """The network of a task's given weights: its own, else the first run's."""
    of_runs = [dag.study.pretrain[run.name].backbone for _, run in dag.runs_for(task)]
    return task.backbone or next(iter(of_runs), choice_of("backbone", DEFAULT_BACKBONE))


def no_weights_at(path: str) -> str:
    """Why a path is not a file of weights; empty for a safetensors file, by its name and the size of its header."""
    file = Path(path)
    if not file.is_file():
        return nothing_at(path)
    if file.suffix != ".safetensors":
        return (
            f"{path!r} is not a .safetensors file, and other formats can run code when opened. Turn weights into one first: "
            f"medssl convert {file.name} --out {file.stem}.safetensors"
        )
    with open(file, "rb") as opened:
        length, first = opened.read(8), opened.read(1)
    if first != b"{" or int.from_bytes(length, "little") + len(length) > file.stat().st_size:
        return f"{path!r} is not a whole safetensors file: it does not begin with the header of one. Make or copy it again"
    return ""


def answers(starts: list[_Start]) -> list[str | None]:
    """For each file of weights why it does not fit its network, empty if it does, or None if that could not be checked.

    Answers are kept until the file, network or code changes.
    """
    found: dict[str, str] = {}
    asked: dict[str, dict[str, Any]] = {}
    keys = [_key(start) for start in starts]
    for start, key in zip(starts, keys, strict=True):
        try:
            found[key] = json.loads(_kept(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            asked[key] = _question(start)
    for key, answer in zip(asked, _asked(list(asked.values())), strict=False):  # there are none if the process fails
        found[key] = answer
        with contextlib.suppress(OSError):  # only a cache: if the folder is not writable, that costs time and nothing else
            _kept(key).parent.mkdir(parents=True, exist_ok=True)
            write_json(_kept(key), answer)
    return [found.get(key) for key in keys]


def _question(start: _Start) -> dict[str, Any]:
    """The arguments of `header_check.misfit`."""
    return {
        "path": start.path,
        "backbone": start.backbone.name,
        "options": start.backbone.options,
        "spatial_dims": start.spatial_dims,
    }


def _key(start: _Start) -> str:
    """What an answer depends on, as a hash: the question, the file's size and time, its contract, and the code."""
    files = [Path(start.path), Path(start.path).with_name("contract.json")]
    states = [(str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file in files if file.is_file() and (stat := file.stat())]
    check = PACKAGE.joinpath(*CHECK.split(".")[1:]).with_suffix(".py")
    return sha256_text(canonical_json([_question(start), states, code_hash(check)]))


def _kept(key: str) -> Path:
    return PRIVATE / "code" / key


def _asked(questions: list[dict[str, Any]]) -> list[str]:
    """Answers from another process; none if it fails, as the jobs check their weights themselves."""
    if not questions:
        return []
    command = [sys.executable, "-m", CHECK]
    try:
        done = subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, timeout=LIMIT_S, check=True)
        return [str(answer) for answer in json.loads(done.stdout)]
    except (subprocess.SubprocessError, ValueError):
        return []
