"""What a column of a source's records says of its volumes and images. Private, because it may describe people."""

from __future__ import annotations

from typing import get_args

from medssl.artefacts.column import Column
from medssl.artefacts.schema import Table
from medssl.artefacts.volumes import VOLUME_ID
from medssl.core.record_table import Kind

RECORD = Table(
    file="record.parquet",
    folder=".medssl/<study>/<source>/records/<column>",
    meaning="A row per volume or image of which a column of records says something. Only runs that ask for it read it.",
    columns=(
        VOLUME_ID,
        Column("index", "int32", "of an image in its set; missing for a volume", nullable=True),
        Column("kind", "str", "what the column holds, the same in every row", choices=get_args(Kind)),
        Column("value", "str", "as the table has it"),
    ),
    sorted_by=("volume_id", "index"),
    unique=("volume_id", "index"),
)
