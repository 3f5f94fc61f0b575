"""Embedded samples are chosen by rule and seen whole, through the window; the table is in the order of ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared import write_prepared
from torch import Tensor

from medssl.artefacts.encoder import EMBEDDINGS
from medssl.nn.backbone import Backbone
from medssl.nn.loading import read_samples
from medssl.pretrain import embedding


class Halves(Backbone):
    """A network whose two features are what it sees: the mean of an image, and of its first half along the first axis."""

    spatial_dims, in_channels, channels, strides = 2, 1, (2,), (1,)

    def forward(self, images: Tensor, depth: int | None = None) -> list[Tensor]:
        means = [part.flatten(1).mean(1) for part in (images, images[:, :, : images.shape[2] // 2])]
        return [torch.stack(means, dim=1)[:, :, None, None]]


def table_of(folder: Path, **given: Any) -> tuple[Any, Any]:
    inputs: Any = write_prepared(folder, volumes=3, **given)
    samples = read_samples(inputs["samples"], inputs["volumes"])
    return samples, embedding.embedding_table(Halves(), samples, (24, 20), torch.device("cpu"))


def test_features_are_of_the_whole_image_through_its_window(tmp_path: Path) -> None:
    samples, table = table_of(tmp_path)
    EMBEDDINGS.write(tmp_path / "embeddings.parquet", table)
    again = EMBEDDINGS.read(tmp_path / "embeddings.parquet")
    assert again["sample_id"].tolist() == sorted(samples.ids) == list(samples.ids)
    for place in (0, 9, 23):
        plane = np.load(samples.volumes[samples.volume[place]].array)[:, :, samples.index[place]]
        seen = np.clip((plane.astype(float) + 1000) / 2000, 0, 1)
        assert again.iloc[place, 1:].to_numpy(float) == pytest.approx([seen.mean(), seen[:12].mean()], abs=1e-3)


def test_of_many_samples_some_are_embedded_at_even_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "MOST", {2: 4})
    monkeypatch.setattr(embedding, "BATCH", 3)
    samples, table = table_of(tmp_path)
    assert table["sample_id"].tolist() == [samples.ids[place] for place in (0, 8, 15, 23)]
