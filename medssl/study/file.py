"""Reads the study file with the line of every key, and checks it; each mistake is named with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from medssl.artefacts.names import SCRATCH
from medssl.core import plugins
from medssl.core.errors import StudyError, did_you_mean, ended
from medssl.core.listing import beside
from medssl.core.written import explained, in_yaml
from medssl.reduce.options import STEPS
from medssl.study.options import SourceOptions, Study, merged

A_STUDY_FILE = "Name a YAML file; `medssl init FOLDER` writes one for a folder of images."

Loc = tuple[str, ...]
"""The place of a value in a study: `("pretrain", "simclr", "epochs")`."""


@dataclass(frozen=True)
class Places:
    """File and line of every key that a study file holds."""

    lines: dict[Loc, str]
    file: str = "study"
    """The place of a required key that is missing."""

    def where(self, loc: Loc) -> str:
        """`configs/mine.yaml:12: pretrain.simclr.epoch: `, with the line of the nearest key that is in a file."""
        for length in range(len(loc), 0, -1):
            if loc[:length] in self.lines:
                return f"{self.lines[loc[:length]]}: {'.'.join(loc)}: "
        return f"{self.file}: {'.'.join(loc)}: "

    def sentence(self, loc: Loc, text: str) -> str:
        """`text` with the place in front."""
        return ended(f"{self.where(loc)}{text}")


def load_study(config: dict[str, Any] | None = None, files: list[str] | None = None) -> Study:
    """A study, checked and completed with defaults; see `read_study`."""
    return read_study(config, files)[0]


def read_study(config: dict[str, Any] | None = None, files: list[str] | None = None) -> tuple[Study, Places]:
    """Check a study and complete it with defaults; with the place of every key.

    Args:
        config: the merged study (what Snakemake read); None reads and merges `files`.
        files: the YAML files it came from, to name lines in errors; the last one names the study if it does not.

    Raises:
        StudyError: unknown keys, wrong values, names that refer to nothing; with file, line, key and a suggestion.
    """
    files = files or []
    places = Places({}, files[-1] if files else "study")
    read: dict[str, Any] = {}
    for file in files:
        read = merged(read, read_yaml(file, places.lines))
    values = dict(read if config is None else config)
    for key in values if files else ():
        places.lines.setdefault((str(key),), "--config")
    if files and "study" not in values:
        values["study"] = re.sub(r"[^a-z0-9_]+", "_", Path(files[-1]).stem.lower()).strip("_") or "study"
    try:
        study = Study.model_validate(values)
        for name in study.sources:
            for section in ("ingest", "prepare"):
                _check_override(study, name, section)
    except ValidationError as error:
        raise StudyError("\n".join(_sentence(problem, places) for problem in error.errors())) from None
    problems = list(_dangling_names(study))
    if problems:
        raise StudyError("\n".join(places.sentence(loc, text) for loc, text in problems))
    return study, places


def _check_override(study: Study, source: str, section: Literal["ingest", "prepare"]) -> None:
    try:
        study.ingest_of(source) if section == "ingest" else study.prepare_of(source)
    except ValidationError as error:
        raise ValidationError.from_exception_data(
            "Study",
            [
                {"type": e["type"], "loc": ("sources", source, section, *e["loc"]), "input": e["input"], "ctx": e.get("ctx", {})}
                for e in error.errors()
            ],
        ) from None


def _dangling_names(study: Study) -> Iterator[tuple[Loc, str]]:
    """Names in the study that refer to nothing."""

    def known(loc: Loc, what: str, name: str, choices: list[str]) -> Iterator[tuple[Loc, str]]:
        if name not in choices:
            yield loc, f"there is no {what} {name!r}.{did_you_mean(name, choices)}"

    sources, arms = list(study.sources), study.reduce.with_controls()
    for cohort, members in study.cohorts.items():
        for member in members:
            yield from known(("cohorts", cohort), "source", member, sources)
    for name, arm in arms.items():
        loc = ("reduce", "arms", name)
        if name in STEPS:
            yield loc, f"{name!r} is a step of this stage and cannot name an arm. Choose another name"
        if arm.reducer is None:
            yield from known((*loc, "reducer"), "reducer", name, plugins.names("reducer"))
        if arm.match is not None:
            yield from known((*loc, "match"), "arm", arm.match, list(arms))
            if arm.match == name or (arm.match in arms and arms[arm.match].match is not None):
                yield (*loc, "match"), f"arm {arm.match!r} has no count of its own to match (it matches another arm)"
    for name, run in study.pretrain.items():
        if run.cohort is not None:
            yield from known(("pretrain", name, "cohort"), "cohort", run.cohort, list(study.all_cohorts))
        for arm_name in run.arms or []:
            yield from known(("pretrain", name, "arms"), "arm", arm_name, list(arms))
        if run.init_run is not None:
            loc = ("pretrain", name, "init_run")
            yield from known(loc, "pre-training run", run.init_run, list(study.pretrain))
            yield from ((loc, problem) for problem in _broken_chain(study, name))
    for name, task in study.finetune.items():
        yield from known(("finetune", name, "source"), "source", task.source, sources)
        for init in task.inits or []:
            yield from known(("finetune", name, "inits"), "initialisation", init, [SCRATCH, *study.pretrain])
    starts = [SCRATCH, *study.pretrain, *(weights for task in study.finetune.values() for weights in task.weights)]
    for pair in study.evaluate.compare:
        for name in pair:
            yield from known(("evaluate", "compare"), "initialisation", name, starts)
        if pair[0] == pair[1]:
            yield ("evaluate", "compare"), f"{pair[0]!r} is compared with itself"


def _broken_chain(study: Study, name: str) -> Iterator[str]:
    """Why the run `name` cannot start from its `init_run`: it would wait for itself, or an arm or seed is missing."""
    run = study.pretrain[name]
    before = study.pretrain.get(run.init_run or "")
    if before is None:
        return
    chain = [name]
    while (following := study.pretrain[chain[-1]].init_run) in study.pretrain:
        chain.append(str(following))
        if following in chain[:-1]:
            if following == name:
                yield f"{' begins from '.join(chain)}: a run cannot wait for itself. Let one of them begin from fresh weights"
            return
    for what, wanted, there in (
        ("arm", study.arms_of(run), study.arms_of(before)),
        ("seed", run.seeds, before.seeds),
    ):
        missing = [value for value in wanted if value not in there]
        if missing:
            yield f"run {run.init_run!r} has no {what} {missing[0]!r} (it has {there}); a chain keeps arm and seed. Add it there"


def _sentence(problem: Any, places: Places) -> str:
    *above, last = problem["loc"]
    of_key = last == "[key]" or problem["type"] == "invalid_key"
    if last == "[key]":
        *above, last = above
    if of_key and isinstance(problem["input"], bool):
        last = in_yaml(problem["input"])  # as `_name_of` has it
    loc = tuple(map(str, (*above, last)))
    if problem["type"] == "extra_forbidden":
        return places.sentence(loc, f"unknown key {loc[-1]!r}.{_hint(loc[-1], _keys_at(loc[:-1]))}")
    return places.sentence(loc, explained(problem))


def _hint(key: str, known: dict[str, str]) -> str:
    """The key with similar spelling, or the only one whose description has the word; else all keys."""
    near = did_you_mean(key, known)
    meant = [name for name, text in known.items() if re.search(rf"\b{re.escape(key)}\b", text, re.IGNORECASE)]
    return near if "Did you mean" in near or len(meant) != 1 else f" Did you mean {meant[0]!r}?"


def _keys_at(loc: Loc) -> dict[str, str]:
    """The keys that may stand in a section, with their descriptions, found by walking the types of the study."""
    kind: Any = Study
    for part in loc:
        if kind is SourceOptions and part in ("ingest", "prepare"):
            kind = Study.model_fields[part].annotation
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[part].annotation if part in kind.model_fields else None
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {}
    return {name: field.description or "" for name, field in kind.model_fields.items()}


def read_yaml(file: str, lines: dict[Loc, str]) -> dict[str, Any]:
    """A YAML file as a dict, with the line of every key filled in; duplicate keys, which YAML would allow, are refused.

    Raises:
        StudyError: it cannot be read, is not YAML, or has no sections; with its line.
    """
    text = _text_of(file)
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        _note_lines(file, root, (), lines, [])
        value = None if root is None else loader.construct_document(root)
    except yaml.YAMLError as error:
        raise StudyError(f"{file}{_line_of(error, text)}: not valid YAML: {_reason(error)}.") from None
    if value is None:
        raise StudyError(f"{file}: the study file is empty. {A_STUDY_FILE}")
    if not isinstance(value, dict):
        raise StudyError(f"{file}:1: a study file has sections (`sources:`, `reduce:`, …), got {in_yaml(value)}. {A_STUDY_FILE}")
    return value


def _name_of(key: yaml.Node) -> str:
    """A key as it appears in sentences: `true` also for `yes` and `on`."""
    return in_yaml(yaml.SafeLoader.bool_values[key.value.lower()]) if key.tag.endswith(":bool") else str(key.value)


class _Loader(yaml.SafeLoader):
    """A loader that names the line of an impossible value, such as a 13th month."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(None, None, f"{node.value}: {error}", node.start_mark) from None


def _text_of(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"there is no study file {file}.{beside(Path(file))} {A_STUDY_FILE}") from None
    except OSError as error:
        raise StudyError(f"{file} cannot be read as a study file ({error.strerror}). {A_STUDY_FILE}") from None
    except UnicodeDecodeError:
        raise StudyError(f"{file} cannot be a study file: it is not text in UTF-8. {A_STUDY_FILE}") from None


def _note_lines(file: str, node: yaml.Node | None, loc: Loc, lines: dict[Loc, str], above: list[yaml.Node]) -> None:
    """Fill in the line of every key below a node; `above`: the nodes that hold it.

    Raises:
        StudyError: a section has a key twice, or holds itself.
    """
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, child in node.value:
        name, place = _name_of(key), f"{file}:{key.start_mark.line + 1}"
        if name in seen:
            raise StudyError(f"{place}: {'.'.join((*loc, name))}: this key stands twice. Remove one.")
        if child is node or child in above:
            raise StudyError(f"{place}: {'.'.join((*loc, name))}: this section holds itself. Write its values instead of `*`.")
        seen.add(name)
        lines[(*loc, name)] = place
        _note_lines(file, child, (*loc, name), lines, [*above, node])


def _line_of(error: Exception, text: str) -> str:
    """`:12`, if the error has a line."""
    mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
    if mark is not None:
        return f":{mark.line + 1}"
    return "" if position is None else f":{text.count(chr(10), 0, position) + 1}"


def _reason(error: Exception) -> str:
    """Why a text is not YAML."""
    reason = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    return f"{reason}. Indent with spaces, not with tabs" if r"\t" in reason else reason
