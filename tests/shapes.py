"""What the suite checks at every call: that arrays have the shape and the type which signatures name.

A signature without an array is left to mypy, and its function as it is: such checks took a tenth of the suite.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jaxtyping
import numpy as np
from beartype import BeartypeConf, BeartypeHintOverrides, beartype

PACKAGES = ("medssl.nn", "medssl.volume", "medssl.pretrain", "medssl.evaluate", "medssl.reduce")

Checked = TypeVar("Checked", bound=Callable[..., Any])
NUMBERS = BeartypeConf(hint_overrides=BeartypeHintOverrides({int: int | np.integer, float: float | int | np.number}))
"""A number of numpy is a number, and a whole number may stand for a float, as it may for mypy."""


def checked(function: Checked) -> Checked:
    """A function that checks its arguments and what it returns against its annotations."""
    return beartype(conf=NUMBERS)(function)


def install() -> None:
    """Check what is imported from now on of `PACKAGES`."""
    jaxtyped = jaxtyping.jaxtyped

    def jaxtyped_if_of_arrays(*, typechecker: Any) -> Callable[[Checked], Checked]:
        check: Callable[[Checked], Checked] = jaxtyped(typechecker=typechecker)
        return lambda thing: check(thing) if inspect.isclass(thing) or names_an_array(thing) else thing

    setattr(jaxtyping, "jaxtyped", jaxtyped_if_of_arrays)
    jaxtyping.install_import_hook(PACKAGES, "shapes.checked")


def names_an_array(function: Callable[..., Any]) -> bool:
    """Whether an annotation of this function names an array type of jaxtyping, or an alias of one."""
    names = getattr(function, "__globals__", {})
    words = {word for text in inspect.get_annotations(function).values() for word in re.findall(r"[A-Za-z_]\w*", str(text))}
    kinds = (jaxtyping.AbstractArray, jaxtyping.AbstractDtype)
    return any(isinstance(names.get(word), type) and issubclass(names[word], kinds) for word in words)
