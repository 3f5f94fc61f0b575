"""A source outside any study, treated in a folder of its own: for `medssl predict` and `medssl reduce --preview`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from medssl.core import listing
from medssl.core.errors import StudyError
from medssl.core.files import write_text
from medssl.core.job import Spec
from medssl.core.layout import Layout
from medssl.core.study import SourceSettings, Study, load_study

NAME = "new"


def specs_of(source: Path, folder: Path, ingest: dict[str, Any], prepare: dict[str, Any]) -> tuple[Spec, Spec]:
    """The specs of ingest and prepare for a source, all of whose images belong together.

    Args:
        source: folder of DICOM, NIfTI or images, or an NPZ image set.
        folder: where everything is put.
        ingest, prepare: the sections of a study file, as the images were treated that a model learnt from.

    Raises:
        StudyError: nothing is there.
    """
    if not source.exists():
        raise StudyError(f"{source} does not exist. Name a folder of DICOM, NIfTI or images, or an NPZ file.")
    layout, private = Layout(folder / "results"), folder / "private"
    rows = listing.walk(NAME, str(source))
    write_text(private / "listing.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    given = SourceSettings(path=str(source), ingest=ingest, prepare=prepare | {"split": {"val_frac": 0, "test_frac": 0}})
    study = Study(sources={NAME: given})
    series = layout.ingest(NAME, "series.tsv")
    place = {"path": str(source.resolve()), "id_key": "", "folder": str(private)}

    def spec(stage: str, settings: dict[str, Any], inputs: dict[str, Any], out: str) -> Spec:
        return Spec(stage, NAME, study.study, str(layout.root), study.seed, "", settings, inputs, out, place)

    return (
        spec(
            "ingest",
            study.source_settings(NAME, "ingest"),
            {"listing": str(private / "listing.jsonl"), "series": series},
            layout.ingest(NAME),
        ),
        spec("prepare", study.source_settings(NAME, "prepare"), {"series": series}, layout.prepare(NAME)),
    )


def reduce_specs_of(prepare: Spec, arm: dict[str, Any]) -> tuple[Spec, Spec]:
    """The specs that describe the slices of a prepared source, and decide about them.

    Args:
        prepare: its spec, from `specs_of`.
        arm: one arm of the study file's section reduce, such as `{"reducer": "hash", "threshold": 6}`.

    Raises:
        StudyError: the arm is none.
    """
    layout = Layout(Path(prepare.root))
    study = load_study({"sources": {NAME: {"path": "."}}, "reduce": {"arms": {"preview": arm}, "controls": False}})
    settings = study.reduce.arms["preview"]
    chosen = settings.reducer
    described = {"hash_sizes": sorted({8, (chosen.options if chosen else {}).get("size", 8)})}
    described["greys"] = sorted({"window", (chosen.options if chosen else {}).get("grey", "window")})  # type: ignore[assignment]
    inputs = {name: [layout.prepare(NAME, file)] for name, file in (("samples", "samples.parquet"), ("volumes", "volumes.tsv"))}
    describe = replace(
        prepare, stage="reduce", name=f"{NAME}/describe", settings=described, inputs=inputs, out=layout.describe(NAME)
    )
    decide = replace(
        describe,
        name=f"{NAME}/preview",
        settings=settings.model_dump(),
        inputs=inputs | {"descriptors": layout.describe(NAME, "descriptors.parquet")},
        out=layout.reduce(NAME, "preview"),
    )
    return describe, decide
