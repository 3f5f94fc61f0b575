"""Characteristics of patients as counts. Small groups are hidden, and so are counts that would reveal them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import pandas as pd

from medssl.artefacts.labels import GROUP, group_columns
from medssl.report.evidence import Evidence
from medssl.report.section import count

FEWEST = 5
"""A group with fewer patients is shown as `< 5`, and of a source with fewer nothing is shown."""
UNKNOWN = "not known"
SEXES = {"F": "female", "M": "male", "O": "other"}
HIDDEN = "not shown"


def patient_rows(evidence: Evidence) -> pd.DataFrame:
    """A row per source, characteristic and value, with its number of patients; missing where it is hidden.

    Sources that say nothing of their patients, or have fewer than `FEWEST`, have no rows. `shown` is the
    number as a reader sees it.
    """
    rows = [row for source in sorted(evidence.series) for row in _source(evidence, source)]
    return pd.DataFrame(rows, columns=["source", "characteristic", "value", "patients", "shown"])


def _source(evidence: Evidence, source: str) -> Iterator[dict[str, object]]:
    people = people_of(evidence, source)
    if len(people) < FEWEST or not people.notna().any(axis=None):
        return
    yield {"source": source, "characteristic": "Patients", "value": "all", **_cell(len(people))}
    for name in people:
        if people[name].notna().any():
            counts = Counter(people[name].fillna(UNKNOWN).astype(str))
            hidden = to_hide(counts)
            for value in sorted(counts):
                cell = _cell(counts[value], hidden=value in hidden)
                yield {"source": source, "characteristic": name, "value": value, **cell}


def people_of(evidence: Evidence, source: str) -> pd.DataFrame:
    """A row per patient and a column per characteristic: of several values of a patient the first."""
    series = evidence.series[source]
    if "subject_id" not in series:
        return pd.DataFrame()
    known = series[series["subject_id"].notna()]
    found = {}
    for name, column, write in (("Sex", "sex", _sex), ("Age", "age_years", _decade), ("Scanner", "manufacturer_code", str)):
        if column in known:
            found[name] = known.dropna(subset=[column]).groupby("subject_id")[column].first().map(write)
    samples = evidence.samples.get(source, pd.DataFrame())
    ids = set(known["subject_id"]) | (set(samples["subject_id"].dropna()) if "subject_id" in samples else set())
    if "subject_id" in samples:
        for column in group_columns(samples):
            title = column.removeprefix(GROUP).replace("_", " ").capitalize()
            found[title] = samples.dropna(subset=[column, "subject_id"]).groupby("subject_id")[column].first().map(str)
    return pd.DataFrame(found, index=sorted(ids))


def to_hide(counts: Mapping[str, int]) -> set[str]:
    """Which groups of one characteristic are hidden: those below `FEWEST`, and if that is one alone, the smallest other one.

    The sum of all groups is on the page, so that one hidden number would be what is left.
    """
    hidden = {value for value, number in counts.items() if number < FEWEST}
    others = sorted(counts.keys() - hidden, key=lambda value: (counts[value], value))
    return hidden | set(others[:1]) if len(hidden) == 1 else hidden


def _cell(number: int, *, hidden: bool = False) -> dict[str, object]:
    if 0 < number < FEWEST:
        return {"patients": None, "shown": f"< {FEWEST}"}
    return {"patients": None, "shown": HIDDEN} if hidden else {"patients": number, "shown": count(number)}


def _sex(value: object) -> str:
    return SEXES.get(str(value), str(value))


def _decade(years: object) -> str:
    """`60 to 69`, in years."""
    first = int(years) // 10 * 10  # type: ignore[call-overload]
    return f"{first} to {first + 9}" if first < 90 else "90 and more"
