"""Joins the records that an objective reads to its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medssl.artefacts.labels import of_samples
from medssl.artefacts.records import RECORD
from medssl.artefacts.samples import SAMPLES
from medssl.core.errors import StudyError
from medssl.nn.loading import Samples
from medssl.nn.records import Record


def with_records(
    samples: Samples, columns: Sequence[str], tables: Sequence[str], given: Mapping[str, Mapping[str, Path]]
) -> Samples:
    """The samples with columns of records. A source without records says nothing of its samples.

    Args:
        samples: those of the run: training samples alone, so that levels are known from these.
        columns: that the objective reads.
        tables: of the samples of each source.
        given: by source and column, a table `RECORD`.

    Raises:
        StudyError: no sample has a value, or sources hold different kinds.
    """
    found = {}
    read = {source: SAMPLES.read(path) for path in tables if (source := Path(path).parent.name) in given}
    for column in columns:
        said: dict[str, str | None] = {}
        kinds: dict[str, str] = {}
        for source, table in read.items():
            record = RECORD.read(given[source][column])
            said |= dict(zip(table["sample_id"], of_samples(table, record, "value"), strict=True))
            kinds[source] = str(record["kind"].iloc[0])
        texts = [said.get(name) for name in samples.ids]
        if all(text is None for text in texts):
            raise StudyError(
                f"records: none of the {len(samples)} training samples has a value of {column!r}. Add rows for them to the "
                "records, or take the column out of the objective's options."
            )
        if len(set(kinds.values())) > 1:
            raise StudyError(
                f"records: {column!r} holds different kinds in different sources: {kinds}. Set sources.<name>.record_kinds alike."
            )
        found[column] = Record.of("number" if "number" in kinds.values() else "category", texts)
    return replace(samples, records=found)
