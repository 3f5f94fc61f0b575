"""Encoders of a patient's table: a token for each column through blocks of attention, or all columns through dense layers.

Sources: a token for each column and a learned one where a value is missing, Du et al., "TIP", arXiv 2407.07582; dense layers,
Hager et al., "MMCL", arXiv 2303.14080.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from medssl.nn.records import Record
from medssl.nn.transformer import Block

HIDDEN = 2048
"""Width of the dense layers."""


class TableEncoder(nn.Module):
    """Base of both: numbers are standardised by the training patients, categories are numbers of levels, NaN is missing.

    `embedded` and `encoded` are apart, so that tables can be mixed between them.
    """

    mean: Float[Tensor, "columns"]
    deviation: Float[Tensor, "columns"]

    def __init__(self, records: Sequence[Record], patients: Float64[np.ndarray, "patients columns"]) -> None:
        """`patients`: a row of values for each training patient."""
        super().__init__()
        self.levels = tuple(len(record.levels) for record in records)
        numeric = np.array([not count for count in self.levels])
        with np.errstate(invalid="ignore"):
            mean, deviation = np.nanmean(patients, axis=0), np.nanstd(patients, axis=0)
        self.register_buffer("mean", torch.from_numpy(np.where(numeric, mean, 0)).float())
        self.register_buffer("deviation", torch.from_numpy(np.where(numeric & (deviation > 0), deviation, 1)).float())

    def standard(self, values: Float[Tensor, "n columns"]) -> Float[Tensor, "n columns"]:
        """Standardised numbers; levels stay."""
        return (values.float() - self.mean) / self.deviation

    def embedded(self, values: Float[Tensor, "n columns"]) -> Float[Tensor, "n *rest"]:
        """A table before its layers, where two may be mixed."""
        raise NotImplementedError

    def encoded(self, embedded: Float[Tensor, "n *rest"]) -> Float[Tensor, "n d"]:
        """The features of an embedded table."""
        raise NotImplementedError

    def forward(self, values: Float[Tensor, "n columns"]) -> Float[Tensor, "n d"]:
        """The features of tables."""
        return self.encoded(self.embedded(values))


class TokenTable(TableEncoder):
    """A token for each column and one for the whole table, whose last state is the feature."""

    def __init__(
        self,
        records: Sequence[Record],
        patients: Float64[np.ndarray, "patients columns"],
        *,
        width: int,
        layers: int,
        heads: int,
    ) -> None:
        super().__init__(records, patients)
        self.width = width
        self.embeddings = nn.ModuleList(nn.Embedding(count, width) if count else nn.Linear(1, width) for count in self.levels)
        self.missing = nn.Parameter(0.02 * torch.randn(len(records), width))
        self.column = nn.Parameter(0.02 * torch.randn(len(records), width))
        self.whole = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(Block(width, heads, 0.0) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def embedded(self, values: Float[Tensor, "n columns"]) -> Float[Tensor, "n columns d"]:
        """A token for each column; a learned one where the value is missing."""
        standard, tokens = self.standard(values), []
        for number, (embedding, count) in enumerate(zip(self.embeddings, self.levels, strict=True)):
            unknown = values[:, number].isnan()
            known = standard[:, number].masked_fill(unknown, 0)
            token = embedding(known.long()) if count else embedding(known[:, None])
            tokens.append(torch.where(unknown[:, None], self.missing[number], token))
        return torch.stack(tokens, 1) + self.column

    def encoded(self, embedded: Float[Tensor, "n columns d"]) -> Float[Tensor, "n d"]:
        """The last state of the token of the whole table."""
        return self.states(embedded)[:, 0]

    def states(self, embedded: Float[Tensor, "n columns d"]) -> Float[Tensor, "n states d"]:
        """The last states: of the whole table, then of each column."""
        tokens = torch.cat([self.whole.to(embedded).expand(len(embedded), 1, -1), embedded], 1)
        for block in self.blocks:
            tokens = block(tokens, None)
        out: Tensor = self.norm(tokens)
        return out


class DenseTable(TableEncoder):
    """Standardised numbers, levels as 0 and 1, and whether each column is missing, through two dense layers."""

    def __init__(self, records: Sequence[Record], patients: Float64[np.ndarray, "patients columns"]) -> None:
        super().__init__(records, patients)
        self.width = HIDDEN
        inputs = sum(count or 1 for count in self.levels) + len(self.levels)
        self.layers = nn.Sequential(
            nn.Linear(inputs, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, HIDDEN)
        )

    def embedded(self, values: Float[Tensor, "n columns"]) -> Float[Tensor, "n d"]:
        """All columns side by side; a missing one is 0, and has its flag set."""
        standard, unknown, parts = self.standard(values), values.isnan(), []
        for number, count in enumerate(self.levels):
            known = standard[:, number].masked_fill(unknown[:, number], 0)
            part = F.one_hot(known.long(), count).float() if count else known[:, None]
            parts.append(part.masked_fill(unknown[:, number, None], 0))
        return torch.cat([*parts, unknown.float()], 1)

    def encoded(self, embedded: Float[Tensor, "n d"]) -> Float[Tensor, "n _"]:
        """After both layers."""
        return self.layers(embedded)
