"""Ids are equal if two sources hold the same thing, and never because two files share a name."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from ingesting import ingest
from phantoms import Phantom, datasets, random_phantom, save
from PIL import Image
from pydicom.uid import generate_uid

from medssl.core.rng import rng
from medssl.ingest.checking import check_source
from medssl.ingest.inventory import Labels


def _write(folder: Path, seed: int) -> Path:
    """A picture, an image set and a NIfTI volume with names and shapes that do not depend on the seed; pixels do."""
    folder.mkdir(parents=True)
    draw = rng(seed, "ids")
    Image.fromarray(draw.integers(0, 255, (24, 24), dtype=np.uint8)).save(folder / "picture.png")
    np.savez(folder / "set.npz", train_images=draw.integers(0, 255, (4, 12, 12), dtype=np.uint8))
    voxels = draw.integers(-900, 900, (8, 8, 5), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), folder / "case_ct.nii.gz")
    return folder


def _ids(root: Path, scratch: Path, name: str, readers, depth: int = 99, **given) -> dict[str, set[str]]:
    """Ids of volumes, series and patients of a source."""
    found: dict[str, set[str]] = {"volume": set(), "series": set(), "subject": set()}
    for part in ingest(root, scratch / name, name=name, depth=depth, readers=readers, **given).values():
        for _, _, row in part.volumes:
            found["volume"].add(row["volume_id"])
            found["series"].add(row["series_id"])
            found["subject"].add(row["subject_id"])
    return found


def test_files_of_one_name_in_two_sources_share_no_id(tmp_path: Path, readers) -> None:
    first = _ids(_write(tmp_path / "one", 1), tmp_path / "scratch", "one", readers)
    second = _ids(_write(tmp_path / "two", 2), tmp_path / "scratch", "two", readers)
    for kind in ("volume", "series"):
        assert len(first[kind]) == len(second[kind]) == 3
        assert not first[kind] & second[kind], kind


def test_ids_of_a_source_do_not_depend_on_where_it_lies(tmp_path: Path, readers) -> None:
    here = _ids(_write(tmp_path / "a", 1), tmp_path / "scratch" / "a", "one", readers)
    there = _ids(_write(tmp_path / "b", 1), tmp_path / "scratch" / "b", "one", readers)
    assert here == there


def test_a_dicom_series_has_the_same_ids_in_every_source(tmp_path: Path, readers) -> None:
    phantom: Phantom = random_phantom(3)
    found = []
    for name in ("one", "two"):
        save(datasets(phantom), tmp_path / name)
        found.append(_ids(tmp_path / name, tmp_path / "scratch", name, readers, depth=0))
    assert found[0] == found[1]
    assert all(found[0][kind] for kind in ("volume", "series", "subject"))


def test_a_patient_that_tables_of_two_sources_name_is_one(tmp_path: Path, readers) -> None:
    labels = Labels(subject={"case_ct.nii.gz": "P17"})
    found = [_ids(_write(tmp_path / n, s), tmp_path / "scratch", n, readers, labels=labels) for s, n in enumerate(("one", "two"))]
    shared = (found[0]["subject"] & found[1]["subject"]) - {None}
    assert len(shared) == 1


def test_the_id_of_joined_slices_stays_when_a_slice_is_added(tmp_path: Path) -> None:
    """Every slice has its own series: each additional one changes which identifier is the first."""
    made = datasets(random_phantom(5))
    for number, one in enumerate(made):
        one.SeriesInstanceUID = generate_uid(entropy_srcs=["one", str(number)])
    ids = []
    for count in range(len(made) - 5, len(made) + 1):
        save(made[:count], tmp_path / "in" / "scan")
        (row,) = check_source(tmp_path / "in").series
        assert row["shape"][2] == count and row["warnings"] == ["series_each"]
        ids.append((row["series_id"], row["volume_id"]))
    assert len(set(ids)) == 1
    save(made, tmp_path / "in" / "again")
    for path in (tmp_path / "in" / "scan").iterdir():
        path.unlink()
    assert check_source(tmp_path / "in").series[0]["series_id"] != ids[0][0], "another folder"
