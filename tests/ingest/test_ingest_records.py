"""A column of records reaches the images that its ids mean, as labels do, and lies outside the results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from phantoms import datasets, random_phantom, save
from test_ingest_label_files import labels_of, pictures
from test_ingest_run import here, ingest_all, spec_of  # noqa: F401

from medssl.core import job as jobs
from medssl.core.errors import StudyError
from medssl.core.layout import Layout
from medssl.core.tables import read_parquet
from medssl.ingest import run
from medssl.ingest.options import RecordOptions


def record_of(source: Path, table: str, column: str, kind: str | None = None) -> pd.DataFrame:
    """Ingest, then the step for a column of a table with this text."""
    Path("records.csv").write_text(table)
    out = ingest_all(source)[2]
    early, place = spec_of(source), Layout.of("results", "s").record("ct", column)
    inputs = {"series": str(out / "series.tsv"), "images": str(out / "volumes")}
    spec = jobs.Spec(
        "ingest", f"ct/records/{column}", "s", early.root, 0, "c1",
        RecordOptions(column=column, kind=kind).model_dump(mode="json"),
        inputs | {"groups": f"{early.private['folder']}/groups.jsonl.gz"},
        place, private=early.private | {"records": str(Path("records.csv").resolve())},
    )  # fmt: skip
    with jobs.job(spec) as job:
        run.record(job)
    assert place.startswith(".medssl/")
    return read_parquet(Path(place) / "record.parquet")


def test_an_id_may_be_a_patient_a_folder_or_a_path(here: Path) -> None:  # noqa: F811
    scans = {}
    for n in range(3):
        made = datasets(random_phantom(n))
        scans[f"case{n}"] = str(made[0].PatientID)
        save(made, here / "in" / f"case{n}")
    by_folder = record_of(here / "in", "id,age\ncase0,50\ncase1,60\ncase2,\n", "age")
    assert sorted(by_folder["value"]) == ["50", "60"] and by_folder["index"].isna().all()
    by_patient = record_of(here / "in", f"id,age\n{scans['case1']},60\n{scans['case0']},50\n", "age")
    pd.testing.assert_frame_equal(by_folder, by_patient)
    assert set(by_folder["kind"]) == {"number"}


def test_pictures_have_values_of_their_own(here: Path) -> None:  # noqa: F811
    pictures(here / "in", ["a/1.png", "a/2.png", "b/3.png"])
    found = record_of(here / "in", "id,stage\na/1.png,1\na/2.png,2\nb,1\nnobody,2\n", "stage", "category")
    assert sorted(found["value"]) == ["1", "1", "2"] and found["index"].notna().all() and set(found["kind"]) == {"category"}
    with pytest.raises(StudyError, match="none of the 2 cells of 'stage' is for an image"):
        record_of(here / "in", "id,stage\nx,1\ny,2\n", "stage")
    with pytest.raises(StudyError, match="rows 2 and 3 of the table say different things of one image in 'stage'"):
        record_of(here / "in", "id,stage\na/1.png,1\na,2\n", "stage")


def test_records_that_give_the_label_away_are_refused_when_ids_became_images(here: Path) -> None:  # noqa: F811
    """Records by patient, labels by folder: the tables share no id, so only ingest sees that they agree."""
    patients = []
    for n in range(10):
        made = datasets(random_phantom(n % 2))
        for ds in made:
            ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = f"patient{n}", f"1.2.{n}", f"1.2.{n}.1"
            ds.SOPInstanceUID = f"1.2.{n}.1.{ds.InstanceNumber}"
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        save(made, here / "in" / f"case{n}")
        patients.append(f"patient{n}")
    record_of(here / "in", "id,stage\n" + "".join(f"{name},{n % 2}\n" for n, name in enumerate(patients)), "stage")
    records = {"stage": str(Path(Layout.of("results", "s").record("ct", "stage")) / "record.parquet")}

    def given(of: Callable[[int], object]) -> None:
        (here / "labels.csv").write_text("id,label\n" + "".join(f"case{n},{of(n)}\n" for n in range(10)))
        labels_of(here / "in", here / "labels.csv", records=records)

    given(lambda n: ["well", "ill"][n // 5])
    with pytest.raises(StudyError, match=r"'stage' gives the label away.*sources.ct.label_as_feature: true"):
        given(lambda n: ["well", "ill"][n % 2])


def test_a_column_that_changed_its_nature_since_planning_is_refused(here: Path) -> None:  # noqa: F811
    pictures(here / "in", ["1.png", "2.png"])
    with pytest.raises(StudyError, match=r"holds dates.*\(date\)"):
        record_of(here / "in", "id,when\n1.png,2020-01-02\n2.png,2021-03-04\n", "when")
