"""The map and the neighbours are what the features say: principal components, cosines, never two images of one patient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medssl.core.rng import rng
from medssl.report.embedding import embedded, nearest_rows, places, same_class
from medssl.report.evidence import Evidence
from medssl.report.section import Figure
from medssl.report.sections.embedding import embedding

RUN = "ct/simclr-all-seed0"


def evidence_of(features: np.ndarray, **known: list[object]) -> Evidence:
    ids = [f"v-{n // 3}-{n % 3:04d}" for n in range(len(features))]
    table = pd.DataFrame(features.astype(np.float32), columns=[f"f{n:04d}" for n in range(features.shape[1])])
    table.insert(0, "sample_id", ids)
    samples = pd.DataFrame({"sample_id": ids, "volume_id": [name[:3] for name in ids], "kind": "volume"})
    samples = samples.assign(subject_id=None, label=None).assign(**known)
    return Evidence("t", embeddings={RUN: table}, samples={"ct": samples})


def some(num: int = 12, width: int = 5) -> np.ndarray:
    return rng(3, "features").normal(size=(num, width))


def test_the_map_is_the_plane_of_the_largest_variance() -> None:
    features = some(30) * np.array([9, 4, 1, 0.1, 0.1])
    found = embedded(evidence_of(features), RUN)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    _, strength, axes = np.linalg.svd(unit - unit.mean(axis=0))
    where, shares = places(found)
    assert np.abs(where) == pytest.approx(np.abs((unit - unit.mean(axis=0)) @ axes[:2].T), abs=1e-4)
    assert shares == pytest.approx(tuple((strength**2 / (strength**2).sum())[:2]), abs=1e-4)


def test_neighbours_have_the_largest_cosine_and_are_of_other_patients() -> None:
    features = some()
    patients = [f"p-{n // 4}" for n in range(12)]
    rows = nearest_rows(evidence_of(features, subject_id=patients))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    ids = [f"v-{n // 3}-{n % 3:04d}" for n in range(12)]
    for query, own in rows.groupby("query"):
        place = ids.index(str(query))
        others = sorted((n for n in range(12) if patients[n] != patients[place]), key=lambda n: -float(unit[place] @ unit[n]))
        assert own.sort_values("rank")["neighbour"].tolist() == [ids[n] for n in others[:4]]
        cosines = [unit[place] @ unit[n] for n in others[:4]]
        assert own.sort_values("rank")["similarity"].tolist() == pytest.approx(cosines, abs=1e-5)


@pytest.mark.parametrize(("kind", "owners"), [("volume", "volume_id"), ("images", "sample_id")])
def test_without_patients_volumes_or_images_stand_for_them(kind: str, owners: str) -> None:
    evidence = evidence_of(some(), kind=[kind] * 12)
    owner = evidence.samples["ct"].set_index("sample_id", drop=False)[owners]
    rows = nearest_rows(evidence)
    assert len(rows) == 5 * 4
    assert all(owner[row.query] != owner[row.neighbour] for row in rows.itertuples())


def test_one_patient_alone_has_no_neighbours_and_the_map_stands() -> None:
    evidence = evidence_of(some(), subject_id=["p-1"] * 12)
    assert nearest_rows(evidence).empty
    section = embedding(evidence)
    assert [block.name for block in section.blocks if isinstance(block, Figure)] == ["embedding"]


def test_how_often_the_nearest_has_the_same_class_is_compared_with_chance() -> None:
    corners = np.repeat(np.eye(3), 4, axis=0) + some(12, 3) * 1e-3
    labels = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    evidence = evidence_of(corners, subject_id=[f"p-{n}" for n in range(12)], label=labels)
    share, chance = same_class(embedded(evidence, RUN)) or (0, 0)
    assert share == 1 and chance == pytest.approx(3 / 11)
    assert same_class(embedded(evidence_of(corners, label=["a"] * 12), RUN)) is None


@pytest.mark.parametrize(
    ("known", "names"),
    [
        ({}, ["embedding"]),
        ({"label": ["a", "b"] * 6, "subject_id": ["p-1", "p-2", "p-3"] * 4}, ["embedding-class", "embedding-patient"]),
        ({"subject_id": [f"p-{n}" for n in range(11)] + [None]}, ["embedding-patient"]),
        (
            {"label": [f"{n}" for n in range(12)], "subject_id": [f"p-{n}" for n in range(12)]},
            ["embedding-class", "embedding-patient"],
        ),
    ],
)
def test_images_are_coloured_by_what_has_several_values_but_few(known: dict[str, list[object]], names: list[str]) -> None:
    figures = [block for block in embedding(evidence_of(some(), **known)).blocks if isinstance(block, Figure)]
    assert [figure.name for figure in figures] == names
    for figure in figures:
        assert str(figure.body).count('class="dot') == 12
        assert len({tone for tone, _ in figure.legend}) == len(figure.legend)


def test_images_of_which_no_table_knows_anything_are_drawn() -> None:
    section = embedding(replace(evidence_of(some()), samples={}))
    assert str(section.blocks[0].body).count('class="dot') == 12  # type: ignore[union-attr]


def test_features_that_are_all_the_same_are_drawn() -> None:
    section = embedding(evidence_of(np.ones((12, 5))))
    assert str(section.blocks[0].body).count('class="dot') == 12  # type: ignore[union-attr]
