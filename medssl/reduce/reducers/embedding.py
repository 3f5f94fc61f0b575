"""Distance of slices in the features of a network: one pre-trained earlier in the study, or weights that the user names."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from medssl.core.errors import StudyError
from medssl.reduce.pairs import Pairs, leaders_in_blocks
from medssl.reduce.slices import Neighbours, Slices

TITLE = "distance of embeddings"
VECTORS = "medssl.reduce.features"
"""The module that computes the vectors, loaded only for arms of this reducer."""
MAX_DISTANCE = {"metric": {"cosine": 2.0}}
"""The largest possible distance, by the option that it depends on; a larger threshold is refused before any work."""
BLOCK = 4_096


class Embedding(Pairs):
    """1 − cosine, or Euclidean distance, of two slices' embeddings.

    Options:
        metric: distance of two embeddings; `cosine` is 1 − cosine, which ignores their lengths.
    """

    default_threshold = 0.1
    needs = ("vectors",)

    def __init__(self, slices: Slices, *, metric: Literal["cosine", "euclidean"] = "cosine") -> None:
        super().__init__(slices)
        if slices.vectors is None:
            raise StudyError("reducer 'embedding' needs an encoder: name it under the arm's `encoder`.")
        self.metric = metric
        points = np.ascontiguousarray(slices.vectors, np.float32)
        if not np.isfinite(points).all():
            raise StudyError("reducer 'embedding': the encoder gave features that are not finite. Look at its training curve.")
        if metric == "cosine":
            points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
        self._points = points
        self._squares = np.einsum("nd,nd->n", points, points)
        self.max_threshold = (
            MAX_DISTANCE["metric"][metric] if metric == "cosine" else float(2 * np.sqrt(self._squares.max(initial=0.0)))
        )

    def distances(self, anchor: int, others: Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
        difference = self._points[others] - self._points[anchor]
        squared = np.einsum("nd,nd->n", difference, difference)
        return squared / 2 if self.metric == "cosine" else np.sqrt(squared)

    def vectors(self) -> Float32[np.ndarray, "n d"] | None:
        return self._points

    def leaders(
        self, members: Int64[np.ndarray, "n"], threshold: float
    ) -> tuple[Int64[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
        if len(members) <= BLOCK:
            return super().leaders(members, threshold)
        twin, distance = leaders_in_blocks(
            len(members),
            BLOCK,
            lambda items, keepers: self._first_keeper(members[items], members[keepers], threshold),
            lambda items: self.neighbours(members[items], threshold),
        )
        return np.where(twin >= 0, members[twin], twin), distance

    def neighbours(self, members: Int64[np.ndarray, "n"], threshold: float) -> Neighbours:
        for start in range(0, len(members), BLOCK):
            block = members[start : start + BLOCK]
            for second in range(start, len(members), BLOCK):
                a, b, distances = self._pairs_within(block, members[second : second + BLOCK], threshold)
                later = a + start < b + second
                yield a[later] + start, b[later] + second, distances[later]

    def _first_keeper(self, items: np.ndarray, keepers: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """For each item the position of the first keeper within the threshold (−1: none), and the distance."""
        position = np.full(len(items), -1)
        distance = np.full(len(items), np.nan, np.float32)
        open_ = np.arange(len(items))
        for start in range(0, len(keepers), BLOCK):
            a, b, distances = self._pairs_within(items[open_], keepers[start : start + BLOCK], threshold)
            found, first = np.unique(a, return_index=True)
            position[open_[found]], distance[open_[found]] = b[first] + start, distances[first]
            open_ = open_[position[open_] < 0]
            if not len(open_):
                break
        return position, distance

    def _pairs_within(self, rows: np.ndarray, columns: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of positions (row, column) within the threshold, row by row, and their exact distances.

        The product of norms and cosines rounds, so candidates slightly beyond the threshold are recomputed from their difference.
        """
        squared = self._squares[rows, None] + self._squares[columns] - 2 * (self._points[rows] @ self._points[columns].T)
        limit = 2 * threshold if self.metric == "cosine" else threshold**2
        slack = 1e-5 * (self._squares[rows].max(initial=0.0) + self._squares[columns].max(initial=0.0))
        a, b = np.nonzero(squared <= limit + slack)
        difference_squared = np.empty(len(a), np.float32)
        for start in range(0, len(a), BLOCK):
            part = slice(start, start + BLOCK)
            difference = self._points[rows[a[part]]] - self._points[columns[b[part]]]
            difference_squared[part] = np.einsum("nd,nd->n", difference, difference)
        distances = difference_squared / 2 if self.metric == "cosine" else np.sqrt(difference_squared)
        within = distances <= threshold
        return a[within], b[within], distances[within]
