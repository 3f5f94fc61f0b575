"""A label table that can be read in two ways is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl.core.errors import StudyError
from medssl.core.label_table import read_label_table
from medssl.core.listing import walk


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,label,label\na,yes,f\n", "the column 'label' 2 times"),
        ("id,label, label\na,yes,f\n", "the column 'label' 2 times"),
        ("id,label\na,yes\nb,no,maybe\n", "row 3 of the table has more cells than the header has columns, 2"),
    ],
)
def test_a_column_twice_and_a_row_too_long_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(StudyError, match="labels: ") as error:
        read_label_table(tmp_path / "labels.csv")
    assert words in str(error.value)


@pytest.mark.parametrize("text", ["id,label,\na,yes,\n", "id,label\na,yes,,\n", 'id,label\n"a,b",yes\n'])
def test_empty_columns_and_quoted_cells_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    assert [row["label"] for row in read_label_table(tmp_path / "labels.csv")] == ["yes"]


def test_an_empty_path_is_not_a_source() -> None:
    with pytest.raises(StudyError, match=r"sources\.ct\.path is empty"):
        walk("ct", "")
