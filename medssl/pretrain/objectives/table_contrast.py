"""Table contrast: an image encoder and an encoder of the patient's table learn which image belongs to which table.

Sources: Hager et al., "MMCL", arXiv 2303.14080 (image and corrupted table); Kumar et al., "M3CoL", arXiv 2409.17777 (mixtures);
Du et al., "TIP", arXiv 2407.07582 (missing values, and hidden ones predicted).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from scipy.special import betaincinv
from torch import Tensor, nn

from medssl.core.bounds import Count, Fold, OneOrMore, Part, Positive, Weight, Whole, Widths
from medssl.core.errors import StudyError
from medssl.core.rng import key, rng, uniforms
from medssl.nn.backbone import Backbone, pooled, wide
from medssl.nn.gather import averaged, normalised
from medssl.nn.heads import perceptron
from medssl.nn.loading import Batch, Samples
from medssl.nn.paired_contrast import Pairing
from medssl.nn.table_encoder import DenseTable, TableEncoder, TokenTable
from medssl.nn.table_reconstruction import TableReconstruction, reconstruction_loss
from medssl.nn.views import Crop
from medssl.pretrain.objective import Loss, Objective

TITLE = "Table contrast"
SOURCE = "Hager et al., CVPR 2023, arXiv 2303.14080"
RECORD_OPTIONS = {"columns": "any"}
SMALL_BATCH = (64, "an image then has few tables to be distinguished from. Raise batch_size")
PARTS = {"table": {"encoder": "own", "places": {"table": "table"}, "required": False}}
"""The encoder of the table is kept; no task starts from it."""
MIXED = 0.5
"""Share of the samples that are mixed."""


class TableContrast(Objective):
    """One view of an image against its patient's table, of which some cells are replaced. Other slices of the patient are neither
    positive nor negative, because they have the very same table.

    In the first part of a run images, and then tables, are mixed in pairs and compared with the unmixed other side. Pairs are
    neighbours in the batch, so they lie on one process.

    Options:
        columns: of the records that make the table.
        table_encoder: `transformer`, a token for each column, or `mlp`, dense layers.
        table_width: channels of the tokens.
        table_layers: blocks of the transformer.
        table_heads: heads of its attention.
        projector: widths of the layers of each projector; the last is the embedding's.
        temperature: of the softmax; lower is sharper.
        image_share: weight of finding the table of an image; the rest is that of finding the image of a table.
        corruption: share of the cells of a table that are replaced by that column's value of another training patient.
        mix_until: share of the run in which samples are mixed; 0 mixes none.
        mix_beta: parameter of the beta distribution of a mixture's shares; small values mix little.
        phase_two: the loss after that: `clip`, or `softclip`, whose targets are the likeness of the tables.
        soft_temperature: of `softclip`.
        group: other slices of a patient: `exclude` them, or `positive` with equal weight.
        reconstruct_weight: of predicting hidden columns from the others and the image, with `transformer` alone; 0 turns it off.
        reconstruct_hidden: share of the columns that is hidden for it.
    """

    together = 2
    seed: Int64[Tensor, ""]
    values: Float64[Tensor, "samples columns"]
    patient: Int64[Tensor, "samples"]

    def __init__(
        self,
        backbone: Backbone,
        samples: Samples,
        *,
        columns: OneOrMore[str] = ["age", "sex"],  # noqa: B006  (a plug-in's defaults are read, never changed)
        table_encoder: Literal["transformer", "mlp"] = "transformer",
        table_width: Count = 128,
        table_layers: Whole = 2,
        table_heads: Count = 4,
        projector: Widths = (2048, 128),
        temperature: Positive = 0.1,
        image_share: Part = 0.5,
        corruption: Part = 0.3,
        mix_until: Part = 0.33,
        mix_beta: Positive = 0.15,
        phase_two: Literal["clip", "softclip"] = "clip",
        soft_temperature: Positive = 0.125,
        group: Literal["exclude", "positive"] = "exclude",
        reconstruct_weight: Weight = 0.0,
        reconstruct_hidden: Fold = 0.5,
    ) -> None:
        super().__init__(backbone, samples)
        self.temperature, self.image_share, self.corruption = temperature, image_share, corruption
        self.mix_until, self.mix_beta, self.phase_two = mix_until, mix_beta, phase_two
        self.soft_temperature, self.positive = soft_temperature, group == "positive"
        records = [samples.records[name] for name in columns]
        values, patient = np.stack([record.values for record in records], axis=1), samples.patient
        patients = _of_patients(values, patient)
        self._donors = [torch.from_numpy(column[~np.isnan(column)]) for column in patients.T]
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        # the samples and their records say these again after a restart
        self.register_buffer("values", torch.from_numpy(values), persistent=False)
        self.register_buffer("patient", torch.from_numpy(patient), persistent=False)
        self.table: TableEncoder
        if table_encoder == "mlp":
            self.table = DenseTable(records, patients)
        else:
            self.table = TokenTable(records, patients, width=table_width, layers=table_layers, heads=table_heads)
        self.image_projector = perceptron([backbone.channels[-1], *projector])
        self.table_projector = perceptron([self.table.width, *projector])
        self.reconstruct_weight, self.reconstruct_hidden = reconstruct_weight, reconstruct_hidden
        if reconstruct_weight and isinstance(self.table, TokenTable):
            self.reconstruction = TableReconstruction(self.table, table_heads, backbone.channels[-1])

    def crops(self, size: tuple[int, ...]) -> list[Crop]:
        """One view of each image."""
        return [Crop(1, size)]

    def batches(self, seed: int, epoch: int, batch_size: int) -> list[Int64[np.ndarray, "_"]]:
        """Batches of one sample of each of `batch_size` patients; in an epoch as many as the samples fill.

        Raises:
            StudyError: there are fewer patients.
        """
        of_patient = self.patient.cpu().numpy()
        order = rng(seed, "order", epoch).permutation(self.num_samples)
        order = order[np.argsort(of_patient[order], kind="stable")]
        starts = np.flatnonzero(np.r_[True, np.diff(of_patient[order]) > 0])
        dealt = [order[start:stop] for start, stop in zip(starts, [*starts[1:], len(order)], strict=True)]
        if len(dealt) < batch_size:
            raise StudyError(
                f"table_contrast: a batch of {batch_size} holds as many patients, and there are {len(dealt)}. Lower batch_size."
            )
        found: list[Int64[np.ndarray, "_"]] = []
        turn, wanted = 0, max(1, self.num_samples // batch_size)
        while len(found) < wanted:
            patients = rng(seed, "patients", epoch, turn).permutation(len(dealt))
            for at in range(0, len(patients) - batch_size + 1, batch_size):
                found.append(np.array([dealt[p][turn % len(dealt[p])] for p in patients[at : at + batch_size]], dtype=np.int64))
            turn += 1
        return found[:wanted]

    def start_epoch(self, epoch: int, seed: int) -> None:
        """New mixtures and corruptions are drawn for each epoch and seed."""
        self.seed.fill_(seed)

    def forward(self, views: list[Float[Tensor, "n c ..."]], batch: Batch) -> dict[str, Shaped[Tensor, "n ..."]]:
        (images,) = views
        count, mixes = len(images), self._mixes()
        embedded = self.table.embedded(self.corrupted(batch))
        partner, shares = self._partner(count, images.device), self.shares(batch)
        inputs, tables = [images], [embedded]
        if mixes:
            inputs.append(_mixture(images, partner, shares[:, 0]))
            tables.append(_mixture(embedded, partner, shares[:, 1]))
        maps = self.backbone(torch.cat(inputs))
        features = pooled(maps)
        image = wide(self.image_projector(features)).unflatten(0, (len(inputs), count)).transpose(0, 1)
        table = wide(self.table_projector(self.table.encoded(torch.cat(tables))))
        table = table.unflatten(0, (len(tables), count)).transpose(0, 1)
        predicted: dict[str, Tensor] = {}
        if self.reconstruct_weight and isinstance(self.table, TokenTable):
            values, hidden = self.values[batch.rows], self.hidden(batch)
            predicted["reconstructed"] = wide(self.reconstruction(self.table, values, hidden, maps[-1][:count]))
        return {
            "image": image,
            "table": table,
            **predicted,
            "feature_a": features[:count].detach().float(),
            "embedding_a": image[:, 0].detach().float(),
        }

    def loss(self, outputs: dict[str, Shaped[Tensor, "n ..."]], batch: Batch) -> Loss:
        image, table = ([normalised(rows) for rows in outputs[name].unbind(1)] for name in ("image", "table"))
        patient, partner = self.patient[batch.rows], self._partner(len(batch), image[0].device)
        plain = Pairing(patient, partner, torch.ones(len(batch), device=image[0].device), positive=self.positive)
        t, clear = self.temperature, (image[0], table[0])
        to_table, to_image = plain.cross_entropy(*clear, t), plain.transposed(*clear, t)
        parts: dict[str, float | Tensor] = {"image_to_table": to_table.detach(), "table_to_image": to_image.detach()}
        if len(image) > 1:
            shares, halves = self.shares(batch), []
            for number, (mixed, other) in enumerate(((image[1], table[0]), (table[1], image[0]))):
                pairing = Pairing(patient, partner, shares[:, number], positive=self.positive)
                halves.append((pairing.cross_entropy(mixed, other, t) + pairing.transposed(mixed, other, t)) / 2)
            value = halves[0] + halves[1]
        elif self.phase_two == "softclip":
            soft, (z, x) = self.soft_temperature, clear
            value = (plain.softened(z, x, x, soft) + plain.softened(x, z, x, soft)) / 2
        else:
            value = self.image_share * to_table + (1 - self.image_share) * to_image
        if isinstance(self.table, TokenTable) and "reconstructed" in outputs:
            wrong = reconstruction_loss(outputs["reconstructed"], self.values[batch.rows], self.hidden(batch), self.table)
            parts["reconstruction"] = averaged(wrong)
            value = value + self.reconstruct_weight * wrong
        return Loss(value, parts)

    def corrupted(self, batch: Batch) -> Float64[Tensor, "n columns"]:
        """The tables of a batch, in which some known cells have the value of another training patient; missing ones stay."""
        values = self.values[batch.rows].clone()
        columns, device = values.shape[1], values.device
        drawn = torch.from_numpy(uniforms(key(int(self.seed), "corruption", batch.epoch), batch.keys, 2 * columns)).to(device)
        for column, donors in enumerate(self._donors):
            replaced = (drawn[:, column] < self.corruption) & ~values[:, column].isnan()
            chosen = donors.to(device)[(drawn[:, columns + column] * len(donors)).long()] if len(donors) else values[:, column]
            values[:, column] = torch.where(replaced, chosen, values[:, column])
        return values

    def hidden(self, batch: Batch) -> Bool[Tensor, "n columns"]:
        """The cells of each table that are hidden and predicted."""
        drawn = uniforms(key(int(self.seed), "hidden", batch.epoch), batch.keys, self.values.shape[1])
        return torch.from_numpy(drawn < self.reconstruct_hidden).to(self.values.device)

    def shares(self, batch: Batch) -> Float[Tensor, "n 2"]:
        """The share of each sample in its mixture, of its image and of its table: of half the samples 1, which mixes nothing."""
        drawn = uniforms(key(int(self.seed), "mixture", batch.epoch), batch.keys, 4)
        drawn_beta = betaincinv(self.mix_beta, self.mix_beta, drawn[:, 2:])
        return torch.from_numpy(np.where(drawn[:, :2] < MIXED, drawn_beta, 1.0)).float().to(batch.stored.device)

    def parts(self) -> dict[str, nn.Module]:
        """The encoder of the table."""
        return {"table": self.table}

    def _mixes(self) -> bool:
        return self.progress < self.mix_until

    def _partner(self, count: int, device: torch.device) -> Int64[Tensor, "n"]:
        """Neighbours in pairs: no sample is mixed with itself, if their number is even."""
        numbers = torch.arange(count, device=device)
        return (numbers ^ 1).clamp(max=count - 1)


def _mixture(x: Tensor, partner: Tensor, own: Tensor) -> Tensor:
    """Each sample with its partner; `x` stays as it is."""
    share = own.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
    return share * x + (1 - share) * x[partner]


def _of_patients(values: Float64[np.ndarray, "n columns"], patient: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "m columns"]:
    """A row for each patient: in each column the first known value of the patient's samples, as records may be of one scan."""
    names, of = np.unique(patient, return_inverse=True)
    rows = np.full((len(names), values.shape[1]), np.nan)
    for column, known in enumerate(~np.isnan(values.T)):
        first = np.flatnonzero(known)[::-1]
        rows[of[first], column] = values[first, column]
    return rows
