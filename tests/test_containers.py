"""The container recipes, read as text: they install the lock, and what they copy exists and is enough to run a study."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = {"requirements.lock", "pyproject.toml", "Snakefile", "medssl", "workflow", "profiles", "configs", "environment.yml"}
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of each line of the Containerfile."""
    lines = (ROOT / "containers" / "Containerfile").read_text().splitlines()
    pairs = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    return [(word, rest) for word, rest in pairs]


def sections() -> dict[str, list[str]]:
    """Lines of each section of the Apptainer recipe; the header under ``."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in (ROOT / "containers" / "medssl.def").read_text().splitlines():
        if line.startswith("%"):
            name = line[1:]
            found[name] = []
        elif line.strip() and not line.startswith("#"):
            found[name].append(line.strip())
    return found


def image(text: str) -> str:
    return text.rsplit("/", 1)[-1]


def test_both_begin_with_the_same_python_that_the_project_supports() -> None:
    base = image(dict(instructions())["FROM"])
    assert f"From: {base}" in sections()[""]
    assert re.match(r"python:3\.(11|12|13)-", base), "a pinned Python, no `latest`"


def test_the_containerfile_copies_what_exists_and_all_that_is_needed() -> None:
    assert {word for word, _ in instructions()} <= INSTRUCTIONS
    copied = {name.removeprefix("./") for word, rest in instructions() if word == "COPY" for name in shlex.split(rest)[:-1]}
    assert all((ROOT / name).exists() for name in copied) and copied >= NEEDED


def test_the_apptainer_recipe_copies_what_exists_and_all_that_is_needed() -> None:
    pairs = [line.split() for line in sections()["files"]]
    assert all((ROOT / source).exists() and target == f"/opt/medssl/{source}" for source, target in pairs)
    assert {source for source, _ in pairs} >= NEEDED
    assert set(sections()) >= {"files", "post", "runscript", "test"}


@pytest.mark.parametrize("recipe", ["Containerfile", "medssl.def"])
def test_packages_come_from_the_lock_and_nothing_runs_as_a_shell_pipe_from_the_net(recipe: str) -> None:
    text = (ROOT / "containers" / recipe).read_text()
    assert "pip install --no-cache-dir -r " in text and "--no-deps" in text
    for word in ("curl", "wget", "latest", "| sh", "ADD ", "--privileged"):
        assert word not in text


def test_the_container_does_not_run_as_root() -> None:
    order = [word for word, _ in instructions()]
    assert order.index("USER") > max(at for at, word in enumerate(order) if word == "RUN")


def test_every_command_of_the_offline_page_is_a_target_or_a_file() -> None:
    page = (ROOT / "docs" / "howto" / "cluster.md").read_text()
    for target in re.findall(r"\bmake ([a-z][a-z-]+)", page):
        planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert planned.returncode == 0, planned.stderr
    for path in re.findall(r"containers/[A-Za-z.]+", page):
        assert (ROOT / path.rstrip(".")).is_file(), path
