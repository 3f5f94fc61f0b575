"""Whether a line of a shell in the documentation is one that can be typed: its program, its options, the files it names."""

from __future__ import annotations

import functools
import re
import shlex
from typing import Any

import typer
from blocks import ROOT

from medssl.cli import app
from medssl.study.running import snakemake_line

SHELL = {"ls", "mv", "rm", "sed", "tar", "scp", "docker", "apptainer", ".", "pip", "python3", "bash"}
"""Programs whose options are not ours to check."""
NOT_YET = {"mine.yaml", "configs/mine.yaml", "configs/other.yaml", "configs/first.yaml"}
"""Study files that the reader writes."""


def lines_of(text: str) -> list[list[str]]:
    """The commands of a block as words: continued lines joined, comments left out, a pipe or `&&` divides them."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if word in ("|", "||", "&", "&&", ";"):
                found += [command] if command else []
                command = []
            else:
                command.append(word)
    return found


def mistake(words: list[str]) -> str:
    """What is wrong with a command; empty where nothing is."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program = words[0].rpartition("/")[2]
    if ">" in words:
        words = words[: words.index(">")]
    if program == "medssl":
        return _medssl(words[1:])
    if program == "snakemake":
        return _snakemake(words[1:])
    if program == "make":
        return _make(words[1:])
    if program == "python":
        return _python(words[1:])
    return "" if program in SHELL else f"{program} is not a program that the documentation uses"


@functools.cache
def verbs() -> dict[str, Any]:
    """The commands of medssl by name."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def options_of(verb: str) -> set[str]:
    """All options of a verb, as they are typed."""
    return {name for one in verbs()[verb].params for name in (*one.opts, *one.secondary_opts)} | {"--help"}


def _medssl(words: list[str]) -> str:
    if words == ["--help"] or words == ["--version"]:
        return ""
    if not words or words[0] not in verbs():
        return f"medssl has no verb {words[:1]}"
    if words[0] == "run":
        return _missing_file(words) or _snakemake(snakemake_line([word for word in words[1:] if word not in NOT_YET]))
    try:
        verbs()[words[0]].make_context(words[0], list(words[1:]))
    except Exception as error:  # whichever copy of click typer brings
        return f"medssl {words[0]}: {error.format_message() if hasattr(error, 'format_message') else error}"
    return _missing_file(words)


@functools.cache
def _parser() -> Any:
    from snakemake.cli import get_argument_parser

    return get_argument_parser()


def _snakemake(words: list[str]) -> str:
    try:
        given = _parser().parse_args(words)
    except SystemExit:
        return f"snakemake does not take {words}"
    rules = "".join(path.read_text(encoding="utf-8") for path in [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")])
    for target in given.targets:
        if not re.fullmatch(r"pretrain_\w+", target) and not re.search(rf"^rule {target}:", rules, re.M):
            return f"the workflow has no target {target}"
    for profile in given.profile or []:
        if not (ROOT / profile).is_dir():
            return f"there is no profile {profile}"
    return _missing_file([str(name) for name in given.configfile or []])


def _make(words: list[str]) -> str:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [name for line in re.findall(r"^([\w%$():-][^=\n]*?):(?!=)", text, re.M) for name in line.split()]
    benches = re.search(r"^BENCHES := (.*)", text, re.M)
    targets += [f"bench-{name}" for name in benches[1].split()] if benches else []
    for word in words:
        name = word.partition("=")[0]
        if "=" in word and re.search(rf"\$\({name}\)", text):
            continue
        if not any(re.fullmatch(target.replace("%", r"[\w<>]+"), word) for target in targets if "$" not in target):
            return f"the Makefile has no target {word}"
    return ""


def _python(words: list[str]) -> str:
    if words[0] == "-m":
        if words[1] in ("venv", "pytest"):
            return _missing_file(words[2:])
        place = ROOT / words[1].replace(".", "/")
        return "" if place.is_dir() or place.with_suffix(".py").is_file() else f"there is no module {words[1]}"
    return "" if (ROOT / words[0]).is_file() else f"there is no {words[0]}"


def _missing_file(words: list[str]) -> str:
    """The first word that names a file of the tree that is not there."""
    for word in words:
        if re.match(r"(configs|demo|tests|benchmarks|docs)/", word) and word not in NOT_YET and not (ROOT / word).exists():
            return f"there is no {word}"
    return ""
