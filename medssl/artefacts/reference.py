"""Prints docs/reference/artefacts.md from the schemas: `python -m medssl.artefacts.reference > docs/reference/artefacts.md`."""

from __future__ import annotations

import types
import typing
from typing import Any

from medssl.artefacts import encoder, fits, keep, labels, predictions, receipt, records, samples, scores, series, volumes
from medssl.artefacts.column import Column
from medssl.artefacts.document import Document, fields_of
from medssl.artefacts.schema import Table

HEAD = """# Artefacts: what every stage reads and writes

Stages exchange data only on disk. This page is the contract between them; only `medssl/core/layout.py` writes
paths, and each file of `medssl/artefacts/` describes, reads, writes and checks one kind of artefact.
`python -m medssl.artefacts.reference` prints this page.

```text
results/<study>/
  specs/<stage>/<name>.json      the resolved options of one job: an input of its rule
  sources/<source>.json          count, bytes and keyed digest of the source listing (no names)
  sources/<source>-labels.json   the same of its label files
  sources/<source>-records.json  the same of its table of records
  1_ingest/<source>/             series.tsv  rejected.tsv  receipt.json
  1_ingest/<source>/volumes/     <volume_id>/{image.npy,volume.json,mask.npy,images.parquet}
  1_ingest/<source>/shards/      <n>-of-<count>/{series.tsv,rejected.tsv,receipt.json}: what each shard accepted and refused
  1_ingest/<source>/labels/      labels.parquet  rejected.tsv  labels.json  masks/  receipt.json
  2_prepare/<source>/            volumes.tsv  samples.parquet  fingerprint.json  receipt.json  arrays/*.npy
  3_reduce/<cohort>/             descriptors.parquet  receipt.json
  3_reduce/<cohort>/leakage/     leakage.parquet  leakage.json  leakage.png  receipt.json
  3_reduce/<cohort>/<arm>/       keep.parquet  summary.json  receipt.json, and pictures
  4_pretrain/<cohort>/<run>/     encoder.safetensors  parts.safetensors  contract.json  curve.tsv  embeddings.parquet
                                 views.png  receipt.json
  5_finetune/<task>/             predictions.parquet  fits.tsv  curves.tsv  splits.parquet  receipt.json  models/<start>/  masks/
  6_evaluate/<task>/             cases.parquet  scores.tsv  comparisons.tsv  receipt.json, and small tables
  7_report/<page>/               report.html  report.json  model_card.md  ro-crate-metadata.json  receipt.json  figures/  tables/
  state/<stage>/<hash>/          resume state, outside every declared output
  logs/  benchmarks/
.medssl/                         private: id key, source listings with real paths, records. Never inside results.
```

## Conventions

- Voxel axes `(i, j, k)`; affine 4×4 to RAS+ millimetres of voxel centres. Arrays on disk are `.npy`, Fortran order, so that
  `array[:, :, k]` is one contiguous slice. LPS is used only in the DICOM reader.
- Ids match `[a-z0-9-]+`, are keyed hashes (HMAC-SHA-256, first 12 hex digits): subject `p-…`, series `s-…`, volume `v-…`, image
  or refused item `i-…`. A sample id is `<volume_id>-<index:04d>`. No table holds anything personal. Ids of
  series and patients, which DICOM or a label table states, are equal in all sources. Ids of volumes, images and refusals
  that come from a file's name are valid only within their source.
- TSV: tab separated, UTF-8, header line, `n/a` for missing, booleans `true|false`, lists and dictionaries as JSON, floats with
  repr precision. Parquet for tables with a row per slice; lists and dictionaries are JSON text there too. Equal content gives
  equal bytes. Tables are sorted as stated.
- A file that is not as described here is refused with its name, the column, what was found and what was expected (exit code 7).
- Units are in most columns' names (`_mm`, `_deg`, `_frac`), and in the tables below.

## Names

Words of the study file match `[a-z0-9][a-z0-9_]*`; `-` separates words and is inside none. `medssl/artefacts/names.py` reads
and writes all names.

| name | text | example |
|---|---|---|
| run | `<name>-<arm>-seed<N>` | `simclr-hash-seed0` |
| arm, over which scores are pooled | `<name>-<arm>` of a run, `<name>` of given weights | `simclr-hash` |
| scratch | `scratch-<backbone>`, and `-<4 hex digits>` if its options are not the defaults | `scratch-resnet18` |
| scratch drawn several times | with `-seed<N>` | `scratch-resnet18-seed1` |
| share of the labels | a fraction with `p` for the point, or `n` and a number of units | `0p05`, `n8` |
| fit | `<start>-<mode>-<share>-s<seed>`; `-f<fold>` in cross-validation | `simclr-hash-seed0-full-0p05-s2` |
"""

INGEST = """
Image sets (PNG or JPEG folders, NPZ) are one volume of kind `images` per distinct image shape, with a table of their images.
Accepted volumes are stored RAS+ (closest canonical: flips and permutation only, no voxel value changes) as `image.npy` (int16
if values fit exactly, otherwise float32); a mask on the same grid as `mask.npy` (uint8 or uint16). DICOM without a PatientID
uses the study as its subject. Every file of the listing is counted in exactly one row of `series.tsv` or `rejected.tsv`.
"""

LABELS = """
Only if the study names label files. `masks/<volume_id>.npy` are on the grid of `image.npy`.
"""

RECORDS = """
Only of columns that an objective reads. Nothing in the results repeats a value; contracts count how many there are.
"""

PREPARE = """
The network's input is `clip((value − low) / (high − low), 0, 1)`, one channel per window; the cache keeps stored numbers.

Arrays are `<volume_id>.npy`, Fortran order (C order if slices are cut along `i`, so that a plane stays contiguous), or `.b2nd`
with `cache: blosc2`; a mask is `<volume_id>-mask.npy`.
"""

PRETRAIN = """
`encoder.safetensors`: the backbone only, names of the public network. `parts.safetensors`: further reusable networks,
tensors `<part>.<name>`; empty for most objectives. `views.png`: the first samples as the objective sees them.
`pictures/epoch-00001.png`: the objective's pictures at the ends of up to 100 epochs (SparK: 8 samples, image, visible part,
prediction).
"""

FINETUNE = """
`masks/<fit_id>/` and `masks/reference/` (segmentation): predicted and given masks on the grid of the given images.
"""

EVALUATE = """
`scores.tsv` and `comparisons.tsv` are always written, the others only if they have rows.
"""

REPORT = """
`report.html` (one offline file), `report.json` (every number), `model_card.md`, `ro-crate-metadata.json`; `figures/`: each figure
as SVG and its numbers as TSV; `tables/`: each table as TSV. The page `study` covers everything; the others have the name of their
cohort and end at pre-training.
"""

Described = Table | type[Document]

SECTIONS: tuple[tuple[str, str, tuple[Described, ...]], ...] = (
    ("receipt.json", "", (receipt.Receipt,)),
    ("1_ingest/<source>", INGEST, (series.SERIES, series.REJECTED, series.VolumeFile, series.IMAGES)),
    ("1_ingest/<source>/labels", LABELS, (labels.LABELS, labels.LabelCounts)),
    (".medssl/<study>/<source>/records/<column>", RECORDS, (records.RECORD,)),
    ("2_prepare/<source>", PREPARE, (volumes.VOLUMES, samples.SAMPLES, samples.Fingerprint)),
    ("3_reduce/<cohort>", "", (keep.DESCRIPTORS,)),
    ("3_reduce/<cohort>/leakage", "\n`leakage.png`: pairs as pictures, if there are any.\n", (keep.LEAKAGE, keep.Leaks)),
    ("3_reduce/<cohort>/<arm>", "", (keep.KEEP, keep.Summary)),
    ("4_pretrain/<cohort>/<run>", PRETRAIN, (encoder.Contract, encoder.CURVE, encoder.EMBEDDINGS, encoder.ExportedContract)),
    ("5_finetune/<task>", FINETUNE, (predictions.PREDICTIONS, fits.FITS, fits.CURVES, fits.SPLITS_OF_FITS, fits.ModelContract)),
    (
        "6_evaluate/<task>",
        EVALUATE,
        (
            scores.SCORES,
            scores.COMPARISONS,
            scores.FALLS,
            scores.FALL_COMPARISONS,
            scores.CASES,
            scores.CALIBRATION,
            scores.AGREEMENT,
            scores.RISK_GROUPS,
            scores.OPERATING,
            scores.CONFUSION,
            scores.SUBGROUPS,
            scores.EMPTY,
            scores.OVERLAYS,
        ),
    ),
    ("7_report/<page>", REPORT, ()),
    ("What `medssl predict` writes", "", (predictions.PROBABILITIES, predictions.VALUES, predictions.RISKS, predictions.MASKS)),
)


def page() -> str:
    """The whole of docs/reference/artefacts.md."""
    parts = [HEAD]
    for heading, prose, described in SECTIONS:
        title = f"`{heading}`" if "<" in heading else heading  # bare, <source> would be a tag of HTML
        parts.append(f"\n## {title}\n{prose}")
        parts += [_table(one) if isinstance(one, Table) else _document(one) for one in described]
    return "".join(parts)


def _table(table: Table) -> str:
    rows = [(c.name, f"{c.described}{'; may be absent' if c.optional else ''}", c.unit, _meaning(c)) for c in table.columns]
    rows += [(f"{f.prefix}{f.column.name}…", f.column.described, f.column.unit, f.column.meaning) for f in table.families]
    rows += [("…", "", "", table.others)] if table.others else []
    order = f" Sorted by {', '.join(table.sorted_by)}." if table.sorted_by else ""
    return f"\n### {table.file}\n\n{table.meaning}{order}\n\n{_rows('column', rows)}"


def _meaning(column: Column) -> str:
    """The meaning of a column, followed by its choices unless the meaning names them."""
    if all(f"`{word}`" in column.meaning for word in column.choices):
        return column.meaning
    return f"{column.meaning}: {', '.join(f'`{word}`' for word in column.choices)}"


def _document(document: type[Document]) -> str:
    rows = [(name, _words(kind), unit, meaning) for name, kind, unit, meaning in fields_of(document) if meaning]
    return f"\n### {document.FILE}\n\n{document.MEANING}\n\n{_rows('field', rows)}"


def _rows(first: str, rows: list[tuple[str, str, str, str]]) -> str:
    lines = [f"| {first} | type | unit | meaning |", "|---|---|---|---|"]
    for name, *cells in rows:
        lines.append(" ".join(["|", f"`{name}`", "|", *(part for cell in cells for part in ([cell, "|"] if cell else ["|"]))]))
    return "\n".join(lines) + "\n"


def _words(kind: Any) -> str:
    """An annotation in words: `list of float or null`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        named = [_words(argument) for argument in arguments]
        numbers = {"int", "float"} <= set(named)
        return " or ".join(dict.fromkeys("float" if numbers and name == "int" else name for name in named))
    if origin is list:
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return "dict" if arguments[1] is Any else f"dict of {_words(arguments[1])}"
    if kind is type(None):
        return "null"
    if isinstance(kind, type) and issubclass(kind, Document):
        return "object"
    return str(kind.__name__)


if __name__ == "__main__":
    print(page(), end="")
