"""Compute: what each job cost, and what reduction saved."""

from __future__ import annotations

import pandas as pd

from medssl.artefacts.names import reduction_of
from medssl.artefacts.receipt import Receipt
from medssl.report.chart import StackedBar, bar_chart
from medssl.report.curves import images_per_s
from medssl.report.drawings import one_chart
from medssl.report.evidence import Evidence
from medssl.report.section import Figure, Section, Table, Text, count, counted, duration, number, percent, shown

PLACE = 120


def compute(evidence: Evidence) -> Section:
    """Wall time by job, and pre-training on everything against pre-training on what an arm kept."""
    scans = [_row(key, {"wall_s": wall_s}) for key, wall_s in evidence.scans.items()]
    rows = pd.DataFrame(scans + [_job(key, receipt) for key, receipt in evidence.receipts.items()])
    if rows.empty:
        return Section.not_given("Compute", "No receipt was given to this page.")
    by_stage = rows.groupby("stage", sort=False)["wall_s"].sum()
    total = float(by_stage.sum())
    bars = [
        StackedBar(str(stage), ((seconds, "c0", duration(seconds)),), duration(seconds)) for stage, seconds in by_stage.items()
    ]
    alt = "Wall time by stage: " + "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    table = by_stage.rename("wall_s").reset_index()
    columns = [
        ("stage", "Stage", None),
        ("name", "Job", None),
        ("wall_s", "Wall time", duration),
        ("threads", "Threads", count),
        ("device", "Device", None),
        ("energy_wh", "Energy (Wh)", lambda value: number(value, 2)),
    ]
    blocks: list[Figure | Table | Text] = [
        Figure(
            "wall-time",
            "Wall time by stage (jobs may have run beside one another).",
            alt,
            one_chart(bar_chart(bars, alt=alt, label_width=110)),
            table,
        ),
        Table("jobs", f"Every job before this page ({len(rows)}).", rows, shown(rows, columns), folded=True),
    ]
    costs = cost_of_arms(evidence)
    if len(costs):
        heads = [
            ("run", "Run", None),
            ("slices", "Slices", count),
            ("wall_s", "Pre-training", duration),
            ("of_all", "Of the time of all", percent),
            ("steps", "Steps", count),
            ("images_per_s", "Images/s", lambda v: number(v, 0)),
        ]
        blocks.append(Table("cost", "Pre-training on all slices, and on those that an arm keeps.", costs, shown(costs, heads)))
    blocks.append(_energy(rows))
    facts = _facts(total) | {
        "energy_wh": float(rows["energy_wh"].dropna().sum()),
        "energy_of_jobs": int(rows["energy_wh"].notna().sum()),
    }
    lead = (
        f"All jobs before this page together took {duration(total)} of wall time. A job that was stopped and resumed counts with "
        "its last attempt only."
    )
    return Section("Compute", lead, tuple(blocks), facts)


def _energy(rows: pd.DataFrame) -> Text:
    known = rows["energy_wh"].dropna()
    if known.empty:
        return Text("Energy: not given (no counter was readable).")
    return Text(
        f"Energy: {number(known.sum(), 1)} Wh in {counted(len(known), 'job')}, by the counters of processors and devices. They "
        "include other programs on the machine, and count twice what two jobs used at the same time."
    )


def cost_of_arms(evidence: Evidence) -> pd.DataFrame:
    """A row per pre-training run: slices, time, and its share of the time of the same run on all slices."""
    rows = []
    for run, curve in sorted(evidence.curves.items()):
        keep = evidence.keeps.get(reduction_of(run))
        rows.append(
            {
                "run": run,
                "slices": int(keep["keep"].sum()) if keep is not None else None,
                "wall_s": evidence.wall_s(f"pretrain/{run}"),
                "whole": evidence.whole_run(run),
                "steps": int(curve["step"].max()) if "step" in curve else None,
                "images_per_s": images_per_s(curve),
            }
        )
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    time = dict(zip(table["run"], table["wall_s"], strict=True))
    table["of_all"] = [
        w / time[b] if b in time and w and time[b] else None for w, b in zip(table["wall_s"], table["whole"], strict=True)
    ]
    return table.drop(columns="whole")


def _job(key: str, receipt: Receipt) -> dict[str, object]:
    energy_wh = sum(receipt.energy_j.values()) / 3600 if receipt.energy_j else None
    known = {"wall_s": receipt.wall_s, "threads": receipt.threads, "device": receipt.notes.get("device")}
    return _row(key, known | {"energy_wh": energy_wh})


def _row(key: str, known: dict[str, object]) -> dict[str, object]:
    stage, _, name = key.partition("/")
    return {"stage": stage, "name": name, "wall_s": None, "threads": None, "device": None, "energy_wh": None} | known


def _facts(total: float) -> dict[str, object]:
    return {"wall_s": total, "wall_min": total / 60, "wall_h": total / 3600}
