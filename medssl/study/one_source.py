"""A source outside any study, in a separate folder: for `medssl predict`, `medssl embed` and `medssl reduce --preview`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medssl.artefacts.series import REJECTED
from medssl.core import listing
from medssl.core.errors import StudyError
from medssl.core.files import write_text
from medssl.core.job import Spec
from medssl.core.layout import Layout
from medssl.core.options import Options
from medssl.study.dag import Dag
from medssl.study.file import load_study
from medssl.study.options import SourceOptions, Study

NAME = "new"


def specs_of(
    source: Path | Sequence[Path], folder: Path, ingest: dict[str, Any], prepare: dict[str, Any], *, id_key: Path | None = None
) -> tuple[Spec, Spec]:
    """The specs of ingest and prepare for a source whose images all go into one part.

    Args:
        source: folder of DICOM, NIfTI or images, or an NPZ image set; or several files and folders.
        folder: for all results.
        ingest, prepare: the sections of the study file of the training images.
        id_key: file with the key of the ids; None takes that of the working folder.

    Raises:
        StudyError: the source does not exist.
    """
    source, rows = _listed([source] if isinstance(source, Path) else source)
    layout, private = Layout(folder / "results"), folder / "private"
    write_text(private / "listing.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    given = SourceOptions(path=str(source), ingest=ingest, prepare=prepare | {"split": {"val_frac": 0, "test_frac": 0}})
    study = Study(sources={NAME: given})
    series = layout.ingest(NAME, "series.tsv")
    images = layout.ingest(NAME, "volumes")
    place = {"path": str(source.resolve()), "id_key": "" if id_key is None else str(id_key), "folder": str(private)}

    def spec(stage: str, options: Options, inputs: dict[str, Any], out: str) -> Spec:
        values = options.model_dump(mode="json")
        return Spec(stage, NAME, study.study, str(layout.root), study.seed, "", values, inputs, out, private=place)

    return (
        spec(
            "ingest",
            study.ingest_of(NAME),
            {"listing": str(private / "listing.jsonl"), "series": series, "images": images},
            layout.ingest(NAME),
        ),
        spec("prepare", study.prepare_of(NAME), {"series": series, "images": images}, layout.prepare(NAME)),
    )


def _listed(sources: Sequence[Path]) -> tuple[Path, list[listing.Listed]]:
    """The folder that holds all sources (a single folder is its own), and their files by their names below it."""
    if not sources:
        raise StudyError("the list of files is empty. Name a folder of DICOM, NIfTI or images, or files.")
    for source in sources:
        if not source.exists():
            raise StudyError(f"{source} does not exist. Name a folder of DICOM, NIfTI or images, or an NPZ file.")
    if len(sources) == 1:
        return sources[0], listing.walk(None, str(sources[0]))
    places = list(dict.fromkeys(Path(os.path.realpath(source)) for source in sources))
    root = Path(os.path.commonpath([place.parent if place.is_file() else place for place in places]))
    rows: dict[str, listing.Listed] = {}
    for place in places:
        above = place.parent if place.is_file() else place
        for name, size, mtime_ns, kind in listing.walk(None, str(place)):
            below = (above / name).relative_to(root).as_posix()
            rows[below] = (below, size, mtime_ns, kind)
    return root, [rows[name] for name in sorted(rows)]


EACH_FILE = " `medssl check` on it has the reason of each file."


def read_rejected(ingest: Spec) -> list[dict[str, Any]]:
    """The refused files of an ingested source, even if all were refused."""
    out = Path(ingest.out)
    whole = out / REJECTED.file
    return REJECTED.read_rows(whole if whole.is_file() else next(out.glob(f"shards/*/{REJECTED.file}")))


def all_refused(ingest: Spec, source: Path | Sequence[Path]) -> str:
    """An error: no file of a source was accepted, with the reasons, the commonest in words, and the table of all files."""
    counts: Counter[str] = Counter()
    words: dict[str, str] = {}
    for row in read_rejected(ingest):
        counts[row["code"]] += row["num_files"]
        words.setdefault(row["code"], row["sentence"])
    reasons = ", ".join(f"{code} {number}" for code, number in counts.most_common())
    commonest = "".join(f" {code}: {words[code]}" for code, _ in counts.most_common(1))
    return f"{_named(source)}: every file was refused ({reasons}; files by reason).{commonest}{EACH_FILE}"


def other_modality(ingest: Spec, *, nothing_left: Path | Sequence[Path] | None = None) -> bool:
    """Whether images of an ingested source were left out because of their modality.

    Raises:
        StudyError: so were all images of the source `nothing_left`.
    """
    aside = [row for row in read_rejected(ingest) if row["code"] == "other_modality"]
    if aside and nothing_left is not None:
        raise StudyError(
            f"{_named(nothing_left)} holds no usable image: {sum(row['num_files'] for row in aside)} files are of "
            f"{aside[0]['sentence']} "
            "Give images like the training images, or use these anyway with --force "
            "(in Python: force=True)."
        )
    return bool(aside)


def _named(source: Path | Sequence[Path]) -> str:
    return str(source) if isinstance(source, Path) else ", ".join(map(str, source))


def reduce_specs_of(prepare: Spec, arm: dict[str, Any]) -> tuple[Spec, Spec]:
    """The specs that describe and reduce the slices of a prepared source.

    Args:
        prepare: its spec, from `specs_of`.
        arm: one arm of the study file's section reduce, such as `{"reducer": "hash", "threshold": 6}`.

    Raises:
        StudyError: it is not a valid arm.
    """
    layout = Layout(Path(prepare.root))
    study = load_study({"sources": {NAME: {"path": "."}}, "reduce": {"arms": {"preview": arm}, "controls": False}})
    dag = Dag(study)
    names = (("samples", "samples.parquet"), ("volumes", "volumes.tsv"), ("arrays", "arrays"))
    inputs = {name: [layout.prepare(NAME, file)] for name, file in names}
    describe = replace(
        prepare,
        stage="reduce",
        name=f"{NAME}/describe",
        options=dag.described().model_dump(mode="json"),
        inputs=inputs,
        out=layout.describe(NAME),
    )
    decide = replace(
        describe,
        name=f"{NAME}/preview",
        options=dag.resolved("preview").model_dump(mode="json"),
        inputs=inputs | {"descriptors": layout.describe(NAME, "descriptors.parquet")},
        out=layout.reduce(NAME, "preview"),
    )
    return describe, decide
