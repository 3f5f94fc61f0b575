"""Ranges of an objective's options: what the types of its signature cannot say."""

from __future__ import annotations

import numpy as np

from medssl.core.errors import StudyError
from medssl.nn.loading import Samples


def require_at_least(least: int, **options: int) -> None:
    """Raises StudyError where an option is below `least`."""
    for name, value in options.items():
        if not value >= least:
            raise StudyError(f"the objective's option {name} is {value}, and must be {least} or more.")


def require_above_zero(**options: float) -> None:
    """Raises StudyError where an option is 0 or below."""
    for name, value in options.items():
        if not value > 0:
            raise StudyError(f"the objective's option {name} is {value}, and must be above 0.")


def require_share(**options: float) -> None:
    """Raises StudyError where an option is not from 0 to 1."""
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise StudyError(f"the objective's option {name} is {value}, and must be from 0 to 1.")


def require_scale(**options: tuple[float, float]) -> None:
    """Raises StudyError where an option is no rising pair of shares of an image."""
    for name, (low, high) in options.items():
        if not 0 < low <= high <= 1:
            raise StudyError(
                f"the objective's option {name} is {[low, high]}: two rising shares of an image, above 0 and up to 1."
            )


def require_widths(**options: tuple[int, ...]) -> None:
    """Raises StudyError where an option holds no widths of layers."""
    for name, widths in options.items():
        if not widths or min(widths) < 1:
            raise StudyError(f"the objective's option {name} is {list(widths)}: at least one width, each 1 or more.")


def require_other_volumes(samples: Samples) -> None:
    """Raises StudyError where negatives are to come from other volumes and there are none: the loss would be 0 for ever."""
    found = len(np.unique(samples.volume))
    if found < 2:
        raise StudyError(
            f"exclude_same_volume takes negatives from other volumes, and the kept samples are of {found}. Add volumes, or set "
            "it to false."
        )
