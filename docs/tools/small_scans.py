"""The folders that the how-to pages name, filled with small scans cut from the bundled ones. Each is a slab of a few slices."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom

PATIENTS = 16
CASES = 12


def write_scans(place: Path) -> None:
    """Fill `data/`, `new/` and `some/` of a copy of the tree, and write `labels.csv`, as the pages describe them."""
    names = write_patients(place / "demo" / "ct" / "demo1", place / "data" / "scans")
    shutil.copytree(place / "demo" / "ct" / "demo2", place / "data" / "unlabelled")  # the firewall would find slices of demo1
    shutil.copytree(place / "data" / "scans", place / "some" / "DICOM" / "folder")
    write_cases(place / "demo", place / "data" / "liver")
    shutil.copytree(place / "data" / "scans" / names[0], place / "new" / "ct" / names[0])
    (place / "new" / "scans").mkdir()
    shutil.copy(place / "data" / "liver" / "imagesTr" / "case_1_0000.nii.gz", place / "new" / "scans")
    with (place / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", "sex", "site"])
        rows.writerows([name, ("benign", "malignant")[k % 2], "fm"[k // 2 % 2], "ab"[k // 4 % 2]] for k, name in enumerate(names))


def write_patients(demo: Path, folder: Path) -> list[str]:
    """DICOM series of three slices, each of another patient, from a bundled CT; the names of their folders."""
    slices = sorted(demo.rglob("*.dcm"))  # neighbours have neighbouring names
    names = [f"case_{number:03d}" for number in range(1, PATIENTS + 1)]
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for path in slices[3 * k : 3 * k + 3]:
            image = pydicom.dcmread(path)
            image.PatientID = image.PatientName = name
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
                setattr(image, keyword, pydicom.uid.generate_uid(entropy_srcs=[keyword, name]))
            image.save_as(folder / name / path.name)
    return names


def write_cases(demo: Path, folder: Path) -> None:
    """Slabs of six slices of the spine's CT in `imagesTr/`, and of its vertebrae in `labelsTr/`."""
    for kind, source, suffix in (
        ("imagesTr", demo / "spine" / "sub-spinect_ct.nii.gz", "_0000"),
        ("labelsTr", demo / "spine_vertebrae" / "sub-spinect_vertebrae.nii.gz", ""),
    ):
        whole = nibabel.load(source)
        (folder / kind).mkdir(parents=True)
        for k in range(CASES):
            part = whole.slicer[:, :, 6 * k : 6 * k + 6]
            values = np.asarray(part.dataobj)
            nibabel.save(nibabel.Nifti1Image(values, part.affine), folder / kind / f"case_{k + 1}{suffix}.nii.gz")
