"""Images as an encoder sees them: where they lie on the plane that shows most of their differences, and which are nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medssl.artefacts.encoder import FEATURE
from medssl.artefacts.names import in_cohort
from medssl.report.evidence import Evidence, arm_of, run_of

NUM_QUERIES, NUM_NEAREST = 5, 4
KNOWN = ["sample_id", "volume_id", "subject_id", "kind", "label"]


@dataclass(frozen=True)
class Embedded:
    """The embedded images of a run: what is known of each, and their features, each of unit length `(n, d)`."""

    run: str
    images: pd.DataFrame
    unit: NDArray[np.float64]

    def similarity(self) -> NDArray[np.float64]:
        """The cosine of every two images `(n, n)`; −∞ between those that may be of one patient, or are one image.

        Without patients a volume stands for its patient, and in an image set an image.
        """
        cosine = self.unit @ self.unit.T
        owner = self.images["owner"].to_numpy()
        cosine[owner[:, None] == owner[None, :]] = -np.inf
        return cosine


def embedded(evidence: Evidence, run: str) -> Embedded:
    """The embedded images of a run, with source, patient and class where the tables of samples say them."""
    table = evidence.embeddings[run]
    samples = [one.reindex(columns=KNOWN).assign(source=source) for source, one in sorted(evidence.samples.items())]
    known = pd.concat(samples) if samples else pd.DataFrame(columns=[*KNOWN, "source"])
    images = table[["sample_id"]].join(known.drop_duplicates("sample_id").set_index("sample_id"), on="sample_id")
    own = images["sample_id"].where(images["kind"] == "images", images["volume_id"])
    images = images.assign(owner=images["subject_id"].where(images["subject_id"].notna(), own).astype(str))
    features = table[[name for name in table if str(name).startswith(FEATURE)]].to_numpy(np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return Embedded(run, images.reset_index(drop=True), features / np.where(lengths > 0, lengths, 1))


def mapped_runs(evidence: Evidence) -> list[str]:
    """The runs of which a map is drawn: of each arm the first seed."""
    return list({(in_cohort(run)[0], arm_of(run)): run for run in sorted(evidence.embeddings, reverse=True)}.values())[::-1]


def places(found: Embedded) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """The first two principal components `(n, 2)`, and the share of the variance along each.

    Source: Jolliffe and Cadima, Phil Trans R Soc A 374:20150202 (2016).
    """
    from sklearn.decomposition import PCA

    if len(found.unit) < 3 or found.unit.shape[1] < 2:
        return np.zeros((len(found.unit), 2)), (0.0, 0.0)
    pca = PCA(n_components=2, svd_solver="full")
    # far below what a picture or a reader can tell, so that the last bits of a machine's arithmetic are none of the page's
    where = np.round(pca.fit_transform(found.unit), 6) + 0.0
    first, second = (round(float(share), 6) for share in np.nan_to_num(pca.explained_variance_ratio_))
    return where, (first, second)


def nearest_rows(evidence: Evidence) -> pd.DataFrame:
    """A row for each query and its nearest images of other patients: run, query, rank, neighbour, similarity.

    Of each recipe the first run; queries at even steps through the embedded images.
    """
    firsts = {(in_cohort(run)[0], run_of(run).name): run for run in sorted(evidence.embeddings, reverse=True)}
    rows = [row for run in sorted(firsts.values()) for row in _nearest(embedded(evidence, run))]
    return pd.DataFrame(rows, columns=["run", "query", "rank", "neighbour", "similarity"])


def _nearest(found: Embedded) -> Iterator[dict[str, object]]:
    ids, similarity = found.images["sample_id"].to_numpy(), found.similarity()
    count = len(ids)
    for place in np.unique(np.linspace(0, count - 1, min(NUM_QUERIES, count)).round().astype(int)):
        order = np.argsort(-similarity[place], kind="stable")[:NUM_NEAREST]
        for rank, other in enumerate(order, start=1):
            if np.isfinite(similarity[place, other]):
                score = round(float(similarity[place, other]), 6)
                yield {"run": found.run, "query": ids[place], "rank": rank, "neighbour": ids[other], "similarity": score}


def same_class(found: Embedded) -> tuple[float, float] | None:
    """How often the nearest image of another patient has the image's class, and how often any other image has.

    None where fewer than two classes are known.
    """
    known = found.images["label"].notna().to_numpy()
    labels = found.images["label"].astype(str).to_numpy()[known]
    if len(set(labels)) < 2:
        return None
    similarity = found.similarity()[np.ix_(known, known)]
    others = np.isfinite(similarity)
    rows = others.any(axis=1)
    if not rows.any():
        return None
    alike = labels[:, None] == labels[None, :]
    nearest = similarity.argmax(axis=1)
    chance = (alike & others).sum(axis=1)[rows] / others.sum(axis=1)[rows]
    return float(alike[np.arange(len(labels)), nearest][rows].mean()), float(chance.mean())
