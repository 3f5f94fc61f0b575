"""Failures: best, median and worst cases by rank, not by choice, and what was taken for what."""

from __future__ import annotations

import pandas as pd

from medssl.report.cases import ranked_cases, ranking_metric
from medssl.report.class_colours import class_tones
from medssl.report.drawings import Tile, Tiles
from medssl.report.evidence import Evidence
from medssl.report.pictures import picture
from medssl.report.section import Figure, Section, Table, number, percent, records, shown
from medssl.report.shares import labels_of, ordered_shares, share_phrase
from medssl.report.words import mode_name, ordered_modes

PLACE = 100
ANSWERS = {"CLAIM": {"39": "cases"}, "MI-CLAIM": {"5": "cases"}}


def failures(evidence: Evidence) -> Section:
    """A gallery per classification task and a table of the commonest confusions; a table of worst cases per segmentation."""
    if not evidence.cases:
        return Section.not_given("Cases", "No task was evaluated for this page.")
    blocks: list[Figure | Table] = []
    fractions: dict[str, float] = {}
    for task, cases in sorted(evidence.cases.items()):
        ranked = ranked_cases(cases)
        if task in evidence.overlays or len(ranked):
            fractions[task] = ordered_shares(cases["fraction"])[-1]
        if task in evidence.overlays:
            blocks.append(_overlays(evidence, task, evidence.overlays[task]))
        elif len(ranked):
            blocks.append(_gallery(evidence, task, ranked))
        if task in evidence.confusion:
            blocks.append(_confusions(task, evidence.confusion[task], str(ranked["init"].iloc[0])))
    if not blocks:
        return Section.not_given("Cases", "No score of these tasks orders single cases.")
    shares = dict.fromkeys(_share(evidence, task, fraction) for task, fraction in fractions.items())
    lead = f"The best, the median and the worst by rank, of one arm with {' or '.join(shares)}."
    return Section("Cases", lead, tuple(blocks), {"fractions": fractions})


def _gallery(evidence: Evidence, task: str, ranked: pd.DataFrame) -> Figure:
    groups = []
    for group in ("best", "median", "worst"):
        tiles = []
        for row in records(ranked[ranked["group"] == group]):
            plane = evidence.planes.get(row["case_id"])
            image = None if plane is None else picture(plane, f"{group} case {row['case_id']}")
            words = f"{row['target']} → {row['predicted']}" if "predicted" in row else row["case_id"]
            tiles.append(Tile((image,), (words, f"rank {row['rank']}: {number(row['score'])}")))
        groups.append((group.capitalize(), tuple(tiles)))
    first = ranked.iloc[0]
    caption = (
        f"Task {task}: cases by rank of their {first['score_name']} score (mean over seeds), {first['init']}, "
        f"{mode_name(first['mode'])}, "
        f"{_share(evidence, task, first['fraction'])}; true → predicted (first seed)."
    )
    return Figure(f"cases-{task}", caption, caption, Tiles(tuple(groups)), ranked)


def _overlays(evidence: Evidence, task: str, rows: pd.DataFrame) -> Figure:
    cases, groups = evidence.cases[task], []
    metric = ranking_metric(cases)
    named = metric.constant("TITLE") if metric else "score"
    for group in dict.fromkeys(rows["group"]):
        tiles = []
        for row in records(rows[rows["group"] == group]):
            planes = [evidence.planes.get(f"{task}/{row['case_id']}/{mask}") for mask in ("target", "prediction")]
            alts = [f"{group} case {row['case_id']}, outlines of the {mask} mask" for mask in ("true", "predicted")]
            images = (
                None if plane is None else picture(plane, alt, longest=320) for plane, alt in zip(planes, alts, strict=True)
            )
            words = f"rank {row['rank']} of {row['num_ranked']}: {named} {number(row['score'])}"
            tiles.append(Tile(tuple(images), (words,)))
        groups.append((group.capitalize(), tuple(tiles)))
    fraction = float(cases.loc[cases["fit_id"] == rows["fit_id"].iloc[0], "fraction"].iloc[0])
    caption = (
        f"Task {task}: segmentations by rank of their mean {named}, {rows['init'].iloc[0]}, one seed, "
        f"{_share(evidence, task, fraction)}. The plane with most of either mask: outlines of the true mask (left) "
        "and of the predicted one (right)."
    )
    table = rows.drop(columns=["prediction", "target"])
    colours, shown_classes = class_tones(evidence), dict.fromkeys(name for row in rows["classes"] for name in row.values())
    legend = tuple((colours[name], name) for name in shown_classes if name in colours)
    return Figure(f"overlays-{task}", caption, caption, Tiles(tuple(groups), side=172), table, legend)


def _share(evidence: Evidence, task: str, fraction: float) -> str:
    return share_phrase(fraction, labels_of(evidence.fits.get(task), evidence.scores.get(task)))


def _confusions(task: str, table: pd.DataFrame, arm: str) -> Table:
    mode, share = ordered_modes(table["mode"])[0], ordered_shares(table["fraction"])[-1]
    rows = table[(table["mode"] == mode) & (table["fraction"] == share) & (table["init"] == arm)]
    totals = rows.groupby("target")["num_cases"].transform("sum")
    rows = rows.assign(of_class=rows["num_cases"] / totals)
    wrong = rows[(rows["target"] != rows["predicted"]) & (rows["num_cases"] > 0)]
    wrong = wrong.sort_values(["num_cases", "target", "predicted"], ascending=[False, True, True]).head(10)
    columns = [
        ("target", "True class", None),
        ("predicted", "Taken for", None),
        ("num_cases", "Cases (mean of seeds)", lambda v: number(v, 1)),
        ("of_class", "Of the true class", percent),
    ]
    caption = f"Task {task}: the commonest confusions of {arm}; the download has the full matrix of every arm."
    return Table(f"confusion-{task}", caption, pd.concat([wrong, table]), shown(wrong, columns))
