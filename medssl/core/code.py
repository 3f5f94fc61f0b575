"""Which source files a piece of code depends on, read from its imports without running it.

A module's name in a string counts as an import: other processes are started that way (`"medssl.nn.foreign"`).
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
from functools import cache
from pathlib import Path

from medssl.core.files import sha256_text
from medssl.core.layout import PRIVATE

PACKAGE = Path(__file__).resolve().parent.parent
_MODULE = re.compile(rf"{PACKAGE.name}(\.\w+)+")


def code_hash(*starts: Path | str) -> str:
    """Hash of the code that `starts` (files of this package) reach through imports, without comments and docstrings.

    It is part of a stage's spec, so changed code reruns exactly the stages that use it.
    """
    seen: set[Path] = set()
    waiting = [Path(start) for start in starts]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imported_files(path)
    return sha256_text("\n".join(f"{p.relative_to(PACKAGE)} {_parsed(p)[0]}" for p in sorted(seen)))[:16]


@cache
def imported_files(path: Path) -> tuple[Path, ...]:
    """The files of this package that a file imports anywhere, sorted."""
    found: set[Path] = set()
    for module in _parsed(path)[1]:
        base = PACKAGE.joinpath(*module.split(".")[1:])
        found.update(p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file())
    return tuple(sorted(found))


@cache
def _parsed(path: Path) -> tuple[str, tuple[str, ...]]:
    """(hash of the file's meaning, modules of this package it imports); cached on disk by content, as parsing takes time."""
    text = path.read_text(encoding="utf-8")
    kept = PRIVATE / "code" / sha256_text(text)
    with contextlib.suppress(OSError, ValueError, TypeError):
        meaning, modules = json.loads(kept.read_text(encoding="utf-8"))
        return meaning, tuple(modules)
    tree = ast.parse(text)
    modules = sorted(_modules(tree))
    meaning = sha256_text(ast.dump(_without_docstrings(tree)))
    with contextlib.suppress(OSError):  # only a cache: if the folder is not writable, that costs time and nothing else
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f"{kept.name}.{os.getpid()}")
        temporary.write_text(json.dumps([meaning, modules]), encoding="utf-8")
        temporary.replace(kept)
    return meaning, tuple(modules)


def _modules(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE.fullmatch(node.value):
            found.add(node.value)
    return {module for module in found if module.split(".")[0] == PACKAGE.name}


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value = ast.Constant(value=None)
    return tree
