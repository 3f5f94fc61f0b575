"""Where the code of a job came from and whether its environment is the locked one: for its receipt."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from medssl.core.beside import beside
from medssl.core.code import PACKAGE
from medssl.core.files import sha256_file

LOCK = "requirements.lock"
CODE = ("medssl", "workflow", "Snakefile", "pyproject.toml", LOCK)
"""What a result can depend on in a clone: a changed README changes no result."""
LIMIT_S = 10.0


@cache
def origin(package: Path = PACKAGE) -> dict[str, Any]:
    """`commit` and `dirty` of the clone that holds `package`, `lock_sha256` of its lock file and `lock_differs`, by package.

    Each is None if unknown: an installed wheel has a lock file but no commit, and a compute node may lack git. A commit does
    not prove what ran; the hash of the code beside it in a receipt does.
    """
    root = package.parent
    lock = beside(package) / LOCK
    commit = _git(root, "rev-parse", "HEAD") if _git(root, "ls-files", "--", f"{package.name}/__init__.py") else None
    changed = _git(root, "status", "--porcelain", "--", *(name for name in CODE if (root / name).exists())) if commit else None
    return {
        "commit": commit,
        "dirty": None if changed is None else bool(changed),
        "lock_sha256": sha256_file(lock) if lock.is_file() else None,
        "lock_differs": _differs(lock.read_text(encoding="utf-8")) if lock.is_file() else None,
    }


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints in this folder; None without git, without a clone, or if git refuses to read it."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # ignore a git hook's repository
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=own)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _differs(lock: str) -> dict[str, str]:
    """Installed version of every package that differs from its pin; a build tag such as `+cpu` is ignored."""
    found = {}
    for name, pinned in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock, flags=re.MULTILINE):
        installed = installed_version(name) or "not installed"
        if installed.partition("+")[0] != pinned.partition("+")[0]:
            found[name] = installed
    return found


def installed_version(name: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    known = _versions().get(_normal(name))
    if known is not None:
        return known
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _versions() -> dict[str, str]:
    """Versions by name, from the folder names that installers leave beside packages: reading their contents takes 100 ms.

    Source: packaging.python.org, "Recording installed projects": `{name}-{version}.dist-info`.
    """
    found: dict[str, str] = {}
    for place in sys.path:
        with contextlib.suppress(OSError):
            for entry in os.listdir(place or "."):
                name, dash, number = entry.removesuffix(".dist-info").rpartition("-")
                if dash and entry.endswith(".dist-info"):
                    found.setdefault(_normal(name), number)
    return found


def _normal(name: str) -> str:
    """A package name in the one form that all its spellings share."""
    return re.sub(r"[-_.]+", "_", name).lower()
