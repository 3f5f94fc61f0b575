"""Leakage: is anyone, or any picture, on both sides of a split?"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from medssl.artefacts.names import in_cohort
from medssl.report.drawings import Tile, Tiles
from medssl.report.evidence import Evidence
from medssl.report.parts import part_of
from medssl.report.pictures import picture
from medssl.report.section import Figure, Section, Table, Text, count, number, records, shown

PLACE = 110
ANSWERS = {"CLAIM": {"20": "samples"}, "MI-CLAIM": {"2": "samples"}}


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
    ]
    blocks: list[Table | Text | Figure] = [Table("leakage", "Overlap of splits.", rows, shown(rows, columns))]
    drops = leak_drops(evidence)
    if len(drops):
        heads = [("cohort", "Cohort", None), ("arms", "Arms", None), ("leak_drops", "Slices dropped", count)]
        blocks.append(Table("leak-drops", "Training slices dropped as leaks, by cohort.", drops, shown(drops, heads)))
    if evidence.leaks:
        blocks += [_firewall(evidence), *_nothing_found(evidence)]
        blocks += [figure for name in ("pairs", "nearest") if (figure := _pairs(evidence, name)) is not None]
    whole = int(rows["images_without_subject"].sum())
    if whole:
        blocks.append(
            Text(
                f"{count(whole)} slices have no subject id, so they were split by image. Two images of one person may lie "
                "on both sides, and this page cannot know.",
                "note",
            )
        )
    total = int(rows["subjects_in_two"].sum() + rows["volumes_in_two"].sum())
    lead = (
        "No subject and no volume is in two splits." if total == 0 else f"{count(total)} subjects or volumes are in two splits."
    )
    return Section("Leakage", lead, tuple(blocks), {"images_without_subject": whole, "in_two_splits": total})


def leak_drops(evidence: Evidence) -> pd.DataFrame:
    """A row per cohort: how many training slices its arms dropped as leaks; a row per number where arms differ."""
    rows = [
        {"cohort": in_cohort(name)[0], "arms": in_cohort(name)[1], "leak_drops": int((keep["reason"] == "leak").sum())}
        for name, keep in sorted(evidence.keeps.items())
        if "reason" in keep
    ]
    if not rows:
        return pd.DataFrame()
    return (
        pd.DataFrame(rows)
        .groupby(["cohort", "leak_drops"], as_index=False)
        .agg({"arms": ", ".join})[["cohort", "arms", "leak_drops"]]
    )


def _firewall(evidence: Evidence) -> Table:
    names = ("queries", "pool", "queries_found", "pool_excluded", "policy")
    leaks = sorted(evidence.leaks.items())
    rows = pd.DataFrame([{"cohort": in_cohort(key)[0], **{name: getattr(leak, name) for name in names}} for key, leak in leaks])
    columns = [
        ("cohort", "Cohort", None),
        ("queries", "Held-out images", count),
        ("pool", "Pre-training slices", count),
        ("queries_found", "Held-out images found in the pool", count),
        ("pool_excluded", "Slices taken out", count),
        ("policy", "Policy", None),
    ]
    unseen = [in_cohort(key)[0] for key, leak in leaks if leak.look_up == "ids"]
    caption = "Validation and test images of the tasks, searched for in the pre-training slices by id, patient and pixels."
    if unseen:
        caption += f" In {', '.join(unseen)} pixels were not compared, as the study asks."
    return Table("firewall", caption, rows, shown(rows, columns))


def _nothing_found(evidence: Evidence) -> Iterator[Text]:
    """That the firewall looked and found nothing, in words: a row of zeros leaves open whether it looked at all."""
    for key, leak in sorted(evidence.leaks.items()):
        if not leak.queries_found:
            found = f"none of the {count(leak.queries)} held-out images was found in the {count(leak.pool)} pre-training slices"
            found += " (by id and patient alone; pixels were not compared)" if leak.look_up == "ids" else ""
            yield Text(f"{in_cohort(key)[0]}: {found if leak.queries else 'the tasks have no held-out images to look for'}.")


def _pairs(evidence: Evidence, name: str) -> Figure | None:
    """Held-out images beside the training slices that the firewall took for the same image, or the most similar ones."""
    rows = pd.DataFrame(
        [
            {"cohort": in_cohort(key)[0], **row}
            for key, leak in sorted(evidence.leaks.items())
            for row in (leak.pairs if name == "pairs" else leak.nearest)
        ]
    )
    if rows.empty:
        return None
    rows = rows[rows["query_id"].isin(evidence.planes) & rows["pool_id"].isin(evidence.planes)]
    if rows.empty:
        return None
    caption = {
        "pairs": "Found: a held-out image (left) and the training slice that is the same image or patient (right).",
        "nearest": "Not found, for your review: the held-out images (left) that are most similar to a training slice (right). "
        f"From a similarity of {number(next(iter(evidence.leaks.values())).same, 2)} on they count as the same.",
    }[name]
    return Figure(f"leakage-{name}", caption, caption, Tiles((("", _tiles(evidence, rows)),)), rows)


def _tiles(evidence: Evidence, rows: pd.DataFrame) -> tuple[Tile, ...]:
    tiles = []
    for row in records(rows):
        left = picture(evidence.planes[row["query_id"]], f"held-out image {row['query_id']}")
        right = picture(evidence.planes[row["pool_id"]], f"training slice {row['pool_id']}")
        text = f"similarity {number(row['score'], 2)}" if row["how"] in ("slice", "volume", "nearest") else f"same {row['how']}"
        tiles.append(Tile((left, right), (text,)))
    return tuple(tiles)


def _source(source: str, samples: pd.DataFrame) -> dict[str, object]:
    known = samples[samples["subject_id"].notna() & (samples["subject_id"] != "n/a")]
    known, volumes = (part.assign(part=part_of(part)) for part in (known, samples[samples["kind"] == "volume"]))
    return {
        "source": source,
        "subjects_in_two": int((known.groupby("subject_id")["part"].nunique() > 1).sum()),
        "volumes_in_two": int((volumes.groupby("volume_id")["part"].nunique() > 1).sum()),
        "images_without_subject": len(samples) - len(known),
    }
