"""`medssl check`: what a person sees of a source, and what programs do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from canaries import plant
from phantoms import datasets, random_phantom, save
from PIL import Image
from test_ingest_run import here, ingest_all  # noqa: F401
from typer.testing import CliRunner, Result

from medssl.cli import app
from medssl.core import listing
from medssl.core.errors import StudyError, TooManyRefusalsError
from medssl.core.tables import read_tsv
from medssl.ingest.checking import check_source
from medssl.ingest.summary import screen_lines


def _source(root: Path) -> None:
    save(datasets(random_phantom(0)), root / "good")
    save([ds for n, ds in enumerate(datasets(random_phantom(1))) if n != 4], root / "gap")
    (root / "README").write_text("nothing")


def _check(*words: str) -> Result:
    return CliRunner().invoke(app, ["check", *words])


def test_check_names_the_file_or_folder_of_every_refusal(here: Path) -> None:  # noqa: F811
    _source(here / "in")
    run = _check("in")
    assert run.exit_code == 0
    lines = run.stdout.splitlines()
    assert lines[0].startswith("1 volume of ") and any("good/: " in line for line in lines[:3])
    gap = next(n for n, line in enumerate(lines) if line.startswith("missing_slice: "))
    assert "gap/: " in lines[gap + 1] and "i-" in lines[gap + 1] and "mm apart" in lines[gap + 2]
    text = next(n for n, line in enumerate(lines) if line.startswith("not_an_image: 1 file"))
    assert lines[text + 1].split()[0] == "README"
    assert not (here / ".medssl").exists() and sorted(p.name for p in here.iterdir()) == ["in"]


def test_volumes_are_listed_by_their_files_and_pictures_are_not_counted_as_volumes(tmp_path: Path) -> None:
    values = np.arange(8 * 8 * 5, dtype=np.int16).reshape(8, 8, 5)
    for name in "dacb":
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}_ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image((values > 9).astype(np.uint8), np.eye(4)), tmp_path / "c_seg.nii.gz")
    for number in range(3):
        Image.fromarray((values[:, : 4 + number // 2, 0] % 256).astype(np.uint8)).save(tmp_path / f"{number}.png")
    lines = list(screen_lines(check_source(tmp_path)))
    assert lines[0] == "4 volumes of 4 series, 20 slices, 1 mask, 3 pictures of 2 sizes, 8 files accepted"
    places = [line.split("  ")[1] for line in lines[1:7]]
    assert places == [
        "2 files, 0.png, 1.png",
        "2.png",
        "a_ct.nii.gz",
        "b_ct.nii.gz",
        "c_ct.nii.gz + c_seg.nii.gz",
        "d_ct.nii.gz",
    ]


def test_thousands_of_refused_files_stay_readable(here: Path) -> None:  # noqa: F811
    _source(here / "in")
    for number in range(2000):
        folder = here / "in" / f"folder {number % 500}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.dcm").write_bytes(b"")
    checked = check_source(here / "in")
    lines = list(screen_lines(checked))
    assert len(lines) < 40 and max(map(len, lines)) < 200
    assert "empty: 2,000 files" in "\n".join(lines) and "495 folders more with 1,980 files" in "\n".join(lines)
    assert len(checked.items) == sum(1 for p in (here / "in").rglob("*") if p.is_file())


def test_a_table_holds_every_file_with_its_sentence_and_ids(here: Path) -> None:  # noqa: F811
    _source(here / "in")
    assert _check("in", "--table", "out/files.tsv").exit_code == 0
    table = read_tsv(here / "out" / "files.tsv", text=("file", "code", "sentence")).fillna("")
    assert set(table["file"]) == {str(p.relative_to(here / "in")) for p in (here / "in").rglob("*") if p.is_file()}
    assert set(table.loc[table["item_id"] != "", "code"]) == {"missing_slice", "not_an_image"}
    assert (table.loc[table["code"] != "", "sentence"] != "").all()
    assert set(table.loc[table["code"] == "", "volume_id"]) == {row["volume_id"] for row in check_source(here / "in").series}


@pytest.mark.parametrize("name", ["in/good/0003.dcm", "in/new.tsv", "in"])
def test_a_table_takes_the_place_of_no_image(here: Path, name: str) -> None:  # noqa: F811
    _source(here / "in")
    before = {path: path.read_bytes() for path in (here / "in").rglob("*") if path.is_file()}
    with pytest.raises(StudyError, match="lies within in, which is read"):
        CliRunner().invoke(app, ["check", "in", "--table", name], catch_exceptions=False)
    assert {path: path.read_bytes() for path in (here / "in").rglob("*") if path.is_file()} == before


def test_a_check_needs_no_data_frames_and_no_torch(here: Path) -> None:  # noqa: F811
    """From the first file to the table: what takes half a second to import is for stages that use it."""
    _source(here / "in")
    program = "import sys; from medssl.cli import app; app(['check', 'in', '--table', 'files.tsv'], standalone_mode=False); "
    program += "print([m for m in ('pandas', 'pyarrow', 'torch', 'scipy', 'jaxtyping', 'pydicom') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=here)
    assert done.stdout.splitlines()[-1] == "[]"


def test_programs_get_json(here: Path) -> None:  # noqa: F811
    _source(here / "in")
    values = json.loads(_check("in", "--json").stdout)
    assert values["files"]["accepted"] + values["files"]["refused"] == len(values["items"])
    assert {row["item_id"] for row in values["rejected"]} == {row["item_id"] for row in values["items"]} - {None}
    assert all(len(row["affine"]) == 4 for row in values["series"])


def test_ids_are_those_of_the_last_run_and_of_a_study_with_the_key(here: Path) -> None:  # noqa: F811
    _source(here / "in")

    def ids(**given: str) -> list[set[str]]:
        checked = check_source(here / "in", **given)
        series, rejected = checked.series, checked.rejected
        found = [{row[name] for row in series} for name in ("volume_id", "series_id", "subject_id")]
        return [*found, {row["item_id"] for row in rejected}]

    assert ids() == ids()
    series, rejected, _ = ingest_all(here / "in")
    study = [set(series[name]) for name in ("volume_id", "series_id", "subject_id")] + [set(rejected["item_id"])]
    assert ids(name="ct") == study
    assert ids()[:3] == study[:3] and ids()[3] != study[3]
    (here / ".medssl" / "id_key").rename(here / "key")
    assert ids(name="ct") != study
    assert ids(name="ct", id_key="key") == study
    with pytest.raises(StudyError, match="id_key"):
        ids(id_key="nothing")


def test_everything_refused_is_exit_code_8_and_nothing_there_is_2(here: Path) -> None:  # noqa: F811
    _source(here / "in")
    for words in (["in/gap"], ["in/README"], ["in/good/0001.dcm"], ["in/gap", "--json"]):
        run = _check(*words)
        assert isinstance(run.exception, TooManyRefusalsError) and run.stdout, words
    (here / "empty").mkdir()
    for words in (["empty"], ["nothing"], ["/dev/null"]):
        assert isinstance(_check(*words).exception, StudyError)


def test_one_file_is_a_source(here: Path) -> None:  # noqa: F811
    import numpy as np

    np.savez(here / "set.npz", train_images=np.zeros((4, 9, 9), np.uint8))
    run = _check("set.npz")
    assert run.exit_code == 0 and "set.npz" in run.stdout


def test_every_image_of_a_set_is_resolved(here: Path) -> None:  # noqa: F811
    import numpy as np

    (here / "in").mkdir()
    arrays = {"train_images": np.zeros((4, 9, 9), np.uint8), "test_images": np.ones((3, 9, 9), np.uint8)}
    np.savez(here / "in" / "set.npz", **arrays)
    _, _, out = ingest_all(here / "in")
    images = pd.concat([pd.read_parquet(path) for path in sorted((out / "volumes").rglob("images.parquet"))])
    items = read_tsv(here / ".medssl" / "s" / "ct" / "items.tsv")
    assert len(images) == 7 and set(images["image_id"]) == set(items["image_id"])
    assert set(items["part"]) == {f"train_images[{n}]" for n in range(4)} | {f"test_images[{n}]" for n in range(3)}


def test_headers_stay_unseen_and_nothing_is_left_behind(here: Path) -> None:  # noqa: F811
    words = plant(here / "in", 100)
    paths = " ".join(str(path.relative_to(here / "in")) for path in (here / "in").rglob("*"))
    hidden = [word for word in words if word not in paths]
    for form in ([], ["--json"], ["--table", "files.tsv"]):
        run = _check("in", *form)
        assert run.stdout and len(hidden) > 60
        assert not [word for word in hidden if word in run.stdout + run.stderr], form
    assert not [word for word in hidden if word in (here / "files.tsv").read_text()]
    assert sorted(path.name for path in here.iterdir()) == ["files.tsv", "in"]


def test_names_that_are_not_utf8_are_written_reversibly(here: Path) -> None:  # noqa: F811
    _source(here / "in")
    name = os.fsdecode(b"M\xfcller.txt")
    (here / "in" / name).write_text("nothing")
    assert _check("in", "--table", "files.tsv").exit_code == 0
    table = read_tsv(here / "files.tsv", text=("file",))
    found = [file for file in table["file"] if "ller" in file]
    values = json.loads(_check("in", "--json").stdout)
    assert [listing.unspelled(file) for file in found] == [name]
    assert found[0] in {row["file"] for row in values["items"]}
    assert set(values) == {"files", "keyed", "series", "rejected", "items", "remarks"}


def test_ids_without_a_key_are_marked_as_of_this_path_only(here: Path) -> None:  # noqa: F811
    _source(here / "in")
    assert "this path only" in _check("in").stdout
    listing.load_key(None)
    assert "this path only" not in _check("in").stdout
