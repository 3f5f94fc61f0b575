"""ingest: files → faithful volumes, `series.tsv` and `rejected.tsv`. scan → convert (per shard) → merge; then labels, records."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable
from pathlib import Path

from medssl.artefacts.labels import LABELS, LabelCounts
from medssl.artefacts.records import RECORD
from medssl.artefacts.series import IMAGES, REJECTED, SERIES, read_series
from medssl.core import listing
from medssl.core.errors import StudyError
from medssl.core.files import canonical_json, read_json, sha256_text, writing
from medssl.core.job import Job
from medssl.core.label_table import EVENT, FOLDERS, identities, is_label_table, read_label_table
from medssl.core.record_table import read_records, require
from medssl.core.text_table import write_rows
from medssl.ingest.convert_images import picture_labels
from medssl.ingest.inventory import by_group, headers, inventory, labels_of, of_text, to_text
from medssl.ingest.items import COLUMNS, Origin, item_rows, label_item_rows, origins_of, said_of, sorted_items
from medssl.ingest.label_files import LabelTarget, Matcher, given_by_folders, given_by_table, records_by_table
from medssl.ingest.late_labels import (
    is_first,
    label_rows,
    pair_with_volumes,
    place_mask,
    refuse_given_away,
    refused_in_words,
    unplaced,
)
from medssl.ingest.ledger import Row, check_refusals, remark_on_refusals
from medssl.ingest.options import IngestOptions, LabelFileOptions, RecordOptions
from medssl.ingest.outcome import rejected_row
from medssl.ingest.reading_pool import BATCH, ReadingPool
from medssl.ingest.remarks import remarks
from medssl.ingest.source import Source
from medssl.ingest.volume_store import VolumeStore

GROUPS, ITEMS, LABEL_ITEMS = "groups.jsonl.gz", "items.tsv", "label_items.tsv"
"""Private: the result of scan, and the files behind every id of the ledgers."""
OF_THE_WHOLE = {"max_refused_frac", "shards"}
"""Options that cannot change the outcome of a group."""


def scan(job: Job) -> None:
    """Read the header of every listed file into the private `groups.jsonl.gz`; unchanged files are not read again."""
    private = Path(job.spec.private["folder"])
    files = listing.read(job.spec.inputs["listing"])
    target = private / GROUPS
    known = _known_rows(target, job.spec.code)
    count = min(job.threads, 1 + len(files) // (2 * BATCH))
    with ReadingPool(_key(job), count) as readers, job.progress("scan", len(files), "files") as bar:
        found = inventory(
            files,
            root_of(job),
            _own_key(job),
            readers,
            options=job.options(IngestOptions),
            labels=labels_of(job.spec.private.get("labels"), (name for name, *_ in files)),
            known=known,
            bar=bar,
        )
    _write_groups(target, found)
    job.wrote(target)
    job.write_receipt(folder=private)


def convert(job: Job, shard: int) -> None:
    """Convert the groups of one shard; those whose files, options and code are unchanged keep their volumes."""
    files = _groups(job)
    mine = [row for row in files if row["shard"] == shard]
    store = _store(job)
    store.sweep(shard)
    folder = job.path("shards", f"{shard}-of-{job.options(IngestOptions).shards}")
    series, rejected = [], []
    with ReadingPool(_key(job), 1) as readers, job.progress(f"shard {shard}", len(mine), "files") as bar:
        source = _source(job, readers, files)
        for group in by_group(mine).values():
            record, advance = store.kept(group), bar.found
            if record is None:
                record, advance = store.convert(group, source, shard), bar.advance
            series += record["series"]
            rejected += record["rejected"]
            advance(len(group))
    _write_ledger(job, folder, series, rejected)
    job.write_receipt(folder=folder)


def merge(job: Job) -> None:
    """One ledger of all shards; unreferenced volumes are removed; the receipt lists every volume file.

    Raises:
        TooManyRefusalsError: nothing, or less than the study allows, was accepted.
    """
    options = job.options(IngestOptions)
    folders = [job.path("shards", f"{n}-of-{options.shards}") for n in range(options.shards)]
    series = [row for folder in folders for row in read_series(job.read(folder / "series.tsv"))]
    rejected = [row for folder in folders for row in REJECTED.read_rows(job.read(folder / "rejected.tsv"))]
    store, files = _store(job), _groups(job)
    groups = by_group(files)
    items = _write_items(job, store, groups)
    check_refusals(job.out.name, series, rejected, options.max_refused_frac, items)
    wanted = {row["volume_id"] for row in series}
    with job.progress("merge", len(wanted), "volumes") as bar:
        for group, rows in groups.items():
            record = store.record(group)
            if record is None:
                continue
            if not store.intact(record):
                # a file was damaged or removed since: the source is available, so it is converted again
                with ReadingPool(_key(job), 1) as readers:
                    record = store.convert(rows, _source(job, readers, files), 0)
            for volume in record["volumes"]:
                for name, entry in volume["files"].items():
                    job.wrote(job.path("volumes", volume["volume_id"], name), sha256=entry["sha256"])
                bar.advance()
    store.forget(wanted, set(groups))
    _write_ledger(job, job.out, series, rejected)
    wanted_labels = job.spec.private.get("labels")
    said = remarks(options, labels_of(wanted_labels), wanted_labels, files, series, _key(job))
    said += remark_on_refusals(series, rejected)
    if said:
        job.notes["remarks"] = said
    for remark in said:
        job.remark(remark)
    job.write_receipt()


def _write_items(job: Job, store: VolumeStore, groups: dict[str, list[Row]]) -> Path:
    """The private table of the outcome for every file, written even if too much was refused to continue."""
    said = said_of(row for rows in groups.values() for row in rows)
    found = [record for group in groups if (record := store.record(group)) is not None]
    target = Path(job.spec.private["folder"]) / ITEMS
    _write_item_rows(target, (row for record in found for row in item_rows(record, said, _own_key(job))))
    return target


def _write_item_rows(target: Path, rows: Iterable[Row]) -> None:
    write_rows(target, COLUMNS, ([*row.values()] for row in sorted_items(rows)))


def labels(job: Job) -> None:
    """Record what the images of a source show, from the label files that the study names; only fine-tuning waits for it.

    `labels.parquet` holds a row per labelled volume or image, `masks/` the masks on the grids of ingest's volumes,
    `rejected.tsv` the label files without an image or with another grid.

    Raises:
        StudyError: there is no label file, none of it is for an image of this source, or records determine the labels.
    """
    options, wanted = job.options(LabelFileOptions), str(job.spec.private["labels"])
    if wanted != FOLDERS and not Path(wanted).exists():
        raise StudyError(f"sources.{_name_of(job)}.labels: nothing is there. Correct the path, or put the labels there.")
    files = _groups(job)
    series = read_series(job.read(job.spec.inputs["series"]))
    items = _items(job, files, series)
    rejected: list[Row] = []
    names: dict[str, str] = {}
    strangers = 0
    if wanted == FOLDERS:
        rows = label_rows(items, given_by_folders(items))
    elif is_label_table(wanted):
        given, strangers = given_by_table(read_label_table(wanted), _matcher(job, items), options.groups)
        rows = label_rows(items, given)
    else:
        rows, rejected = _place_masks(job, Path(wanted), items, series)
        strangers, names = sum(row["num_files"] for row in rejected), _class_names(Path(wanted))
    import pandas as pd

    more = [*([EVENT] if any(EVENT in row for row in rows) else []), *(f"group_{name}" for name in options.groups)]
    table = pd.DataFrame(rows, columns=["volume_id", "index", "label", "mask", *more]).astype({"index": "Int32"})
    for column, path in job.spec.inputs.get("records", {}).items():
        refuse_given_away(_name_of(job), table, column, RECORD.read(job.read(path)))
    LABELS.write(job.path("labels.parquet"), table.sort_values(["volume_id", "index"], ignore_index=True))
    REJECTED.write_rows(job.path("rejected.tsv"), rejected)
    counts = LabelCounts(items=len(items), labelled=len(rows), strangers=strangers, names=names)
    counts.write(job.path("labels.json"))
    job.wrote(*(job.path(name) for name in ("labels.parquet", "rejected.tsv", "labels.json")))
    job.log(f"labels: {len(rows)} of {len(items)} images, {strangers} label entries are for none of them")
    for remark in filter(None, (counts.unlabelled_in_words, refused_in_words(rejected))):
        job.remark(remark)
    job.write_receipt()


def record(job: Job) -> None:
    """Record what one column of a source's records says of its images, outside the results.

    Raises:
        StudyError: the table or the column is missing or cannot be used, or none of it is for an image of this source.
    """
    options, wanted = job.options(RecordOptions), Path(str(job.spec.private["records"]))
    if not wanted.is_file():
        raise StudyError(f"sources.{_name_of(job)}.records: nothing is there. Correct the path, or put the table there.")
    column = require(read_records(wanted), options.column, options.kind)
    items = _items(job, _groups(job), read_series(job.read(job.spec.inputs["series"])))
    found, strangers = records_by_table(column, _matcher(job, items))
    import pandas as pd

    rows = [(items[number].volume_id, items[number].index, column.kind, text) for number, text in found.items()]
    table = pd.DataFrame(rows, columns=list(RECORD.names)).astype({"index": "Int32"})
    RECORD.write(job.path("record.parquet"), table.sort_values(["volume_id", "index"], ignore_index=True))
    job.wrote(job.path("record.parquet"))
    job.log(f"records: {len(found)} of {len(items)} images have a value, {strangers} cells are for none of them")
    job.write_receipt()


def origins(job: Job) -> list[Origin]:
    """The files that each volume and picture of a source came from; after `merge`."""
    series = read_series(job.read(job.spec.inputs["series"]))
    tables = {
        row["volume_id"]: IMAGES.read(job.read(_volume(job, row["volume_id"]) / "images.parquet"), ["index", "image_id"])
        for row in series
        if row["kind"] == "images"
    }
    places = {
        volume_id: dict(zip(map(str, table["image_id"]), map(int, table["index"]), strict=True))
        for volume_id, table in tables.items()
    }
    store, own_key = _store(job), _own_key(job)
    records = [record for group in by_group(_groups(job)) if (record := store.record(group)) is not None]
    found = [origin for record in records for origin in origins_of(record, places, own_key)]
    return sorted(found, key=lambda origin: origin.id)


# ---- label files


def _items(job: Job, rows: list[Row], series: list[Row]) -> list[LabelTarget]:
    """Every possible target of a label in a source."""
    own_key = _own_key(job)
    items: list[LabelTarget] = []
    files: dict[str, list[str]] = {}
    stated: dict[str, set[str]] = {}
    for row in rows:
        if not row["code"] and row["role"] == "image":
            files.setdefault(row["group"], []).append(row["name"])
            stated.setdefault(row["group"], set()).update(filter(None, [row["series"]]))
    for row in series:
        names = files.get(row["series_id"], [])
        if row["kind"] != "images":
            known = {str(row[name]) for name in ("volume_id", "series_id", "subject_id") if row[name]}
            known |= stated.get(row["series_id"], set())
            items.append(LabelTarget(row["volume_id"], None, tuple(names), tuple(sorted(known))))
            continue
        images = IMAGES.read(job.read(_volume(job, row["volume_id"]) / "images.parquet"))
        name_of = {listing.minted(own_key, "i", name): name for name in names}
        for image in images.to_dict("records"):
            own = (name_of[image["image_id"]],) if image["image_id"] in name_of else ()
            ids = tuple(str(image[name]) for name in ("image_id", "subject_id") if image[name])
            items.append(LabelTarget(row["volume_id"], int(image["index"]), own, ids))
    return items


def _volume(job: Job, volume_id: str) -> Path:
    return Path(job.spec.inputs["images"]) / volume_id


def _matcher(job: Job, items: list[LabelTarget]) -> Matcher:
    key = _key(job)
    return Matcher(items, lambda name: (listing.minted_patient(key, name), listing.minted(key, "s", name)))


def _place_masks(job: Job, folder: Path, items: list[LabelTarget], series: list[Row]) -> tuple[list[Row], list[Row]]:
    """Every mask of a label folder on the grid of its volume; rows of labels.parquet, and of refused files."""
    options, name = job.options(LabelFileOptions), _name_of(job)
    found = listing.walk(f"{name}.labels", str(folder))
    root = folder.parent if folder.is_file() else folder
    known = {row["volume_id"]: row for row in series if is_first(row)}
    placed: list[Row] = []
    used: list[tuple[str, Row]] = []
    refused: list[tuple[Row, list[Row]]] = []
    with ReadingPool(_key(job), 1) as readers, job.progress("labels", len(found), "files") as bar:
        rows = headers(found, root, readers, no_space=options.no_space, bar=bar)
        first = [item for item in items if item.volume_id in known]
        pairs = pair_with_volumes(rows, first, options.masks)
        for volume_id, masks in sorted(pairs.items()):
            answer: Row = {"code": "several_masks", "sentence": f"{len(masks)} masks for one image; `masks` chooses one"}
            target = job.path("masks", f"{volume_id}.npy")
            if len(masks) == 1:
                target.parent.mkdir(parents=True, exist_ok=True)
                volume = read_json(job.read(_volume(job, volume_id) / "volume.json"))
                answer = place_mask(masks[0], root, volume, readers, options.no_space, target)
            if "code" in answer:
                target.unlink(missing_ok=True)
                refused.append((_refused_labels(job, answer["code"], answer["sentence"], masks), masks))
            else:
                used.append((volume_id, masks[0]))
                job.wrote(target)
                placed.append({"volume_id": volume_id, "index": None, "label": None, "mask": f"masks/{volume_id}.npy"})
    reasons = sorted({row["sentence"] for row, _ in refused})
    refused += [(_refused_labels(job, code, sentence, [row]), [row]) for code, sentence, row in unplaced(rows, pairs)]
    rejected = [row for row, _ in refused]
    _write_item_rows(Path(job.spec.private["folder"]) / LABEL_ITEMS, label_item_rows(used, refused))
    if not placed:
        reasons = reasons or ["no mask has the name of an image or refers to its series"]
        said = "; ".join(filter(None, (refused_in_words(rejected), *reasons)))
        raise StudyError(f"sources.{name}.labels: no mask is for an image of this source ({said}).")
    return placed, rejected


def _refused_labels(job: Job, code: str, sentence: str, files: list[Row]) -> Row:
    return rejected_row(_own_key(job), code, sentence, files, files, "labels")


def _class_names(folder: Path) -> dict[str, str]:
    """Mask value → name, from the tables `index`, `name` that BIDS keeps beside masks (`*_dseg.tsv`)."""
    names: dict[str, str] = {}
    for path in sorted(folder.rglob("*dseg.tsv")) if folder.is_dir() else []:
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t"))
        except (OSError, ValueError, csv.Error):  # a class without a name keeps its number
            continue
        names |= {row["index"]: row["name"] for row in rows if row.get("index") and row.get("name")}
    return names


def _write_ledger(job: Job, folder: Path, series: list[Row], rejected: list[Row]) -> None:
    SERIES.write_rows(folder / "series.tsv", series)
    REJECTED.write_rows(folder / "rejected.tsv", rejected)
    job.wrote(folder / "series.tsv", folder / "rejected.tsv")


# ---- what the spec says


def _groups(job: Job) -> list[Row]:
    """The result of scan."""
    return _read_groups(job.read(Path(job.spec.private["folder"]) / GROUPS))


def _read_groups(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return of_text(lines)


def _write_groups(path: Path, rows: list[Row]) -> None:
    # without a name and a time in it: equal content gives equal bytes
    with writing(path) as temporary, open(temporary, "wb") as file, gzip.GzipFile("", "wb", 1, file, mtime=0) as packed:
        packed.writelines(line.encode() for line in to_text(rows))


def _store(job: Job) -> VolumeStore:
    options = job.options(IngestOptions).model_dump(mode="json", exclude=OF_THE_WHOLE)
    options["labels"] = sha256_text(identities(job.spec.private.get("labels")))
    basis = canonical_json([options, job.spec.code, sha256_text(_own_key(job).hex())])
    return VolumeStore(job.path("volumes"), Path(job.spec.private["folder"]) / "groups", basis)


def _name_of(job: Job) -> str:
    """The source of a job `<source>/labels`."""
    return job.spec.name.split("/")[0]


def root_of(job: Job) -> Path:
    """The folder that the names of a source's files are below."""
    root = Path(job.spec.private["path"])
    return root.parent if root.is_file() else root


def _key(job: Job) -> bytes:
    return listing.load_key(job.spec.private.get("id_key") or None)


def _own_key(job: Job) -> bytes:
    return listing.key_of(_name_of(job), _key(job))


def _source(job: Job, readers: ReadingPool, files: list[Row]) -> Source:
    folders, options = picture_labels(files), job.options(IngestOptions)
    labels = labels_of(job.spec.private.get("labels"))
    return Source(root_of(job), _key(job), _own_key(job), readers, options, labels, folders, job.threads)


def _known_rows(path: Path, code: str) -> dict[tuple[str, int, int], Row]:
    """Rows of an earlier scan with the same code."""
    if not path.is_file() or not (path.parent / "receipt.json").is_file():
        return {}
    if read_json(path.parent / "receipt.json")["code"] != code:
        return {}
    return {(row["name"], row["size"], row["mtime_ns"]): row for row in _read_groups(path) if row["format"]}
