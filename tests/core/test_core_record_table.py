"""A column of records is numbers or categories, or is refused with a code and without any of its values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.core.errors import StudyError
from medssl.core.record_table import (
    Problem,
    RecordColumn,
    column_of,
    contradictions_in,
    gives_the_label_away,
    place_of,
    read_records,
    require,
    rows_against_the_label,
)

ROWS = 40


def table(folder: Path, cells: list[str], name: str = "x") -> Path:
    path = folder / "records.csv"
    path.write_text(f"id,{name}\n" + "".join(f'p{n},"{cell}"\n' for n, cell in enumerate(cells)))
    return path


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([str(50 + n / 2) for n in range(ROWS)], "number"),
        (["F", "M"] * 20, "category"),
        ([*["1.5"] * 20, *["-2e3"] * 18, "", "n/a"], "number"),
        (["0", "0.5", "1", "2"] * 10, "number"),
        ([f"site {n % 7}" for n in range(ROWS)], "category"),
        ([str(1400 + 7 * n) for n in range(ROWS)], "number"),  # volumes in ml: different, and no record numbers
        (["01", "02"] * 20, "number"),
        (["2"] + ["3"] * 5, "number"),
        (["Marconi 8000", "Mars 3"] * 20, "category"),
        (["1_000", "2_000"] * 20, "category"),
    ],
)
def test_the_kind_of_a_column_is_that_of_its_cells(cells: list[str], kind: str, tmp_path: Path) -> None:
    found = column_of(read_records(table(tmp_path, cells)), "x")
    assert isinstance(found, RecordColumn) and found.kind == kind
    filled = [cell for cell in cells if cell not in ("", "n/a")]
    assert [text for *_, text in found.cells] == filled and found.missing == len(cells) - len(filled)


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ([""] * ROWS, "no_value"),
        (["F"] * ROWS, "one_value"),
        ([f"19{10 + n}-03-0{1 + n % 9}" for n in range(ROWS)], "date"),
        ([f"19{10 + n}030{1 + n % 9}" for n in range(ROWS)], "date"),
        ([f"{1 + n % 28}.3.1{950 + n}" for n in range(ROWS)], "date"),
        ([f"0{1 + n % 9}/12/{10 + n}" for n in range(ROWS)], "date"),
        ([f"20{10 + n}-03-01T10:30:00" for n in range(ROWS)], "date"),
        ([f"19{50 + n}/{1 + n % 9}/5" for n in range(ROWS)], "date"),
        ([f"19{50 + n}-0{1 + n % 9}" for n in range(ROWS)], "date"),
        ([f"2026112910300{n % 10}.{n}" for n in range(ROWS)], "date"),
        ([f"{1 + n % 28}. 3. 1{950 + n}" for n in range(ROWS)], "date"),
        ([f"{1 + n % 28}-{['Jan', 'Mai', 'Dez'][n % 3]}-{1950 + n}" for n in range(ROWS)], "date"),
        ([f"{['Nov.', 'March', 'sept'][n % 3]} {1 + n % 28}, {1950 + n}" for n in range(ROWS)], "date"),
        (["F"] * 20 + ["NaN"] * 20, "no_value_word"),
        (["61"] * 30 + ["62"] * 9 + ["null"], "no_value_word"),
        (["10"] * 39 + ["unknown"], "not_a_number"),
        ([f"{50 + n},{n % 10}" for n in range(ROWS)], "not_a_number"),
        ([f"{50 + n} kg" for n in range(ROWS)], "not_a_number"),
        ([f"0{50 + n}Y" for n in range(ROWS)], "not_a_number"),  # the age of DICOM
        ([f"{n / 8:.1f}%" for n in range(ROWS)], "not_a_number"),
        ([f"nodule in the upper lobe, no effusion; case {n}" for n in range(ROWS)], "free_text"),
        ([f"word{n}" for n in range(60)], "free_text"),
        ([f"Name{n}" for n in range(ROWS)], "near_unique"),
        ([str(4_711_000 + n) for n in range(ROWS)], "near_unique"),
        ([str(4_711_000 + n // 3) for n in range(ROWS)], "near_unique"),  # of patients with three scans
    ],
)
def test_what_can_name_a_person_or_says_nothing_is_refused(cells: list[str], code: str, tmp_path: Path) -> None:
    found = column_of(read_records(table(tmp_path, cells)), "x")
    assert isinstance(found, Problem) and found.code == code
    shown = {cell for cell in cells if len(cell) > 3}
    assert not any(cell in found.text for cell in shown), "a sentence quotes no cell"
    with pytest.raises(StudyError, match=code):
        require(read_records(table(tmp_path, cells)), "x", None)


def test_the_study_file_decides_where_cells_leave_doubt(tmp_path: Path) -> None:
    rows = read_records(table(tmp_path, ["1", "2", "3", "4"] * 10))
    declared = column_of(rows, "x", "category")
    assert isinstance(declared, RecordColumn) and declared.kind == "category"
    fields = column_of(read_records(table(tmp_path, ["1,5T", "3T"] * 20)), "x")
    assert isinstance(fields, RecordColumn) and fields.kind == "category"
    sizes = read_records(table(tmp_path, [f"{n % 12},5" for n in range(60)]))
    assert isinstance(column_of(sizes, "x"), Problem) and isinstance(column_of(sizes, "x", "category"), RecordColumn)
    long = read_records(table(tmp_path, [str(4_711_000 + n) for n in range(ROWS)]))
    assert isinstance(column_of(long, "x", "number"), RecordColumn)
    words = column_of(read_records(table(tmp_path, ["F", "M"] * 20)), "x", "number")
    assert isinstance(words, Problem) and words.code == "not_a_number" and "row 2" in words.text
    assert isinstance(column_of(read_records(table(tmp_path, ["1999-01-01"] * 39 + ["2000-01-02"])), "x", "category"), Problem)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=9, unique=True))
def test_every_finite_number_is_one(values: list[float]) -> None:
    cells = tuple((f"p{n}", n, repr(value)) for n, value in enumerate(values))
    rows = read_rows(cells)
    found = column_of(rows, "x", "number")
    assert isinstance(found, RecordColumn) and [float(text) for *_, text in found.cells] == values


def read_rows(cells: tuple[tuple[str, int, str], ...]):
    from medssl.core.label_table import LabelRow, LabelTable

    rows = LabelTable()
    rows.columns, rows.trimmed = ["id", "x"], []
    for name, number, text in cells:
        row = LabelRow(file=name, x=text)
        row.number = number
        rows.append(row)
    return rows


def test_ids_labels_and_parts_are_not_records_and_a_wrong_name_is_hinted_at(tmp_path: Path) -> None:
    path = tmp_path / "both.csv"
    path.write_text("id,label,split,age\na,x,train,5\nb,y,test,6\n")
    rows = read_records(path)
    for name in ("id", "label", "split"):
        found = column_of(rows, name)
        assert isinstance(found, Problem) and found.code == "not_a_record"
    wrong = column_of(rows, "agee")
    assert isinstance(wrong, Problem) and wrong.code == "no_column" and "Did you mean 'age'?" in wrong.text
    path.write_text("name,age\na,5\n")
    with pytest.raises(StudyError, match=r"^records: the table has the columns .* and others"):
        read_records(path)


def test_two_rows_of_one_id_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    path.write_text("id,age\na,5\nb,6\na,5\nb,7\n")
    rows = read_records(path)
    column = column_of(rows, "age")
    assert isinstance(column, RecordColumn) and list(contradictions_in(column)) == [(3, 5)]
    with pytest.raises(StudyError, match="rows 3 and 5"):
        require(rows, "age", None)


@pytest.mark.parametrize(
    ("values", "away"),
    [
        (["0", "0.5", "1"] * 20, True),  # each has one label
        (["0", "1", "2"] * 20, False),  # 1 is of both
        (["0", "0", "0", "0", "0", "1", "1", "2", "2", "3", "3", "4", "4", "5", "5"] * 2, True),  # codes of few rows each
        ([str(n) for n in range(60)], False),  # every value once: a measurement
    ],
)
def test_a_column_gives_the_label_away_where_each_of_its_values_has_one(values: list[str], away: bool) -> None:
    label_of = {
        f"p{n}": "well" if value == "0" or (value == "1" and not away and n % 2) else "ill" for n, value in enumerate(values)
    }
    assert gives_the_label_away([(f"p{n}", value) for n, value in enumerate(values)], label_of) is away
    assert not gives_the_label_away([], label_of)
    assert not gives_the_label_away([(f"p{n}", value) for n, value in enumerate(values)], dict.fromkeys(label_of, "one"))


@pytest.mark.parametrize(
    ("value_of", "label_of", "away"),
    [
        (lambda n: n / 7, lambda n: 50 + 1.5 * n, True),  # the label in another unit
        (lambda n: -n, lambda n: n // 2, True),  # the other way round
        (lambda n: 10 * (n % 2) + n / 100, lambda n: "ill" if n % 2 else "well", True),  # a threshold separates
        (lambda n: n, lambda n: n * 7919 % 101, False),
        (lambda n: n, lambda n: "ill" if n % 3 else "well", False),
        (lambda n: n, lambda n: "ill" if n else "well", False),  # one case is the smallest by chance
        (lambda n: n // 2, lambda n: n, False),  # half of the label's steps
        (lambda n: f"site {n}", lambda n: n, False),
    ],
)
def test_numbers_in_the_order_of_the_labels_give_them_away(
    value_of: Callable[[int], object], label_of: Callable[[int], object], away: bool
) -> None:
    values, labels = [(f"p{n}", str(value_of(n))) for n in range(ROWS)], {f"p{n}": str(label_of(n)) for n in range(ROWS)}
    assert gives_the_label_away(values, labels) is away
    assert not gives_the_label_away(values[:4], labels), "of few rows any order is chance"


@pytest.mark.parametrize(
    ("wrong", "majority", "expected"),
    [(0, 0.5, None), (1, 0.5, (1, 40)), (2, 0.5, (2, 40)), (3, 0.5, None), (2, 0.95, None)],
)
def test_a_column_with_a_wrong_cell_nearly_gives_the_label_away(
    wrong: int, majority: float, expected: tuple[int, int] | None
) -> None:
    """Against a rare class a few exceptions say nothing, because knowing nothing is as good."""
    labels = {f"p{n}": "well" if n < majority * ROWS else "ill" for n in range(ROWS)}
    values = [(name, str(int((label == "ill") != (n < wrong)))) for n, (name, label) in enumerate(labels.items())]
    assert rows_against_the_label(values, labels) == expected
    assert rows_against_the_label([(name, str(n)) for n, (name, _) in enumerate(values)], labels) is None


def test_the_folder_of_a_column_is_its_name_or_one_of_its_own() -> None:
    assert place_of("age") == "age"
    odd = {place_of(name) for name in ("age (y)", "age [y]", "age/y")}
    assert len(odd) == 3 and all("/" not in name and " " not in name for name in odd)
    long = {place_of("L" * 300 + end) for end in "ab"}
    assert len(long) == 2 and all(len(name) < 100 for name in long), "file systems refuse very long names"
