"""ingest: files → faithful volumes, `series.tsv` and `rejected.tsv`. scan → convert (per shard) → merge; labels, late."""

from __future__ import annotations

import functools
import json
import os
import secrets
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from medssl.core import listing
from medssl.core.errors import DiskFullError, StudyError, TooManyRefusalsError
from medssl.core.files import canonical_json, inside, read_json, require_free_space, sha256_file, sha256_text, write_json
from medssl.core.job import Job
from medssl.core.label_table import FOLDERS, identities, is_label_table, read_label_table
from medssl.core.tables import read_parquet, read_tsv, write_parquet, write_tsv
from medssl.ingest.conversion import (
    REJECTED_COLUMNS,
    SERIES_COLUMNS,
    Outcome,
    Source,
    convert_group,
    picture_labels,
    place_mask,
)
from medssl.ingest.inventory import COLUMNS, Labels, headers, inventory
from medssl.ingest.label_files import Given, Item, Matcher, given_by_folders, given_by_table, masks_of
from medssl.ingest.readers import Readers

GROUPS = "groups.parquet"
MATTERING = ("tilt", "uneven", "derived", "no_space", "modality", "masks", "subject_pattern", "min_slices", "skip")
"""Options that can change what a group becomes."""

Row = dict[str, Any]


def scan(job: Job) -> None:
    """Read the header of every listed file into the private `groups.parquet`; unchanged files are not read again."""
    private = Path(job.spec.private["folder"])
    files = listing.read(job.spec.inputs["listing"])
    target = private / GROUPS
    known = _known_rows(target, job.spec.code)
    # a second process pays for itself from a few hundred files on
    count = min(job.threads, 1 + len(files) // 400)
    with Readers(_key(job), count) as readers, job.progress("scan", len(files), "files") as bar:
        table = inventory(
            files,
            _root(job),
            _key(job),
            readers,
            settings=job.spec.settings,
            labels=_labels(job.spec.private.get("labels")),
            known=known,
            advance=bar.advance,
        )
    table.attrs["code"] = job.spec.code
    write_parquet(target, table)
    job.wrote(target)
    job.write_receipt(folder=private)


def convert(job: Job, shard: int) -> None:
    """Convert the groups of one shard; those whose files, options and code are unchanged keep their volumes."""
    private = Path(job.spec.private["folder"])
    table = read_parquet(job.read(private / GROUPS))
    mine = table[table["shard"] == shard]
    store = _Store(job, private)
    store.sweep(shard)
    folder = job.path("shards", f"{shard}-of-{int(job.spec.settings.get('shards', 1))}")
    series, rejected = [], []
    with Readers(_key(job), 1) as readers, job.progress(f"shard {shard}", len(mine), "files") as bar:
        source = _source(job, readers, table)
        for _, rows in mine.groupby("group", sort=True):
            group = _records(rows)
            record = store.kept(group)
            if record is None:
                record = store.convert(group, source, shard)
            series += record["series"]
            rejected += record["rejected"]
            bar.advance(len(group))
    _write_ledger(job, folder, series, rejected)
    job.write_receipt(folder=folder)


def merge(job: Job) -> None:
    """One ledger of all shards; volumes that nothing refers to are removed; the receipt lists every volume file.

    Raises:
        TooManyRefusalsError: nothing, or less than the study allows, was accepted.
    """
    private = Path(job.spec.private["folder"])
    count = int(job.spec.settings.get("shards", 1))
    folders = [job.path("shards", f"{n}-of-{count}") for n in range(count)]
    series = [row for folder in folders for row in _rows(read_tsv(job.read(folder / "series.tsv"), text=_TEXT))]
    rejected = [row for folder in folders for row in _rows(read_tsv(job.read(folder / "rejected.tsv"), text=_TEXT))]
    _check_refusals(job, series, rejected)
    store = _Store(job, private)
    wanted = {row["volume_id"] for row in series}
    table = read_parquet(job.read(private / GROUPS))
    with job.progress("merge", len(wanted), "volumes") as bar:
        for group in sorted(set(table["group"])):
            record = store.record(group)
            if record is None:
                continue
            if not store.intact(record):
                # a file was damaged or removed since: the source is here, so it is made again
                with Readers(_key(job), 1) as readers:
                    rows = _records(table[table["group"] == group])
                    record = store.convert(rows, _source(job, readers, table), 0)
            for volume in record["volumes"]:
                for name, entry in volume["files"].items():
                    job.wrote(job.path("volumes", volume["volume_id"], name), sha256=entry["sha256"])
                bar.advance()
    store.forget(wanted, set(table["group"]))
    _write_ledger(job, job.out, series, rejected)
    job.write_receipt()


def labels(job: Job) -> None:
    """Say what the images of a source show, from the label files that the study names; nothing before fine-tuning waits for it.

    `labels.parquet` holds a row per labelled volume or image, `masks/` the masks on the grids of ingest's volumes,
    `rejected.tsv` the label files that are for no image or do not fit theirs.

    Raises:
        StudyError: there is no label file, or none of it is for an image of this source.
    """
    wanted = str(job.spec.private["labels"])
    if wanted != FOLDERS and not Path(wanted).exists():
        raise StudyError(f"sources.{_name_of(job)}.labels: nothing is there. Correct the path, or put the labels there.")
    inventory_table = read_parquet(job.read(Path(job.spec.private["folder"]) / GROUPS))
    series = _rows(read_tsv(job.read(job.spec.inputs["series"]), text=_TEXT))
    items = _items(job, inventory_table, series)
    rejected: list[Row] = []
    names: dict[str, str] = {}
    strangers = 0
    if wanted == FOLDERS:
        rows = _label_rows(items, given_by_folders(items))
    elif is_label_table(wanted):
        given, strangers = given_by_table(read_label_table(wanted), _matcher(job, items), job.spec.settings["groups"])
        rows = _label_rows(items, given)
    else:
        rows, rejected = _place_masks(job, Path(wanted), items, series)
        strangers, names = sum(row["num_files"] for row in rejected), _class_names(Path(wanted))
    groups = [f"group_{name}" for name in job.spec.settings["groups"]]
    table = pd.DataFrame(rows, columns=["volume_id", "index", "label", "mask", *groups]).astype({"index": "Int32"})
    write_parquet(job.path("labels.parquet"), table.sort_values(["volume_id", "index"], ignore_index=True))
    write_tsv(job.path("rejected.tsv"), _table(rejected, REJECTED_COLUMNS, "item_id"))
    write_json(job.path("labels.json"), {"items": len(items), "labelled": len(rows), "strangers": strangers, "names": names})
    job.wrote(*(job.path(name) for name in ("labels.parquet", "rejected.tsv", "labels.json")))
    job.log(f"labels: {len(rows)} of {len(items)} images, {strangers} label entries are for none of them")
    job.write_receipt()


def source_names(job: Job) -> pd.DataFrame:
    """Which file, or folder of slices, each volume or image came from: `id` (of the volume, or of the sample) and `file`."""
    table = read_parquet(job.read(Path(job.spec.private["folder"]) / GROUPS))
    series = _rows(read_tsv(job.read(job.spec.inputs["series"]), text=_TEXT))
    rows = []
    for item in _items(job, table, series):
        folders = sorted({str(Path(name).parent) for name in item.files})
        file = item.files[0] if len(item.files) == 1 else ", ".join(folders)
        rows.append((item.volume_id if item.index is None else f"{item.volume_id}-{item.index:04d}", file))
    return pd.DataFrame(rows, columns=["id", "file"])


def check_source(
    path: Path | str, *, settings: Row | None = None, labels: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The ledger of a source without a study: (`series.tsv`, `rejected.tsv`) as tables. Nothing is kept on disk.

    Raises:
        StudyError: nothing is there.
    """
    root = Path(path)
    files = listing.walk("check", str(root))
    if root.is_file():
        root = root.parent
    key = secrets.token_bytes(32)
    settings = {**(settings or {}), "shards": 1}
    given = _labels(labels)
    series: list[Row] = []
    rejected: list[Row] = []
    with Readers(key, min(2, os.cpu_count() or 1)) as readers, tempfile.TemporaryDirectory(prefix="medssl-") as scratch:
        table = inventory(files, root, key, readers, settings=settings, labels=given)
        folders = picture_labels(_records(table))
        source = Source(root, key, readers, settings, given, folders)
        for group, rows in table.groupby("group", sort=True):
            place = Path(scratch) / str(group)
            outcome = convert_group(_records(rows), source, functools.partial(_new_file_in, place))
            series += [volume.row for volume in outcome.volumes]
            rejected += outcome.rejected
            shutil.rmtree(place, ignore_errors=True)
    return _table(series, SERIES_COLUMNS, "volume_id"), _table(rejected, REJECTED_COLUMNS, "item_id")


# ---- label files


def _items(job: Job, table: pd.DataFrame, series: list[Row]) -> list[Item]:
    """Everything of a source that a label can be given to."""
    key = _key(job)
    items: list[Item] = []
    files: dict[str, list[str]] = {}
    for row in _records(table):
        if not row["code"] and row["role"] == "image":
            files.setdefault(row["group"], []).append(row["name"])
    for row in series:
        names = files.get(row["series_id"], [])
        if row["kind"] != "images":
            ids = tuple(str(row[name]) for name in ("volume_id", "series_id", "subject_id") if row[name])
            items.append(Item(row["volume_id"], None, tuple(names), ids))
            continue
        images = read_parquet(job.read(_volume(job, row["volume_id"]) / "images.parquet"))
        name_of = {listing.minted(key, "i", name): name for name in names}
        for image in _records(images):
            own = (name_of[image["image_id"]],) if image["image_id"] in name_of else ()
            ids = tuple(str(image[name]) for name in ("image_id", "subject_id") if image[name])
            items.append(Item(row["volume_id"], int(image["index"]), own, ids))
    return items


def _is_first(row: Row) -> bool:
    """Whether a row is a volume, the first of its time points: what a mask is for."""
    return bool(row["kind"] == "volume" and (pd.isna(row["time_index"]) or row["time_index"] == 0))


def _volume(job: Job, volume_id: str) -> Path:
    return Path(job.spec.inputs["series"]).parent / "volumes" / volume_id


def _matcher(job: Job, items: list[Item]) -> Matcher:
    key = _key(job)
    return Matcher(items, lambda name: (listing.minted(key, "p", name), listing.minted(key, "s", name)))


def _label_rows(items: list[Item], given: dict[int, Given]) -> list[Row]:
    return [
        {
            **{"volume_id": items[number].volume_id, "index": items[number].index, "label": said.label, "mask": None},
            **{f"group_{name}": value for name, value in said.groups.items()},
        }
        for number, said in sorted(given.items())
    ]


def _place_masks(job: Job, folder: Path, items: list[Item], series: list[Row]) -> tuple[list[Row], list[Row]]:
    """Every mask of a label folder on the grid of its volume; rows of labels.parquet, and of what was refused."""
    settings, name = job.spec.settings, _name_of(job)
    found = listing.walk(f"{name}.labels", str(folder))
    root = folder.parent if folder.is_file() else folder
    known = {row["volume_id"]: row for row in series if _is_first(row)}
    placed: list[Row] = []
    refused: list[Row] = []
    with Readers(_key(job), 1) as readers, job.progress("labels", len(found), "files") as bar:
        rows = headers(found, root, readers, no_space=settings["no_space"], advance=bar.advance)
        pairs = _pair(rows, {item.volume_id: item.files for item in items if item.volume_id in known}, known, settings["masks"])
        for volume_id, masks in sorted(pairs.items()):
            answer: Row = {"code": "several_masks", "sentence": f"{len(masks)} masks for one image; `masks` chooses one"}
            target = job.path("masks", f"{volume_id}.npy")
            if len(masks) == 1:
                target.parent.mkdir(parents=True, exist_ok=True)
                volume = read_json(job.read(_volume(job, volume_id) / "volume.json"))
                answer = place_mask(masks[0], root, volume, readers, settings["no_space"], target)
            if "code" in answer:
                target.unlink(missing_ok=True)
                refused.append(_refused_labels(job, masks, answer["code"], answer["sentence"]))
            else:
                job.wrote(target)
                placed.append({"volume_id": volume_id, "index": None, "label": None, "mask": f"masks/{volume_id}.npy"})
    if not placed:
        reasons = sorted({row["sentence"] for row in refused}) or ["no mask bears the name of an image or refers to its series"]
        raise StudyError(f"sources.{name}.labels: no mask is for an image of this source ({'; '.join(reasons)}).")
    paired = {mask["name"] for masks in pairs.values() for mask in masks}
    orphans = [row for row in rows if row["format"] in ("nifti", "dicom") and row["name"] not in paired]
    sentence = "a label file whose image is not in this source"
    return placed, refused + [_refused_labels(job, [row], "mask_without_image", sentence) for row in orphans]


def _pair(rows: list[Row], files: dict[str, tuple[str, ...]], known: dict[str, Row], pattern: str | None) -> dict[str, list[Row]]:
    """The label files of each volume: NIfTI by name, DICOM label objects by the series they refer to."""
    by_name = {row["name"]: row for row in rows}
    by_words = masks_of(files, [row["name"] for row in rows if row["format"] == "nifti"], pattern)
    pairs = {volume_id: [by_name[name] for name in names] for volume_id, names in by_words.items()}
    of_series = {known[volume_id]["series_id"]: volume_id for volume_id in sorted(known, reverse=True)}
    for row in rows:
        if row["format"] == "dicom" and '"role":"label"' in row["header"]:
            for series_id in sorted(set(json.loads(row["header"])["references"]) & set(of_series)):
                pairs.setdefault(of_series[series_id], []).append(row)
    return pairs


def _refused_labels(job: Job, files: list[Row], code: str, sentence: str) -> Row:
    return {
        "item_id": listing.minted(_key(job), "i", code, *sorted(row["name"] for row in files)),
        "code": code,
        "sentence": sentence,
        "num_files": len(files),
        "bytes": sum(int(row["size"]) for row in files),
        "stage_of_check": "labels",
    }


def _class_names(folder: Path) -> dict[str, str]:
    """Mask value → name, from the tables `index`, `name` that BIDS keeps beside masks (`*_dseg.tsv`)."""
    names: dict[str, str] = {}
    for path in sorted(folder.rglob("*dseg.tsv")) if folder.is_dir() else []:
        table = pd.read_csv(path, sep="\t", dtype=str)
        if {"index", "name"} <= set(table):
            names |= dict(zip(table["index"], table["name"], strict=True))
    return names


# ---- ledger

_TEXT = ("code", "sentence", "dtype", "kernel", "sex", "orientation_source", "content_sha256", "manufacturer_code")
_JSON = ("shape", "spacing_mm", "affine", "warnings")


def _table(rows: list[Row], columns: list[str], by: str) -> pd.DataFrame:
    """Rows sorted by id; whole numbers stay whole beside missing ones."""
    ordered = sorted(rows, key=lambda row: str(row[by]))
    table = pd.DataFrame({name: pd.Series([row[name] for row in ordered], dtype=object) for name in columns})
    for name in ("time_index", "age_years", "num_files", "bytes"):
        if name in table:
            table[name] = table[name].astype("Int64")
    return table.astype(object).where(table.notna(), None)


def _records(table: pd.DataFrame) -> list[Row]:
    """Rows as plain dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _write_ledger(job: Job, folder: Path, series: list[Row], rejected: list[Row]) -> None:
    write_tsv(folder / "series.tsv", _table(series, SERIES_COLUMNS, "volume_id"))
    write_tsv(folder / "rejected.tsv", _table(rejected, REJECTED_COLUMNS, "item_id"))
    job.wrote(folder / "series.tsv", folder / "rejected.tsv")


def _rows(table: pd.DataFrame) -> list[Row]:
    """Rows of a ledger read back; lists are lists again."""
    rows = _records(table)
    for row in rows:
        for name in _JSON:
            if isinstance(row.get(name), str):
                row[name] = json.loads(row[name])
    return rows


def _check_refusals(job: Job, series: list[Row], rejected: list[Row]) -> None:
    counts = Counter({row["code"]: 0 for row in rejected})
    for row in rejected:
        counts[row["code"]] += int(row["num_files"])
    reasons = ", ".join(f"{code} {number}" for code, number in counts.most_common() if number)
    if not series:
        raise TooManyRefusalsError(
            f"sources.{_name(job)}: every file was refused ({reasons or 'none was found'}; files by reason). "
            f"The reasons in full: {job.path('shards')}/*/rejected.tsv."
        )
    accepted = len({row["series_id"] for row in series})
    refused = len([row for row in rejected if row["code"] not in ("not_an_image", "duplicate", "dicomdir", "skipped")])
    limit = float(job.spec.settings.get("max_refused_frac", 1.0))
    if refused > limit * (refused + accepted):
        raise TooManyRefusalsError(
            f"sources.{_name(job)}: {refused} of {refused + accepted} groups of files were refused, more than max_refused_frac "
            f"{limit:g} allows ({reasons}; files by reason). The reasons in full: {job.path('shards')}/*/rejected.tsv."
        )


# ---- the store of volumes


class _Store:
    """Volumes below `<out>/volumes`, and a private record per group of what it became and from what."""

    def __init__(self, job: Job, private: Path) -> None:
        self._job, self._records = job, private / "groups"
        settings = {name: job.spec.settings.get(name) for name in MATTERING}
        settings["labels"] = sha256_text(identities(job.spec.private.get("labels")))
        self._options = canonical_json([settings, job.spec.code, sha256_text(_key(job).hex())])

    def sweep(self, shard: int) -> None:
        """Remove what a killed conversion of this shard left unfinished."""
        for leftover in self._job.path("volumes").glob(f".part-{shard}-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _hash(self, group: list[Row]) -> str:
        files = [[row[name] for name in ("name", "size", "mtime_ns", "code", "role", "tainted")] for row in group]
        return sha256_text(canonical_json([sorted(files), self._options]))

    def record(self, group: str) -> Row | None:
        """What a group became when it was last converted."""
        path = self._records / f"{group}.json"
        return read_json(path) if path.is_file() else None

    def kept(self, group: list[Row]) -> Row | None:
        """The record of a group whose files and options are unchanged and whose volumes are whole."""
        record = self.record(group[0]["group"])
        return record if record is not None and record["hash"] == self._hash(group) and self.intact(record) else None

    def intact(self, record: Row) -> bool:
        """Whether every volume file is the one that was written (by size and change time, else by its hash)."""
        for volume in record["volumes"]:
            for name, entry in volume["files"].items():
                path = self._job.path("volumes", volume["volume_id"], name)
                if not path.is_file() or path.stat().st_size != entry["size"]:
                    return False
                if path.stat().st_ctime_ns != entry["ctime_ns"] and sha256_file(path) != entry["sha256"]:
                    return False
        return True

    def convert(self, group: list[Row], source: Source, shard: int) -> Row:
        """Convert a group and put its volumes in place, each folder at once, the record last."""
        volumes = self._job.path("volumes")
        part = volumes / f".part-{shard}-{secrets.token_hex(4)}"
        require_free_space(volumes, _expected_bytes(group))
        try:
            outcome = convert_group(group, source, functools.partial(_new_file_in, part))
            record = self._place(outcome, part, volumes)
        except OSError as error:
            raise DiskFullError(
                f"no room to write volumes in {volumes}: {error.strerror}. Free some space and run the same command again."
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        record |= {"hash": self._hash(group)}
        write_json(self._records / f"{group[0]['group']}.json", record)
        return record

    def _place(self, outcome: Outcome, part: Path, volumes: Path) -> Row:
        placed = []
        for volume in outcome.volumes:
            volume_id = volume.row["volume_id"]
            folder = part / volume_id
            write_json(folder / "volume.json", {**volume.row, **volume.extra})
            if volume.images is not None:
                write_parquet(folder / "images.parquet", pd.DataFrame(volume.images))
            final = inside(volumes, volume_id)
            if final.exists():
                shutil.rmtree(final)
            known = {"image.npy": volume.row["content_sha256"]}
            files = sorted(path.name for path in folder.iterdir())
            for name in files:
                _sync(folder / name)
            os.replace(folder, final)
            _sync(volumes)
            placed.append(
                {
                    "volume_id": volume_id,
                    "files": {
                        name: {
                            "size": (final / name).stat().st_size,
                            "ctime_ns": (final / name).stat().st_ctime_ns,
                            "sha256": known.get(name) or sha256_file(final / name),
                        }
                        for name in files
                    },
                }
            )
        return {
            "volumes": placed,
            "series": [v.row for v in outcome.volumes],
            "rejected": outcome.rejected,
            "items": outcome.refused_files,
        }

    def forget(self, wanted: set[str], groups: set[str]) -> None:
        """Remove volumes and records that nothing refers to any more; write the private table of refused files."""
        for folder in self._job.path("volumes").glob("*"):
            if folder.name not in wanted and not folder.name.startswith(".part-"):
                shutil.rmtree(folder, ignore_errors=True)
        items = []
        for path in sorted(self._records.glob("*.json")):
            if path.stem not in groups:
                path.unlink()
            else:
                items += [{"item_id": item, "file": name} for name, item in read_json(path).get("items", {}).items()]
        write_tsv(self._records.parent / "items.tsv", pd.DataFrame(items, columns=["item_id", "file"]))


def _new_file_in(place: Path, volume_id: str, name: str) -> Path:
    return _new_file(place / volume_id, name)


def _new_file(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _expected_bytes(group: list[Row]) -> int:
    """A guess at what a group will take on disk, from its headers."""
    total = 0
    for row in group:
        header = json.loads(row["header"]) if row["header"] else {}
        if row["format"] == "dicom":
            layout = header["layout"]
            total += layout["rows"] * layout["columns"] * layout["frames"] * 2
        elif row["format"] == "nifti":
            total += header["bytes"]
        elif row["format"] == "npz":
            total += sum(s["shape"][0] * s["shape"][1] * s["shape"][2] for s in header["sets"])
        elif row["format"] == "png":
            total += header["shape"][0] * header["shape"][1]
    return total


# ---- what the spec says


def _name(job: Job) -> str:
    return job.out.name


def _name_of(job: Job) -> str:
    """The source of a job `<source>/labels`."""
    return job.spec.name.split("/")[0]


def _root(job: Job) -> Path:
    root = Path(job.spec.private["path"])
    return root.parent if root.is_file() else root


def _key(job: Job) -> bytes:
    return listing.load_key(job.spec.private.get("id_key") or None)


def _source(job: Job, readers: Readers, table: pd.DataFrame) -> Source:
    settings = job.spec.settings
    folders = picture_labels(_records(table))
    return Source(_root(job), _key(job), readers, settings, _labels(job.spec.private.get("labels")), folders, job.threads)


def _labels(wanted: str | None) -> Labels:
    """What a label table says of whose an image is; a folder of masks and folders of classes say nothing of that."""
    known = wanted and is_label_table(wanted) and Path(wanted).is_file()
    return Labels.of(read_label_table(str(wanted))) if known else Labels()


def _known_rows(path: Path, code: str) -> dict[tuple[str, int, int], Row]:
    """Rows of an earlier scan by the same code."""
    if not path.is_file() or not (path.parent / "receipt.json").is_file():
        return {}
    if read_json(path.parent / "receipt.json")["code"] != code:
        return {}
    table = read_parquet(path, columns=COLUMNS)
    return {(row["name"], row["size"], row["mtime_ns"]): row for row in _records(table) if row["format"]}
