"""Every block of the documentation holds: YAML that a study takes, Python that runs, commands that can be typed."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from blocks import PAGES, ROOT, Block, blocks
from commands import lines_of, mistake, options_of, verbs
from pydantic import BaseModel

from medssl.study.file import load_study
from medssl.study.options import Study
from medssl.study.reference import SECTIONS

sys.path.insert(0, str(ROOT / "docs"))

from tools import run_pages

LANGUAGES = {"bash", "python", "yaml", "text", "json", "mermaid"}


def named(found: list[Block]) -> dict[str, Any]:
    return {"argvalues": found, "ids": [f"{block.page}:{block.line}" for block in found]}


def test_every_block_has_a_language() -> None:
    wrong = [f"{b.page}:{b.line}" for b in blocks() if b.language not in LANGUAGES and not re.match(r"\{[\w-]+\}", b.language)]
    assert not wrong, f"say the language behind the fence ({', '.join(sorted(LANGUAGES))}): {wrong}"


def study_of(read: dict[str, Any]) -> dict[str, Any]:
    """A study that holds a fragment, with a source for each name that the fragment refers to."""
    tasks, runs = (read.get(name) or {} for name in ("finetune", "pretrain"))
    wanted = {task["source"] for task in tasks.values()} | {"ct"} if not read.get("sources") else set()
    runs_named = {name for task in tasks.values() for name in task.get("inits", [])} | {
        name for pair in read.get("evaluate", {}).get("compare", []) for name in pair
    }
    arms = read.get("reduce", {}).get("arms", {})
    runs_named |= {arm["encoder"].partition("-")[0] for arm in arms.values() if arm and "encoder" in arm}
    return read | {
        "sources": {name: {"path": "scans"} for name in sorted(wanted)} | (read.get("sources") or {}),
        "pretrain": {name: {} for name in sorted(runs_named - set(runs))} | (runs or {"simclr": {}}),
    }


@pytest.mark.parametrize("block", **named(blocks("yaml")))
def test_yaml_is_a_study_or_a_section_of_one(block: Block) -> None:
    read = yaml.safe_load(block.text)
    if set(read) <= set(Study.model_fields):
        load_study(study_of(read))
        return
    (key,) = read  # a section shown alone, such as `augment:`
    held = [one for one in (_section(model, key) for _, model, _ in SECTIONS) if one is not None]
    assert held, f"{key!r} is a key of no section"
    held[0].model_validate(read[key])


def _section(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The section that a key of `model` holds."""
    from typing import get_args

    field = model.model_fields.get(key)
    types = [] if field is None else [field.annotation, *get_args(field.annotation)]
    return next((one for one in types if isinstance(one, type) and issubclass(one, BaseModel)), None)


@pytest.mark.parametrize("block", **named(blocks("python")))
def test_python_is_python(block: Block) -> None:
    ast.parse(block.text)


def run_here(block: Block) -> bool:
    return not block.not_run and not block.docs_test


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python") if run_here(block)}))
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after another in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "documentation"}
    for block in blocks("python"):
        if block.page == page and run_here(block):
            exec(compile("\n" * block.line + block.text, ROOT / page, "exec"), namespace)


@pytest.mark.parametrize("block", **named([block for block in blocks("bash") if "nnUNetv2" not in block.text]))
def test_commands_can_be_typed(block: Block) -> None:
    wrong = [found for words in lines_of(block.text) if (found := mistake(words))]
    assert not wrong


def test_every_command_is_run_or_says_why_not() -> None:
    """`make docs-test` runs the pages of `run_pages.PAGES`; the suite itself runs the Python without a mark."""
    by_docs_test = [block for block in blocks("bash") if not block.not_run] + [
        block for block in blocks("python") if block.docs_test
    ]
    left = [f"{block.page}:{block.line}" for block in by_docs_test if block.page not in run_pages.PAGES]
    assert not left, "list the page in docs/tools/run_pages.py, or write <!-- not run: why --> above the block"
    assert len(set(run_pages.PAGES)) == len(run_pages.PAGES)
    assert not [page for page in run_pages.PAGES if not (ROOT / page).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_sentences_have_these_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in re.findall(r"`medssl ([a-z]+[^`\n]*)`", text):
        verb, *rest = words.split()
        assert verb in verbs(), f"medssl {words}"
        unknown = {word.partition("=")[0] for word in rest if word.startswith("--")} - options_of(verb)
        assert not unknown, f"medssl {words}"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("medssl chek demo/ct", "no verb"),
        ("medssl check demo/ct --tabel files.tsv", "--tabel"),
        ("medssl export results/a/4_pretrain/ct/run", "library"),
        ("medssl check demo/none", "no demo/none"),
        ("snakemake --cores all repport", "no target repport"),
        ("snakemake --no-such-option report", "does not take"),
        ("snakemake --cores all report --configfile configs/none.yaml", "no configs/none.yaml"),
        ("make reprot", "no target reprot"),
        ("python benchmarks/none.py", "no benchmarks/none.py"),
        ("medsll check demo/ct", "not a program"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, why: str) -> None:
    (words,) = lines_of(line)
    assert why in mistake(words)


def test_a_pipe_and_a_comment_divide_a_line() -> None:
    found = lines_of("tar xf a.tar && bash run.sh   # there\nmake \\\n  test")
    assert found == [["tar", "xf", "a.tar"], ["bash", "run.sh"], ["make", "test"]]
