"""Records join the training samples by volume and image; those of other parts change nothing, and sources must agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prepared import write_prepared

from medssl.artefacts.records import RECORD
from medssl.artefacts.samples import SAMPLES
from medssl.core import tables
from medssl.core.errors import StudyError
from medssl.nn.loading import Samples, read_samples
from medssl.nn.records import Record
from medssl.pretrain.records import with_records


def written(path: Path, values: dict[str, str], kind: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"volume_id": list(values), "index": None, "kind": kind, "value": list(values.values())})
    RECORD.write(path, table.astype({"index": "Int32"}).sort_values("volume_id", ignore_index=True))
    return path


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Samples, list[str], list[str]]:
    """Samples of three training volumes; the fourth volume tests."""
    inputs = write_prepared(tmp_path, volumes=4, shape=(8, 8, 3))
    (path,) = inputs["samples"]
    table = SAMPLES.read(path)
    volumes = sorted(table["volume_id"].unique())
    table.loc[table["volume_id"] == volumes[3], "split"] = "test"
    tables.write_parquet(Path(path), table)
    return read_samples([path], inputs["volumes"]), [path], volumes


def test_all_slices_of_a_volume_have_its_value_and_the_rest_none(prepared: tuple, tmp_path: Path) -> None:
    samples, paths, volumes = prepared
    ages = written(tmp_path / "age.parquet", {volumes[0]: "50", volumes[2]: "70.5"}, "number")
    found = with_records(samples, ["age"], paths, {"ct": {"age": ages}}).records["age"]
    assert found.kind == "number" and found.num_missing == 3
    np.testing.assert_equal(found.values, np.repeat([50, np.nan, 70.5], 3))
    chosen = with_records(samples, ["age"], paths, {"ct": {"age": ages}}).rows(np.array([8, 0]))
    assert chosen.records["age"].values.tolist() == [70.5, 50]


def test_levels_are_those_of_training_samples_alone(prepared: tuple, tmp_path: Path) -> None:
    samples, paths, volumes = prepared
    first = {volumes[0]: "b", volumes[1]: "c", volumes[2]: "b"}
    found = [
        with_records(
            samples,
            ["site"],
            paths,
            {"ct": {"site": written(tmp_path / f"{other}.parquet", first | {volumes[3]: other}, "category")}},
        ).records["site"]
        for other in ("a", "z")
    ]
    assert found[0].levels == found[1].levels == ("b", "c"), "what a test patient has is known to no run"
    assert np.array_equal(found[0].values, found[1].values) and found[0].values.tolist() == [0.0] * 3 + [1.0] * 3 + [0.0] * 3


def test_a_value_of_an_image_goes_before_that_of_its_set(prepared: tuple, tmp_path: Path) -> None:
    samples, paths, volumes = prepared
    table = pd.DataFrame({"volume_id": [volumes[0]] * 2, "index": [1, None], "kind": "number", "value": ["2", "1"]})
    RECORD.write(tmp_path / "x.parquet", table.astype({"index": "Int32"}))
    found = with_records(samples, ["x"], paths, {"ct": {"x": tmp_path / "x.parquet"}}).records["x"]
    assert found.values[:3].tolist() == [1.0, 2.0, 1.0] and np.isnan(found.values[3:]).all()


def test_a_column_of_which_no_training_sample_has_a_value_is_refused(prepared: tuple, tmp_path: Path) -> None:
    samples, paths, volumes = prepared
    ages = written(tmp_path / "age.parquet", {volumes[3]: "50"}, "number")
    with pytest.raises(StudyError, match="none of the 9 training samples has a value of 'age'"):
        with_records(samples, ["age"], paths, {"ct": {"age": ages}})


def test_sources_must_hold_one_kind(tmp_path: Path) -> None:
    one, two = (
        write_prepared(tmp_path / "a", volumes=1, shape=(8, 8, 2)),
        write_prepared(tmp_path / "b", volumes=1, shape=(8, 8, 2), seed=1),
    )
    other = Path(two["samples"][0]).parent
    other = other.rename(other.with_name("mr"))
    paths = [one["samples"][0], str(other / "samples.parquet")]
    samples = read_samples(paths, [one["volumes"][0], str(other / "volumes.tsv")])
    given = {}
    for source, path, kind, value in (("ct", paths[0], "number", "3"), ("mr", paths[1], "category", "x")):
        (volume,) = SAMPLES.read(path)["volume_id"].unique()
        given[source] = {"x": written(tmp_path / f"{source}.parquet", {volume: value}, kind)}
    with pytest.raises(StudyError, match="different kinds in different sources"):
        with_records(samples, ["x"], paths, given)
    assert with_records(samples, ["x"], paths, {"ct": given["ct"]}).records["x"].num_missing == 2, (
        "a source without records is silent"
    )


def test_a_column_as_numbers() -> None:
    assert Record.of("category", ["b", None, "a"]).values.tolist()[::2] == [1.0, 0.0]
    assert Record.of("number", ["1e3", None]).num_missing == 1
