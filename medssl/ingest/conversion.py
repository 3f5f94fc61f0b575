"""Turns one group of files into volumes and refusals: requests go to the reading processes, their answers into the ledger."""

from __future__ import annotations

from collections import Counter

from medssl.core.file_names import GRID_FORMATS
from medssl.ingest.convert_dicom import convert_series
from medssl.ingest.convert_images import convert_npz, convert_pictures
from medssl.ingest.convert_nifti import convert_nifti
from medssl.ingest.ledger import Row
from medssl.ingest.modality import refused_by_modality, set_aside
from medssl.ingest.outcome import Outcome, by_code
from medssl.ingest.refusal import Refusal
from medssl.ingest.source import NewFile, Source
from medssl.ingest.subjects import assign_subjects


def convert_group(rows: list[Row], source: Source, new_file: NewFile) -> Outcome:
    """Convert one group of the inventory: a DICOM series with its label objects, a NIfTI with its mask, pictures of one shape."""
    outcome = Outcome(source.own_key)
    good = [row for row in rows if not row["code"]]
    for code, group in by_code(row for row in rows if row["code"]).items():
        outcome.reject(code, _said_of_most(group), group, "scan")
    skip = set(source.options.skip)
    if good and good[0]["group"] in skip:
        outcome.reject("skipped", Refusal("skipped").sentence, good, "scan")
        return outcome
    if refusal := refused_by_modality(good, source.options):
        outcome.reject(refusal.code, refusal.sentence, good, "scan")
        return outcome
    formats = {row["format"] for row in good}
    if "dicom" in formats:
        convert_series(good, source, new_file, outcome)
    if formats & {*GRID_FORMATS}:
        convert_nifti(good, source, new_file, outcome)
    if "png" in formats:
        convert_pictures(good, source, new_file, outcome)
    if "npz" in formats:
        convert_npz(good[0], source, new_file, outcome)
    if any(row["tainted"] or row["beside"] for row in good):
        for volume in outcome.volumes:
            volume.row["warnings"] = [*volume.row["warnings"], "damaged_neighbour"]
    if any(row["unread"] for row in good):
        for volume in outcome.volumes:
            volume.row["warnings"] = [*volume.row["warnings"], "unread_beside"]
    set_aside(good, source.options, outcome)
    assign_subjects(good, source, outcome)
    return outcome


def _said_of_most(rows: list[Row]) -> str:
    """The sentence for files refused for one reason; if theirs differ, the most common one and how many files it concerns."""
    counts = Counter(row["sentence"] for row in rows)
    sentence, count = counts.most_common(1)[0]
    return sentence if count == len(rows) else f"{sentence.removesuffix('.')} ({count} of {len(rows)} files)."
