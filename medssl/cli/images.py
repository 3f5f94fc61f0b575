"""Verbs that look at a folder of images before there is a study: check, init, and the preview of a reduction."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from medssl.cli.step import limit_threads
from medssl.core.errors import StudyError, TooManyRefusalsError
from medssl.core.files import file_to_write, folder_to_write, refuse_within
from medssl.core.job import job


def check(
    source: Annotated[Path, typer.Argument(help="folder of DICOM, NIfTI or images, or one file")],
    table: Annotated[Path | None, typer.Option(help="TSV table to write: each file with its id, and why it is refused")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
    id_key: Annotated[
        Path | None, typer.Option(help="key of the ids, as in the study file; default: .medssl/id_key, if it exists")
    ] = None,
    name: Annotated[str, typer.Option(help="name of the source in the study; ids made from file names depend on it")] = "check",
) -> None:
    """Report what a folder holds and what would be refused.

    It runs no study. Its output names files, so it is for you alone.
    """
    from medssl.core.text_table import write_rows
    from medssl.ingest.checking import check_source
    from medssl.ingest.items import COLUMNS
    from medssl.ingest.summary import as_values, hints, screen_lines

    if table is not None:
        refuse_within(table, source)
    checked = check_source(source, id_key=None if id_key is None else str(id_key), name=name)
    if table is not None:
        write_rows(file_to_write(table), COLUMNS, ([*row.values()] for row in checked.items))
    for line in [json.dumps(as_values(checked), indent=1)] if as_json else [*screen_lines(checked), *hints(checked)]:
        print(line)
    if not checked.series:
        raise TooManyRefusalsError("everything in this source is refused; the lines above say why.")


def init(
    folder: Annotated[Path, typer.Argument(help="folder of DICOM, NIfTI or images, or one file")],
    out: Annotated[Path | None, typer.Option(help="study file to write; default: <name of the folder>.yaml, here")] = None,
) -> None:
    """Look at a folder and write a study file for it.

    The file runs as it is. Comments state what was found and what was assumed. No file is overwritten.
    """
    import shlex

    from medssl.core.files import write_text
    from medssl.ingest.checking import check_source
    from medssl.ingest.found import found_in
    from medssl.ingest.summary import screen_lines
    from medssl.study.init import file_name_for, proposed_study, refuse_unusable_folder

    file = Path(file_name_for(str(folder))) if out is None else out
    if file.exists():
        raise StudyError(f"{file} exists and is not overwritten. Name another file with --out.")
    refuse_unusable_folder(str(folder))
    refuse_within(file, folder)
    checked = check_source(folder)
    for line in screen_lines(checked):
        print(line)
    if checked.rejected:
        print(
            f"\n`{shlex.join(['medssl', 'check', str(folder), '--table', 'files.tsv'])}` lists every file, and why it is refused."
        )
    if not checked.series:
        raise TooManyRefusalsError("everything in this source is refused; the lines above say why.")
    text = proposed_study(str(folder), found_in(folder, checked), str(file))
    write_text(file_to_write(file), text)
    print(f"\n{file}\n\n{text}", end="")


def preview(source: Path, out: Path, arm: dict[str, Any], threads: int) -> None:
    """Ingest, prepare and reduce a source in a temporary folder, and keep the pictures."""
    limit_threads(threads)
    from medssl.api.new_images import ingest_and_prepare
    from medssl.reduce import run as reducing
    from medssl.study.one_source import reduce_specs_of, specs_of

    folder_to_write(out)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=out) as folder:
        ingest, prepare = specs_of(source, Path(folder), {}, {})
        describe, decide = reduce_specs_of(prepare, arm)
        ingest_and_prepare(ingest, prepare, threads)
        for step, work_spec in ((reducing.describe, describe), (reducing.run, decide)):
            with job(work_spec, threads=threads) as work:
                step(work)
        summary = json.loads((Path(decide.out) / "summary.json").read_text())
        made = [path for path in sorted(Path(decide.out).iterdir()) if path.suffix in (".png", ".svg")]
        for path in made:
            path.replace(out / path.name)
    print(f"{summary['reducer']}, threshold {summary['threshold']}: {summary['kept']} of {summary['slices']} slices kept")
    curve = summary.get("curve", {"threshold": [], "kept_frac": []})
    for at, kept in list(zip(curve["threshold"], curve["kept_frac"], strict=True))[:: max(len(curve["threshold"]) // 8, 1)]:
        print(f"  at {at:g} about {100 * kept:.0f} %")
    for path in made:
        print(out / path.name)
