"""A folder is the registry: `pretrain/objectives/simclr.py` *is* the objective `simclr`.

The constructor signature is the schema. It is read from the source text, so that checking a study file imports neither
torch nor monai.
"""

from __future__ import annotations

import ast
import importlib
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from medssl.core import bounds
from medssl.core.errors import StudyError, did_you_mean

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


@dataclass(frozen=True)
class Plugin:
    """One file of a plug-in folder and the options its class or function takes."""

    kind: str
    name: str
    options: type[BaseModel]
    summary: str

    @property
    def path(self) -> Path:
        """The file that is the plug-in."""
        return PACKAGE / KINDS[self.kind] / f"{self.name}.py"

    def load(self) -> Any:
        """The class or function itself (imports its module)."""
        module = importlib.import_module("medssl." + KINDS[self.kind].replace("/", ".") + "." + self.name)
        return getattr(module, _public_name(self.path))

    def constant(self, name: str, default: Any = ...) -> Any:
        """A literal at the top of the plug-in's file, such as `MODES`, read from the source text; `default` where it has none."""
        for node in ast.parse(self.path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return ast.literal_eval(node.value)
        if default is not ...:
            return default
        raise StudyError(f"{self.kind} {self.name!r} does not say its {name}; write it at the top of {self.path.name}.")

    def check(self, options: dict[str, Any]) -> dict[str, Any]:
        """`options` completed with the defaults; pydantic's ValidationError if a key or value is wrong."""
        return self.options(**options).model_dump()


def names(kind: str) -> list[str]:
    """The plug-ins of a kind, sorted."""
    folder = PACKAGE / KINDS[kind]
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def find(kind: str, name: str) -> Plugin:
    """The plug-in `name` of a kind.

    Raises:
        StudyError: there is no such file.
    """
    if name not in names(kind):
        raise StudyError(f"there is no {kind} {name!r}.{did_you_mean(name, names(kind))}")
    path = PACKAGE / KINDS[kind] / f"{name}.py"
    definition = _public_definition(path)
    return Plugin(kind, name, _options_model(name, definition), (ast.get_docstring(definition) or "").split("\n")[0])


def _public_name(path: Path) -> str:
    return _public_definition(path).name


def _public_definition(path: Path) -> ast.ClassDef | ast.FunctionDef:
    """The class or function of the file that bears the file's name (`every_n`, `SimCLR` in simclr.py)."""
    wanted = path.stem.replace("_", "").lower()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name.replace("_", "").lower() == wanted:
            return node
    raise StudyError(f"{path.name} holds no class or function named like the file; a plug-in needs one.")


def _options_model(name: str, definition: ast.ClassDef | ast.FunctionDef) -> type[BaseModel]:
    """Keyword-only parameters with a default are options; parameters before `*` are given by the stage."""
    function = definition
    if isinstance(definition, ast.ClassDef):
        function = next((n for n in definition.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)  # type: ignore[assignment]
    fields: dict[str, Any] = {}
    if isinstance(function, ast.FunctionDef):
        for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
            if default is not None:
                annotation = ast.unparse(argument.annotation) if argument.annotation else "Any"
                fields[argument.arg] = (_evaluate(annotation), ast.literal_eval(default))
    config = ConfigDict(extra="forbid", frozen=True)
    return create_model(f"{name}_options", __config__=config, **fields)


def _evaluate(annotation: str) -> Any:
    """A type written with built-ins, `typing` names and those of `core/bounds.py`."""
    words = re.findall(r"[A-Za-z_]+", annotation)
    scope = {word: getattr(home, word) for home in (typing, bounds) for word in words if hasattr(home, word)}
    return eval(annotation, {"__builtins__": {}, **_BUILTINS}, scope)  # noqa: S307  (our own source text)


_BUILTINS = {t.__name__: t for t in (int, float, bool, str, list, tuple, dict)} | {"None": None}
