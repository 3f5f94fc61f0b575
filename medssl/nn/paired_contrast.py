"""Contrast between images and tables of a batch: CLIP's loss with soft targets, over all ranks, where slices of one patient are
not each other's negatives.

Sources: Radford et al., arXiv 2103.00020; targets of mixed samples and soft targets, Kumar et al., "M3CoL", arXiv 2409.17777.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from medssl.nn.gather import gather, rank


class Pairing:
    """Who is whose positive in a batch: rows are the local samples, columns those of all ranks.

    Args:
        patient: number of the patient of each local sample.
        partner: of each local sample the local sample that is mixed into it.
        own: share of each local sample in its mixture, 1 if it is not mixed.
        positive: whether all samples of a patient are positives of each other, with equal weight; else they are left out.
    """

    def __init__(
        self, patient: Int64[Tensor, "n"], partner: Int64[Tensor, "n"], own: Float[Tensor, "n"], *, positive: bool
    ) -> None:
        count, start = len(patient), rank() * len(patient)
        everyone = gather(patient)
        self.total = len(everyone)
        itself = torch.zeros(count, self.total, dtype=torch.bool, device=patient.device)
        itself[torch.arange(count), torch.arange(count) + start] = True
        kin = patient[:, None] == everyone[None]
        mixed = (own < 1)[:, None]
        of_self = kin if positive else itself
        of_partner = of_self[partner]
        own = torch.where(patient == patient[partner], torch.ones_like(own), own)  # a mixture of one patient is that patient
        share = own[:, None].double()
        self.target = share * _shared(of_self) + (1 - share) * _shared(of_partner)
        relatives = (kin & ~of_self) | (mixed & kin[partner] & ~of_partner)
        self.allowed = ~relatives | (self.target > 0)

    def cross_entropy(self, a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], temperature: float) -> Float[Tensor, ""]:
        """Mean over the local `a` of the cross-entropy of choosing among all `b`, unit rows of the other side."""
        return _cross_entropy(a @ gather(b).T / temperature, self.target, self.allowed)

    def transposed(self, a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], temperature: float) -> Float[Tensor, ""]:
        """Mean over the local `b` of choosing among all `a`; targets are the columns, each with sum 1."""
        count, start = len(b), rank() * len(b)
        own = slice(start, start + count)
        target, allowed = gather(self.target)[:, own].T, gather(self.allowed)[:, own].T
        target = target / target.sum(1, keepdim=True).clamp_min(1e-12)
        return _cross_entropy(b @ gather(a).T / temperature, target, allowed)

    def softened(
        self, a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], by: Float[Tensor, "n d"], temperature: float
    ) -> Float[Tensor, ""]:
        """The first with the likeness of the rows `by` as target, which gets no gradient."""
        with torch.no_grad():
            likeness = (by @ gather(by).T / temperature).masked_fill(~self.allowed, -torch.inf)
            target = likeness.double().softmax(1)
        return _cross_entropy(a @ gather(b).T / temperature, target, self.allowed)


def _shared(chosen: Bool[Tensor, "n all"]) -> Float[Tensor, "n all"]:
    return chosen.double() / chosen.sum(1, keepdim=True)


def _cross_entropy(
    logits: Float[Tensor, "n all"], target: Float[Tensor, "n all"], allowed: Bool[Tensor, "n all"]
) -> Float[Tensor, ""]:
    each = logits.masked_fill(~allowed, -torch.inf).log_softmax(1)
    return -(target.to(logits) * torch.where(allowed, each, torch.zeros_like(each))).sum(1).mean()
