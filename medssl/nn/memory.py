"""Reports running out of memory in a sentence."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

import torch

from medssl.core.errors import OutOfMemoryError


@contextlib.contextmanager
def memory_errors(when: str, samples_at_a_time: int, device: torch.device, advice: str) -> Iterator[None]:
    """Inside, running out of memory is reported with the moment, the memory in use, and what to change.

    Raises:
        OutOfMemoryError: on the device, or on the machine.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in str(error):
            raise
        peak_mb = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else _peak_mb()
        raise OutOfMemoryError(
            f"{when} does not fit: peak {peak_mb:.0f} MB on {device}, {samples_at_a_time} samples at a time. {advice} "
            "Nothing was changed for you."
        ) from None


def _peak_mb() -> float:
    """The peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
