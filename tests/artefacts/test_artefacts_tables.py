"""Tables and JSON files: what is written is read, equal content is equal bytes, and what is not as described is refused."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import medssl.artefacts
from medssl.artefacts import fits, keep, labels, predictions, reference, samples, scores, series
from medssl.artefacts.column import Column
from medssl.artefacts.document import Document, fields_of
from medssl.artefacts.encoder import CURVE
from medssl.artefacts.frames import type_of
from medssl.artefacts.schema import Table
from medssl.core import tables
from medssl.core.errors import CorruptArtefactError

MODULES = [importlib.import_module(f"medssl.artefacts.{m.name}") for m in pkgutil.iter_modules(medssl.artefacts.__path__)]
FOUND = [value for module in MODULES for value in vars(module).values()]
TABLES = {f"{table.folder}/{table.file}": table for table in FOUND if isinstance(table, Table)}
DOCUMENTS = {one for one in FOUND if isinstance(one, type) and issubclass(one, Document) and one is not Document}

# ---- any table


TEXT = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), max_size=6).filter(lambda t: t != "n/a")
FLOATS = {"float64": st.floats(allow_nan=False), "float32": st.floats(allow_nan=False, width=32)}
INTEGERS = {"int8": (-128, 127), "int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1), "uint64": (0, 2**64 - 1)}
OTHERS = {"str": TEXT, "bool": st.booleans(), "bytes": st.binary(max_size=4), "dict": st.dictionaries(TEXT, st.integers())}
JSON_ITEMS = {"int": st.integers(), "float": st.floats(allow_nan=False, allow_infinity=False), "str": TEXT}


def values_of(column: Column) -> st.SearchStrategy[Any]:
    """What one cell of a column may hold."""
    if column.choices:
        known: st.SearchStrategy[Any] = st.sampled_from(column.choices)
    elif column.form:
        known = st.from_regex(column.form, fullmatch=True)
    elif column.dtype in INTEGERS:
        known = st.integers(*INTEGERS[column.dtype])
    elif column.dtype in FLOATS:
        known = FLOATS[column.dtype]
    elif column.dtype == "list":
        known = JSON_ITEMS[column.item]
        for length in reversed(column.shape):
            known = st.lists(known, min_size=length, max_size=length)
        known = known if column.shape else st.lists(known, max_size=3)
    else:
        known = {
            "str": TEXT,
            "bool": st.booleans(),
            "bytes": st.binary(max_size=4),
            "dict": st.dictionaries(TEXT, st.integers()),
        }[column.dtype]
    return st.one_of(st.none(), known) if column.nullable else known


@st.composite
def frames(draw: st.DrawFn, table: Table) -> pd.DataFrame:
    """Some rows of a table, with some of the columns that may be absent."""
    columns = {c.name: c for c in table.columns if not c.optional or draw(st.booleans())}
    for family in table.families:
        columns |= {f"{family.prefix}{name}": family.column for name in draw(st.lists(st.sampled_from("ab"), unique=True))}
    number = draw(st.integers(0, 4))
    frame = pd.DataFrame(index=range(number))
    for name, column in columns.items():
        cells = draw(st.lists(values_of(column), min_size=number, max_size=number))
        frame[name] = pd.Series(cells, dtype=type_of(column, text=table.is_tsv), index=frame.index)
    if table.others:
        frame["made_up"] = draw(st.lists(st.floats(allow_nan=False), min_size=number, max_size=number))
    frame = frame.drop_duplicates([name for name in table.unique if name in columns]) if table.unique else frame
    frame = frame.sort_values(list(table.sorted_by), kind="stable") if table.sorted_by else frame
    return frame.reset_index(drop=True)


def plain(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Values by column, missing ones as None."""

    def value(cell: Any) -> Any:
        missing = cell is None or cell is pd.NA or (isinstance(cell, float) and math.isnan(cell))
        return None if missing else cell.item() if hasattr(cell, "item") else cell

    return {str(name): [value(cell) for cell in frame[name]] for name in frame}


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_written_is_read_and_written_again_byte_for_byte(name: str, data: st.DataObject, tmp_path: Path) -> None:
    table = TABLES[name]
    frame = data.draw(frames(table))
    table.write(tmp_path / table.file, frame)
    again = table.read(tmp_path / table.file)
    assert plain(again) == plain(frame)
    table.write(tmp_path / f"again-{table.file}", again)
    assert (tmp_path / f"again-{table.file}").read_bytes() == (tmp_path / table.file).read_bytes()


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_rows_is_one_and_keeps_its_types(name: str, tmp_path: Path) -> None:
    table = TABLES[name]
    table.write(tmp_path / table.file, table.empty())
    again = table.read(tmp_path / table.file)
    assert again.dtypes.to_dict() == table.empty().dtypes.to_dict()
    assert len(again) == 0


@pytest.mark.parametrize("name", TABLES)
def test_any_missing_column_is_refused_by_name(name: str) -> None:
    table = TABLES[name]
    for column in (c.name for c in table.columns if not c.optional):
        with pytest.raises(CorruptArtefactError, match=f"no column {column!r}.*run the same command again"):
            table.check(table.empty().drop(columns=column))


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_column_of_another_type_is_refused_by_name(name: str, data: st.DataObject) -> None:
    table = TABLES[name]
    frame = data.draw(frames(table).filter(len))
    column = data.draw(st.sampled_from([c for c in table.columns if c.name in frame]))
    frame[column.name] = pd.Series([{"a set"}] * len(frame), dtype=object)  # of no type of a column
    with pytest.raises(CorruptArtefactError, match=f"column {column.name!r}: got .*; expected "):
        table.check(frame)


# ---- as the stages write them, by the writers that they used before there were schemas


def as_before(path: Path, frame: pd.DataFrame) -> bytes:
    (tables.write_tsv if path.suffix == ".tsv" else tables.write_parquet)(path, frame)
    return path.read_bytes()


IDS = [f"v-{n:012x}" for n in (3, 17)]
WORDS = pd.StringDtype("pyarrow", na_value=np.nan)
AFFINE = [[0.7, 0.0, 0.0, -149.55955755], [0.0, 0.7, 0.0, 1e-05], [0.0, 0.0, 5.0, -360.0], [0.0, 0.0, 0.0, 1.0]]


def _series() -> pd.DataFrame:
    rows = [
        dict.fromkeys(series.SERIES.names)
        | {"volume_id": one, "series_id": "s-0123456789ab", "unit": "patient", "kind": "volume", "format": "nifti"}
        | {"modality": "MR", "shape": [4, 5, 6], "spacing_mm": [0.7, 0.7, 5.0], "affine": AFFINE, "dtype": "float32"}
        | {"slope": 1.0, "intercept": 0.0, "num_files": 1 - n, "bytes": 12345678901, "content_sha256": "00e5", "lossy": False}
        | {"resampled": True, "time_index": n, "kvp": 120.0, "age_years": None, "label": False, "warnings": ["tilted", "uneven"]}
        for n, one in enumerate(IDS)
    ]
    rows[0] |= {"time_index": None, "subject_id": "p-0123456789ab", "kernel": "B30f", "age_years": 61, "warnings": []}
    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=object) for name in series.SERIES.names})


def _samples() -> pd.DataFrame:
    names = ("sample_id", "volume_id", "subject_id", "unit", "kind", "split", "array")
    rows = [(f"{IDS[0]}-{n:04d}", IDS[0], None, "image", "images", "train", f"arrays/{IDS[0]}.npy") for n in (0, 1)]
    frame = pd.DataFrame(rows, columns=names).assign(
        axis=np.full(2, 2, np.int8),
        index=np.arange(2, dtype=np.int32),
        position_mm=np.full(2, np.nan, np.float32),
        label=["3", None],
        foreground_frac=np.array([0.1, 1], np.float32),
    )
    return frame.astype(dict.fromkeys([*names, "label"], WORDS))


def _classified() -> pd.DataFrame:
    fit = {"fit_id": "scratch-resnet18-full-0p05-s0", "init": "scratch-resnet18", "mode": "full", "fraction": 0.05}
    seeds = {"pretrain_seed": pd.array([None] * 2, dtype="Int64"), "num_train": 66, "seed": 0}
    cases = {"split": "test", "case_id": ["a", "b"], "unit_id": ["a", "b"], "unit": "image", "target": ["0", ""]}
    return pd.DataFrame(fit | seeds | cases | {"group_sex": ["F", None], "prob_0": [0.25, 1e-17], "prob_1": [0.75, 1.0]})


def _segmented() -> pd.DataFrame:
    masks = {"target": "masks/reference/a.nii.gz", "prediction": "masks/x/a.nii.gz"}
    # not in the order of the text: as the stage finds them
    masks |= {"classes": json.dumps({"2": "spleen", "10": "liver"}), "spacing_mm": json.dumps([0.7, 0.7, 5.0])}
    return _classified().drop(columns=["prob_0", "prob_1"]).assign(**masks)


def _fits() -> pd.DataFrame:
    probe = dict.fromkeys(column.name for column in fits.FITS.columns if not column.optional) | {
        "fit_id": "a",
        "init": "simclr-all",
        "pretrain_seed": 0,
        "mode": "knn",
        "fraction": 1.0,
    }
    probe |= {"seed": 0, "size": [28, 28], "selection": "validation macro AUC", "train_ids_sha256": "225", "backbone": "resnet18"}
    probe |= {"encoder_sha256": "1234567890123456", "seconds": 2.028, "inverse_penalty": 1.0, "val_score": 0.1 + 0.2}
    probe |= dict.fromkeys(["num_train", "num_train_units", "num_units", "num_val", "num_test", "parameters"], 7)
    full = probe | {
        "fit_id": "b",
        "pretrain_seed": None,
        "encoder_sha256": None,
        "augment": True,
        "lr": 0.001,
        "decoder_tensors": 3,
    }
    return pd.DataFrame([probe, full], dtype=object)


def _scores() -> pd.DataFrame:
    row = {"init": "simclr-all", "mode": "full", "fraction": 0.05, "metric": "nsd", "class": "1", "better": "higher"}
    row |= {"estimate": 0.5, "low": np.nan, "high": 0.75, "confidence": 0.95, "n": 550, "n_rarer": None, "unit": "image"}
    row |= {
        "num_cases": 550,
        "num_seeds": 3,
        "seed_sd": 1e-05,
        "seeds_in_interval": 3,
        "method": "bca+seeds",
        "note": "",
        "options": '{"tolerance_mm":1.0}',
    }
    return pd.DataFrame([row, row | {"n_rarer": 50, "options": "{}"}]).astype({"n_rarer": "Int64"})


def _curve() -> pd.DataFrame:
    rows = [{"epoch": 0, "step": n, "loss": 4.9 / n, "lr": 0.0, "images_per_s": 24.5, "grad_norm": None} for n in (1, 2)]
    rows[1] |= {"effective_rank": 58.9, "clusters": 3.0}
    return pd.DataFrame(rows)


BEFORE = {
    "series.tsv": (series.SERIES, _series),
    "samples.parquet": (samples.SAMPLES, _samples),
    "predictions.parquet": (predictions.PREDICTIONS, _classified),
    "segmented.parquet": (predictions.PREDICTIONS, _segmented),
    "fits.tsv": (fits.FITS, _fits),
    "scores.tsv": (scores.SCORES, _scores),
    "curve.tsv": (CURVE, _curve),
    "keep.parquet": (
        keep.KEEP,
        lambda: pd.DataFrame(
            {
                "sample_id": pd.Series(["v-1-0000", "v-1-0001"], dtype=WORDS),
                "keep": [True, False],
                "reason": pd.Series(["kept", "duplicate"], dtype=WORDS),
                "twin": pd.Series([None, "v-1-0000"], dtype=WORDS),
                "distance": np.array([np.nan, 0.1], np.float32),
            }
        ),
    ),
    "labels.parquet": (
        labels.LABELS,
        lambda: pd.DataFrame(
            [("v-1", 0, "a|b", None, "F"), ("v-2", None, None, "masks/v-2.npy", None)],
            columns=["volume_id", "index", "label", "mask", "group_sex"],
        ).astype({"index": "Int32"}),
    ),
    "images.parquet": (
        series.IMAGES,
        lambda: pd.DataFrame(
            [{"index": n, "image_id": f"i-{n}", "label": None, "split": "train", "subject_id": None} for n in (0, 1)]
        ),
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_bytes_of_the_stages_stay_as_they_were(name: str, tmp_path: Path) -> None:
    table, made = BEFORE[name]
    before = as_before(tmp_path / name, made())
    table.write(tmp_path / f"again-{name}", table.read(tmp_path / name))
    assert (tmp_path / f"again-{name}").read_bytes() == before


def test_equal_content_is_equal_bytes_whatever_pandas_calls_it(tmp_path: Path) -> None:
    as_before(tmp_path / "before.parquet", _classified())
    for number, change in enumerate([lambda f: f, lambda f: f.astype({"case_id": object, "group_sex": object})]):
        predictions.PREDICTIONS.write(tmp_path / f"{number}.parquet", change(_classified()))
        assert (tmp_path / f"{number}.parquet").read_bytes() == (tmp_path / "before.parquet").read_bytes()


def test_cells_of_json_are_lists_and_dictionaries_and_numbers_are_numbers(tmp_path: Path) -> None:
    as_before(tmp_path / "series.tsv", _series())
    row = series.read_series(tmp_path / "series.tsv")[0]
    assert (row["shape"], row["affine"], row["warnings"]) == ([4, 5, 6], AFFINE, [])
    assert (row["time_index"], row["age_years"], row["kvp"], row["lossy"]) == (None, 61, 120.0, False)
    as_before(tmp_path / "segmented.parquet", _segmented())
    frame = predictions.PREDICTIONS.read(tmp_path / "segmented.parquet")
    assert frame["classes"][0] == {"2": "spleen", "10": "liver"}
    as_before(tmp_path / "scores.tsv", _scores())
    read = scores.SCORES.read(tmp_path / "scores.tsv")
    assert read["options"].tolist() == [{"tolerance_mm": 1.0}, {}]
    assert read["class"].tolist() == ["1", "1"]  # a name, though it looks like a number


@pytest.mark.parametrize("name", [name for name in TABLES if TABLES[name].is_tsv])
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_rows_are_written_as_frames_are(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """Also where a number is whole that need not be; and they are read as they were."""
    table = TABLES[name]
    frame = data.draw(frames(table))
    table.write(tmp_path / "frame.tsv", frame)
    rows = [dict(zip(plain(frame), row, strict=True)) for row in zip(*plain(frame).values(), strict=True)]

    def whole(value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() and str(value) != "-0.0" else value

    cells = {column: list(map(whole, values)) for column, values in plain(frame).items()}
    table.write_cells(tmp_path / "cells.tsv", cells)
    if not table.others:
        assert (tmp_path / "cells.tsv").read_bytes() == (tmp_path / "frame.tsv").read_bytes()
    assert table.read_rows(tmp_path / "frame.tsv") == rows


def test_some_columns_are_read_alone(tmp_path: Path) -> None:
    for name in ("keep.parquet", "fits.tsv"):
        table, made = BEFORE[name]
        as_before(tmp_path / name, made())
        some = [table.names[1], table.names[3]]
        assert plain(table.read(tmp_path / name, columns=some)) == {
            column: values for column, values in plain(table.read(tmp_path / name)).items() if column in some
        }
        with pytest.raises(CorruptArtefactError):
            table.read(tmp_path / name, columns=["no such"])


# ---- what is not as described


def _changed(frame: pd.DataFrame, column: str, value: Any) -> pd.DataFrame:
    frame = frame.copy()
    frame[column] = frame[column].astype(object)
    frame.at[0, column] = value
    return frame


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("series.tsv", lambda f: f.drop(columns="shape"), "no column 'shape'"),
        ("series.tsv", lambda f: f.assign(extra=1), "a column 'extra' that is not known"),
        ("series.tsv", lambda f: f.iloc[::-1], "column 'volume_id': got rows out of order"),
        ("series.tsv", lambda f: pd.concat([f, f]), r"column 'volume_id': got \['v-000000000003'\] in two rows"),
        ("series.tsv", lambda f: pd.concat([f, f["bytes"]], axis=1), "column 'bytes': got the column twice"),
        ("series.tsv", lambda f: _changed(f, "volume_id", "Müller"), "column 'volume_id': got 'Müller'; expected text of the"),
        ("series.tsv", lambda f: _changed(f, "shape", [1, 2]), r"column 'shape': got \[1, 2\]; expected list of 3 int"),
        ("series.tsv", lambda f: _changed(f, "shape", [1, 2, True]), "column 'shape'"),
        ("series.tsv", lambda f: _changed(f, "shape", "[1, 2, 3]"), "column 'shape'"),
        ("series.tsv", lambda f: _changed(f, "affine", [*AFFINE[:3], [0.0, 0.0, 1.0]]), "column 'affine'"),
        ("series.tsv", lambda f: _changed(f, "affine", [*AFFINE[:3], [0.0, 0.0, 0.0, float("nan")]]), "column 'affine'"),
        ("series.tsv", lambda f: _changed(f, "warnings", [1]), "column 'warnings'"),
        ("series.tsv", lambda f: _changed(f, "lossy", 0), "column 'lossy': got 0; expected bool"),
        ("series.tsv", lambda f: _changed(f, "num_files", 1.5), "column 'num_files'"),
        ("series.tsv", lambda f: _changed(f, "num_files", None), "column 'num_files': got 1 missing value"),
        ("series.tsv", lambda f: _changed(f, "unit", "subject"), "got 'subject'; expected one of patient, image"),
        ("samples.parquet", lambda f: f.assign(axis=f["axis"].astype("int64")), "column 'axis': got int64; expected int8"),
        ("samples.parquet", lambda f: f.assign(foreground_frac=0.5), "column 'foreground_frac': got float64; expected float32"),
        ("samples.parquet", lambda f: f.assign(array="../x.npy"), "column 'array': got '../x.npy'"),
        ("samples.parquet", lambda f: f.assign(index=np.zeros(2, np.int32)), "column 'volume_id': got .* in two rows"),
        ("keep.parquet", lambda f: f.assign(sample_id="v-1-0000"), r"column 'sample_id': got \['v-1-0000'\] in two rows"),
        ("keep.parquet", lambda f: f.iloc[::-1], "column 'sample_id': got rows out of order"),
        ("keep.parquet", lambda f: f.assign(reason="bored"), "got 'bored'; expected one of kept, duplicate"),
        ("labels.parquet", lambda f: f.assign(group_sex=1), "column 'group_sex': got int64; expected str or missing"),
        ("predictions.parquet", lambda f: f.assign(prob_0="high"), "column 'prob_0'"),
        ("fits.tsv", lambda f: _changed(f, "lr", "fast"), "column 'lr'"),
    ],
)  # fmt: skip
def test_what_is_not_as_described_is_not_written(name: str, change: Any, sentence: str, tmp_path: Path) -> None:
    table, made = BEFORE[name]
    as_before(tmp_path / f"good.{name.split('.')[1]}", made())
    good = table.read(tmp_path / f"good.{name.split('.')[1]}")
    with pytest.raises(CorruptArtefactError, match=sentence) as caught:
        table.write(tmp_path / name, change(good))
    assert name in str(caught.value) and "run the same command again" in str(caught.value)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fit_id\tstep\tloss\tval_score\na\t1\t0.5", "does not end with a whole line"),
        ("", "does not end with a whole line"),
        ("fit_id\tstep\tloss\tval_score\na\t1\t0.5\n", "line 2: got 3 cells; expected 4"),
        ("fit_id\tstep\tstep\tval_score\na\t1\t1\t1\n", "a column twice"),
        ("fit_id\tstep\tloss\tval_score\na\t1.5\t0.5\tn/a\n", "column 'step': got the cell '1.5'; expected int64"),
        ("fit_id\tstep\tloss\tval_score\na\tn/a\t0.5\tn/a\n", "column 'step': got 1 missing value"),
        ("fit_id\tstep\tloss\tval_score\nM\udcfcller\t1\t0.5\t1\n", "is not a readable table"),
    ],
)
def test_a_damaged_tsv_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "curves.tsv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CorruptArtefactError, match=sentence) as caught:
        fits.CURVES.read(tmp_path / "curves.tsv")
    assert "curves.tsv" in str(caught.value)


def test_a_damaged_parquet_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "keep.parquet").write_bytes(b"PAR1")
    for name in ("keep.parquet", "gone.parquet"):
        with pytest.raises(CorruptArtefactError, match=f"{name} is not a readable table"):
            keep.KEEP.read(tmp_path / name)


# ---- the page


def test_everything_has_a_meaning() -> None:
    for name, table in TABLES.items():
        assert table.meaning, name
        for column in (*table.columns, *(family.column for family in table.families)):
            assert column.meaning, f"{name}: {column.name}"
            assert "|" not in column.meaning + column.unit, f"{name}: {column.name} would end its cell of the page"
    for document in DOCUMENTS:
        known = set(series.SERIES.names) if document is series.VolumeFile else set()
        assert [name for name, _, _, meaning in fields_of(document) if not meaning and name not in known] == []


def test_units_end_names() -> None:
    ends = {"_mm": "mm", "_deg": "°", "_ml": "ml", "_frac": "0…1"}
    for name, table in TABLES.items():
        for column in table.columns:
            for end, unit in ends.items():
                assert not column.name.endswith(end) or column.unit == unit, f"{name}: {column.name}"


def test_a_volume_file_repeats_the_row_of_its_volume() -> None:
    assert list(series.VolumeFile.model_fields)[: len(series.SERIES.names)] == series.SERIES.names


def test_the_page_is_the_one_that_is_generated() -> None:
    page = Path(reference.__file__).parents[2] / "docs" / "reference" / "artefacts.md"
    assert page.read_text(encoding="utf-8") == reference.page(), (
        "run: python -m medssl.artefacts.reference > docs/reference/artefacts.md"
    )


def test_every_table_and_document_is_on_the_page() -> None:
    shown = [one for _, _, described in reference.SECTIONS for one in described]
    assert {f"{t.folder}/{t.file}" for t in shown if isinstance(t, Table)} == set(TABLES)
    assert {d for d in shown if not isinstance(d, Table)} == {d for d in DOCUMENTS if d.FILE}
