"""Every file of a source, with its kind and its group: from headers only, in a table that stays private."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.core.errors import StudyError
from medssl.core.file_names import GRID_FORMATS, modality_of, pair_masks, path_names, short_names, tidy_id, without_suffix
from medssl.core.label_table import IDENTITY_COLUMNS, is_label_table, read_label_table, shared_masks
from medssl.core.listing import minted, spelled, unspelled
from medssl.core.patient_names import subjects_of
from medssl.core.progress import Bar
from medssl.ingest.data_files import claim_data_files, follow
from medssl.ingest.dicom.damaged_neighbours import kinds_in_words, series_in_doubt
from medssl.ingest.dicom.label_series import give_series
from medssl.ingest.dicom.scattered_series import joint_series
from medssl.ingest.dicom.unnamed_series import name_series
from medssl.ingest.options import IngestOptions
from medssl.ingest.reading_pool import BATCH, HEADER_MEMORY_MB, HEADER_TIMEOUT_S, ReadingPool
from medssl.ingest.refusal import MOST_NAMED, ROW_FOR_IT, Refusal, several_meant
from medssl.ingest.unread_beside import mark_unread

NOT_FILES = {
    "link": Refusal("link"),
    "special": Refusal("special_file"),
    "closed": Refusal("unreadable", "a folder that cannot be listed, with all that may lie in it"),
    "gone": Refusal("changed", "it went while the source was listed"),
}
NAMED_A_MASK = "its name or folder says that it is a mask, and no image has its name; if it is an image, rename it or its folder"

Row = dict[str, Any]


@dataclass(frozen=True)
class Labels:
    """The patients, parts and masks in a labels table, by relative file name; classes are read later (`label_files`)."""

    split: dict[str, str] = field(default_factory=dict)
    subject: dict[str, str] = field(default_factory=dict)
    mask: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[dict[str, str]]) -> Labels:
        """From the rows of a table with any of the columns `split`, `subject`, `mask`."""
        return cls(**{name: {row["file"]: row[name] for row in rows if name in row} for name in IDENTITY_COLUMNS})

    def subject_at(self, name: str) -> str | None:
        """The patient of a file: by its relative path, else by the nearest of its folders in the table."""
        while name:
            if name in self.subject:
                return self.subject[name]
            name = name.rpartition("/")[0]
        return None


def labels_of(wanted: str | None, files: Iterable[str] = ()) -> Labels:
    """The patients, parts and masks in a label table; a folder of masks and folders of classes have none.

    Raises:
        StudyError: a row names one of `files` by another name than its path for a part or mask, or two rows name one mask.
    """
    if not (wanted and is_label_table(wanted) and Path(wanted).is_file()):
        return Labels()
    rows = read_label_table(wanted)
    names = set(files)
    others = set().union(*map(short_names, names)) - set().union(*map(path_names, names))
    for row in rows:
        says = [column for column in ("split", "mask") if column in row]
        if says and row["file"] not in names and tidy_id(row["file"]) in names | others:
            raise StudyError(
                f"labels: row {row.number} of the table has {' and '.join(says)}, and its id is not the path of its file but "
                "another name of it (the header is row 1). Write the path relative to the source."
            )
    for first, second in shared_masks(rows):
        raise StudyError(
            f"labels: rows {first.number} and {second.number} of the table name one mask for two images (the header is row 1). "
            "A mask is of one image: correct one of them."
        )
    return Labels.of(rows)


def inventory(
    listing: list[tuple[str, int, int, str]],
    root: Path,
    own_key: bytes,
    readers: ReadingPool,
    *,
    options: IngestOptions,
    labels: Labels,
    known: dict[tuple[str, int, int], Row] | None = None,
    bar: Bar | None = None,
) -> list[Row]:
    """One row per listed file, in listing order; headers of unchanged files come from `known`."""
    rows = headers(listing, root, readers, no_space=options.no_space, known=known, bar=bar)
    _group(rows, own_key, options, labels)
    for row in rows:
        row["shard"] = zlib.crc32(row["group"].encode()) % options.shards
    return rows


def by_group(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each group of files, groups sorted by their ids."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return dict(sorted(groups.items()))


def to_text(rows: list[Row]) -> Iterator[str]:
    """The inventory as lines of text; names are spelled (`core/listing.spelled`)."""
    return (json.dumps(row | {"name": spelled(row["name"])}, separators=(",", ":")) + "\n" for row in rows)


def of_text(lines: Iterable[str]) -> list[Row]:
    """The inverse of `to_text`."""
    rows = [json.loads(line) for line in lines]
    return [row | {"name": unspelled(row["name"])} for row in rows]


def headers(
    listing: list[tuple[str, int, int, str]],
    root: Path,
    readers: ReadingPool,
    *,
    no_space: str,
    known: dict[tuple[str, int, int], Row] | None = None,
    bar: Bar | None = None,
) -> list[Row]:
    """The kind of each listed file, in listing order, or the code of its refusal."""
    known = known or {}
    rows: list[Row] = []
    asked: list[int] = []
    for name, size, mtime_ns, kind in listing:
        row: Row = {
            "name": name,
            "size": size,
            "mtime_ns": mtime_ns,
            "format": "",
            "code": "",
            "sentence": "",
            "series": "",
            "header": "",
        }
        old = known.get((name, size, mtime_ns))
        if kind != "file":
            row |= NOT_FILES[kind].answer()
        elif size == 0:
            row |= Refusal("empty").answer()
        elif old is not None:
            row |= {name: old[name] for name in ("format", "code", "sentence", "series", "header")}
        else:
            asked.append(len(rows))
        rows.append(row)
    if bar is not None:
        bar.found(len(rows) - len(asked))
    requests = [
        {**{name: rows[n][name] for name in ("size", "mtime_ns")}, "path": str(root / rows[n]["name"]), "no_space": no_space}
        for n in asked
    ]
    for number, answer in readers.each("scan", requests, memory_mb=HEADER_MEMORY_MB, timeout_s=HEADER_TIMEOUT_S, batch=BATCH):
        row = rows[asked[number]]
        row |= {name: answer.get(name, "") for name in ("format", "code", "sentence", "series")}
        if "header" in answer:
            row["header"] = json.dumps(answer["header"], separators=(",", ":"))
            row["series"] = answer["header"].get("series", "") if answer["format"] == "dicom" else ""
        if bar is not None:
            bar.advance()
    return rows


def _group(rows: list[Row], key: bytes, options: IngestOptions, labels: Labels) -> None:
    """Fill in `group`, `role`, `tainted`, `damaged`, `beside`, `unread`, `beside_volumes` and `subject` of every row."""
    claimed = claim_data_files(rows)
    for row in rows:
        row |= {"role": "image", "tainted": "", "damaged": "", "beside": False, "beside_volumes": False, "subject": ""}
        folder = row["name"].rpartition("/")[0]
        row["group"] = row["series"] or minted(key, "r", folder, row["code"])
    _dicom_groups(rows, key)
    _taint(rows)
    nifti = [row for row in rows if row["format"] in GRID_FORMATS]
    beside = any(row["format"] in ("dicom", "png", "npz") for row in rows)
    pairing = pair_masks([row["name"] for row in nifti], options.masks, labels.mask, beside=beside)
    for row in nifti:
        row["group"] = minted(key, "s", row["name"])
    images = [row["group"] for row in nifti]
    for image, mask in pairing.masks.items():
        nifti[mask]["group"], nifti[mask]["role"] = nifti[image]["group"], "mask"
    for masks in pairing.several.values():
        for mask in masks:
            _refuse(nifti[mask], Refusal("several_masks", f"{len(masks)} of them"), key)
    for mask in pairing.orphans:
        meant = [images[image] for image in pairing.unclear.get(mask, [])]
        _refuse(nifti[mask], several_meant(meant, ROW_FOR_IT) if meant else Refusal("mask_without_image", NAMED_A_MASK), key)
    for mask in pairing.unchosen:
        _refuse(nifti[mask], Refusal("several_masks", "this one is not named by `masks`"), key)
    for header, data in claimed:
        follow(header, data)
    mark_unread(rows)
    _mark_pictures(rows, key)
    _name_patients([row for row in nifti if row["role"] == "image" and not row["code"]], options, labels)
    # a mask that cannot be read follows its image's decision; the image is accepted without it
    for row in rows:
        if row["format"] == "png":
            header = json.loads(row["header"])
            row["group"] = minted(key, "s", "pictures", *map(str, header["shape"]), header["dtype"], str(header["lossy"]))
        elif row["format"] == "npz":
            row["group"] = minted(key, "s", row["name"])


def _name_patients(images: list[Row], options: IngestOptions, labels: Labels) -> None:
    """Fill in `subject` of images on a grid: from the label table by file or folder, else from the name."""
    said = {row["name"]: labels.subject_at(row["name"]) for row in images}
    named = subjects_of([name for name, subject in said.items() if not subject], options.subject_pattern)
    for row in images:
        row["subject"] = said[row["name"]] or named[row["name"]]


def _mark_pictures(rows: list[Row], key: bytes) -> None:
    """Refuse pictures whose names mark them as masks of others; mark image sets that lie beside volumes."""
    pictures = [row for row in rows if row["format"] == "png"]
    pairing = pair_masks([without_suffix(row["name"]) for row in pictures], beside=False)
    masks = {*pairing.masks.values(), *pairing.unclear, *(mask for several in pairing.several.values() for mask in several)}
    for mask in sorted(masks):
        _refuse(pictures[mask], Refusal("picture_mask", "a picture with the name of an image lies beside it"), key)
    if any(row["format"] in ("dicom", *GRID_FORMATS) and row["role"] == "image" for row in rows):
        for row in rows:
            row["beside_volumes"] = row["format"] in ("png", "npz")


def _refuse(row: Row, refusal: Refusal, key: bytes) -> None:
    row |= {**refusal.answer(), "format": "", "role": "image"}
    row["group"] = minted(key, "r", row["name"].rpartition("/")[0], refusal.code)


def _dicom_groups(rows: list[Row], key: bytes) -> None:
    """Join images without a series, or with a series each; add label objects to the series that they describe."""
    joined = joint_series(rows, key)
    for row in rows:
        row["group"] = joined.get(row["series"], row["group"])
    refused = give_series(rows, joined)
    for row, refusal in [*refused, *name_series(rows, key)]:
        _refuse(row, refusal, key)


def _taint(rows: list[Row]) -> None:
    """An unreadable file casts doubt on the series that it may have belonged to."""
    doubtful, beside = series_in_doubt(rows)
    words = {group: (kinds_in_words(files), _names_in_words(files)) for group, files in doubtful.items()}
    for row in rows:
        dicom = row["format"] == "dicom"
        row["beside"] = dicom and row["group"] in beside
        if dicom and row["group"] in words:
            row["tainted"], row["damaged"] = words[row["group"]]


def _names_in_words(files: list[Row]) -> str:
    """Names of a few files, for the private table."""
    names = sorted({spelled(row["name"]) for row in files})
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def nifti_modality(name: str, options: IngestOptions, stated: str = "") -> str:
    """The modality of a file on a grid: from its header (`stated`), else from the study file, else from the name.

    For a list in the study file: from the name, else its only entry.
    """
    if stated:
        return stated
    wanted, named = options.modalities, modality_of(name)
    if isinstance(options.modality, str):
        return wanted[0] if wanted else named
    return wanted[0] if named == "OT" and len(wanted) == 1 else named
