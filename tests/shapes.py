"""What the suite checks at every call: that arrays have the shape and the type which signatures name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from beartype import BeartypeConf, BeartypeHintOverrides, beartype

PACKAGES = ("medssl.nn", "medssl.volume", "medssl.pretrain", "medssl.evaluate", "medssl.reduce")

Checked = TypeVar("Checked", bound=Callable[..., Any])
NUMBERS = BeartypeConf(hint_overrides=BeartypeHintOverrides({int: int | np.integer, float: float | int | np.number}))
"""A number of numpy is a number, and a whole number may stand for a float, as it may for mypy."""


def checked(function: Checked) -> Checked:
    """A function that checks its arguments and what it returns against its annotations."""
    return beartype(conf=NUMBERS)(function)
