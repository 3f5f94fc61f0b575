"""The names of shapes in signatures: jaxtyping's where it is loaded, as in the suite, which checks them at every call.

Elsewhere annotations are not evaluated, and a stage starts without jaxtyping.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int16, Int64, Num, Shaped

__all__ = ["Float", "Float32", "Int16", "Int64", "Num", "Shaped"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(sys.modules.get("jaxtyping"), name, None)
