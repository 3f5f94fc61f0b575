"""The device of a network: the processor, or CUDA devices if requested and present."""

from __future__ import annotations

from typing import Literal

import torch

from medssl.core.errors import StudyError
from medssl.nn.determinism import use_deterministic_algorithms

Asked = Literal["auto", "cpu", "cuda"]


def device(
    asked: Asked = "auto", *, option: str = "device", count: int = 1, deterministic: bool = True, precision: str = "auto"
) -> torch.device:
    """`cuda` if requested, or if present for `auto`; then torch's algorithms are set to give equal bits, or not.

    Args:
        asked: see the stages' option `device`.
        option: the key in the study file, for the message.
        count: devices of this machine that one process, or one process each, will use.
        deterministic: equal runs give equal bits.
        precision: see the stages' option `precision`.

    Raises:
        StudyError: fewer CUDA devices than the study asks for, or the processor does not have the precision.
    """
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        if precision == "fp16":
            key = option.rpartition(".")[0] + ".precision"
            raise StudyError(f"{key} is fp16, which needs a GPU, and this job is on the CPU. Set precision: bf16 or fp32.")
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < count:
        raise StudyError(
            f"{option} is {asked!r} with {count} device(s), and {found} CUDA devices are here. Set {option} to auto or cpu, "
            "or to fewer devices, or run where the GPUs are."
        )
    use_deterministic_algorithms(deterministic)
    return torch.device("cuda")


def described(chosen: torch.device) -> str:
    """`cpu`, or `cuda` with the name of the device, for a receipt."""
    return f"cuda ({torch.cuda.get_device_name(chosen)})" if chosen.type == "cuda" else chosen.type
