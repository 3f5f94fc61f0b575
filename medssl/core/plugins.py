"""A folder is the registry: `pretrain/objectives/simclr.py` *is* the objective `simclr`.

The constructor's signature is the schema. What other code must know of a plug-in are literals at the top of its file. Both are
read from the source text, so that checking a study file imports neither torch nor monai.
"""

from __future__ import annotations

import ast
import importlib
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, create_model

from medssl.core import bounds
from medssl.core.errors import StudyError, did_you_mean
from medssl.core.files import sha256_text
from medssl.core.written import Written

PACKAGE = Path(__file__).resolve().parent.parent

KINDS = {
    "check": "ingest/checks",
    "reducer": "reduce/reducers",
    "objective": "pretrain/objectives",
    "backbone": "nn/backbones",
    "task": "finetune/tasks",
    "metric": "evaluate/metrics",
    "section": "report/sections",
}
USUAL_NAME = re.compile("[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Plugin:
    """One file of a plug-in folder, the options of its class or function, and what it declares."""

    kind: str
    name: str
    path: Path
    options: type[BaseModel] = field(compare=False)
    summary: str = field(compare=False)
    constants: dict[str, Any] = field(compare=False, repr=False)

    def load(self) -> Any:
        """The class or function (imports its module)."""
        module = importlib.import_module("medssl." + KINDS[self.kind].replace("/", ".") + "." + self.name)
        return getattr(module, _public_definition(ast.parse(self.path.read_text(encoding="utf-8")), self.path).name)

    def constant(self, name: str, default: Any = ...) -> Any:
        """A literal at the top of the plug-in's file, such as `MODES`; `default` if it has none.

        Raises:
            StudyError: it has none, and there is no default.
        """
        if name in self.constants:
            return self.constants[name]
        if default is not ...:
            return default
        raise StudyError(f"{self.kind} {self.name!r} does not state its {name}; write it at the top of {self.path.name}.")

    def check(self, options: dict[str, Any]) -> dict[str, Any]:
        """`options` completed with the defaults; pydantic's ValidationError if a key or value is wrong."""
        return self.options.model_validate(options).model_dump()


def names(kind: str) -> list[str]:
    """The plug-ins of a kind, sorted."""
    return sorted(path.stem for path in (PACKAGE / KINDS[kind]).glob("*.py") if not path.stem.startswith("_"))


def find(kind: str, name: str) -> Plugin:
    """The plug-in `name` of a kind.

    Raises:
        StudyError: there is no such file.
    """
    if not has(kind, name):
        raise StudyError(f"there is no {kind} {name!r}.{did_you_mean(name, names(kind))}")
    path = PACKAGE / KINDS[kind] / f"{name}.py"
    return _read(kind, path, path.stat().st_mtime_ns)


def has(kind: str, name: str) -> bool:
    """Whether there is a plug-in `name` of a kind."""
    if USUAL_NAME.fullmatch(name):
        return (PACKAGE / KINDS[kind] / f"{name}.py").is_file()
    return name in names(kind)  # some file systems would find `simclr.py` for `SimCLR`


def all_of(kind: str) -> Iterator[Plugin]:
    """Every plug-in of a kind, by name."""
    return (find(kind, name) for name in names(kind))


def with_used(kind: str, name: str, options: dict[str, Any]) -> Iterator[Plugin]:
    """A plug-in, and the plug-ins that it loads under these options. `USES = {"slices": "backbone"}` in its file says that its
    option `slices` names a backbone.
    """
    plugin = find(kind, name)
    yield plugin
    complete = plugin.check(options)
    for option, used in plugin.constant("USES", default={}).items():
        if complete.get(option) is not None:
            yield from with_used(used, complete[option], complete.get(f"{option}_options") or {})


def declared() -> str:
    """Hash of the literals at the top of every plug-in."""
    said = [(kind, plugin.name, _in_order(plugin.constants)) for kind in KINDS for plugin in all_of(kind)]
    return sha256_text(repr(said))[:16]


def _in_order(value: Any) -> Any:
    """The same value with sets and dictionaries as sorted lists: their own order differs between processes."""
    if isinstance(value, dict):
        return sorted((key, _in_order(item)) for key, item in value.items())
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    return [_in_order(item) for item in value] if isinstance(value, (list, tuple)) else value


@lru_cache(maxsize=256)
def _read(kind: str, path: Path, changed_ns: int) -> Plugin:
    """A plug-in's file, parsed once until it changes."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        line = f", line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else ""
        raise StudyError(f"{path}, a {kind}, is not Python{line}. Mend the file, or take it out of its folder.") from None
    definition = _public_definition(tree, path)
    text = ast.get_docstring(definition) or ""
    return Plugin(
        kind,
        path.stem,
        path,
        _options_model(path.stem, definition, _described(text)),
        " ".join(text.split("\n\n")[0].split()),
        dict(_literals(tree)),
    )


def _literals(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """The names in capitals at the top of a file whose value is a literal."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and target.id.isupper():
                try:
                    yield target.id, ast.literal_eval(value)
                except ValueError:  # computed, so other code does not need it
                    continue


def _public_definition(tree: ast.Module, path: Path) -> ast.ClassDef | ast.FunctionDef:
    """The class or function that is named like its file (`every_n`, `SimCLR` in simclr.py)."""
    wanted = path.stem.replace("_", "").lower()
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name.replace("_", "").lower() == wanted:
            return node
    raise StudyError(f"{path} holds no class or function named like the file; a plug-in needs one.")


def _described(docstring: str) -> dict[str, str]:
    """The description of each option in the section `Options:` of a docstring (`name: a sentence.`, which may span lines)."""
    found: dict[str, str] = {}
    inside, last = False, ""
    for line in docstring.splitlines():
        if re.fullmatch(r"\s*Options:\s*", line):
            inside, last = True, ""
        elif inside and line.strip() and not line.startswith(" "):
            inside = False
        elif inside and (match := re.fullmatch(r"    (\w+): (.+)", line)):
            last = match[1]
            found[last] = match[2].strip()
        elif inside and last and line.strip():
            found[last] += " " + line.strip()
    return found


def _options_model(name: str, definition: ast.ClassDef | ast.FunctionDef, described: dict[str, str]) -> type[BaseModel]:
    """The model of the options: keyword-only parameters with a default. The stage supplies parameters before `*`."""
    function = definition
    if isinstance(definition, ast.ClassDef):
        function = next((n for n in definition.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)  # type: ignore[assignment]
    fields: dict[str, Any] = {}
    if isinstance(function, ast.FunctionDef):
        for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
            if default is not None:
                annotation = ast.unparse(argument.annotation) if argument.annotation else "Any"
                value = Field(ast.literal_eval(default), description=described.get(argument.arg))
                fields[argument.arg] = (_evaluate(annotation), value)
    unknown = sorted(described.keys() - fields.keys())
    if unknown:
        raise StudyError(f"{name}: its docstring describes an option {unknown[0]!r} that the signature does not have.")
    return create_model(f"{name}_options", __base__=Written, **fields)


def _evaluate(annotation: str) -> Any:
    """A type written with built-ins, names of `typing` and those of `core/bounds.py`."""
    words = re.findall(r"[A-Za-z_]+", annotation)
    scope = {word: getattr(home, word) for home in (typing, bounds) for word in words if hasattr(home, word)}
    return eval(annotation, {"__builtins__": {}, **_BUILTINS}, scope)  # noqa: S307  (our own source text)


_BUILTINS = {t.__name__: t for t in (int, float, bool, str, list, tuple, dict)} | {"None": None}
