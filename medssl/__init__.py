"""medssl: self-supervised pre-training on CT and MR, from a DICOM folder to a report.

Each public name is imported when it is first used, so that `import medssl` loads neither torch nor pandas. `__init__.pyi` has
their types.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Encoder", "MedsslError", "Study", "Transform", "__version__", "load"]

_HOMES = {
    "Encoder": "api.encoder",
    "MedsslError": "core.errors",
    "Study": "api.results",
    "Transform": "api.encoder",
    "load": "api.encoder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
