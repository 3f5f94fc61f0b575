"""Tables read back as they were written, and equal content is equal bytes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from medssl.core.tables import read_parquet, read_tsv, write_parquet, write_tsv


def test_a_table_survives_the_round_trip(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "volume_id": ["v-1", "v-2", None],
            "value": [0.1, 1e-17, float("nan")],
            "count": [1, 2, 3],
            "good": [True, False, True],
            "shape": [[1, 2], [3, 4], [5, 6]],
        }
    )
    write_tsv(tmp_path / "t.tsv", rows)
    back = read_tsv(tmp_path / "t.tsv")
    assert back["volume_id"].tolist() == ["v-1", "v-2", None]
    assert back["value"].tolist()[:2] == [0.1, 1e-17] and pd.isna(back["value"][2])
    assert back["count"].tolist() == [1, 2, 3] and back["good"].tolist() == [True, False, True]
    assert back["shape"][0] == "[1, 2]"


def test_ids_of_digits_stay_text_and_missing_is_written_out(tmp_path: Path) -> None:
    write_tsv(tmp_path / "t.tsv", pd.DataFrame({"case_id": ["007", None]}))
    assert (tmp_path / "t.tsv").read_text() == "case_id\n007\nn/a\n"
    assert read_tsv(tmp_path / "t.tsv")["case_id"].tolist() == ["007", None]


def test_tabs_and_newlines_cannot_break_a_row(tmp_path: Path) -> None:
    write_tsv(tmp_path / "t.tsv", pd.DataFrame({"sentence": ["a\tb\nc\rd"]}))
    assert read_tsv(tmp_path / "t.tsv")["sentence"].tolist() == ["a b c d"]


def test_equal_tables_are_equal_bytes(tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": [1.5, 2.5]})
    for name in ("1", "2"):
        write_parquet(tmp_path / name, rows)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert read_parquet(tmp_path / "1").equals(rows)
