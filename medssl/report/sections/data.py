"""Data: what each source holds, as the network sees it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medssl.report.class_colours import in_number_order
from medssl.report.evidence import Evidence
from medssl.report.mixtures import mixture_rows
from medssl.report.parts import num_subjects, ordered_parts, part_of
from medssl.report.patients import FEWEST, patient_rows, people_of
from medssl.report.section import Section, Table, Text, count, percent, shown

PLACE = 30
MOST_ROWS = 40
"""A longer table of patients is folded."""
ANSWERS = {"CLAIM": {"7": "series", "11": "series", "36": "samples"}, "TRIPOD+AI": {"16": "samples"}}


def data(evidence: Evidence) -> Section:
    """A row per source: volumes, slices, modality, spacing, unit, labels; then cases by part and class labels by part."""
    if not evidence.series:
        return Section.not_given("Data", "No source was ingested for this page.")
    rows = pd.DataFrame([_source(evidence, source) for source in sorted(evidence.series)])
    columns = [
        ("source", "Source", None),
        ("format", "Format", None),
        ("modality", "Modality", None),
        ("volumes", "Volumes", count),
        ("slices", "Slices", count),
        ("subjects", "Subjects", count),
        ("unit", "Unit", None),
        ("spacing_mm", "Spacing (mm)", None),
        ("manufacturers", "Manufacturers", None),
        ("labelled", "Labelled", percent),
    ]
    blocks: list[Table | Text] = [Table("sources", "Sources.", rows, shown(rows, columns))]
    parts = part_rows(evidence)
    if len(parts):
        heads = [
            ("source", "Source", None),
            ("split", "Part", None),
            ("subjects", "Subjects", count),
            ("volumes", "Volumes or image sets", count),
            ("slices", "Slices or images", count),
            ("with_class", "With a class", count),
            ("with_mask", "Of volumes with a mask", count),
        ]
        blocks.append(Table("parts", "Cases by part.", parts, shown(parts, heads)))
    patients = _patients(evidence)
    blocks += patients
    mixed = mixture_rows(evidence)
    if len(mixed):
        heads = [("of", "Of", None), ("modality", "Modality", None), ("slices", "Slices", count), ("volumes", "Volumes", count)]
        caption = "Several modalities that are pre-trained on or evaluated together."
        blocks.append(Table("mixtures", caption, mixed, shown(mixed, heads)))
    notes = notes_of(evidence)
    blocks += [Text(f"Source {source}: {note}", "note") for source, found in notes.items() for note in found]
    labels = label_rows(evidence)
    if len(labels):
        wide = labels.pivot_table(
            index=["source", "label"], columns="split", values="num_cases", aggfunc="sum", fill_value=0, observed=True
        )
        wide = wide.sort_values(["source", "label"], key=lambda column: column.map(in_number_order))
        wide = wide.reindex(columns=ordered_parts(wide.columns)).reset_index()
        heads = [("source", "Source", None), ("label", "Class", None)] + [(s, s, count) for s in wide.columns[2:]]
        blocks.append(Table("labels", "Labelled cases, by class and part.", labels, shown(wide, heads), folded=len(wide) > 12))
    blocks.append(
        Text(
            "Ids on this page are keyed hashes. No name, date, path or free text of a source is on it. Images of a head can show "
            "a face: treat the pictures as patient data unless the source is public.",
            "note",
        )
    )
    facts: dict[str, Any] = {"notes": notes} if notes else {}
    facts |= {"fewest_patients": FEWEST} if patients else {}
    return Section("Data", "What was accepted, and how it was divided.", tuple(blocks), facts)


def _patients(evidence: Evidence) -> list[Table | Text]:
    """Sex, age, scanner and groups of the label table, as counts of patients; and which sources show none, and why."""
    rows = patient_rows(evidence)
    blocks: list[Table | Text] = []
    if len(rows):
        columns = [("source", "Source", None), ("characteristic", "Characteristic", None), ("value", "Value", None)]
        caption = f"Patients, as far as the sources say. Groups of fewer than {FEWEST} are not counted; age is in years."
        heads = [*columns, ("shown", "Patients", None)]
        blocks.append(Table("patients", caption, rows, shown(rows, heads), folded=len(rows) > MOST_ROWS))
    absent = sorted(set(evidence.series) - set(rows["source"]))
    few = [source for source in absent if 0 < len(people_of(evidence, source)) < FEWEST]
    silent = [source for source in absent if source not in few]
    if few:
        blocks.append(Text(f"Sex, age and scanner are not shown of {', '.join(few)}: fewer than {FEWEST} patients."))
    if silent:
        blocks.append(Text(f"Sex, age and scanner are not given by {', '.join(silent)}."))
    return blocks


def notes_of(evidence: Evidence) -> dict[str, list[str]]:
    """By source, what a person must read: remarks of ingest (options without effect, shared ids), then of prepare."""
    found: dict[str, list[str]] = {}
    for source in sorted({*evidence.series, *evidence.fingerprint}):
        receipt, prepared = evidence.receipts.get(f"ingest/{source}"), evidence.fingerprint.get(source)
        remarks = [] if receipt is None else [str(remark) for remark in receipt.notes.get("remarks", [])]
        if remarks or (prepared is not None and prepared.notes):
            found[source] = [*remarks, *(prepared.notes if prepared is not None else [])]
    return found


def part_rows(evidence: Evidence) -> pd.DataFrame:
    """A row per source and split: subjects, volumes, slices, and how many slices have a class or a volume with a mask."""
    rows = []
    for source, samples in sorted(evidence.samples.items()):
        masked = _has_mask(evidence, source, samples)
        parts = part_of(samples)
        for split in ordered_parts(parts):
            part = parts == split
            subjects = samples["subject_id"][part].dropna()
            rows.append(
                {
                    "source": source,
                    "split": split,
                    "subjects": subjects.nunique() if len(subjects) else None,
                    "volumes": samples["volume_id"][part].nunique(),
                    "slices": int(part.sum()),
                    "with_class": int(samples["label"][part].notna().sum()),
                    "with_mask": int(masked[part].sum()),
                }
            )
    return pd.DataFrame(rows)


def label_rows(evidence: Evidence) -> pd.DataFrame:
    """Cases by source, class and split."""
    tables = []
    for source, samples in sorted(evidence.samples.items()):
        known = samples.assign(split=part_of(samples))[samples["label"].notna()]
        if len(known):
            tables.append(
                known.groupby(["label", "split"], observed=True).size().rename("num_cases").reset_index().assign(source=source)
            )
    return pd.concat(tables, ignore_index=True)[["source", "label", "split", "num_cases"]] if tables else pd.DataFrame()


def _source(evidence: Evidence, source: str) -> dict[str, object]:
    series = evidence.series[source]
    samples = evidence.samples.get(source, pd.DataFrame({"label": [], "sample_id": []}))
    return {
        "source": source,
        "format": _several(series, "format"),
        "modality": _several(series, "modality"),
        "volumes": len(series),
        "slices": len(samples),
        "subjects": num_subjects(series, samples) or None,
        "unit": _several(series, "unit"),
        "spacing_mm": _spacing(series),
        "manufacturers": _several(series, "manufacturer_code"),
        "lossy": int(series["lossy"].eq(True).sum()) if "lossy" in series else None,
        "labelled": float((samples["label"].notna() | _has_mask(evidence, source, samples)).mean()) if len(samples) else None,
    }


def _has_mask(evidence: Evidence, source: str, samples: pd.DataFrame) -> pd.Series:
    """Of each slice, whether its volume has a mask."""
    volumes = evidence.volumes.get(source, pd.DataFrame())
    if "mask" not in volumes or "volume_id" not in samples:
        return pd.Series(False, index=samples.index)
    return samples["volume_id"].isin(set(volumes.loc[volumes["mask"].notna(), "volume_id"]))


def _several(series: pd.DataFrame, column: str) -> str | None:
    found = sorted(set(series[column].dropna().astype(str))) if column in series else []
    return ", ".join(found) or None


def _spacing(series: pd.DataFrame) -> str | None:
    """`0.70 × 0.70 × 5.00`, or the range per axis."""
    found = list(series["spacing_mm"].dropna()) if "spacing_mm" in series else []
    axes = list(zip(*[values for values in found if values and all(v is not None for v in values)], strict=False))
    if not axes:
        return None
    spans = [f"{min(a):.2f}" if f"{min(a):.2f}" == f"{max(a):.2f}" else f"{min(a):.2f}–{max(a):.2f}" for a in axes]
    return " × ".join(spans)
