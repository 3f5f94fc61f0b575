"""Label files find their images by any name a user would write, and say so where they do not."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from faults import nifti_image
from faults_masks import outline_of
from grid_files import metaimage_keys, nrrd_fields, write_metaimage, write_nrrd
from phantoms import Phantom, datasets, random_phantom, save
from PIL import Image
from test_ingest_labels import _same, _segmentation, _structure_set
from test_ingest_run import here, ingest_all, spec_of  # noqa: F401

from medssl.core import job as jobs
from medssl.core import listing
from medssl.core.errors import StudyError
from medssl.core.files import read_json
from medssl.core.label_table import LabelRow
from medssl.core.layout import Layout
from medssl.core.tables import read_parquet, read_tsv
from medssl.ingest import run
from medssl.ingest.checking import check_source
from medssl.ingest.label_files import LabelTarget, Matcher, given_by_table, meant_by
from medssl.ingest.options import IngestOptions, LabelFileOptions
from medssl.study.source_files import SourceFiles
from medssl.study.sources import refresh


def labels_of(
    source: Path, labels: Path | str, *, records: dict[str, str] | None = None, **options: object
) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    """Ingest, then the label step: labels.parquet, rejected.tsv and the folder of both; records: tables by column."""
    _, _, out = ingest_all(source, labels=str(labels))
    early = spec_of(source, labels=str(labels))
    folder = early.private["folder"]
    spec = jobs.Spec(
        "ingest", "ct/labels", "s", early.root, 0, "c1",
        LabelFileOptions(**options).model_dump(mode="json"),
        {"series": str(out / "series.tsv"), "images": str(out / "volumes"), "groups": f"{folder}/groups.jsonl.gz",
         **({"records": records} if records else {})},
        str(out / "labels"), private=early.private,
    )  # fmt: skip
    with jobs.job(spec) as job:
        run.labels(job)
    return read_parquet(out / "labels" / "labels.parquet"), read_tsv(out / "labels" / "rejected.tsv"), out


def rows(*cells: dict[str, str]) -> list[LabelRow]:
    """The rows of a table below its header."""
    found = [LabelRow(row) for row in cells]
    for number, row in enumerate(found, 2):
        row.number = number
    return found


def pictures(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), number, np.uint8)).save(folder / name)


def shown(table: pd.DataFrame, out: Path) -> dict[int, str]:
    """Grey value of each labelled picture (its number in `pictures`) and its label."""
    found = {}
    for row in table.to_dict("records"):
        image = np.load(out / "volumes" / row["volume_id"] / "image.npy")
        found[int(image[0, 0, row["index"]])] = row["label"]
    return found


@pytest.mark.parametrize(
    "ids", [["a/1.png", "b/2.png"], ["1.png", "2.png"], ["1", "2"], ["a/1", "b/2"], ["a", "b"], ["./a/1.png", "b\\2.png"]]
)
@pytest.mark.parametrize("mark", [",", "\t"])
def test_an_id_is_a_path_a_name_or_a_folder(here: Path, ids: list[str], mark: str) -> None:  # noqa: F811
    pictures(here / "in", ["a/1.png", "b/2.png", "c/3.v2.png"])
    rows = [["id", "label", "age"], [ids[0], "well", "7"], [ids[1], "ill|old", "9"], ["3.v2", "", ""], ["nobody", "ill", "3"]]
    (here / "labels.csv").write_text("\n".join(mark.join(row) for row in rows))
    table, _, out = labels_of(here / "in", here / "labels.csv")
    assert shown(table.dropna(subset="label"), out) == {0: "well", 1: "ill|old"}
    assert read_json(out / "labels" / "labels.json")["strangers"] == 1
    assert "nobody" not in (out / "labels" / "labels.json").read_text()


def test_columns_make_subgroups_only_where_they_are_named_and_few(here: Path) -> None:  # noqa: F811
    pictures(here / "in", [f"{n}.png" for n in range(24)])
    rows = ["file,label,sex,name", *(f"{n}.png,{n % 2},{'FM'[n % 3 == 0]},John{n}" for n in range(24))]
    (here / "labels.csv").write_text("\n".join(rows))
    table, _, _ = labels_of(here / "in", here / "labels.csv", groups=["sex"])
    assert list(table.columns) == ["volume_id", "index", "label", "mask", "group_sex"]
    assert table["group_sex"].value_counts().to_dict() == {"F": 16, "M": 8}
    with pytest.raises(StudyError, match="24 different values"):
        labels_of(here / "in", here / "labels.csv", groups=["name"])


def test_a_dicom_volume_is_found_by_patient_series_or_folder(here: Path) -> None:  # noqa: F811
    series = []
    for seed in range(3):
        made = datasets(random_phantom(seed))
        series.append(made[0])
        save(made, here / "in" / f"case{seed}")
    ids = [series[0].PatientID, series[1].SeriesInstanceUID, "case2"]
    (here / "labels.tsv").write_text("id\tlabel\n" + "\n".join(f"{name}\tclass{n}" for n, name in enumerate(ids)))
    table, _, out = labels_of(here / "in", here / "labels.tsv")
    assert table["index"].isna().all() and sorted(table["label"]) == ["class0", "class1", "class2"]
    known = read_tsv(out / "series.tsv").set_index("volume_id")
    key = listing.load_key(None)
    wanted = {listing.minted(key, "s", made.SeriesInstanceUID): f"class{n}" for n, made in enumerate(series)}
    assert {known["series_id"][v]: label for v, label in zip(table["volume_id"], table["label"], strict=True)} == wanted


def test_folder_names_are_classes_where_they_are_asked_for(here: Path) -> None:  # noqa: F811
    pictures(here / "in", ["well/1.png", "ill/1.png", "ill/2.png"])
    table, _, out = labels_of(here / "in", "folders")
    assert shown(table, out) == {0: "well", 1: "ill", 2: "ill"}


def test_contradictions_strangers_and_doubtful_names_are_refused() -> None:
    items = [LabelTarget("v-1", None, ("a/x.nii",), ("v-1", "p-1")), LabelTarget("v-2", None, ("b/x.nii",), ("v-2", "p-1"))]
    matcher = Matcher(items, lambda name: ())
    with pytest.raises(StudyError, match="the name of 2 images"):
        matcher.find("x.nii")
    assert matcher.find("p-1") == [0, 1] and matcher.find("b/x.nii") == [1] and matcher.find("c") == []
    with pytest.raises(StudyError, match=r"rows 2 and 3 .* different things of one image"):
        given_by_table(rows({"file": "v-1", "label": "a"}, {"file": "p-1", "label": "b"}), matcher, [])
    with pytest.raises(StudyError, match="none of the 1 rows"):
        given_by_table(rows({"file": "c", "label": "a"}), matcher, [])


def test_the_event_of_a_time_stands_beside_its_label(here: Path) -> None:  # noqa: F811
    pictures(here / "in", ["0.png", "1.png", "2.png"])
    (here / "labels.csv").write_text("id,label,event\n0.png,12.5,1\n1.png,30,0\n")
    table, _, _ = labels_of(here / "in", here / "labels.csv")
    assert table.sort_values("index")[["label", "event"]].to_numpy().tolist() == [["12.5", "1"], ["30", "0"]]
    (here / "labels.csv").write_text("id,label\n0.png,12.5\n")
    assert "event" not in labels_of(here / "in", here / "labels.csv")[0]


def test_masks_find_their_images_by_name_whatever_the_folders() -> None:
    images = {"v-1": ("sub-01/anat/sub-01_T1w.nii.gz",), "v-2": ("imagesTr/case_1_0000.nii.gz",), "v-3": ("x/pt_1_ct.nii",)}
    names = [
        *("derivatives/seg/sub-01/anat/sub-01_T1w_desc-lesion_mask.nii.gz", "labelsTr/case_1.nii.gz", "pt_1_oar.nii.gz"),
        *("derivatives/seg/sub-02/anat/sub-02_dseg.nii.gz", "preproc/sub-01_desc-preproc_T1w.nii.gz"),
    ]
    assert _meant(images, names) == {names[0]: ["v-1"], names[1]: ["v-2"], names[2]: ["v-3"]}
    twins = {"v-1": ("one/scan.nii",), "v-2": ("two/scan.nii",)}
    assert _meant(twins, ["two/scan_mask.nii", "scan_seg.nii"]) == {"two/scan_mask.nii": ["v-2"], "scan_seg.nii": ["v-1", "v-2"]}
    assert _meant({"v-1": ("a.nii",)}, ["a.nii", "b.nii"]) == {"a.nii": ["v-1"]}
    assert _meant({"v-1": ("a_ct.nii",)}, ["a_one.nii", "a_ct_two_seg.nii"], "*two*") == {}


def _meant(images: dict[str, tuple[str, ...]], names: list[str], pattern: str | None = None) -> dict[str, list[str]]:
    """The volumes of each mask that has any."""
    return {name: volumes for name, volumes in meant_by(images, names, pattern).items() if volumes}


def volume(phantom: Phantom, folder: Path, name: str) -> np.ndarray:
    """A NIfTI image with that phantom's grid; a mask of it with two boxes."""
    from faults import nifti_image

    image = nifti_image(phantom)
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, folder / f"{name}.nii.gz")
    mask = np.zeros(image.shape, np.uint8)
    mask[2:6, 3:9, 1:4], mask[7:9, 3:6, 2:5] = 1, 2
    return mask


def test_a_folder_of_masks_lands_on_the_grids_of_its_images(here: Path) -> None:  # noqa: F811
    masks = {}
    for seed in (1, 2):
        phantom = random_phantom(seed)
        masks[seed] = (
            volume(phantom, here / "in", f"sub-0{seed}_T1w"),
            nibabel.load(here / "in" / f"sub-0{seed}_T1w.nii.gz").affine,
        )
    (here / "bids").mkdir()
    for seed, (mask, affine) in masks.items():
        nibabel.save(nibabel.Nifti1Image(mask, affine), here / "bids" / f"sub-0{seed}_dseg.nii.gz")
    nibabel.save(nibabel.Nifti1Image(masks[1][0], masks[1][1]), here / "bids" / "sub-09_dseg.nii.gz")
    (here / "bids" / "atlas_dseg.tsv").write_text("index\tname\n1\tbox\n2\tbrick\n")
    table, rejected, out = labels_of(here / "in", here / "bids")
    assert list(rejected["code"]) == ["mask_without_image"]
    assert len(table) == 2 and read_json(out / "labels" / "labels.json")["names"] == {"1": "box", "2": "brick"}
    for row in table.to_dict("records"):
        stored = np.load(out / "labels" / row["mask"])
        given = read_json(out / "volumes" / row["volume_id"] / "volume.json")
        mask, affine = next(m for m in masks.values() if np.allclose(m[1], given["source_affine"], atol=1e-3))
        for value in (1, 2):
            ours = np.argwhere(stored == value) @ np.array(given["affine"])[:3, :3].T + np.array(given["affine"])[:3, 3]
            theirs = np.argwhere(mask == value) @ affine[:3, :3].T + affine[:3, 3]
            assert np.allclose(*(p[np.lexsort(p.round(2).T)] for p in (ours, theirs)), atol=1e-2)


def test_a_structure_set_in_a_folder_of_its_own_finds_its_series(here: Path) -> None:  # noqa: F811
    phantom = random_phantom(2)
    made = datasets(phantom)
    save(made, here / "in" / "case")
    save(datasets(random_phantom(4), series="other", patient="b"), here / "in" / "other")
    contours = {1: [outline_of(phantom, k, (2.5, 3.5), (11.5, 12.5)) for k in range(3, 7)]}
    save([_structure_set(phantom, made, contours)], here / "drawn")
    table, rejected, out = labels_of(here / "in", here / "drawn")
    assert len(rejected) == 0
    known = read_tsv(out / "series.tsv").set_index("volume_id")["series_id"]
    key = listing.load_key(None)
    assert [known[name] for name in table["volume_id"]] == [listing.minted(key, "s", made[0].SeriesInstanceUID)]
    mask = np.load(out / "labels" / table["mask"][0])
    assert mask.shape == np.load(out / "volumes" / table["volume_id"][0] / "image.npy").shape
    assert int((mask == 1).sum()) == 9 * 9 * 4  # voxel centres 3…11 and 4…12 of four slices


def test_a_segmentation_in_a_folder_of_its_own_lands_on_its_series(here: Path) -> None:  # noqa: F811
    phantom = random_phantom(3)
    made = datasets(phantom)
    segmentation, truth = _segmentation(phantom, made)
    save(made, here / "in" / "case")
    save(datasets(random_phantom(4), series="other", patient="b"), here / "in" / "other")
    (here / "drawn").mkdir()
    segmentation.save_as(here / "drawn" / "any name.dcm")
    table, rejected, out = labels_of(here / "in", here / "drawn")
    assert len(rejected) == 0 and len(table) == 1
    volume_json = read_json(out / "volumes" / table["volume_id"][0] / "volume.json")
    _same(np.load(out / "labels" / table["mask"][0]), np.array(volume_json["affine"]), truth, phantom)


def test_masks_that_fit_no_image_stop_with_the_reason(here: Path) -> None:  # noqa: F811
    mask = volume(random_phantom(1), here / "in", "a")
    (here / "masks").mkdir()
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), here / "masks" / "a_seg.nii.gz")
    with pytest.raises(StudyError, match=r"1 label file refused: mask_mismatch 1.*from the image's"):
        labels_of(here / "in", here / "masks")
    with pytest.raises(StudyError, match="nothing is there"):
        labels_of(here / "in", here / "elsewhere")


FAULTY_MASKS = {"wrong_shape": "mask_mismatch", "fractions": "mask_values", "stranger": "mask_without_image", "cut": "truncated"}


def with_faulty_masks(here: Path) -> None:  # noqa: F811
    """Six images: one with a sound mask, one without any, and a label folder with a fault of each kind and notes."""
    (here / "masks").mkdir()
    for n, name in enumerate(("good", "without", "wrong_shape", "fractions", "cut")):
        mask = volume(random_phantom(n), here / "in", name)
        affine = nibabel.load(next((here / "in").glob(f"{name}*"))).affine
        values = {"wrong_shape": mask[:-1], "fractions": mask * np.float32(0.4)}.get(name, mask)
        if name != "without":
            nibabel.save(nibabel.Nifti1Image(values, affine), here / "masks" / f"{name}_seg.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask, affine), here / "masks" / "stranger_seg.nii.gz")
    cut = here / "masks" / "cut_seg.nii.gz"
    cut.write_bytes(cut.read_bytes()[:200])
    (here / "masks" / "README.md").write_text("a note, which is no label")


def test_every_refused_label_file_is_a_row_and_on_the_screen(here: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    with_faulty_masks(here)
    table, rejected, out = labels_of(here / "in", here / "masks")
    assert len(table) == 1 and sorted(rejected["code"]) == sorted(FAULTY_MASKS.values())
    assert set(rejected["num_files"]) == {1} and set(rejected["stage_of_check"]) == {"labels"}
    counts = read_json(out / "labels" / "labels.json")
    assert (counts["items"], counts["labelled"], counts["strangers"]) == (5, 1, 4)
    shown = capsys.readouterr().err
    codes = ", ".join(f"{code} 1" for code in sorted(FAULTY_MASKS.values()))
    assert f"ingest ct/labels: 4 label files refused: {codes}" in shown
    assert "ingest ct/labels: 4 of 5 volumes and images have no label" in shown


def test_sound_masks_say_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    mask = volume(random_phantom(1), here / "in", "a")
    affine = nibabel.load(next((here / "in").glob("a*"))).affine
    (here / "masks").mkdir()
    nibabel.save(nibabel.Nifti1Image(mask, affine), here / "masks" / "a_seg.nii.gz")
    labels_of(here / "in", here / "masks")
    assert "refused" not in capsys.readouterr().err


def test_only_what_concerns_early_stages_changes_the_digest_of_a_source(here: Path) -> None:  # noqa: F811
    pictures(here / "in", ["1.png", "2.png"])
    layout, key = Layout.of("results", "s"), listing.load_key(None)
    (here / "in" / "masks").mkdir()

    def digests(labels: Path, text: str) -> tuple[str, str, int]:
        if text:
            labels.write_text(text)
        files = SourceFiles.of("ct", str(here / "in"), str(labels), IngestOptions())
        refresh(layout, "ct", files, key, labels=str(labels))
        early, late = (read_json(path) for path in (layout.listing("ct"), layout.label_listing("ct")))
        return early["digest"], late["digest"], early["files"]

    table = here / "in" / "labels.csv"
    nothing, something = digests(table, ""), digests(table, "id,label\n1,a\n2,b")
    more, parted = digests(table, "id,label\n1,a\n2,a"), digests(table, "id,label,split\n1,a,train\n2,a,test")
    assert nothing[0] == something[0] == more[0] != parted[0]
    assert len({nothing[1], something[1], more[1], parted[1]}) == 4
    assert nothing[2] == parted[2] == 2  # the label file within the source is none of its images
    table.unlink()
    before = digests(here / "in" / "masks", "")
    (here / "in" / "masks" / "1_seg.nii").write_bytes(b"x")
    after = digests(here / "in" / "masks", "")
    assert before[0] == after[0] and before[1] != after[1]


def test_a_folder_of_nrrd_and_metaimage_masks_finds_its_images(tmp_path: Path, here: Path) -> None:  # noqa: F811
    """Detached ones too: the data file belongs to its header, and is not a label file itself."""
    for n, suffix in enumerate(["nrrd", "nhdr", "mha", "mhd"]):
        image = nifti_image(random_phantom(n))
        (tmp_path / "s").mkdir(exist_ok=True)
        nibabel.save(image, tmp_path / "s" / f"case{n}_ct.nii.gz")
        mask = np.zeros(image.shape, np.uint8)
        mask[3:9, 4 : 6 + n, 5:8] = 2
        path, data = tmp_path / "m" / f"case{n}_seg.{suffix}", tmp_path / "m" / f"{n}.raw"
        if suffix in ("nrrd", "nhdr"):
            fields = nrrd_fields(mask, image.affine) | ({"data file": data.name} if suffix == "nhdr" else {})
            write_nrrd(path, mask, fields, data=data if suffix == "nhdr" else None)
        else:
            write_metaimage(path, mask, metaimage_keys(mask, image.affine), data=data if suffix == "mhd" else None)
    table, rejected, out = labels_of(tmp_path / "s", tmp_path / "m")
    assert len(table) == 4 and rejected.empty
    assert sorted(int((np.load(out / "labels" / name) == 2).sum()) for name in table["mask"]) == [36, 54, 72, 90]


def test_a_part_that_does_not_exist_is_a_sentence_at_ingest(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "0.png")
    (tmp_path / "t.csv").write_text("id,split\n0.png,training\n")
    with pytest.raises(StudyError, match=r"'training' .* is none of train, val, test. Did you mean 'train'"):
        check_source(tmp_path, labels=str(tmp_path / "t.csv"))
