"""What a checked source holds, by modality, and what lies within it that says what its images show.

A table is taken by its rows, a folder of masks by the names of its files, folders of classes by their own. Nothing is read but
the tables.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from statistics import median

from medssl.core import listing
from medssl.core.errors import StudyError
from medssl.core.file_names import IMAGE_FOLDERS, MASK_FOLDERS, PART_FOLDERS
from medssl.core.found import Found, FoundLabels, FoundPart
from medssl.core.label_table import FOLDERS, MANY, classes_of, is_label_table, read_label_table
from medssl.ingest.checking import Checked
from medssl.ingest.label_files import Given, LabelTarget, Matcher, given_by_table, meant_by
from medssl.ingest.ledger import Row

MOST_FOLDERS = 20
CLASS_WORDS = frozenset((
    "normal", "abnormal", "healthy", "control", "controls", "disease", "diseased", "benign", "malignant", "tumor", "tumour",
    "cancer", "lesion", "positive", "negative", "pos", "neg", "yes", "covid", "noncovid", "pneumonia",
))  # fmt: skip
"""Words in the names of folders that no patient bears, in small letters."""
GRID_FILE = re.compile(r"\.(nii|nii\.gz|nrrd|nhdr|mha|mhd)$", re.IGNORECASE)


def found_in(source: Path, checked: Checked) -> Found:
    """What a source holds, from its check."""
    targets = _targets(checked)
    notes: list[str] = []
    labels = [*_tables(source, checked, targets, notes), *_mask_folders(checked, targets), *_class_folders(checked, targets)]
    notes += _not_chosen(checked)
    parts = [_part(modality, checked, targets, labels) for modality in sorted({row["modality"] for row in checked.series})]
    volumes = [part for part in parts if part.num_volumes]
    aside = [part for part in parts if part not in volumes]
    if volumes and aside:
        pictures = sum(part.num_slices for part in aside)
        notes.append(f"Pictures (PNG, JPEG, NPZ) beside volumes are left out, {pictures} of them: they may be previews or masks.")
        parts = volumes
    return Found(tuple(sorted(parts, key=lambda part: -part.num_slices)), tuple(notes))


Labelled = tuple[FoundLabels, dict[int, Given]]
"""Labels, and what they say by number of the target."""


def _part(modality: str, checked: Checked, targets: Sequence[LabelTarget], labels: Sequence[Labelled]) -> FoundPart:
    rows = [row for row in checked.series if row["modality"] == modality]
    volumes = [row for row in rows if row["kind"] == "volume"]
    rows = volumes or rows
    ids = {row["volume_id"] for row in rows}
    num_slices = sum(row["shape"][_slice_axis(row)] for row in rows)
    subjects = {row["subject_id"] or row["series_id"] for row in volumes}
    sides = [max(size for axis, size in enumerate(row["shape"]) if axis != _slice_axis(row)) for row in rows]
    own = [row for row in rows if row["label"]]
    found = [FoundLabels("masks" if volumes else "classes", None, len(own))] if own else []
    for given, said in labels:
        here = [said[number] for number, target in enumerate(targets) if number in said and target.volume_id in ids]
        words = [one.label for one in here if one.label is not None]
        if here:
            several = any(MANY in word for word in words)
            found.append(FoundLabels(given.what, given.labels, len(here), _sorted(classes_of(words)), several, given.certain))
    return FoundPart(
        modality,
        tuple(sorted({row["format"] for row in rows})),
        len(volumes),
        num_slices,
        len(subjects) if volumes else num_slices,
        "patient" if volumes else "image",
        len(volumes) or num_slices,
        int(median(sides)),
        tuple(found),
    )


def _slice_axis(row: Row) -> int:
    """As prepare cuts slices: along the largest spacing, the last of equal ones; pictures lie along the last axis."""
    spacing = row["spacing_mm"] or [0, 0, 1]
    return max(range(3), key=lambda axis: (spacing[axis], axis))


def _sorted(classes: set[str]) -> tuple[str, ...]:
    return tuple(sorted(classes))


def _targets(checked: Checked) -> list[LabelTarget]:
    """Everything that a label can be given to, from the table of files."""
    kinds = {row["volume_id"]: row["kind"] for row in checked.series}
    files: dict[tuple[str, str], list[str]] = defaultdict(list)
    ids: dict[tuple[str, str], set[str]] = defaultdict(set)
    for item in checked.items:
        if item["volume_id"] is None:
            continue
        image = "" if kinds[item["volume_id"]] == "volume" else item["image_id"] or item["file"]
        place = (item["volume_id"], image)
        files[place].append(listing.unspelled(item["file"]))
        named = ("image_id", "subject_id") if image else ("volume_id", "series_id", "subject_id")
        ids[place] |= {item[name] for name in named if item[name]}
    return [
        LabelTarget(place[0], 0 if place[1] else None, tuple(sorted(names)), tuple(sorted(ids[place])))
        for place, names in files.items()
    ]


def _tables(source: Path, checked: Checked, targets: list[LabelTarget], notes: list[str]) -> Iterator[Labelled]:
    """Tables of which some row is for an image, those of most images first; why others are not taken goes to `notes`."""
    matcher = Matcher(targets, lambda name: (listing.minted_patient(checked.key, name), listing.minted(checked.key, "s", name)))
    found: list[Labelled] = []
    for item in checked.items:
        name = item["file"]
        if item["volume_id"] is not None or not is_label_table(name) or listing.unspelled(name) != name:
            continue
        try:
            table = read_label_table(source / name)
            said, _ = given_by_table(table, matcher, ())
        except (StudyError, OSError) as error:
            if not name.lower().endswith(".txt"):
                notes.append(f"{name} was not used as labels: {str(error).removeprefix('labels: ')}")
            continue
        said = {number: given for number, given in said.items() if given.label is not None}
        if said:
            found.append((FoundLabels("classes", name), said))
        else:
            columns = ", ".join(column for column in table.columns if column not in ("id", "file"))
            notes.append(
                f"{name} names images but has no column `label`. Rename the column with the classes to `label`; it has {columns}."
            )
    found.sort(key=lambda one: (-len(one[1]), str(one[0].labels)))
    notes += [f"{given.labels} also names classes and was not used: a source has one label table." for given, _ in found[1:]]
    yield from found[:1]


def _mask_folders(checked: Checked, targets: list[LabelTarget]) -> Iterator[Labelled]:
    """The folder of masks that the most volumes without one have theirs in, by its name and those of its files."""
    unmasked = {row["volume_id"] for row in checked.series if row["kind"] == "volume" and not row["label"]}
    folders: dict[str, list[str]] = defaultdict(list)
    for item in checked.items:
        folder, name = item["file"].rpartition("/")[::2]
        if item["volume_id"] is None and folder.rpartition("/")[2].lower() in MASK_FOLDERS and GRID_FILE.search(name):
            folders[folder].append(item["file"])
    found: list[Labelled] = []
    for folder, names in sorted(folders.items()):
        images = {target.volume_id: target.files for target in targets if target.volume_id in unmasked}
        owners = {ids[0] for ids in meant_by(images, names).values() if len(ids) == 1}
        said = {n: Given(None, {}) for n, target in enumerate(targets) if target.volume_id in owners}
        if said:
            found.append((FoundLabels("masks", folder), said))
    yield from sorted(found, key=lambda one: -len(one[1]))[:1]


def _class_folders(checked: Checked, targets: list[LabelTarget]) -> Iterator[Labelled]:
    """Folders that may be classes: a few, each with two images or more, and no image outside them."""
    if any(row["format"] == "dicom" or (row["label"] and row["kind"] == "images") for row in checked.series):
        return  # a folder of DICOM is a series
    folders: dict[str, list[int]] = defaultdict(list)
    for number, target in enumerate(targets):
        for name in {PurePosixPath(file).parent.name for file in target.files}:
            folders[name].append(number)
    if not 2 <= len(folders) <= MOST_FOLDERS or sum(map(len, folders.values())) != len(targets):
        return
    if any(len(numbers) < 2 or not name or name.lower() in _NO_CLASS for name, numbers in folders.items()):
        return
    said = {number: Given(name, {}) for name, numbers in folders.items() for number in numbers}
    certain = any(CLASS_WORDS & set(re.split(r"[^a-z]+", name.lower())) for name in folders)
    yield FoundLabels("classes", FOLDERS, certain=certain), said


_NO_CLASS = frozenset((*PART_FOLDERS, *IMAGE_FOLDERS, *MASK_FOLDERS))


def _not_chosen(checked: Checked) -> Iterator[str]:
    """Masks that were refused because an image has several."""
    names = [item["file"] for item in checked.items if item["code"] == "several_masks"]
    if names:
        yield (
            f"{len(names)} masks were not used: an image has several, such as {names[0]}. Choose one by a pattern of their "
            "names in this source, such as `ingest: {masks: '*_lesion_*'}`."
        )
