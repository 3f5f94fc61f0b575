"""Compute: what each job cost, and what reduction saved."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medssl.report.chart import Bar, bar_chart
from medssl.report.evidence import Evidence, arm_of_run
from medssl.report.section import Figure, Section, Table, Text, count, counted, duration, number, percent, shown
from medssl.report.sections.pretraining import images_per_s

PLACE = 120


def compute(evidence: Evidence) -> Section:
    """Wall time by job, and pre-training on everything against pre-training on what an arm kept."""
    scans = {key: {"wall_s": wall_s} for key, wall_s in evidence.untold.items()}
    rows = pd.DataFrame([_job(key, receipt) for key, receipt in (scans | evidence.receipts).items()])
    if rows.empty:
        return Section.not_given("Compute", "No receipt was given to this page.")
    by_stage = rows.groupby("stage", sort=False)["wall_s"].sum()
    total = float(by_stage.sum())
    bars = [Bar(str(stage), ((seconds, "c0", duration(seconds)),), duration(seconds)) for stage, seconds in by_stage.items()]
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
            bar_chart(bars, alt=alt, label_width=110),
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
        blocks.append(Table("cost", "Pre-training on everything against what an arm keeps.", costs, shown(costs, heads)))
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
        "count whatever else ran on the machine, and twice what jobs used beside one another."
    )


def cost_of_arms(evidence: Evidence) -> pd.DataFrame:
    """A row per pre-training run: slices, time, and its share of the time of the same run on all slices."""
    rows = []
    for run, curve in sorted(evidence.curves.items()):
        arm, receipt = arm_of_run(run), evidence.receipts.get(f"pretrain/{run}", {})
        keep = evidence.keeps.get(arm)
        rows.append(
            {
                "run": run,
                "slices": int(keep["keep"].sum()) if keep is not None else None,
                "wall_s": receipt.get("wall_s"),
                "whole": run.replace(f"-{arm.split('/')[-1]}-seed", "-all-seed"),
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


def _job(key: str, receipt: dict[str, object]) -> dict[str, object]:
    stage, _, name = key.partition("/")
    joules: Any = receipt.get("energy_j") or {}
    energy_wh = sum(joules.values()) / 3600 if joules else None
    known = {name: receipt.get(name) for name in ("wall_s", "threads", "device")}
    return {"stage": stage, "name": name, **known, "energy_wh": energy_wh}


def _facts(total: float) -> dict[str, object]:
    return {"wall_s": total, "wall_min": total / 60, "wall_h": total / 3600}
