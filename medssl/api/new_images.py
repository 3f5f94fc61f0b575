"""Images of no study, ingested and prepared in a folder that is removed afterwards: for `predict`, `embed` and `medssl.load`."""

from __future__ import annotations

import contextlib
import functools
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.core.errors import TooManyRefusalsError
from medssl.core.files import write_text
from medssl.core.job import Spec, job
from medssl.core.listing import spelled
from medssl.ingest import run as ingesting
from medssl.ingest.items import Origin
from medssl.study.one_source import all_refused, other_modality, read_rejected, specs_of


@dataclass(frozen=True)
class NewImages:
    """What became of them. Folders are gone when the block of `new_images` ends."""

    root: Path
    """the folder that names of files are below"""
    volumes: Path
    """ingest's folder of volumes, with the grids as they were given"""
    prepared: Path
    """folder of `samples.parquet` and `volumes.tsv`"""
    origins: list[Origin]
    """of each volume, and each picture, the files it came from"""
    rejected: list[dict[str, Any]]
    """rows of `rejected.tsv`"""


@contextlib.contextmanager
def new_images(
    source: Path | Sequence[Path],
    ingest_section: dict[str, Any],
    prepare_section: dict[str, Any],
    *,
    beside: Path | None = None,
    threads: int = 1,
    force: bool = False,
    own_ids: bool = False,
) -> Iterator[NewImages]:
    """Ingest and prepare images as a study with these sections would.

    Images of another modality than the sections name are set aside; with `force` they are taken.

    Args:
        source: a folder, a file, or several of them.
        beside: where the temporary folder is made; the system's own place where None.
        own_ids: make ids with a key of this call, so that no `.medssl/id_key` is made in the working folder.

    Raises:
        StudyError: nothing is there, or all of it is of another modality.
        TooManyRefusalsError: every file was refused.
    """
    with tempfile.TemporaryDirectory(prefix=".part-", dir=beside) as folder:
        key = Path(folder) / "id_key" if own_ids else None
        if key is not None:
            write_text(key, secrets.token_hex(32) + "\n")
        for number, section in enumerate((ingest_section, {**ingest_section, "modality": "auto"})):
            ingest, prepare = specs_of(source, Path(folder) / str(number), section, prepare_section, id_key=key)
            try:
                ingest_and_prepare(ingest, prepare, threads)
            except TooManyRefusalsError:
                if not (force and other_modality(ingest)):
                    other_modality(ingest, nothing_left=source)
                    raise TooManyRefusalsError(all_refused(ingest, source)) from None
            if not (force and other_modality(ingest)):
                break
        with job(ingest) as work:
            origins = ingesting.origins(work)
            root = ingesting.root_of(work)
        yield NewImages(root, Path(ingest.out) / "volumes", Path(prepare.out), origins, read_rejected(ingest))


FILE_COLUMNS = ["id", "file", "num_files", "part"]
"""Of the private table of which file an id is of; `file`: the first of `num_files`; `part`: which image of an NPZ set."""


def files_row(origin: Origin) -> list[Any]:
    """The row of a volume or picture in that table."""
    return [origin.id, spelled(origin.files[0]), len(origin.files), spelled(origin.part) or None]


def ingest_and_prepare(ingest: Spec, prepare: Spec, threads: int) -> None:
    """The first two stages of a source that belongs to no study."""
    from medssl.prepare import run as preparing

    for step in (ingesting.scan, functools.partial(ingesting.convert, shard=0), ingesting.merge):
        with job(ingest, threads=threads) as work:
            step(work)
    with job(prepare, threads=threads) as work:
        preparing.run(work)
