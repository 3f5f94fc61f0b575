"""Whose images a DICOM source holds, where its headers do not tell: the study file's word, and what the user must know of ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from medssl.core.file_names import subject_of
from medssl.core.listing import minted
from medssl.ingest.dicom.placeholders import PLACEHOLDERS
from medssl.ingest.ledger import Row
from medssl.ingest.outcome import Converted, Outcome
from medssl.ingest.refusal import Refusal
from medssl.ingest.source import Source

REMEDY = (
    "name each person by ingest.subject_pattern (a regular expression on a file's path, whose group is the patient) or by a "
    "column `subject` of the label table"
)


def assign_subjects(rows: list[Row], source: Source, outcome: Outcome) -> None:
    """Give the DICOM volumes of a group the patient that the label table or `subject_pattern` names; `rows` are its files.

    The table may name a file, a folder, a series (its UID or its id) or a PatientID. A volume whose files are of different
    patients is refused.
    """
    images = {row["name"] for row in rows if row["role"] == "image" and row["format"] == "dicom"}
    mixed = []
    for volume in [one for one in outcome.volumes if one.row["format"] == "dicom"]:
        names = sorted(volume.files & images or images)
        found = sorted(set(_named(names, volume, source)))
        if len(found) > 1:
            mixed.append(volume)
        elif found:
            volume.row["subject_id"] = minted(source.key, "p", found[0])
    if mixed:
        refusal = Refusal("several_subjects")
        outcome.withdraw(mixed, refusal.code, refusal.sentence, rows)


def _named(names: list[str], volume: Converted, source: Source) -> Iterable[str]:
    """The patients that the study file names for files of a volume; nothing where it names none."""
    table, pattern = source.labels, source.options.subject_pattern
    series, patient = volume.row["series_id"], volume.row["subject_id"]
    by_id = source.subject_of_id.get(series) or source.subject_of_id.get(patient)
    for name in names:
        subject = table.subject_at(name) or by_id or (subject_of(name, pattern) if pattern else None)
        if subject:
            yield subject


def remarks_on_ids(
    series: list[Row], studies: dict[str, str], key: bytes, *, named: bool, people: dict[str, set[str]] | None = None
) -> list[str]:
    """What the user must know of the patients of a source: ids that several people seem to share.

    Args:
        series: rows of `series.tsv`.
        studies: series id → study, of DICOM.
        key: of the ids, to know a placeholder by its keyed id.
        named: whether the study file names patients itself; a placeholder is then what it says.
        people: series id → (keyed) people by name, birth date and sex, of the images whose PatientID is a placeholder.
    """
    own: dict[str, list[Row]] = defaultdict(list)
    for row in series:
        if row["format"] == "dicom":
            own[row["subject_id"]].append(row)
    nameless = minted(key, "p", "study", "")
    forms = {form for word in PLACEHOLDERS for form in (word, word.upper(), word.capitalize(), word.title())}
    placeholders = {minted(key, "p", form) for form in forms}
    no_study = minted(key, "t", "")
    said = []
    for subject, rows in sorted(own.items()):
        ids = {row["series_id"] for row in rows}
        scans, visits = len(ids), len({studies.get(one, "") for one in ids})
        persons = set().union(*((people or {}).get(one, set()) for one in ids))
        sexes = {row["sex"] for row in rows} & {"M", "F"}
        counts = f"{scans} series of {visits} studies"
        if len(persons) > 1 and not named:
            why = f"{counts} bear no PatientID of a person, and names, birth dates or sexes of {len(persons)} people"
        elif subject == nameless and scans > 1 and not named:
            why = f"{scans} series bear neither a PatientID nor a StudyInstanceUID, or a constant in its place"
        elif subject in placeholders and scans > 1 and no_study in {studies.get(one) for one in ids} and not named:
            why = f"{scans} series bear a PatientID that is a placeholder and no person, and no StudyInstanceUID of their own"
        elif visits < 2:
            continue
        elif subject in placeholders and not named:
            why = f"{counts} bear a PatientID that is a placeholder and no person"
        elif len(sexes) > 1:
            why = f"{counts} bear one PatientID ({subject}), and both sexes"
        elif len(own) == 1:
            why = f"All {counts} bear one PatientID"
        else:
            continue
        said.append(f"{why}: all of them count as one patient and stay in one part of the split. If they are of more, {REMEDY}.")
    return said
