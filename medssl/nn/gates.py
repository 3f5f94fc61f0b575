"""Gates on the channels of maps under a variational bottleneck: a channel whose noise exceeds its signal is closed.

Source: Dai et al., "Compressing Neural Networks using the Variational Information Bottleneck", arXiv 1802.10399; as an option of
fine-tuning, Chang et al., "CVIB", Knowledge-Based Systems 2024.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from medssl.nn.backbone import pooled
from medssl.nn.paired_contrast import Pairing
from medssl.nn.pass_state import PassState

LOWEST, HIGHEST = -12.0, 4.0
"""Bounds of the logarithm of the variance, before it is used."""


class Gate(nn.Module):
    """One factor N(mean, variance) for each channel of a map, drawn for each image in training; else its mean, or 0 if closed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.empty(channels).normal_(1, 0.01))
        self.log_variance = nn.Parameter(torch.empty(channels).normal_(-9, 0.01))

    def forward(self, x: Float[Tensor, "n c ..."], factor: Float[Tensor, "_ c"]) -> Float[Tensor, "n c ..."]:
        """A map times factors, of each image or of all."""
        return x * factor.to(x.dtype).view(*factor.shape, *(1,) * (x.ndim - 2))

    def drawn(self, noise: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Factors of images, from standard normal numbers."""
        return self.mean + (self._bounded / 2).exp() * noise

    @property
    def fixed(self) -> Float[Tensor, "1 c"]:
        """The factors of evaluation."""
        return torch.where(self.is_open, self.mean, 0.0)[None]

    @property
    def is_open(self) -> Bool[Tensor, "c"]:
        """The channels whose signal exceeds their noise."""
        return self._bounded < self.mean.square().log()

    def kl(self) -> Float[Tensor, ""]:
        """Nats from the factors to the best prior of mean 0, N(0, mean² + variance), summed over channels; float32."""
        return 0.5 * torch.log1p(self.mean.float().square() * (-self._bounded.float()).exp()).sum()

    @property
    def _bounded(self) -> Float[Tensor, "c"]:
        return self.log_variance.clamp(LOWEST, HIGHEST)


class Gates(nn.Module):
    """Gates on some of a backbone's maps; what the backbone passes on inside itself stays as it is.

    Args:
        channels: of each gated map, by its number.
        price: factor of the KL divergence in the loss.
        twin: factor of the contrast between plain and gated features of the deepest gated map; 0: none.
        temperature: of that contrast.
    """

    def __init__(self, channels: dict[int, int], *, price: float, twin: float, temperature: float) -> None:
        super().__init__()
        self.of_map = nn.ModuleDict({str(number): Gate(channels[number]) for number in sorted(channels)})
        self.price, self.twin, self.temperature = price, twin, temperature
        self.noise: PassState[np.random.Generator] = PassState(self)
        """Of a training pass; without it factors are fixed, or the means in training mode."""
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, maps: list[Float[Tensor, "n _ ..."]]) -> list[Float[Tensor, "n _ ..."]]:
        """The maps, the gated ones times their factors."""
        found = list(maps)
        for number, gate in self._gates.items():
            factor = self._factor(gate, maps[number])
            found[number] = gate(maps[number], factor)
            if self.twin and self.noise.value is not None:
                plain = pooled(maps[: number + 1])
                self._seen = plain, plain * factor, plain * gate.mean  # at the end of the deepest one
        return found

    def cost(self, patient: Int64[Tensor, "n"]) -> Float[Tensor, ""]:
        """What the gates add to the loss of the pass before; `patient` numbers its images' patients, who are the negatives."""
        cost = self.price * torch.stack([gate.kl() for gate in self._gates.values()]).sum()
        if self._seen is not None:
            plain, drawn, mean = (F.normalize(features, dim=1) for features in self._seen)
            self._seen = None
            pairs = Pairing(
                patient, torch.arange(len(patient), device=patient.device), torch.ones_like(plain[:, 0]), positive=False
            )
            nearer = pairs.cross_entropy(plain, mean.detach(), self.temperature)
            cost = cost + self.twin * (nearer + pairs.cross_entropy(drawn, plain.detach(), self.temperature))
        return cost

    def kept(self) -> tuple[list[int], list[int]]:
        """Of each gated map how many channels are open, and how many there are."""
        gates = [gate.is_open for gate in self._gates.values()]
        return [int(one.sum()) for one in gates], [one.numel() for one in gates]

    @property
    def _gates(self) -> dict[int, Gate]:
        return {int(name): gate for name, gate in self.of_map.items() if isinstance(gate, Gate)}

    def _factor(self, gate: Gate, x: Tensor) -> Tensor:
        generator = self.noise.value
        if generator is not None:
            noise = generator.standard_normal((len(x), x.shape[1]), dtype=np.float32)
            return gate.drawn(torch.from_numpy(noise).to(x.device))
        return gate.mean[None] if self.training else gate.fixed
