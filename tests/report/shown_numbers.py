"""Whether a number that the page shows is the one that lies behind it: a cell its own row's, a sentence its own facts'."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pandas as pd

from medssl.report.section import Figure, Section, Table, Text, percent
from medssl.report.words import metric_name

NUMBER = re.compile(
    r"(?P<below><\s)?(?<![\w.#/-])(?P<sign>[−+]?)(?P<whole>\d(?:[\d\u202f]*\d)?)(?P<decimals>\.\d+)?(?![\w/-])"
    r"(?P<unit>[ \u202f]?(?:%|(?:min|h)\b))?"
)
PROSE = re.compile(
    r"d_z|F1|HD95|RAS\+|SHA-256|first 16 digits|8- or 16-bit|MI-CLAIM|TRIPOD\+AI|\[\d+\]|× 0\.001|arXiv \S+|"
    r"[A-Z][\w ]+ et al\.[^<]*?\d{4}[;:\d]*|Efron.*?171|Holm, Scand.*?65|Obuchowski.*?285|Zou.*?1693"
)
"""Numbers in names, references and units: not results."""
COLUMNS = {
    "Items": "num_groups", "Files": "num_files", "Volumes": "volumes", "Slices": "slices|kept", "Subjects": "subjects",
    "Labelled": "labelled", "Volumes or image sets": "volumes", "Slices or images": "slices", "With a class": "with_class",
    "Of volumes with a mask": "with_mask", "train": "num_cases", "val": "num_cases", "test": "num_cases", "Kept": "kept",
    "Dropped": "dropped", "Share kept": "kept_frac", "Threshold": "threshold", "Time": "seconds|wall_s", "Epochs": "epochs",
    "Steps": "steps", "First loss": "first_loss", "Last loss": "last_loss", "Effective rank": "effective_rank",
    "Images/s": "images_per_s", "AUC, 100\u202f%": "score_most", "AUC, 5\u202f%": "score_fewest", "Falls by": "fall",
    "Of its score": "fall_frac", "Difference of falls": "difference",
    "Labels": "fraction", "Score": "options", "Estimate": "estimate", "Interval": "low high",
    "n": "n", "SD over seeds": "seed_sd", "Seeds": "num_seeds", "Images seen": "images", "Of the time of all": "of_all",
    "Against all": "difference_from_all", "Interval of the difference": "low_from_all high_from_all", "Difference": "difference",
    "p": "p", "p (Holm)": "p_holm", "Effect size": "effect", "Above": "seeds_above num_seeds",
    "Cases (mean of seeds)": "num_cases", "Of the true class": "of_class", "Subjects in two splits": "subjects_in_two",
    "Volumes in two splits": "volumes_in_two", "Slices without a subject": "images_without_subject",
    "Slices dropped": "leak_drops", "Wall time": "wall_s", "Threads": "threads", "Pre-training": "wall_s",
    "Inputs": "num_inputs", "Bytes": "bytes",
}  # fmt: skip
"""By heading, the column behind each number of its cells; the name of a metric heads `estimate low high`."""
LONE_TEXTS = (r'<text class="row"[^>]*>([^<]*)</text>', r'<text class="value"[^>]*>([^<]*)</text>', r"<span[^>]*>([^<]*)</span>")
"""Texts of a drawing that stand for a row each."""


def cell_is_wrong(table: Table, heading: str) -> bool:
    """Whether some cell of a column says another number than its own row holds in the columns that `COLUMNS` names.

    A column of texts must be a column of the rows as it stands.
    """
    rows, cells = _behind(table, heading), [plain(cell) for cell in table.shown[heading]]
    found = [numbers(cell) for cell in cells]
    if any(all(_is_text(cell, row.get(name)) for cell, row in zip(cells, rows, strict=True)) for name in table.rows):
        return False
    names = COLUMNS.get(heading, "estimate low high").split()
    for place in range(max(map(len, found), default=0)):
        name = next((name for name in names[min(place, len(names) - 1)].split("|") if name in table.rows), "no such column")
        if not all(_holds(place, cell, of_cell, row.get(name)) for cell, of_cell, row in zip(cells, found, rows, strict=True)):
            return True
    return False


def wrong_numbers(text: str, known: list[Any]) -> list[str]:
    """Numbers of a text that nothing of what is known says."""
    return [number.group() for number in numbers(plain(text)) if not any(says(number, value) for value in known)]


def statements(name: str, section: Section, study: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Each text of a section outside the cells of its tables, with the values that it may speak of."""
    facts = {key: value for key, value in section.facts.items() if key not in ("text", "references")}
    known = values_of([facts, study] if name == "methods" else facts)
    yield section.lead, known
    if name == "answer":
        yield from _claims(section)
    for block in section.blocks:
        if isinstance(block, Text):
            if block.kind not in ("code", "claim", "detail") and "<pre>" not in str(block.html):
                yield str(block.html), known
            continue
        of_block = [*known, len(block.rows), *_summary(block.rows)]
        yield block.caption, of_block
        if isinstance(block, Table):
            yield " ".join(map(str, block.shown.columns)), of_block
        else:
            yield block.alt, [*of_block, *values_of(block.rows.to_dict("records"))]
            yield from _drawn(block)


def falsified(text: str) -> Iterator[str]:
    """The text with the last digit of each of its numbers changed in turn."""
    text = PROSE.sub(" ", plain(text))
    for number in numbers(text):
        place = max(number.end("whole"), number.end("decimals")) - 1
        yield text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]


def plain(text: object) -> str:
    """A cell or sentence without its tags."""
    return re.sub(r"<[^>]+>", " ", str(text))


@cache
def numbers(text: str) -> tuple[re.Match[str], ...]:
    """The numbers of a text."""
    return tuple(NUMBER.finditer(PROSE.sub(" ", text)))


def says(number: re.Match[str], value: Any) -> bool:
    """Whether a number as it is written is a value: rounded to its digits, in its unit; of a text, as it stands there."""
    if isinstance(value, str):
        return any(_written(number) == _written(other) for other in numbers(value))
    if isinstance(value, bool) or _is_missing(value):
        return False
    if number["below"]:
        return float(value) < _written(number)
    unit = (number["unit"] or "").strip()
    in_unit = 100 * float(value) if unit == "%" else float(value) / {"min": 60, "h": 3600}.get(unit, 1)
    digits = max(0, len(number["decimals"] or "") - 1)
    return float(f"{in_unit:.{digits}f}") == _written(number)


def values_of(value: Any) -> list[Any]:
    """Every number and text anywhere in facts."""
    if isinstance(value, dict):
        return [found for inner in value.values() for found in values_of(inner)]
    if isinstance(value, (list, tuple)):
        return [found for inner in value for found in values_of(inner)]
    return [value]


def _written(number: re.Match[str]) -> float:
    text = number["sign"] + number["whole"] + (number["decimals"] or "")
    return float(text.replace("\u202f", "").replace("−", "-"))


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value))


def _is_text(cell: str, value: Any) -> bool:
    """Whether a cell is a text as it is, or the beginning of a hash."""
    return (isinstance(value, str) and value.startswith(cell)) or (cell in ("", "n/a") and _is_missing(value))


def _holds(place: int, cell: str, found: tuple[re.Match[str], ...], value: Any) -> bool:
    """Whether a value is the number at a place of a cell, or is missing where the cell says so."""
    if len(found) <= place:
        return cell != "n/a" or _is_missing(value)
    if isinstance(value, dict):
        return any(says(found[place], inner) for inner in value.values())
    if isinstance(value, str):
        value = next((number.group() for number in numbers(value)[place : place + 1]), None)
    return says(found[place], value)


def _behind(table: Table, heading: str) -> list[dict[str, Any]]:
    """The row behind each cell of a column: that of its place, and in a wide table the one of its line and column."""
    rows, shown = table.rows.to_dict("records"), table.shown.to_dict("records")
    if table.name.startswith("results-"):
        keyed = {(percent(row["fraction"]), row["init"], metric_name(row["metric"], row["options"])): row for row in rows}
        keyed |= {(percent(row["fraction"]), row["init"], head): row for row in rows for head in ("Labels", "Start")}
        return [keyed.get((line["Labels"], line["Start"], heading), {}) for line in shown]
    if table.name == "labels":
        counts = {(row["source"], row["label"], row["split"]): row for row in rows}
        return [counts.get((line["Source"], line["Class"], heading), line | {"num_cases": 0}) for line in shown]
    return rows[: len(shown)]


def _summary(rows: pd.DataFrame) -> list[Any]:
    """What a caption may say of many rows: the first, the least and the greatest of each column, and the metrics' options."""
    found: list[Any] = values_of(list(rows["options"])) if "options" in rows else []
    for name in rows:
        column = rows[name].dropna()
        if len(column):
            is_number = pd.api.types.is_numeric_dtype(column)
            found += [*values_of(column.iloc[0]), *([column.min(), column.max()] if is_number else [])]
    return found


def _drawn(figure: Figure) -> Iterator[tuple[str, list[Any]]]:
    """The texts of a drawing without ticks and tips; where each row has a text of its own, with that row alone."""
    body = re.sub(r"<title>.*?</title>|<text class=\"tick\".*?</text>", " ", str(figure.body))
    rows = [values_of(row) for row in figure.rows.to_dict("records")]
    for pattern in LONE_TEXTS:
        texts = re.findall(pattern, body)
        each = len(texts) // len(rows)
        if texts and len(texts) == each * len(rows):
            yield from ((text, rows[place // each]) for place, text in enumerate(texts))
            body = re.sub(pattern, " ", body)
    yield plain(body), values_of(rows)


def _claims(section: Section) -> Iterator[tuple[str, list[Any]]]:
    """Claims and their details, in pairs, each with the comparisons that it tells and the scores of their starts."""
    texts = [str(block.html) for block in section.blocks if isinstance(block, Text) and block.kind in ("claim", "detail")]
    for facts in section.facts.values():
        rows = list(facts.get("comparisons", []))
        for size in facts.get("groups", []):
            group, rows = rows[:size], rows[size:]
            arms = {row[side] for row in group for side in "ab"}
            same = [row for row in facts["scores"] if row["init"] in arms and row["fraction"] == group[0]["fraction"]]
            for _ in range(2):
                yield texts.pop(0), values_of([group, same, size])
    assert not texts, "a claim that no facts are behind"
