"""Prediction of hidden columns of a patient's table from its other columns and the map of the patient's image.

Source: Du et al., "TIP", arXiv 2407.07582, masked tabular reconstruction. Here the mean over columns of a kind is over the
cells that are hidden and known in the whole batch; theirs is undefined if there is none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medssl.nn.backbone import wide
from medssl.nn.gather import averaged, mean_of_chosen
from medssl.nn.table_encoder import TokenTable


class TableReconstruction(nn.Module):
    """One block, in which the states of the columns attend to each other and to the places of the image, and a head for each
    column: a number, or a score for each level.
    """

    def __init__(self, table: TokenTable, heads: int, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Parameter(0.02 * torch.randn(table.width))
        self.places = nn.Linear(channels, table.width)
        self.block = nn.TransformerDecoderLayer(
            table.width, heads, 4 * table.width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(table.width)
        self.heads = nn.ModuleList(nn.Linear(table.width, count or 1) for count in table.levels)

    def forward(
        self,
        table: TokenTable,
        values: Float[Tensor, "n columns"],
        hidden: Bool[Tensor, "n columns"],
        image: Float[Tensor, "n c ..."],
    ) -> Float[Tensor, "n scores"]:
        """The predictions of all columns side by side.

        Args:
            table: the encoder of the table.
            values: of the columns; NaN is missing.
            hidden: the cells that the encoder does not see.
            image: the map of each patient's image.
        """
        embedded = table.embedded(values)
        embedded = torch.where(hidden[:, :, None], (self.hidden + table.column).to(embedded), embedded)
        states = table.states(embedded)[:, 1:]
        states = self.norm(self.block(states, self.places(image.flatten(2).transpose(1, 2))))
        return torch.cat([head(states[:, column]) for column, head in enumerate(self.heads)], 1)


def reconstruction_loss(
    scores: Float[Tensor, "n scores"], values: Float[Tensor, "n columns"], hidden: Bool[Tensor, "n columns"], table: TokenTable
) -> Float[Tensor, ""]:
    """The mean of both kinds of columns, over the hidden cells whose value is known: squared errors of standardised numbers, and
    cross-entropies of levels. A kind without such a cell does not count.
    """
    standard, chosen = table.standard(values), hidden & ~values.isnan()
    errors: dict[bool, list[Tensor]] = {False: [], True: []}
    cells: dict[bool, list[Tensor]] = {False: [], True: []}
    each = scores.split([count or 1 for count in table.levels], 1)
    for column, (predicted, count) in enumerate(zip(each, table.levels, strict=True)):
        truth = standard[:, column].nan_to_num(0)
        wrong = F.cross_entropy(wide(predicted), truth.long(), reduction="none") if count else (predicted[:, 0] - truth).square()
        errors[count > 0].append(wrong)
        cells[count > 0].append(chosen[:, column])
    kinds = [(torch.stack(errors[kind]), torch.stack(cells[kind])) for kind in errors if errors[kind]]
    there = torch.stack([averaged(cell.any().float()) > 0 for _, cell in kinds]).sum()
    return torch.stack([mean_of_chosen(error, cell) for error, cell in kinds]).sum() / there.clamp_min(1)
