"""Leakage: is anyone, or any picture, on both sides of a split?"""

from __future__ import annotations

import pandas as pd

from medssl.report.evidence import Evidence
from medssl.report.section import Section, Table, Text, count, shown

PLACE = 110


def leakage(evidence: Evidence) -> Section:
    """Subjects and volumes in more than one split, per source and across the sources of the study."""
    if not evidence.samples:
        return Section.not_given("Leakage", "No source was prepared for this page.")
    rows = pd.DataFrame([_source(source, samples) for source, samples in sorted(evidence.samples.items())])
    columns = [
        ("source", "Source", None),
        ("subjects_in_two", "Subjects in two splits", count),
        ("volumes_in_two", "Volumes in two splits", count),
        ("images_without_subject", "Slices without a subject", count),
        ("leak_drops", "Training slices dropped as leaks", count),
    ]
    leaks = {
        name.split("/")[0]: int((keep["reason"] == "leak").sum()) for name, keep in evidence.keeps.items() if "reason" in keep
    }
    rows["leak_drops"] = [leaks.get(source) for source in rows["source"]]
    blocks: list[Table | Text] = [Table("leakage", "Overlap of splits.", rows, shown(rows, columns))]
    if evidence.leaks:
        blocks.append(_firewall(evidence))
    whole = int(rows["images_without_subject"].sum())
    if whole:
        blocks.append(
            Text(
                f"{count(whole)} slices have no subject id, so the image is what was split: two images of one "
                f"person may lie on both sides, "
                "and nothing here can find out.",
                "note",
            )
        )
    total = int(rows["subjects_in_two"].sum() + rows["volumes_in_two"].sum())
    lead = (
        "No subject and no volume is in two splits." if total == 0 else f"{count(total)} subjects or volumes are in two splits."
    )
    return Section("Leakage", lead, tuple(blocks), {"images_without_subject": whole, "in_two_splits": total})


def _firewall(evidence: Evidence) -> Table:
    names = ("queries", "pool", "queries_found", "pool_excluded", "policy")
    leaks = sorted(evidence.leaks.items())
    rows = pd.DataFrame([{"cohort": key.split("/")[0], **{name: leak.get(name) for name in names}} for key, leak in leaks])
    columns = [
        ("cohort", "Cohort", None),
        ("queries", "Held-out images", count),
        ("pool", "Pre-training slices", count),
        ("queries_found", "Held-out images found in the pool", count),
        ("pool_excluded", "Slices taken out", count),
        ("policy", "Policy", None),
    ]
    caption = "Validation and test images of the tasks, looked for in the pre-training slices by id, patient and pixels."
    return Table("firewall", caption, rows, shown(rows, columns))


def _source(source: str, samples: pd.DataFrame) -> dict[str, object]:
    known = samples[samples["subject_id"].notna() & (samples["subject_id"] != "n/a")]
    volumes = samples[samples["kind"] == "volume"]
    return {
        "source": source,
        "subjects_in_two": int((known.groupby("subject_id")["split"].nunique() > 1).sum()),
        "volumes_in_two": int((volumes.groupby("volume_id")["split"].nunique() > 1).sum()),
        "images_without_subject": len(samples) - len(known),
    }
