"""The command line of Snakemake for `medssl run`: with the Snakefile of the package; other arguments are passed on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from medssl.core.beside import beside
from medssl.study.file import read_yaml

CORES = ("-c", "--cores", "-j", "--jobs", "-e", "--executor", "--profile")
"""Options of Snakemake for where jobs run, or how many at once."""
PROFILES = "configs/profiles"


def snakemake_line(words: Sequence[str]) -> list[str]:
    """The arguments of Snakemake for those of `medssl run`, in their order.

    `--config FILE` names a study file; with `key=value` it is Snakemake's own. `--profile NAME` may be a profile of medssl.
    Without an option for cores or a cluster, jobs run here on all cores.

    Raises:
        StudyError: a study file cannot be read; Snakemake itself names neither its line nor the mistake.
    """
    files: list[str] = []
    rest: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        option, given, value = word.partition("=")
        if option in ("--config", "--profile") and not given and waiting:
            value = waiting[0]
        if option == "--config" and _is_study_file(value):
            read_yaml(value, {})
            files.append(value)
        elif option == "--profile" and value:
            rest += [option, _profile(value)]
        else:
            rest.append(word)
            continue
        if not given:
            waiting.pop(0)
    line = ["--configfile", *files] if files else []
    line += ["--snakefile", str(beside() / "Snakefile")]
    return [*line, *([] if _says_where(rest) else ["--cores", "all"]), *rest]


def program() -> tuple[list[str], str]:
    """The command that starts Snakemake, and how a user would write it."""
    command = [sys.executable, "-m", "snakemake"]
    on_path = shutil.which("snakemake")
    same = on_path is not None and Path(on_path).parent == Path(sys.executable).parent
    return command, "snakemake" if same else " ".join(command)


def _is_study_file(value: str) -> bool:
    return bool(value) and not value.startswith("-") and ("=" not in value or Path(value).is_file())


def _says_where(words: Sequence[str]) -> bool:
    """Whether arguments or the environment choose where jobs run: `--cores 2`, `-j4`, a profile."""
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    short = [option[:2] for option in options if not option.startswith("--")]
    return bool({*options, *short} & set(CORES)) or bool(os.environ.get("SNAKEMAKE_PROFILE"))


def _profile(name: str) -> str:
    """The folder of a profile of medssl, unless the user has one of this name."""
    own = beside() / PROFILES / name
    return str(own) if own.is_dir() and not Path(name).exists() else name
