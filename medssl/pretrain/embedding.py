"""What a finished encoder makes of some of its own images: features for the page's map and nearest neighbours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32

from medssl.artefacts.encoder import FEATURE
from medssl.nn.backbone import Backbone, pooled
from medssl.nn.loading import Reader, Samples, load
from medssl.nn.options import ViewOptions
from medssl.nn.views import Crop, Views

MOST = {2: 500, 3: 100}
"""Images of a run that are embedded, by dimensions of the network: enough for a picture, little beside the training."""
BATCH = 50


def embedding_table(backbone: Backbone, samples: Samples, size: tuple[int, ...], device: torch.device) -> pd.DataFrame:
    """The table `EMBEDDINGS` of at most `MOST` samples, at even steps through the order of their ids, each seen whole.

    size: of the images or patches that the network takes.
    """
    order = np.argsort(np.array(samples.ids), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(MOST[len(size)], len(order))).round().astype(int))
    chosen = samples.rows(order[places])
    features = _features(backbone.eval().to(device), chosen, size, device)
    table = pd.DataFrame(features, columns=[f"{FEATURE}{number:04d}" for number in range(features.shape[1])])
    table.insert(0, "sample_id", list(chosen.ids))
    return table


@torch.no_grad()
def _features(
    backbone: Backbone, samples: Samples, size: tuple[int, ...], device: torch.device
) -> Float32[np.ndarray, "n features"]:
    patch = (size[0], size[1], size[2]) if len(size) == 3 else None
    reader = Reader(samples, patch=patch, shrink_to=max(size) if patch is None else None)
    views = Views(ViewOptions.still(), [Crop(1, size)], samples, seed=0)
    requests = [(0, np.arange(at, min(at + BATCH, len(samples)))) for at in range(0, len(samples), BATCH)]
    batches = load(reader, requests, workers=0, device=device)
    return np.concatenate([pooled(backbone(views(batch)[0])).float().cpu().numpy() for batch in batches])
