"""Health of a representation without labels: rank, spread, alignment, uniformity, and agreement of neighbours on free labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from medssl.nn.loading import Samples

REMEMBERED = 256
"""How many samples from the end of an epoch are measured."""
MIN_SPREAD = 0.02
MIN_RANK = 1.5
FEWEST_ROWS = 8


class Health:
    """Features and embeddings of the last training samples: nothing is computed twice."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def remember(self, outputs: dict[str, Tensor], rows: Int64[Tensor, "n"]) -> None:
        """Keep the newest of `feature_a`, `feature_b`, `embedding_a`, `embedding_b` `(n, d)` and their sample numbers."""
        new = {name: outputs[name].detach().float().cpu() for name in outputs if name.startswith(("feature_", "embedding_"))}
        for name, value in (new | {"rows": rows.cpu()}).items():
            old = self.seen.get(name)
            self.seen[name] = (value if old is None else torch.cat([old, value]))[-REMEMBERED:]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors for a saved state."""
        return dict(self.seen)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore a saved state."""
        self.seen = dict(tensors)

    def measure(self, samples: Samples) -> dict[str, float]:
        """The current figures, by column name."""
        found: dict[str, float] = {}
        a, b = self.seen.get("feature_a"), self.seen.get("feature_b")
        if a is None or len(a) < 4:
            return found
        found |= {"effective_rank": effective_rank(a), "rankme": rankme(a), "spread": spread(a)}
        if b is not None:
            found |= {"alignment": alignment(a, b), "uniformity": uniformity(a)}
        if "embedding_a" in self.seen:
            embedded = self.seen["embedding_a"]
            found |= {"embedding_rank": effective_rank(embedded), "embedding_spread": spread(embedded)}
        return found | neighbours(a, self.seen["rows"].numpy(), samples)


def collapse(found: dict[str, float]) -> str | None:
    """A sentence if the figures show that the representation has collapsed, else None."""
    for what in ("spread", "embedding_spread"):
        if what in found and found[what] < MIN_SPREAD:
            name = what.replace("_", " ")
            return f"collapse, {name} {found[what]:.4f} (alarm below {MIN_SPREAD}): all images get nearly the same vector"
    for what in ("effective_rank", "embedding_rank"):
        if what in found and found[what] < MIN_RANK:
            return f"collapse, {what.replace('_', ' ')} {found[what]:.2f} (alarm below {MIN_RANK}): the vectors lie on a line"
    return None


def nothing_to_predict(rows: Sequence[dict[str, float]]) -> str | None:
    """A sentence if no hidden patch of a run had any contrast in any row of its curve, else None; a few rows show nothing."""
    if len(rows) < FEWEST_ROWS or any(row.get("constant_frac", 0) < 1 for row in rows):
        return None
    every = "every hidden patch has one value, as in air, so there is nothing to predict"
    return f"constant_frac is 1 in all {len(rows)} rows of the curve: {every}"


def effective_rank(x: Float[Tensor, "n d"]) -> float:
    """The exp of the entropy of the normalised singular values of the centred rows.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007, eq. 3.
    """
    return _entropy_rank(x.float() - x.float().mean(0))


def rankme(x: Float[Tensor, "n d"]) -> float:
    """The same without centring the rows.

    Source: Garrido et al., arXiv 2210.02885, eq. 1.
    """
    return _entropy_rank(x.float())


def spread(x: Float[Tensor, "n d"]) -> float:
    """Standard deviation of the unit rows times √d: 1 if they point everywhere, 0 if all point one way.

    Source: Chen and He, arXiv 2011.10566, §4.1.
    """
    unit = torch.nn.functional.normalize(x.float(), dim=1)
    return float(unit.std(0, correction=0).mean() * math.sqrt(x.shape[1]))


def alignment(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> float:
    """Mean squared distance of the unit rows of two views of the same images.

    Source: Wang and Isola, arXiv 2005.10242, §4.1, α = 2.
    """
    normalize = torch.nn.functional.normalize
    return float((normalize(a.float(), dim=1) - normalize(b.float(), dim=1)).square().sum(1).mean())


def uniformity(x: Float[Tensor, "n d"]) -> float:
    """The log of the mean of exp(−2 d²) over pairs of unit rows: 0 if all are equal, −4 for far pairs on a large sphere.

    Source: Wang and Isola, arXiv 2005.10242, §4.1, t = 2.
    """
    unit = torch.nn.functional.normalize(x.float(), dim=1)
    return float(torch.logsumexp(-2 * torch.pdist(unit).square(), 0) - math.log(len(x) * (len(x) - 1) / 2))


def neighbours(x: Float[Tensor, "n d"], rows: Int64[np.ndarray, "n"], samples: Samples, k: int = 5) -> dict[str, float]:
    """Share of the k nearest other samples from the same volume (patient), and how well they predict the body position.

    `knn_position` is the coefficient of determination of the relative position in the volume, predicted only from neighbours in
    other volumes. Figures that the data do not allow are absent.
    """
    rows, first = np.unique(rows, return_index=True)
    x = torch.nn.functional.normalize(x[first].float(), dim=1)
    volume = samples.volume[rows]
    similar = (x @ x.T).numpy().copy()
    np.fill_diagonal(similar, -np.inf)
    found: dict[str, float] = {}
    names: list[tuple[str, Callable[[int], Any]]] = [
        ("knn_volume", lambda v: v),
        ("knn_patient", lambda v: samples.volumes[v].subject_id),
    ]
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, : min(k, len(x) - 1)]
    for name, label in names:
        labels = np.array([str(label(v)) for v in volume])
        if len(set(labels)) > 1 and len(set(labels)) < len(labels) and "None" not in labels:
            found[name] = float((labels[nearest] == labels[:, None]).mean())
    depth = np.array([samples.volumes[v].shape[a] for v, a in zip(volume, samples.axis[rows], strict=True)])
    slices = np.array([samples.volumes[v].kind == "volume" for v in volume])
    position = samples.index[rows] / np.maximum(depth - 1, 1)
    if slices.all() and len(set(volume)) > 1 and position.std() > 0:
        similar[volume[:, None] == volume[None, :]] = -np.inf
        nearest = np.argsort(-similar, axis=1, kind="stable")[:, :k]
        nearest = nearest[:, : min(k, int((similar > -np.inf).sum(1).min()))]
        if nearest.shape[1]:
            predicted = position[nearest].mean(1)
            found["knn_position"] = float(1 - ((predicted - position) ** 2).sum() / ((position - position.mean()) ** 2).sum())
    return found


def _entropy_rank(x: Tensor) -> float:
    values = torch.linalg.svdvals(x.double())
    shares = values / values.sum().clamp_min(1e-300)
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum())) if len(shares) else 0.0
