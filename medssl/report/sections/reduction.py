"""Reduction: how much each arm keeps, where, and what the dropped slices look like beside their twins."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medssl.artefacts.keep import Curve
from medssl.artefacts.names import in_cohort
from medssl.report.chart import Axis, Line, StackedBar, axis, bar_chart, line_chart
from medssl.report.drawings import Tile, Tiles, one_chart
from medssl.report.evidence import Evidence, tones
from medssl.report.mixtures import sources_of
from medssl.report.pictures import chosen_slices, picture
from medssl.report.section import Figure, Section, Table, count, duration, number, percent, records, shown
from medssl.report.words import title_of

PLACE = 40
ANSWERS = {"CLAIM": {"10": "keeps"}}
TENTHS = 10


def reduction(evidence: Evidence) -> Section:
    """Bars of kept and dropped slices, a table, and a contact sheet per arm that dropped something."""
    if not evidence.keeps:
        return Section.not_given("Reduction", "No reduction arm belongs to this page.")
    rows = pd.DataFrame([_arm(evidence, name) for name in sorted(evidence.keeps)])
    columns = [
        ("arm", "Arm", None),
        ("reducer", "Reducer", lambda name: title_of("reducer", name)),
        ("kept", "Kept", count),
        ("dropped", "Dropped", count),
        ("kept_frac", "Share kept", percent),
        ("threshold", "Threshold", lambda v: number(v, 2)),
        ("seconds", "Time", duration),
    ]
    bars = [
        StackedBar(
            row["arm"],
            ((row["kept"], "c0", f"{count(row['kept'])} kept"), (row["dropped"], "faint", f"{count(row['dropped'])} dropped")),
            f"{count(row['kept'])} of {count(row['slices'])} kept",
        )
        for row in records(rows)
    ]
    alt = "Slices kept by each arm: " + "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    blocks: list[Figure | Table] = [
        Figure(
            "kept", "Training slices kept (solid) and dropped (pale) by each arm.", alt, one_chart(bar_chart(bars, alt=alt)), rows
        ),
        Table("arms", "Reduction arms.", rows, shown(rows, columns)),
    ]
    blocks += _by_source(evidence)
    blocks += _where_dropped(evidence)
    blocks += [_threshold_curve(name, s.curve, s.threshold) for name, s in sorted(evidence.summaries.items()) if s.curve]
    for name in sorted(evidence.keeps):
        figure = _contact_sheet(evidence, name)
        if figure is not None:
            blocks.append(figure)
    return Section("Reduction", "Which training slices each arm kept, and which it dropped.", tuple(blocks))


def _arm(evidence: Evidence, name: str) -> dict[str, object]:
    keep, summary = evidence.keeps[name], evidence.summaries.get(name)
    kept = int(keep["keep"].sum())
    return {
        "arm": name,
        "reducer": in_cohort(name)[1] if summary is None else summary.reducer,
        "slices": len(keep),
        "kept": kept,
        "dropped": len(keep) - kept,
        "kept_frac": kept / len(keep) if len(keep) else None,
        "threshold": None if summary is None else summary.threshold,
        "seconds": evidence.wall_s(f"reduce/{name}"),
    }


def _by_source(evidence: Evidence) -> list[Figure | Table]:
    """What each arm kept of each source, if its cohort has several: arms may differ in their mix of sources."""
    rows = [
        {"arm": name, "source": source, "kept": int(own.sum()), "slices": len(own), "kept_frac": own.mean()}
        for name, keep in sorted(evidence.keeps.items())
        for source in sources_of(evidence, in_cohort(name)[0])
        if len(own := keep.loc[keep["sample_id"].isin(evidence.samples[source]["sample_id"]), "keep"])
    ]
    table = pd.DataFrame(rows, columns=["arm", "source", "kept", "slices", "kept_frac"])
    table = table[table.groupby("arm")["source"].transform("nunique") > 1].reset_index(drop=True)
    if table.empty:
        return []
    columns = [
        ("arm", "Arm", None),
        ("source", "Source", None),
        ("kept", "Kept", count),
        ("slices", "Of", count),
        ("kept_frac", "Share kept", percent),
    ]
    return [Table("arms_by_source", "What each arm kept of each source.", table, shown(table, columns))]


def _where_dropped(evidence: Evidence) -> list[Figure | Table]:
    """Share kept along the volumes, from the first slice to the last, in tenths: do arms thin out one end?"""
    samples = pd.concat(evidence.samples.values()) if evidence.samples else pd.DataFrame()
    if samples.empty or not (samples["kind"] == "volume").any():
        return []
    volumes = samples[samples["kind"] == "volume"]
    last = volumes.groupby("volume_id")["index"].transform("max").clip(lower=1)
    tenth = (volumes["index"] / last * TENTHS).astype(int).clip(upper=TENTHS - 1)
    place = pd.DataFrame({"sample_id": volumes["sample_id"], "tenth": tenth})
    parts = []
    for name, keep in sorted(evidence.keeps.items()):
        if keep["keep"].astype(bool).all():
            continue
        shares = keep.merge(place, on="sample_id").groupby("tenth")["keep"].agg(["mean", "size"]).reset_index()
        parts.append(shares.rename(columns={"mean": "kept_frac", "size": "num_slices"}).assign(arm=name))
    if not parts:
        return []
    rows = pd.concat(parts, ignore_index=True)[["arm", "tenth", "kept_frac", "num_slices"]]
    colour = tones(sorted(set(rows["arm"])))
    lines = []
    for arm in sorted(set(rows["arm"])):
        part = rows[rows["arm"] == arm]
        points = zip((part["tenth"] + 0.5) / TENTHS, part["kept_frac"].astype(float), strict=True)
        lines.append(Line(arm, colour[arm], tuple(points)))
    x = Axis("From the first slice of the volumes to the last", 0.0, 1.0, ((0.0, "first"), (0.5, "middle"), (1.0, "last")))
    caption = "Share of slices kept along the volumes, in tenths."
    body = line_chart(lines, x, axis("Share kept", [0.0, 1.0]), alt=caption, height=230)
    return [
        Figure("where-kept", caption, caption, one_chart(body), rows, tuple((colour[line.name], line.name) for line in lines))
    ]


def _threshold_curve(name: str, curve: Curve, used: float | None) -> Figure:
    rows = pd.DataFrame({"threshold": curve.threshold, "kept_frac": curve.kept_frac})
    line = Line(name, "c0", tuple(zip(rows["threshold"].astype(float), rows["kept_frac"].astype(float), strict=True)))
    caption = f"Arm {name}: share kept against the distance below which slices count as twins"
    caption += f"; {number(used, 2)} was used." if used is not None else "."
    x = axis("Threshold", rows["threshold"].tolist())
    body = line_chart([line], x, axis("Share kept", [0.0, 1.0]), alt=caption, height=230)
    return Figure(f"threshold-{name.replace('/', '-')}", caption, caption, one_chart(body), rows)


def _contact_sheet(evidence: Evidence, name: str) -> Figure | None:
    rows = chosen_slices(evidence.keeps[name])
    rows = rows[[sample in evidence.planes for sample in rows["sample_id"]]]
    if rows.empty or not (~rows["keep"].astype(bool)).any():
        return None
    pairs = tuple(_pair(evidence, row) for row in records(rows))
    what = "kept slice (left) and the slice dropped because of it (right), at even steps from the nearest pair to the farthest"
    if not rows["twin"].notna().any():
        what = "dropped slices, at even steps through all of them; this reducer names no twins"
    caption = f"Arm {name}: {what}. They are chosen by rule."
    alt = f"Contact sheet of arm {name}: {what}."
    table = rows[["sample_id", "twin", "reason", "distance"]]
    return Figure(f"contact-{name.replace('/', '-')}", caption, alt, Tiles((("", pairs),)), table)


def _pair(evidence: Evidence, row: dict[str, Any]) -> Tile:
    dropped = picture(evidence.planes[row["sample_id"]], f"dropped slice {row['sample_id']}")
    twin = row["twin"]
    if not isinstance(twin, str) or twin not in evidence.planes:
        return Tile((dropped,), (row["reason"],))
    kept = picture(evidence.planes[twin], f"kept slice {twin}")
    distance = number(row["distance"], 0 if float(row["distance"]).is_integer() else 3)
    return Tile((kept, dropped), (f"distance {distance}",))
