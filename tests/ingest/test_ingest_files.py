"""Files and folders: names that are not text, entries that cannot be listed or opened, and the private table of every outcome."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import faults  # noqa: F401  (its classes come before those of files)
import nibabel
import numpy as np
import pandas as pd
import pytest
from faults import nifti_image
from faults_files import LATIN
from ingesting import KEY, ingest
from phantoms import datasets, random_phantom, save
from test_ingest_label_files import labels_of
from test_ingest_run import here, ingest_all  # noqa: F401

from medssl.core.errors import StudyError, TooManyRefusalsError
from medssl.core.label_table import read_label_table
from medssl.core.listing import minted, spelled, stamped, unspelled, walk
from medssl.core.rng import rng
from medssl.core.tables import read_tsv
from medssl.ingest.dicom.damaged_neighbours import series_in_doubt
from medssl.ingest.opening import open_listed
from medssl.ingest.refusal import Refusal

# ---- names


def test_every_name_is_spelled_as_text_and_back() -> None:
    pieces = [
        b"\\",
        b"x",
        b"u",
        b"0",
        b"a",
        b"\xfc",
        b"\xc3\xbc",
        b"\n",
        b"\t",
        b"\x1b[31m",
        b"\xe2\x80\xae",
        b" ",
        b"\xf0\x9f\x98\x80",
    ]
    for seed in range(3000):
        r = rng(seed, "name")
        name = os.fsdecode(b"".join(pieces[n] for n in r.integers(0, len(pieces), int(r.integers(0, 9)))))
        text = spelled(name)
        assert unspelled(text) == name
        assert text.isprintable() and len(text.encode()) >= len(text)
    assert spelled("case 1/Müller.dcm") == "case 1/Müller.dcm"


def test_ids_know_where_a_name_ends() -> None:
    split = (("a\x1fb",), ("a", "b"), ("a\x1e", "b"), ("a", "\x1eb"), ("a\x1e\x1fb",), ("a", "", "b"), ("a\x1f\x1fb",))
    assert len({minted(KEY, "i", *names) for names in split}) == len(split)
    assert minted(KEY, "s", "1.2.840.1") == "s-" + minted(KEY, "x", "1.2.840.1")[2:]


# ---- listing


def test_links_pipes_and_loops_are_entries_and_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "a").mkdir(parents=True)
    (root / "a" / "f").write_bytes(b"x")
    (root / "nowhere").symlink_to("nothing")
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("..")
    os.mkfifo(root / "pipe")
    assert [(row[0], row[3]) for row in walk("ct", str(root))] == [
        ("a/f", "file"), ("loop", "link"), ("nowhere", "link"), ("pipe", "special"), ("up", "link"),
    ]  # fmt: skip


def test_what_goes_while_it_is_listed_is_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1", "b/1", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    real, seen = os.scandir, []

    @contextlib.contextmanager
    def scandir(path: Path | str):  # type: ignore[no-untyped-def]
        seen.append(path)
        with real(path) as entries:
            found = list(entries)
        if len(seen) == 2:  # the first look is whether the folder opens at all
            shutil.rmtree(tmp_path / "b")
            (tmp_path / "c").unlink()
        yield found

    monkeypatch.setattr(os, "scandir", scandir)
    assert [(row[0], row[3]) for row in walk("ct", str(tmp_path))] == [("a/1", "file"), ("b", "gone"), ("c", "gone")]


WITHOUT_RIGHTS = """\
import json, os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from ingesting import ingest
from medssl.core.listing import walk
root = Path(sys.argv[1])
if os.access(root / "shut", os.R_OK):
    sys.exit(77)
rows = [(row[0], row[3]) for row in walk("ct", str(root))]
found = ingest(root, root.parent / "out", depth=0)[""]
print(json.dumps({"rows": rows, "codes": sorted(found.codes), "volumes": len(found.volumes), "files": found.num_files}))
"""


def _without_rights() -> None:
    """Root reads everything: the two capabilities that let it are dropped (PR_CAPBSET_DROP of CAP_DAC_OVERRIDE, _READ_SEARCH)."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


def test_an_unreadable_file_is_a_row_and_the_rest_continues(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(datasets(random_phantom(0)), root / "good")
    save(datasets(random_phantom(1)), root / "shut")
    files = save(datasets(random_phantom(2)), root / "partly")
    files[-1].chmod(0)
    (root / "shut").chmod(0)
    tests = Path(__file__).parent
    try:
        run = subprocess.run(
            [sys.executable, "-c", WITHOUT_RIGHTS, str(root), str(tests), str(tests.parent)],
            capture_output=True, text=True, preexec_fn=_without_rights,
        )  # fmt: skip
    finally:
        (root / "shut").chmod(0o700)
    if run.returncode == 77:
        pytest.skip("rights do not bind this account")
    said = json.loads(run.stdout)
    assert ["shut/", "closed"] in said["rows"]
    assert said["codes"] == ["damaged_neighbour", "unreadable"]
    assert said["volumes"] == 1
    assert said["files"] == len(list((root / "good").iterdir())) + len(files) + 1


def test_a_source_that_is_not_there_is_reported_without_a_study_file_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    for name, words in (("no", "nothing at"), ("loop", "loop"), ("pipe", "neither a folder"), ("empty", "empty folder")):
        with pytest.raises(StudyError, match=words) as said:
            stamped(None, str(tmp_path / name))
        assert "study file" not in str(said.value) and "sources." not in str(said.value)
    with pytest.raises(StudyError, match="study file"):
        stamped("ct", str(tmp_path / "no"))


# ---- reading


def test_a_file_that_is_not_the_listed_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    info = path.stat()
    listed = {"path": str(path), "size": 100, "mtime_ns": info.st_mtime_ns}
    assert len(open_listed(listed)) == 100
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns + 1))
    for change in (lambda: None, lambda: path.write_bytes(b"x" * 99), path.unlink):
        change()
        with pytest.raises(Refusal) as refused:
            open_listed(listed)
        assert refused.value.code == "changed"


def test_a_slice_that_changes_between_header_and_pixels_is_refused(tmp_path: Path, readers) -> None:
    paths = save(datasets(random_phantom(0)), tmp_path / "s" / "case")
    real = readers.ask

    def ask(task: str, request, **limits):  # type: ignore[no-untyped-def]
        if task == "volume":
            os.utime(paths[3], ns=(1, 1))
        return real(task, request, **limits)

    readers.ask = ask
    try:
        found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"]
    finally:
        del readers.ask
    assert not found.volumes and found.codes == {"changed"}
    assert found.num_files == len(paths)


# ---- which series a damaged file may be of


def _rows(bad: str, code: str = "empty", **series: list[str]) -> list[dict]:
    good = [
        {"name": name, "code": "", "format": "dicom", "series": group, "group": group, "role": "image", "header": ""}
        for group, names in series.items()
        for name in names
    ]
    return [*good, {"name": bad, "code": code, "format": "", "series": "", "group": "r", "role": "image"}]


NUMBERED = [f"f/IM{n:04d}" for n in range(1, 30)]


@pytest.mark.parametrize(
    ("names", "bad", "doubt"),
    [
        (NUMBERED, "f/IM0030", True),
        (NUMBERED, "f/IM0000", True),
        (NUMBERED, "f/IM0031", False),
        (NUMBERED, "f/IM0015x", False),
        (NUMBERED, "g/IM0030", False),
        (NUMBERED, "f/", True),
        ([f"f/IM{n:04d}" for n in range(1, 60, 2)], "f/IM0061", True),
        ([f"f/IM{n:04d}" for n in range(1, 60, 2)], "f/IM0064", False),
        ([f"f/{n}.dcm" for n in (3, 77, 12, 105, 40)], "f/900.dcm", True),
        ([f"f/CT.3.{n}.dcm" for n in range(9)], "f/CT.4.9.dcm", False),
        ([f"f/{c}.dcm" for c in ("ab1", "9f", "c0ffee", "77")], "f/dead.dcm", True),
        ([f"f/{c}.dcm" for c in ("ab1", "9f", "c0ffee", "77")], "f/dead.txt", False),
    ],
)
def test_a_damaged_file_is_of_a_series_that_it_may_be_named_for(names: list[str], bad: str, doubt: bool) -> None:
    doubtful, beside = series_in_doubt(_rows(bad, a=names))
    assert set(doubtful) == ({"a"} if doubt else set())
    assert not beside & set(doubtful)


def test_text_beside_images_casts_no_doubt() -> None:
    hashes = [f"f/{rng(n, 'h').bytes(6).hex()}" for n in range(20)]
    for names in (NUMBERED, hashes):
        for name in ("f/README", "f/Thumbs.db", "f/series 3.json"):
            assert series_in_doubt(_rows(name, "not_an_image", a=names)) == ({}, set())


def test_a_folder_that_cannot_be_listed_casts_doubt_on_series_spread_over_folders() -> None:
    spread = [f"s/{folder}/IM{n}" for folder in range(3) for n in range(5)]
    assert series_in_doubt(_rows("s/3/", "unreadable", a=spread))[0].keys() == {"a"}
    assert series_in_doubt(_rows("s/3/", "unreadable", a=[f"s/0/IM{n}" for n in range(5)]))[0] == {}


# ---- the private table


def _mixed(root: Path) -> None:
    from PIL import Image

    save(datasets(random_phantom(0)), root / LATIN)
    made = datasets(random_phantom(1))
    save([ds for n, ds in enumerate(made) if n != 4], root / "gap")
    for number in range(3):
        (root / f"stump{number}.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\2\0\x10\0UI" + bytes([40, 0]) + b"1" * number)
    image = nifti_image(random_phantom(2))
    values = np.stack([np.asarray(image.dataobj)] * 3, axis=3)
    nibabel.save(nibabel.Nifti1Image(values, image.affine), root / "pt_bold.nii.gz")
    for number in range(4):
        Image.fromarray(np.full((9, 9), number, np.uint8)).save(root / f"a\t{number}.png")
    (root / "gone").symlink_to("nothing")


def _items(name: str = "items.tsv") -> pd.DataFrame:
    return read_tsv(Path(".medssl") / "s" / "ct" / name, text=("file", "code", "sentence")).fillna("")


def test_the_private_table_resolves_every_id_and_holds_every_file(here: Path) -> None:  # noqa: F811
    _mixed(here / "in")
    series, rejected, out = ingest_all(here / "in", shards=2)
    items = _items()
    for column in ("volume_id", "series_id", "subject_id"):
        assert set(series[column].dropna()) == set(items[column]) - {""}, column
    assert set(rejected["item_id"]) == set(items["item_id"]) - {""}
    images = pd.concat([pd.read_parquet(p) for p in out.glob("volumes/*/images.parquet")])
    assert set(images["image_id"]) == set(items["image_id"]) - {""}
    names = {unspelled(name) for name in items["file"]}
    assert names == {row[0] for row in walk("ct", str(here / "in"))}
    refused = items[items["item_id"] != ""].merge(rejected, on="item_id")
    assert (refused["code_x"] == refused["code_y"]).all()
    cut = items[items["code"] == "truncated"]
    assert len(cut) == 3 and set(cut["file"]) == {f"stump{n}.dcm" for n in range(3)}
    ledger = "".join(path.read_text() for path in out.rglob("*.tsv"))
    assert "stump" not in ledger and "xfcller" not in ledger


def test_the_private_table_is_there_where_everything_is_refused(here: Path) -> None:  # noqa: F811
    made = datasets(random_phantom(1))
    save([ds for n, ds in enumerate(made) if n != 4], here / "in")
    with pytest.raises(TooManyRefusalsError, match=r"items\.tsv"):
        ingest_all(here / "in")
    assert set(_items()["code"]) == {"missing_slice"} and len(_items()) == len(made) - 1


def _labelled(root: Path) -> None:
    for number in range(3):
        image = nifti_image(random_phantom(number))
        (root / LATIN).mkdir(parents=True, exist_ok=True)
        nibabel.save(image, root / "x.nii.gz")
        (root / "x.nii.gz").rename(root / LATIN / f"{LATIN}{number}_ct.nii.gz")


def test_masks_with_names_that_are_not_text_are_placed_and_resolved(here: Path) -> None:  # noqa: F811
    _labelled(here / "in")
    (here / "masks").mkdir()
    for number in range(3):
        image = nifti_image(random_phantom(number))
        mask = (np.asarray(image.dataobj) > 50).astype(np.uint8)
        mask = mask[:-1] if number == 1 else mask
        nibabel.save(nibabel.Nifti1Image(mask, image.affine), here / "x.nii.gz")
        (here / "x.nii.gz").rename(here / "masks" / f"{LATIN}{number}.nii.gz")
    (here / "masks" / f"{LATIN}_dseg.tsv").write_bytes(b"index\tname\n1\tl\xf6we\n")
    table, rejected, _ = labels_of(here / "in", here / "masks")
    assert len(table) == 2
    items = _items("label_items.tsv")
    assert list(rejected["code"]) == ["mask_mismatch"]
    assert set(rejected["item_id"]) <= set(items["item_id"])
    assert set(table["volume_id"]) == set(items["volume_id"]) - {""}
    assert {unspelled(name) for name in items["file"]} >= {f"{LATIN}{n}.nii.gz" for n in range(3)}


def test_a_label_table_names_files_by_their_bytes(here: Path) -> None:  # noqa: F811
    _labelled(here / "in")
    lines = [
        b"file,label,subject",
        *(b"M\xfcller/M\xfcller%d_ct.nii.gz,%s,M\xfcller" % (n, b"ab"[n % 2 : n % 2 + 1]) for n in range(3)),
    ]
    (here / "labels.csv").write_bytes(b"\n".join(lines))
    table, _, _ = labels_of(here / "in", here / "labels.csv")
    assert sorted(table["label"]) == ["a", "a", "b"]


def test_a_class_that_is_not_text_is_refused_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"file,label\na.nii,x\nb.nii,l\xf6we\n")
    with pytest.raises(StudyError, match="row 3"):
        read_label_table(path)
    path.write_bytes("file,label\na.nii,x\n".encode("utf-16"))
    with pytest.raises(StudyError, match="UTF-8"):
        read_label_table(path)
