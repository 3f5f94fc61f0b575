"""Remarks at the end of ingest and on the page: options without effect, patients that share an id."""

from __future__ import annotations

import json
import re
from collections import defaultdict

from medssl.core.file_names import GRID_FORMATS, UNKNOWN, is_mask, modality_of
from medssl.core.label_table import FOLDERS, is_label_table
from medssl.ingest.inventory import Labels
from medssl.ingest.ledger import Row
from medssl.ingest.options import IngestOptions
from medssl.ingest.subjects import remarks_on_ids, remarks_on_names, remarks_without_ids
from medssl.ingest.unread_beside import remark_on_unread

_PERSON = re.compile(r'"person":"(w-[0-9a-f]+)"')
"""Applied to the text of a header: parsing thousands of files would take too long."""


def remarks(
    options: IngestOptions, labels: Labels, given_labels: str | None, files: list[Row], series: list[Row], key: bytes
) -> list[str]:
    """Sentences about an ingested source, without anything personal.

    Args:
        options: of the source.
        labels: the patients, parts and masks of its label table.
        given_labels: the path of its label files, or `folders`.
        files: the private inventory.
        series: rows of `series.tsv`.
        key: of the ids.
    """
    formats = sorted({row["format"] for row in files} - {""})
    mask_folder = given_labels not in (None, FOLDERS) and not is_label_table(str(given_labels))
    said = [
        f"ingest.{name} has no effect on this source: it holds for {' and '.join(holds)}, and its files are "
        f"{' and '.join(formats)}."
        for name, holds in options.without_effect(formats, mask_folder=mask_folder).items()
        if formats
    ]
    said += _named_as_masks(files)
    said += _renamed(options, files) + _stated_otherwise(files)
    said += _pictures_beside(series)
    strangers = sorted(set(options.skip) - {row["group"] for row in files})
    if strangers:
        said.append(f"ingest.skip names {len(strangers)} series that this source does not hold, the first is {strangers[0]}.")
    first: dict[str, Row] = {}
    people: dict[str, set[str]] = defaultdict(set)
    for row in files:
        if row["format"] == "dicom" and row["role"] == "image":
            first.setdefault(row["group"], row)
            people[row["group"]].update(_PERSON.findall(row["header"]))
    read = {group: json.loads(row["header"]) for group, row in first.items()}
    studies = {group: header["study"] for group, header in read.items()}
    unnamed = sum(not row["series"] for row in first.values())
    if unnamed:
        where = "1 folder" if unnamed == 1 else f"{unnamed} folders"
        said.append(f"The DICOM images of {where} state no series: those of a folder were taken as one series.")
    named = bool(labels.subject or options.subject_pattern)
    said += remark_on_unread(files)
    said += remarks_on_names(files, labels, options.subject_pattern, key)
    patient_by = {group: header["patient_by"] for group, header in read.items()}
    said += [] if named else remarks_without_ids(series, studies, patient_by)
    if {patient_by[row["series_id"]] for row in series if row["series_id"] in patient_by} == {"person"} and not named:
        return said  # there are no ids to check
    return said + remarks_on_ids(series, studies, key, named=named, people=people)


def _pictures_beside(series: list[Row]) -> list[str]:
    """Warns that pictures were accepted beside volumes: they may be previews of a viewer, masks or figures."""
    pictures = sum(row["shape"][2] for row in series if row["format"] == "png")
    volumes = sum(row["kind"] == "volume" for row in series)
    stated = UNKNOWN not in {row["modality"] for row in series if row["kind"] == "volume"}
    if not pictures or not volumes:
        return []
    many, others = "1 picture" if pictures == 1 else f"{pictures} pictures", "1 volume" if volumes == 1 else f"{volumes} volumes"
    remedy = "set ingest.modality to that of the volumes, which leaves pictures out" if stated else "move them out of the source"
    return [
        f"The source holds {many} (PNG, JPEG) beside {others}, and they were taken as images too. If they are previews, masks or "
        f"drawings, {remedy}."
    ]


def _named_as_masks(files: list[Row]) -> list[str]:
    """Warns that files were read as images although their names mark them as masks (`core/file_names.pair_masks`)."""
    volumes = [row["name"] for row in files if row["format"] in GRID_FORMATS and row["role"] == "image" and not row["code"]]
    if not volumes or not all(map(is_mask, volumes)):
        return []
    return [
        f"The names or folders of all {len(volumes)} volumes say that they are masks. As nothing else in this source is an "
        "image, they were read as images; what has a mask's values was refused."
    ]


def _stated_otherwise(files: list[Row]) -> list[str]:
    """Warns that headers of a grid state another modality than the names of their files."""
    stated = [(row["name"], json.loads(row["header"]).get("modality", "")) for row in files if row["format"] == "metaimage"]
    others = [(modality_of(name), said) for name, said in stated if said and modality_of(name) not in (UNKNOWN, said)]
    if not others:
        return []
    names, headers = (" or ".join(sorted(set(words))) for words in zip(*others, strict=True))
    return [f"{len(others)} volumes have names that say {names} and headers that state {headers}; the headers were believed."]


def _renamed(options: IngestOptions, files: list[Row]) -> list[str]:
    """Warns that `modality` contradicts file names; this may be right, as `_t1` may be a time."""
    if not isinstance(options.modality, str) or not options.modalities:
        return []
    names = [row["name"] for row in files if row["format"] in GRID_FORMATS and row["role"] == "image"]
    others = [said for name in names if (said := modality_of(name)) not in (UNKNOWN, options.modality)]
    if not others:
        return []
    return [
        f"{len(others)} of {len(names)} volumes have names that say {' or '.join(sorted(set(others)))}; they were taken as "
        f"{options.modality}, as ingest.modality says. With a list, [{options.modality}], names are believed."
    ]
