"""Embedding: a map of images as each encoder sees them, and the images that it takes for the nearest."""

from __future__ import annotations

import pandas as pd

from medssl.report.chart import Line, axis, scatter_chart
from medssl.report.class_colours import PALETTE, class_tones, in_number_order
from medssl.report.drawings import Charts, Tile, Tiles
from medssl.report.embedding import Embedded, embedded, mapped_runs, nearest_rows, places, same_class
from medssl.report.evidence import Evidence
from medssl.report.pictures import picture
from medssl.report.section import Figure, Section, Table, count, number, percent, records, shown

PLACE = 55
COLOURED_BY = {"label": "class", "subject_id": "patient", "source": "source"}
MOST_GROUPS = len(PALETTE)


def embedding(evidence: Evidence) -> Section:
    """A map of each arm's first run, coloured by class, patient and source where there are several but few; nearest images."""
    if not evidence.embeddings:
        return Section.not_given("Embedding", "No pre-training run belongs to this page.")
    runs = [embedded(evidence, run) for run in mapped_runs(evidence)]
    blocks: list[Figure | Table] = _maps(evidence, runs)
    agreement = pd.DataFrame([_agreement(found) for found in runs])
    if agreement["same_class"].notna().any():
        columns = [
            ("run", "Run", None),
            ("images", "Images", count),
            ("same_class", "Nearest has the same class", percent),
            ("chance", "Any other has", percent),
        ]
        caption = (
            "How often the nearest image of another patient has the image's class. Where patients are not known, another "
            "volume or image counts as another patient, so that the share may be too high."
        )
        blocks.append(Table("embedding-classes", caption, agreement, shown(agreement, columns)))
    blocks += _nearest(evidence)
    lead = (
        "Some training images, each as the features of the finished encoder. The map is their two principal components: images "
        "that lie together are alike to the encoder, but images can differ in what the map does not show."
    )
    return Section("Embedding", lead, tuple(blocks))


def _maps(evidence: Evidence, runs: list[Embedded]) -> list[Figure | Table]:
    """A figure for each way to colour the images."""
    found = []
    for column, word in COLOURED_BY.items():
        groups = sorted({str(one) for run in runs for one in run.images[column].dropna()}, key=in_number_order)
        if 2 <= len(groups) <= MOST_GROUPS:
            palette = {name: f"k{place}" for place, name in enumerate(groups)}
            colours = palette if column != "label" else palette | class_tones(evidence)
            found.append(_map(runs, column, word, {name: colours[name] for name in groups}))
    return list(found) or [_map(runs, "", "", {})]


def _map(runs: list[Embedded], column: str, word: str, colours: dict[str, str]) -> Figure:
    charts, tables = [], []
    columns = 1 if len(runs) == 1 else 2
    for run in runs:
        where, (first, second) = places(run)
        group = run.images[column].astype(object) if column else pd.Series([None] * len(where), dtype=object)
        group = group.where(group.isin(list(colours)), None)
        rows = pd.DataFrame({"run": run.run, "sample_id": run.images["sample_id"], "component_1": where[:, 0]})
        rows = rows.assign(component_2=where[:, 1], variance_1=first, variance_2=second, group=group.to_numpy())
        tables.append(rows)
        lines = [_dots("other", "ref", rows[rows["group"].isna()])]
        lines += [_dots(name, tone, rows[rows["group"] == name]) for name, tone in colours.items()]
        x = axis(f"First component ({percent(first, 1)} of the variance)", rows["component_1"].tolist())
        y = axis(f"Second ({percent(second, 1)})", rows["component_2"].tolist())
        alt = f"Map of {len(rows)} images of run {run.run}" + (f", coloured by {word}." if word else ".")
        charts.append((run.run, scatter_chart(lines, x, y, alt=alt, width=680 if columns == 1 else 420, height=380)))
    caption = "Training images on the first two principal components of their features" + (f", by {word}." if word else ".")
    rows = pd.concat(tables, ignore_index=True)
    others = (("ref", "other or not known"),) if colours and rows["group"].isna().any() else ()
    legend = (*((tone, name) for name, tone in colours.items()), *others)
    name = f"embedding-{word}" if word else "embedding"
    return Figure(name, caption, caption, Charts(tuple(charts), columns), rows, legend)


def _dots(name: str, tone: str, rows: pd.DataFrame) -> Line:
    return Line(name, tone, tuple(zip(rows["component_1"], rows["component_2"], strict=True)))


def _agreement(found: Embedded) -> dict[str, object]:
    share, chance = same_class(found) or (None, None)
    return {"run": found.run, "images": len(found.images), "same_class": share, "chance": chance}


def _nearest(evidence: Evidence) -> list[Figure | Table]:
    rows = nearest_rows(evidence)
    figures: list[Figure | Table] = []
    for run, part in rows.groupby("run", sort=True):
        tiles = []
        for query, own in part.groupby("query", sort=True):
            ids = [str(query), *own.sort_values("rank")["neighbour"]]
            planes = [(one, evidence.planes.get(one)) for one in ids]
            words = ["query", *("neighbour" for _ in ids[1:])]
            pictures = tuple(
                None if plane is None else picture(plane, f"{word} {one}")
                for word, (one, plane) in zip(words, planes, strict=True)
            )
            scores = ", ".join(number(row["similarity"]) for row in records(own.sort_values("rank")))
            if any(one is not None for one in pictures):
                tiles.append(Tile(pictures, (f"similarity {scores}",)))
        if tiles:
            caption = (
                f"Run {run}: an image (left) and its nearest images of other patients, the nearest first, by the cosine of their "
                "features. Images are chosen at even steps, by rule."
            )
            name = f"nearest-{str(run).replace('/', '-')}"
            figures.append(Figure(name, caption, caption, Tiles((("", tuple(tiles)),)), part.reset_index(drop=True)))
    return figures
