"""Stochastic depth (drop path): in training, residual branches are skipped at random, image by image.

Source: Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382, §3, with the factor in training.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt64
from torch import Tensor, nn

from medssl.core.errors import StudyError
from medssl.core.rng import uniforms
from medssl.nn.backbone import Backbone
from medssl.nn.pass_state import PassState


class StochasticDepth:
    """Lets a backbone skip its residual branches inside `of`; weights, names, and the network outside are unchanged.

    The skipped share grows along the network, from 0 for the first branch to `rate` for the last. Other branches are divided by
    the share that remains, so that the mean is that of the whole network.

    Raises:
        StudyError: the backbone has no residual branches.
    """

    def __init__(self, backbone: Backbone, rate: float) -> None:
        ends = backbone.branch_ends
        if not ends:
            raise StudyError(
                f"drop_path {rate}: {type(backbone).__name__} has no residual branches to leave out. Set drop_path to 0, or take "
                "a backbone that has some (a ResNet, ConvNeXt, the residual encoder of nnU-Net)."
            )
        self.rates = np.linspace(0.0, rate, len(ends))
        self._factors: PassState[Tensor] = PassState(backbone)
        for number, name in enumerate(ends):
            backbone.get_submodule(name).register_forward_hook(partial(self._weigh, number))

    def factors(self, stream: int, keys: UInt64[np.ndarray, "n"]) -> Float[Tensor, "branches n"]:
        """The factor of each branch of each image, a function of (stream, key) alone."""
        left_out = uniforms(stream, keys, len(self.rates)) < self.rates
        return torch.from_numpy(np.where(left_out, 0.0, 1 / (1 - self.rates)).T.copy())

    def of(self, factors: Float[Tensor, "branches n"]) -> contextlib.AbstractContextManager[None]:
        """Inside, the branches of a network in training are multiplied by these.

        One factor for each row of a branch's output; or one for each of several consecutive rows, such as the packed patches of
        an image.
        """
        return self._factors.of(factors)

    def _weigh(self, number: int, module: nn.Module, _: Any, branch: Float[Tensor, "rows ..."]) -> Tensor | None:
        if self._factors.value is None or not module.training:
            return None
        of_images = self._factors.value[number].to(branch)
        if len(branch) % len(of_images):
            raise ValueError(f"{len(of_images)} factors for {len(branch)} rows of a branch; expected one for each, or a divisor")
        of_rows = of_images.repeat_interleave(len(branch) // len(of_images))
        return branch * of_rows.view(-1, *[1] * (branch.ndim - 1))
