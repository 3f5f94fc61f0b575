"""Verbs that use what a study has trained: export, convert, embed, predict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medssl.cli.parameters import Force, Overwrite, Threads
from medssl.cli.step import limit_threads
from medssl.core.errors import StudyError
from medssl.core.files import file_to_write, refuse_existing, refuse_within

if TYPE_CHECKING:
    from medssl.api.new_images import NewImages


def export(
    run: Annotated[
        Path,
        typer.Argument(help="pre-training run, 4_pretrain/<cohort>/<run>; or a model, 5_finetune/<task>/models/<start>"),
    ],
    library: Annotated[str, typer.Option(help="hf, monai, nnunet, timm or torchvision; for a fine-tuned model onnx")],
    out: Annotated[Path, typer.Option(help="folder to write to")],
    overwrite: Overwrite = False,
) -> None:
    """Write an encoder for another library, or a model as ONNX."""
    if library == "onnx":
        from medssl.api.onnx_file import export_onnx

        written, steps = export_onnx(run, out, overwrite=overwrite), ""
    else:
        from medssl.nn.transfer import export as write
        from medssl.nn.transfer import first_steps

        written = write(run, library, out, overwrite=overwrite)
        steps = first_steps(out)
    for path in written:
        print(path)
    print(steps, end="")


def convert(
    foreign: Annotated[Path, typer.Argument(help="a .pth or .safetensors file of another program")],
    out: Annotated[Path, typer.Option(help="the safetensors file to write")],
    strip: Annotated[str, typer.Option(help="prefix to remove from the tensor names")] = "",
    key: Annotated[str, typer.Option(help="entry of the file that holds the weights")] = "",
    overwrite: Overwrite = False,
) -> None:
    """Convert weights of another program to safetensors.

    Only tensors are read, in a separate process.
    """
    from medssl.nn.transfer import convert as write

    refuse_existing([file_to_write(out)], overwrite=overwrite)
    print(write(foreign, out, strip=strip, key=key))


def embed(
    source: Annotated[
        Path, typer.Argument(help="folder of new DICOM, NIfTI or images; an NPZ file; or a prepared source, 2_prepare/<source>")
    ],
    run: Annotated[Path, typer.Argument(help="folder of a pre-training run, 4_pretrain/<cohort>/<run>")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the Parquet table to write")],
    threads: Threads = 1,
    force: Force = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the features of images to a table."""
    limit_threads(threads)
    from medssl.api.new_images import new_images
    from medssl.nn.transfer import embed as write
    from medssl.nn.transfer import read_contract, sections_of

    contract = read_contract(run)
    refuse_within(out, source)
    ledgers = [out.with_suffix(f".{name}.tsv") for name in ("files", "rejected")]
    refuse_existing([file_to_write(out), *ledgers], overwrite=overwrite)
    if (source / "samples.parquet").is_file():
        print(f"{write(source, run, out, force=force)} rows in {out}")
        return
    with new_images(source, *sections_of(contract), beside=out.parent, threads=threads, force=force) as new:
        print(f"{write(new.prepared, run, out, force=force)} rows in {out}")
    _write_ledgers(new, *ledgers)


def predict(
    model: Annotated[Path, typer.Argument(help="folder of a fine-tuned model, 5_finetune/<task>/models/<start>")],
    source: Annotated[Path, typer.Argument(help="folder of new DICOM, NIfTI or images, or an NPZ file")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write to")],
    class_name: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS=NAME", help="name of a class in DICOM segmentations, such as 6=liver; may be repeated"),
    ] = None,
    subject_pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="where a file's path names the patient: its group, such as '(case\\d+)'"),
    ] = None,
    threads: Threads = 1,
    force: Force = False,
    overwrite: Overwrite = False,
) -> None:
    """Apply a fine-tuned model to new images.

    A segmentation model writes masks on the grids of the images, for DICOM input also as DICOM. Other models write a
    table of probabilities, values or risks, with a row for each answer.
    """
    limit_threads(threads)
    from medssl.api.predicting import predict as write

    names = _class_names(class_name or [])
    options: dict[str, Any] = {"threads": threads, "force": force, "overwrite": overwrite}
    written, said = write(model, source, out, class_names=names, subject_pattern=subject_pattern, **options)
    for path in written:
        print(path)
    for sentence in said:
        print(f"medssl: note: {sentence}", file=sys.stderr)


def _class_names(given: list[str]) -> dict[str, str]:
    """The pairs of `CLASS=NAME`.

    Raises:
        StudyError: one has no `=`, no class, or no name.
    """
    pairs = [text.partition("=") for text in given]
    for label, sign, name in pairs:
        if not (label and sign and name.strip()):
            raise StudyError(f"--class-name {label}{sign}{name}: expected a class and its name, such as 6=liver.")
    return {label: name.strip() for label, _, name in pairs}


def _write_ledgers(new: NewImages, names_path: Path, rejected_path: Path) -> None:
    """Write a table with the file of each id, and a table of refused files."""
    from medssl.api.new_images import FILE_COLUMNS, files_row
    from medssl.artefacts.series import REJECTED
    from medssl.core.text_table import write_rows

    write_rows(names_path, FILE_COLUMNS, map(files_row, new.origins))
    REJECTED.write_rows(rejected_path, new.rejected)
    print(names_path)
    if new.rejected:
        print(f"{sum(row['num_files'] for row in new.rejected)} files refused, see {rejected_path}", file=sys.stderr)
