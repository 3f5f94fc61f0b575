"""Options of ingest without effect are refused before any work; a cohort of several modalities is said at planning."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_study_checks import GOOD, Notes, Refusal
from typer.testing import CliRunner

from medssl.artefacts.series import SERIES
from medssl.cli import app
from medssl.core import plugins
from medssl.core.errors import StudyError
from medssl.core.layout import Layout
from medssl.ingest.options import IngestOptions
from medssl.study.check_sources import FORMATS
from medssl.study.checks import check_study
from medssl.study.dag import Dag
from medssl.study.file import read_study
from medssl.study.source_files import SourceFiles
from medssl.study.trials import Plan


@pytest.mark.parametrize(
    ("names", "formats"),
    [
        (["a.nii.gz", "b.NII", "a.json", "participants.tsv", "README.md"], ["nifti"]),
        (["a.png", "b.JPG"], ["png"]),
        (["a.npz"], ["npz"]),
        (["a.nrrd", "b.mhd", "b.raw"], ["nifti"]),
        (["IM0001", "1.2.840.113"], ["dicom"]),
        (["a.nii", "IM1"], ["dicom", "nifti"]),
        (["README"], ["dicom"]),
        (["notes.txt"], []),
    ],
)
def test_only_a_name_that_leaves_no_doubt_says_a_format(names: list[str], formats: list[str]) -> None:
    files = SourceFiles([((name, 1, 1, "file"), 1) for name in names], IngestOptions())
    assert sorted(FORMATS[kind] for kind in files.kinds) == formats


def test_an_option_of_a_source_that_cannot_have_an_effect_is_refused_with_its_line(refusal: Refusal) -> None:
    said = refusal(GOOD.replace("path: organs}", "path: organs, ingest: {uneven: resample}}"))
    assert said.startswith("mine.yaml:3: sources.organs.ingest.uneven: it has no effect here")
    assert "holds for DICOM, and the files are NPZ" in said


@pytest.mark.parametrize("options", ["modality: CT", "tilt: resample", "skip: []", "min_slices: 3", "max_refused_frac: 0.5"])
def test_options_that_hold_for_all_and_defaults_are_taken(options: str, notes: Notes) -> None:
    assert notes(GOOD.replace("path: organs}", f"path: organs, ingest: {{{options}}}}}")) == []


def test_where_the_names_leave_a_doubt_nothing_is_refused(notes: Notes) -> None:
    Path("organs/IM0001").write_bytes(b"x")
    assert notes(GOOD.replace("path: organs}", "path: organs, ingest: {uneven: resample}}")) == []


def test_an_option_of_the_study_is_refused_only_where_no_source_can_feel_it(notes: Notes, refusal: Refusal) -> None:
    assert notes(GOOD + "ingest: {uneven: resample}\n") == [], "the other source may be DICOM"
    said = refusal(GOOD.replace("path: scans", "path: pictures") + "ingest: {uneven: resample}\n")
    assert said.startswith("mine.yaml:6: ingest.uneven: it has no effect here") and "NPZ and pictures" in said


def test_a_folder_of_masks_feels_the_options_of_masks(notes: Notes, refusal: Refusal) -> None:
    Path("masks").mkdir()
    Path("masks/a.nii").write_bytes(b"x")
    for number in range(4):
        Path(f"scans/{number}.dcm").rename(f"scans/{number}.png")
    study = GOOD.replace("path: scans}", "path: scans, labels: masks, ingest: {masks: '*_a'}}")
    assert notes(study) == []
    assert "ingest.masks" in refusal(study.replace("labels: masks, ", ""))


OF_VOLUMES = {
    "simclr": "exclude_same_volume: true",
    "moco": "exclude_same_volume: true",
    "gsimclr": "exclude_same_volume: true",
    "guided_contrast": "near_records: {age: 5}, exclude_same_volume: true",
    "hydra": "records: [sex], exclude_same_volume: true",
    "dino": "koleo_weight: 0.1",
    "global_contrast": "variant: gd_minus",
    "local_contrast": "variant: ld",
}


@pytest.mark.parametrize("objective", OF_VOLUMES)
def test_an_option_that_compares_slices_of_volumes_is_refused_for_pictures_alone(
    objective: str, folder: Path, refusal: Refusal
) -> None:
    options = OF_VOLUMES[objective]
    text = GOOD.replace("simclr: {cohort: ct,", f"some: {{cohort: organs, objective: {{{objective}: {{{options}}}}},")
    assert "compares slices of volumes, and cohort 'organs' holds pictures alone" in refusal(text)
    (folder / "table.csv").write_text("id,age,sex\n")
    of_volumes = text.replace("cohort: organs", "cohort: ct").replace("{path: scans}", "{path: scans, records: table.csv}")
    assert "compares slices" not in said_of(of_volumes)


def test_every_objective_with_such_an_option_names_its_value_for_pictures() -> None:
    """But BECLR, to which each picture is a volume of its own."""
    for plugin in plugins.all_of("objective"):
        needs = "require_other_volumes(samples" in plugin.path.read_text(encoding="utf-8")
        on_pictures = plugin.constant("ON_PICTURES", default={})
        assert not needs or on_pictures, plugin.name
        usual = plugin.options.model_json_schema()["properties"]
        assert set(on_pictures) <= set(usual)


def said_of(text: str) -> str:
    """The problems of a study, or nothing."""
    Path("mine.yaml").write_text(text, encoding="utf-8")
    study, places = read_study(files=["mine.yaml"])
    try:
        check_study(Dag(study), places, ())
    except StudyError as error:
        return str(error)
    return ""


def test_crops_in_mm_need_a_source_with_a_spacing(notes: Notes, refusal: Refusal) -> None:
    in_mm = GOOD.replace("cohort: ct", "cohort: ct, views: {unit: mm}")
    assert notes(in_mm) == []
    said = refusal(in_mm.replace("cohort: ct", "cohort: organs"))
    assert (
        ": pretrain." in said and ".views.unit: mm needs a spacing, and source 'organs' holds pictures (PNG, JPEG, NPZ)" in said
    )


def ingested(source: str, *modalities: str) -> None:
    rows = [
        dict.fromkeys(SERIES.names)
        | {"volume_id": f"v-{n}", "series_id": f"s-{n}", "unit": "image", "kind": "volume", "format": "dicom"}
        | {"modality": modality, "shape": [1, 1, 1], "affine": [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]]}
        | {"dtype": "int16", "slope": 1.0, "intercept": 0.0, "num_files": 1, "bytes": 1, "content_sha256": "0" * 64}
        | {"lossy": False, "resampled": False, "label": False, "warnings": []}
        for n, modality in enumerate(modalities)
    ]
    path = Path(Layout.of("results", "mine").ingest(source, "series.tsv"))
    path.parent.mkdir(parents=True)
    SERIES.write_rows(path, rows)


def test_a_mixed_source_is_reported_with_its_counts_once_it_was_ingested(notes: Notes) -> None:
    assert notes(GOOD) == []
    ingested("ct", "CT", "MR", "MR", "MR")
    (said,) = notes(GOOD)
    assert said.startswith("mine.yaml:2: sources.ct") and "cohort 'ct' holds several modalities, by volumes: CT 1, MR 3" in said
    assert "ingest.modality keeps one of them" in said
    assert notes(GOOD.replace("path: scans}", "path: scans, ingest: {modality: MR}}")) == [], "the next ingest keeps MR alone"


def test_a_cohort_of_sources_of_a_modality_each_is_reported(notes: Notes) -> None:
    ingested("ct", "CT")
    ingested("organs", "MR", "MR")
    (said,) = notes(GOOD.replace("cohort: ct", "cohort: both") + "cohorts: {both: [ct, organs]}\n")
    assert "cohort 'both' holds several modalities, by volumes: CT 1, MR 2" in said


def test_medssl_plan_says_it_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingested("ct", "CT", "MR")
    Path("mine.yaml").write_text(GOOD)
    monkeypatch.setattr("medssl.study.trials.plan_of", lambda *_: Plan([], {}))
    said = CliRunner().invoke(app, ["plan", "mine.yaml"], catch_exceptions=False)
    assert "note: mine.yaml:2: sources.ct" in said.stderr and "CT 1, MR 1" in said.stderr
