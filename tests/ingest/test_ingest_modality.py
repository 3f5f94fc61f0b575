"""`modality` keeps what it names, in every format; the rest is set aside with a code and a remark."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from faults import nifti_image
from faults_modality import PT_CLASS, modality_half_and_half
from grid_files import metaimage_keys, write_metaimage
from ingesting import ingest
from phantoms import Phantom, datasets, random_phantom, save
from PIL import Image
from pydantic import ValidationError
from test_ingest_run import here, ingest_all  # noqa: F401

from medssl.core.errors import TooManyRefusalsError
from medssl.ingest.checking import check_source
from medssl.ingest.inventory import Labels
from medssl.ingest.options import HOLDS_FOR, IngestOptions
from medssl.ingest.remarks import remarks


def series_of(modality: str, folder: Path, seed: int, **changes: object) -> Phantom:
    phantom = replace(random_phantom(seed), modality="CT" if modality == "PT" else modality, **changes)  # type: ignore[arg-type]
    made = datasets(phantom)
    for one in made if modality == "PT" else ():
        one.Modality, one.SOPClassUID = "PT", PT_CLASS
        one.file_meta.MediaStorageSOPClassUID = PT_CLASS
    save(made, folder)
    return phantom


def three_modalities(root: Path) -> None:
    for seed, modality in enumerate(("CT", "MR", "PT")):
        series_of(modality, root / modality, seed)


@pytest.mark.parametrize("kept", ["CT", "MR", "PT", ["CT"], ["CT", "PT"], ["MR", "PT", "CT"]])
def test_what_is_kept_is_as_it_was_and_the_rest_has_the_code(kept: str | list[str], tmp_path: Path, readers) -> None:
    three_modalities(tmp_path / "in")
    everything = ingest(tmp_path / "in", tmp_path / "a", readers=readers)
    found = ingest(tmp_path / "in", tmp_path / "b", readers=readers, options={"modality": kept})
    for modality in ("CT", "MR", "PT"):
        one, whole = found[modality], everything[modality]
        assert one.num_files == whole.num_files == len(list((tmp_path / "in" / modality).iterdir()))
        if modality in kept:
            assert [row for _, _, row in one.volumes] == [row for _, _, row in whole.volumes] and not one.rejected
        else:
            assert one.volumes == [] and one.codes == {"other_modality"}
            (row,) = one.rejected
            wanted = " and ".join([kept] if isinstance(kept, str) else kept)
            assert f"{modality}, where {wanted} is kept" in row["sentence"]


def test_a_series_of_another_modality_is_set_aside_whatever_else_is_wrong_with_it(tmp_path: Path, readers) -> None:
    depths = (0.0, 2.0, 4.0, 9.3, 11.0, 17.7)
    series_of("MR", tmp_path / "in" / "uneven", 4, slices=6, depths=depths)
    assert ingest(tmp_path / "in", tmp_path / "a", readers=readers)["uneven"].codes & {"uneven", "missing_slice"}
    assert ingest(tmp_path / "in", tmp_path / "b", readers=readers, options={"modality": "CT"})["uneven"].codes == {
        "other_modality"
    }


@pytest.mark.parametrize("kept", ["auto", "CT", "PT", ["CT", "PT"]])
def test_a_series_of_two_modalities_is_refused_whatever_is_kept(kept: str | list[str], tmp_path: Path, readers) -> None:
    modality_half_and_half(tmp_path / "in" / "case", 2)
    one = ingest(tmp_path / "in", tmp_path / "a", readers=readers, options={"modality": kept})["case"]
    assert one.volumes == [] and one.codes == {"mixed_modality"}
    assert "CT and PT" in one.rejected[0]["sentence"]


def niftis(root: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        (root / name).mkdir(parents=True)
        nibabel.save(nifti_image(random_phantom(seed)), root / name / f"p{seed}_{name}.nii.gz")


def modalities(found: dict) -> dict[str, list[str]]:
    return {name: [row["modality"] for _, _, row in one.volumes] or sorted(one.codes) for name, one in found.items()}


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("auto", {"ct": ["CT"], "T1w": ["MR"], "x": ["OT"]}),
        ("CT", {"ct": ["CT"], "T1w": ["CT"], "x": ["CT"]}),
        (["CT"], {"ct": ["CT"], "T1w": ["other_modality"], "x": ["CT"]}),
        (["CT", "MR"], {"ct": ["CT"], "T1w": ["MR"], "x": ["other_modality"]}),
        (["CT", "MR", "OT"], {"ct": ["CT"], "T1w": ["MR"], "x": ["OT"]}),
    ],
)
def test_a_word_says_what_nifti_files_are_and_a_list_believes_their_names(
    option: str | list[str], expected: dict[str, list[str]], tmp_path: Path, readers
) -> None:
    niftis(tmp_path / "in", "ct", "T1w", "x")
    assert modalities(ingest(tmp_path / "in", tmp_path / "a", readers=readers, options={"modality": option})) == expected


def test_a_mask_is_set_aside_with_its_image(tmp_path: Path, readers) -> None:
    (tmp_path / "in" / "case").mkdir(parents=True)
    image = nifti_image(random_phantom(1))
    nibabel.save(image, tmp_path / "in" / "case" / "a_T1w.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), tmp_path / "in" / "case" / "a_seg.nii.gz")
    one = ingest(tmp_path / "in", tmp_path / "a", readers=readers, options={"modality": ["CT"]})["case"]
    assert one.codes == {"other_modality"} and one.num_files == 2


@pytest.mark.parametrize(
    ("option", "expected"), [("auto", ["OT"]), ("CT", ["CT"]), (["CT"], ["CT"]), (["CT", "MR"], ["other_modality"])]
)
def test_pictures_and_arrays_are_of_the_one_modality_that_is_named(
    option: str | list[str], expected: list[str], tmp_path: Path, readers
) -> None:
    for name in ("pictures", "arrays"):
        (tmp_path / "in" / name).mkdir(parents=True)
    values = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for n in range(3):
        Image.fromarray(values + n).save(tmp_path / "in" / "pictures" / f"{n}.png")
    np.savez(tmp_path / "in" / "arrays" / "set.npz", images=np.stack([values] * 3))
    found = ingest(tmp_path / "in", tmp_path / "a", readers=readers, options={"modality": option})
    assert modalities(found) == {"pictures": expected, "arrays": expected}
    assert [one.num_files for one in found.values()] == [len(list((tmp_path / "in" / name).iterdir())) for name in found]


def test_what_is_set_aside_counts_towards_no_limit_and_all_of_it_stops(here: Path) -> None:  # noqa: F811
    three_modalities(here / "in")
    series, rejected, _ = ingest_all(here / "in", modality="CT", max_refused_frac=0.01)
    assert list(series["modality"]) == ["CT"] and set(rejected["code"]) == {"other_modality"}
    with pytest.raises(TooManyRefusalsError, match="other_modality"):
        ingest_all(here / "in", modality="OT")


@pytest.mark.parametrize("given", ["ct", [], ["auto"], ["CT", "US"], 3, None])
def test_a_value_that_is_not_a_modality_is_refused_in_one_sentence(given: object) -> None:
    with pytest.raises(ValidationError) as refusal:
        IngestOptions(modality=given)
    (problem,) = refusal.value.errors()
    assert problem["loc"] == ("modality",) and "write auto, CT, MR, PT, OT, or a list" in problem["msg"]


# Options without effect


CHANGED = {
    **{"tilt": "refuse", "uneven": "resample", "derived": "accept", "no_space": "pixdim", "masks": "*_m*"},
    **{"subject_pattern": "(a)", "min_slices": 5, "burned_in": "accept", "offset_hu": -1024.0},
}


def test_each_option_has_an_effect_on_the_formats_that_it_holds_for_alone() -> None:
    assert set(CHANGED) == set(HOLDS_FOR)
    for name, value in CHANGED.items():
        for form in ("dicom", "nifti", "png", "npz"):
            idle = IngestOptions(**{name: value}).without_effect([form])
            assert set(idle) == (set() if form in HOLDS_FOR[name] else {name}), (name, form)
    assert IngestOptions().without_effect(["npz"]) == {}
    assert IngestOptions(masks="*_m*", no_space="pixdim").without_effect(["dicom"], mask_folder=True) == {}


def test_an_option_without_effect_is_reported_at_the_end_of_ingest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    niftis(here / "in", "ct", "T1w")
    _, _, out = ingest_all(here / "in", uneven="resample", skip=["s-000000000000"], modality="CT")
    remarks = json.loads((out / "receipt.json").read_text())["remarks"]
    assert [remark.split()[0] for remark in remarks] == ["ingest.uneven", "1", "ingest.skip"]
    assert "holds for dicom" in remarks[0] and "are nifti" in remarks[0]
    assert "names that say MR; they were taken as CT" in remarks[1]
    assert "names 1 series that this source does not hold" in remarks[2]
    shown = capsys.readouterr().err
    assert all(f"ingest ct: {remark}" in shown for remark in remarks)


@pytest.mark.parametrize(("accepted", "refused", "said"), [(1, 2, True), (2, 2, False)])
def test_a_source_of_which_most_is_refused_says_so_and_why(
    here: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    accepted: int,
    refused: int,
    said: bool,
) -> None:
    image = nifti_image(random_phantom(3, constant=20.0))
    for number in range(accepted + refused):
        folder = here / "in" / f"p{number}"
        folder.mkdir(parents=True)
        values = np.asarray(image.dataobj) + np.int16(number + (2024 if number < refused else 0))
        nibabel.save(nibabel.Nifti1Image(values, image.affine), folder / "ct.nii.gz")
    (here / "in" / "notes.txt").write_text("set aside, not refused")
    ingest_all(here / "in")
    sentence = (
        f"Only {accepted} of {accepted + refused} series, volumes or sets of pictures were accepted: {refused} were refused"
    )
    assert (f"{sentence} as implausible_hu (the values cannot be Hounsfield units)" in capsys.readouterr().err) is said


def test_a_source_with_nothing_to_remark_has_no_remarks(here: Path) -> None:  # noqa: F811
    niftis(here / "in", "ct")
    _, _, out = ingest_all(here / "in", tilt="refuse", modality="CT")
    assert "remarks" not in json.loads((out / "receipt.json").read_text())


@pytest.mark.parametrize("form", ["nifti", "nrrd", "metaimage"])
def test_names_of_every_format_on_a_grid_may_contradict_the_study_file(form: str) -> None:
    files = [{"name": "p1_t1w", "format": form, "role": "image", "group": "s-1", "header": "{}", "code": "", "subject": "p1"}]
    (said,) = remarks(IngestOptions(modality="CT"), Labels(), None, files, [], b"a key of sixteen bytes")
    assert "1 of 1 volumes have names that say MR" in said


@pytest.mark.parametrize(("stated", "name", "wanted", "modality"), [
    ("MET_MOD_MR", "p1", "auto", "MR"),
    ("MET_MOD_MR", "p1_ct", "auto", "MR"),
    ("MET_MOD_CT", "p1", "CT", "CT"),
    ("MET_MOD_CT", "p1", ["CT", "PT"], "CT"),
    ("MET_MOD_UNKNOWN", "p1_ct", "auto", "CT"),
    ("MET_MOD_NM", "p1_pet", "auto", "PT"),
    ("MET_MOD_MR", "p1", "CT", None),
])  # fmt: skip
def test_a_metaimage_states_its_modality(stated: str, name: str, wanted: object, modality: str | None, tmp_path: Path) -> None:
    """MetaIO: the key Modality of the header; a file that states MR is not CT, whatever the study file keeps."""
    image = nifti_image(random_phantom(2))
    values = np.asarray(image.dataobj)
    write_metaimage(tmp_path / "in" / f"{name}.mha", values, {**metaimage_keys(values, image.affine), "Modality": stated})
    found = check_source(tmp_path / "in", options=IngestOptions(modality=wanted))
    assert [row["modality"] for row in found.series] == ([modality] if modality else [])
    assert {row["code"] for row in found.rejected} == (set() if modality else {"other_modality"})
    contradicts = name == "p1_ct" and stated == "MET_MOD_MR"
    assert any("names that say CT and headers that state MR" in remark for remark in found.remarks) == contradicts
