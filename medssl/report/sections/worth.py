"""Worth of reduction: what each arm kept, what its pre-training cost, and what it gave, side by side."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medssl.artefacts.names import in_cohort, reduction_of
from medssl.report.evidence import Evidence, arm_of, run_of
from medssl.report.section import Section, Table, count, duration, number, percent, records, shown, span
from medssl.report.shares import distinct, labels_of, ordered_shares, share_phrase
from medssl.report.words import class_name, headline, mode_name, name_in, ordered_modes

PLACE = 72


def worth(evidence: Evidence) -> Section:
    """A table per task, mode and share of labels: a line per pre-training and arm."""
    costs = _costs(evidence)
    if costs.empty or costs["arm"].nunique() < 2 or not evidence.scores:
        return Section.not_given("Worth of reduction", "No two arms were pre-trained on and evaluated.")
    blocks = []
    for task, scores in sorted(evidence.scores.items()):
        metric, label = headline(scores)
        named, labels = name_in(scores, metric), labels_of(evidence.fits.get(task), scores)
        main = distinct(scores[(scores["metric"] == metric) & (scores["class"] == label)], labels)
        for mode in ordered_modes(main["mode"]):
            for share in ordered_shares(main["fraction"]):
                part = main[(main["mode"] == mode) & (main["fraction"] == share)]
                rows = _rows(costs, part, _differences(evidence, task, metric, label, mode, share))
                if rows.empty:
                    continue
                name = f"worth-{task}-{mode}-{share:g}".replace(".", "p")
                caption = f"Task {task}, {mode_name(mode)}, {share_phrase(share, labels)}: {named} "
                caption += f"({class_name(label)}) against what the pre-training cost (means over seeds)."
                blocks.append(Table(name, caption, rows, _shown(rows, named)))
    lead = "Does it matter which slices are used for pre-training, and how many? Arms of equal size differ in their choice."
    return Section("Worth of reduction", lead, tuple(blocks))


def _costs(evidence: Evidence) -> pd.DataFrame:
    """A row per pre-training and arm, means over seeds: `start` (`simclr-hash`), slices kept, images seen, seconds."""
    rows = []
    for run, curve in sorted(evidence.curves.items()):
        arm, whole = reduction_of(run), evidence.whole_run(run)
        keep, options = evidence.keeps.get(arm), evidence.asked.pretrain.get(run_of(run).name)
        steps, batch = (int(curve["step"].max()) if "step" in curve else None), options.batch_size if options else None
        rows.append(
            {
                "start": arm_of(run),
                "whole": None if whole is None else arm_of(whole),
                "arm": in_cohort(arm)[1],
                "kept": int(keep["keep"].sum()) if keep is not None else None,
                "images": steps * batch if steps and batch else None,
                "wall_s": evidence.wall_s(f"pretrain/{run}"),
            }
        )
    table = pd.DataFrame(rows, columns=["start", "whole", "arm", "kept", "images", "wall_s"])
    if table.empty:
        return table
    table = table.groupby(["start", "whole", "arm"], sort=False, as_index=False, dropna=False).mean()
    of_start = dict(zip(table["start"], table["wall_s"], strict=True))
    table["of_all"] = table["wall_s"] / table["whole"].map(of_start)
    return table


def _differences(evidence: Evidence, task: str, metric: str, label: str, mode: str, share: float) -> pd.DataFrame:
    """The bootstrap comparisons of the score in one mode and share."""
    table = evidence.comparisons.get(task, pd.DataFrame())
    if table.empty:
        return table
    wanted = (table["metric"] == metric) & (table["class"] == label) & (table["mode"] == mode) & (table["fraction"] == share)
    return table[wanted & table["method"].str.startswith("bootstrap")]


def _rows(costs: pd.DataFrame, scores: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """Costs with the score of the same start, and its difference from the same pre-training on all slices."""
    score = {row["init"]: row for row in records(scores)}
    whole = dict(zip(costs["start"], costs["whole"], strict=True))
    from_all = {row["a"]: row for row in records(differences) if row["b"] == whole.get(row["a"])}
    rows = []
    for row in records(costs):
        found, difference = score.get(row["start"]), from_all.get(row["start"], {})
        if found is not None:
            rows.append(
                {"fraction": found["fraction"]}
                | {name: row[name] for name in ("start", "kept", "images", "wall_s", "of_all")}
                | {name: found[name] for name in ("estimate", "low", "high", "num_seeds")}
                | {f"{name}_from_all": difference.get(name) for name in ("difference", "low", "high", "p_holm")}
            )
    return pd.DataFrame(rows)


def _shown(rows: pd.DataFrame, named: str) -> pd.DataFrame:
    rows = rows.assign(
        interval=[span(a, b) for a, b in zip(rows["low"], rows["high"], strict=True)],
        interval_from_all=[span(a, b, sign=True) for a, b in zip(rows["low_from_all"], rows["high_from_all"], strict=True)],
    )
    columns: list[tuple[str, str, Any]] = [
        ("start", "Pre-training", None),
        ("kept", "Slices", count),
        ("images", "Images seen", count),
        ("wall_s", "Time", duration),
        ("of_all", "Of the time of all", percent),
        ("estimate", named, number),
        ("interval", "Interval", None),
        ("difference_from_all", "Against all", lambda v: number(v, sign=True)),
        ("interval_from_all", "Interval of the difference", None),
    ]
    return shown(rows, columns)
