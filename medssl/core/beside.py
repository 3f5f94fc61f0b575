"""What a clone has beside the package, and a wheel within it: Snakefile, workflow, profiles, configs and the lock file."""

from __future__ import annotations

from pathlib import Path

from medssl.core.code import PACKAGE

IN_WHEEL = "snakemake"
"""The folder of a wheel's package that holds them; `pyproject.toml` puts them there."""


def beside(package: Path = PACKAGE) -> Path:
    """The folder of the Snakefile: of the wheel that holds `package`, or of its clone."""
    within = package / IN_WHEEL
    return within if within.is_dir() else package.parent


def is_installed(package: Path = PACKAGE) -> bool:
    """Whether `package` is that of a wheel, with the packages of others around it."""
    return beside(package) != package.parent
