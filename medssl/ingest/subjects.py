"""The patients of a DICOM source if its headers do not state them: from the study file, with remarks on suspicious ids."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator

from medssl.core.file_names import GRID_FORMATS
from medssl.core.listing import minted, minted_patient
from medssl.core.patient_names import named_id, own_folder, perhaps_fewer, subject_of
from medssl.ingest.dicom.placeholders import PLACEHOLDERS
from medssl.ingest.inventory import Labels
from medssl.ingest.ledger import Row
from medssl.ingest.outcome import Converted, Outcome
from medssl.ingest.refusal import Refusal
from medssl.ingest.source import Source

REMEDY = (
    "name each person by ingest.subject_pattern (a regular expression on a file's path, whose group is the patient) or by a "
    "column `subject` of the label table"
)


def assign_subjects(rows: list[Row], source: Source, outcome: Outcome) -> None:
    """Give the DICOM volumes of a group the patient from the label table or `subject_pattern`; `rows` are its files.

    The table may name a file, a folder, a series (its UID or its id) or a PatientID. A volume whose files are of different
    patients is refused.
    """
    images = {row["name"] for row in rows if row["role"] == "image" and row["format"] == "dicom"}
    mixed = []
    for volume in [one for one in outcome.volumes if one.row["format"] == "dicom"]:
        names = sorted(volume.files & images or images)
        stated = {row["series"] for row in rows if row["name"] in names}
        found = sorted(set(_named(names, volume, stated, source)))
        if len(found) > 1:
            mixed.append(volume)
        elif found:
            volume.row["subject_id"] = minted_patient(source.key, found[0])
    if mixed:
        refusal = Refusal("several_subjects")
        outcome.withdraw(mixed, refusal.code, refusal.sentence, rows)


def _named(names: list[str], volume: Converted, stated: set[str], source: Source) -> Iterable[str]:
    """The patients in the study file for files of a volume, which state some series; empty if there are none."""
    table, pattern = source.labels, source.options.subject_pattern
    series, patient = volume.row["series_id"], volume.row["subject_id"]
    by_series = {source.subject_of_id[one] for one in (series, *sorted(stated)) if one in source.subject_of_id}
    if len(by_series) > 1:
        yield from by_series
    by_id = next(iter(by_series), None) or source.subject_of_id.get(patient)
    for name in names:
        subject = table.subject_at(name) or by_id or (subject_of(name, pattern) if pattern else None)
        if subject:
            yield subject


def remarks_on_names(files: list[Row], labels: Labels, pattern: str | None, key: bytes) -> list[str]:
    """Remarks on patients from file names or the label table: one name in several folders, blank cells.

    Args:
        files: the private inventory.
        labels: the patients, parts and masks of its label table.
        pattern: `subject_pattern`.
        key: of the ids, to recognise the series and patients in the table.
    """
    images = [row for row in files if row["role"] == "image" and row["format"] and not row["code"]]
    said = list(_blank_cells(images, labels, key)) if labels.subject else []
    if pattern:
        return said
    folders: dict[str, list[str]] = defaultdict(list)
    by_folder, taken = [], []
    for row in images:
        if row["format"] in GRID_FORMATS and not labels.subject_at(row["name"]) and not named_id(row["name"]):
            folder, own = own_folder(row["name"]), subject_of(row["name"])
            taken.append(row["subject"])
            if row["subject"] == folder != own:
                by_folder.append(folder)
            elif own != folder:
                folders[row["subject"]].append(folder)
    if by_folder:
        said.append(
            f"The names of {len(by_folder)} volumes say a kind and a number and come again in other folders: each of the "
            f"{len(set(by_folder))} folders was taken as a patient. If they are none, {REMEDY}."
        )
    again = [own for own in folders.values() if len(set(own)) > 1]
    if again:
        names = "1 file name occurs" if len(again) == 1 else f"{len(again)} file names occur"
        said.append(
            f"{names} in several folders ({sum(map(len, again))} volumes): those of one name count as one patient and stay in "
            f"one part of the split. If they are of more, {REMEDY}."
        )
    fewer = perhaps_fewer(taken)
    if fewer:
        said.append(
            f"{len(taken)} volumes were taken as {len(set(taken))} patients by their names, some of which begin alike and would "
            f"be those of {fewer} patients if only the last word differed by scan. If they are fewer, {REMEDY}."
        )
    return said


def _blank_cells(images: list[Row], labels: Labels, key: bytes) -> Iterator[str]:
    """Warns that a label table names the patients of only some images."""
    known = {minted(key, "s", name) for name in labels.subject} | {minted_patient(key, name) for name in labels.subject}
    items: dict[str, bool] = {}
    for row in images:
        item = row["group"] if row["format"] == "dicom" else row["name"]
        named = labels.subject_at(row["name"]) is not None
        if row["format"] == "dicom" and not named:
            named = bool({row["group"], json.loads(row["header"])["subject"]} & (known | set(labels.subject)))
        items[item] = items.get(item, False) or named
    count = sum(items.values())
    if 0 < count < len(items):
        yield (
            f"The label table names the patient of {count} of {len(items)} series or images; the others have the one that their "
            "header or name says, or are one each, so that a person may count as two. Fill the column `subject` for all."
        )


def remarks_without_ids(series: list[Row], studies: dict[str, str], patient_by: dict[str, str]) -> list[str]:
    """Remarks on several studies whose images have no PatientID: what was used as the patient.

    Args:
        series: rows of `series.tsv`.
        studies: series id → study, of DICOM.
        patient_by: series id → what identifies its patient (`dicom/header.py`).
    """
    said = []
    for word, taken in (
        ("person", "no PatientID; those of one name, birth date and sex were taken as one patient ({} in all)"),
        ("study", "neither a PatientID nor a person's name and birth date; each study was taken as a patient"),
    ):
        rows = [row for row in series if row["format"] == "dicom" and patient_by.get(row["series_id"]) == word]
        ids, patients = {row["series_id"] for row in rows}, {row["subject_id"] for row in rows}
        visits = len({studies.get(one, "") for one in ids})
        if visits > 1 and (word == "study" or visits > len(patients)):
            wrong = "they are fewer" if word == "study" else "that is wrong"
            said.append(f"{len(ids)} series of {visits} studies have {taken.format(len(patients))}. If {wrong}, {REMEDY}.")
    return said


def remarks_on_ids(
    series: list[Row], studies: dict[str, str], key: bytes, *, named: bool, people: dict[str, set[str]] | None = None
) -> list[str]:
    """Remarks on the patients of a source: ids that several people seem to share.

    Args:
        series: rows of `series.tsv`.
        studies: series id → study, of DICOM.
        key: of the ids, to recognise a placeholder by its keyed id.
        named: whether the study file names patients itself; a placeholder is then intended.
        people: series id → (keyed) people by name, birth date and sex, of the images whose PatientID is a placeholder.
    """
    own: dict[str, list[Row]] = defaultdict(list)
    for row in series:
        if row["format"] == "dicom":
            own[row["subject_id"]].append(row)
    nameless = minted(key, "p", "study", "")
    forms = {form for word in PLACEHOLDERS for form in (word, word.upper(), word.capitalize(), word.title())}
    placeholders = {minted_patient(key, form) for form in forms}
    no_study = minted(key, "t", "")
    said = []
    for subject, rows in sorted(own.items()):
        ids = {row["series_id"] for row in rows}
        scans, visits = len(ids), len({studies.get(one, "") for one in ids})
        persons = set().union(*((people or {}).get(one, set()) for one in ids))
        sexes = {row["sex"] for row in rows} & {"M", "F"}
        counts = f"{scans} series of {visits} studies"
        if len(persons) > 1 and not named:
            why = f"{counts} have no PatientID of a person, and names, birth dates or sexes of {len(persons)} people"
        elif subject == nameless and scans > 1 and not named:
            why = f"{scans} series have neither a PatientID nor a StudyInstanceUID, or a constant in its place"
        elif subject in placeholders and scans > 1 and no_study in {studies.get(one) for one in ids} and not named:
            why = f"{scans} series have a PatientID that is a placeholder and no person, and no StudyInstanceUID of their own"
        elif visits < 2:
            continue
        elif subject in placeholders and not named:
            why = f"{counts} have a PatientID that is a placeholder and no person"
        elif len(sexes) > 1:
            why = f"{counts} have one PatientID ({subject}), and both sexes"
        elif len(own) == 1:
            why = f"All {counts} have one PatientID"
        else:
            continue
        said.append(f"{why}: all of them count as one patient and stay in one part of the split. If they are of more, {REMEDY}.")
    return said
