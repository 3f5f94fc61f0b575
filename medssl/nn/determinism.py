"""Equal bits on the same GPU: the settings that torch needs, in one place."""

from __future__ import annotations

import os

import torch


def use_deterministic_algorithms(wanted: bool) -> None:
    """Let torch use only operations that give the same bits twice, and refuse others; call it before the first product.

    cuBLAS does so only with a fixed workspace; without it torch refuses every matrix product on a GPU.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
