"""Faults and harmless quirks of masks: contours, segmentation objects, and masks beside an image of their name.

Every class also says what its mask must show; `MaskExpected.judge_masks` checks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from faults import Expected, nifti_image
from faults_nifti import micro_phantom
from grid_files import metaimage_keys, nrrd_fields, write_metaimage, write_nrrd
from phantoms import Phantom, datasets, new_file, random_phantom, save
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from medssl.core.rng import rng


@dataclass(frozen=True)
class MaskExpected(Expected):
    """What a source with one image and its mask truly holds."""

    labels: np.ndarray | None = None
    """Of the mask, `(i, j, k)` on the image's source grid."""
    mask_outcomes: tuple[str, ...] = ("right",)
    mask_codes: tuple[str, ...] = ()

    def judge_masks(self, found: Any) -> str:
        """`right`, `refused` with one of the codes, `missing` or `wrong`."""
        paths = [folder / "mask.npy" for folder in found.folders if (folder / "mask.npy").is_file()]
        if not paths:
            return "refused" if found.codes & set(self.mask_codes) else "missing"
        assert self.labels is not None
        mask, affine = np.load(paths[0]), found.volumes[0][1]
        source = nifti_image(self.truths[0]).affine
        same = np.array_equal(np.unique(mask), np.unique(self.labels))
        for label in np.unique(self.labels)[1:] if same else []:
            one, other = _in_world(mask, affine, label), _in_world(self.labels, source, label)
            same = same and one.shape == other.shape and np.allclose(one, other, atol=1e-3)
        return "right" if same else "wrong"


def _in_world(mask: np.ndarray, affine: np.ndarray, label: int) -> np.ndarray:
    points = np.argwhere(mask == label) @ affine[:3, :3].T + affine[:3, 3]
    return points[np.lexsort((points / np.linalg.norm(affine[:3, :3], axis=0).min()).round(2).T)]


def _boxes(phantom: Phantom, seed: int) -> np.ndarray:
    mask = np.zeros((phantom.columns, phantom.rows, phantom.slices), np.uint8)
    r = rng(seed, "boxes")
    for label in (1, 2):
        low = r.integers(1, 6, 3) + np.array([0, 7 * (label - 1), 0])
        mask[tuple(slice(a, a + 4 + label) for a in low)] = label
    return mask


# ---- contours


def structure_set(
    phantom: Phantom, made: list[Dataset], rois: dict[int, list[tuple[str, np.ndarray]]], *, named: bool = True
) -> Dataset:
    """An RTSTRUCT of contours (geometric type, points `(n, 3)` in LPS mm) of a series."""
    ds = new_file("1.2.840.10008.5.1.4.1.1.481.3", ["rtstruct", str(phantom.seed)])
    ds.Modality, ds.SeriesInstanceUID = "RTSTRUCT", generate_uid(entropy_srcs=["rt", str(phantom.seed)])
    ds.StudyInstanceUID, ds.PatientID = made[0].StudyInstanceUID, made[0].PatientID
    ds.FrameOfReferenceUID = made[0].FrameOfReferenceUID
    if named:
        series, study, frame = Dataset(), Dataset(), Dataset()
        series.SeriesInstanceUID = made[0].SeriesInstanceUID
        study.RTReferencedSeriesSequence = Sequence([series])
        frame.RTReferencedStudySequence = Sequence([study])
        ds.ReferencedFrameOfReferenceSequence = Sequence([frame])
    items = []
    for number, contours in rois.items():
        roi = Dataset()
        roi.ReferencedROINumber, roi.ContourSequence = number, Sequence([])
        for kind, points in contours:
            contour = Dataset()
            if kind:
                contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
            roi.ContourSequence.append(contour)
        items.append(roi)
    ds.ROIContourSequence = Sequence(items)
    return ds


def outline_of(phantom: Phantom, k: float, low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    """A rectangle in slice `k`, in voxels."""
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    run_i, run_j = np.array(phantom.orientation[:3]) * phantom.spacing[1], np.array(phantom.orientation[3:]) * phantom.spacing[0]
    first = phantom.positions()[0] + k * (phantom.positions()[1] - phantom.positions()[0])
    return np.array([first + i * run_i + j * run_j for i, j in corners])


def _ring(phantom: Phantom) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """The outer and inner contours of a ring in four slices, and its mask."""
    outer = [outline_of(phantom, k, (2.5, 3.5), (11.5, 12.5)) for k in range(3, 7)]
    inner = [outline_of(phantom, k, (5.5, 6.5), (7.5, 8.5)) for k in range(3, 7)]
    truth = np.zeros((phantom.columns, phantom.rows, phantom.slices), np.uint8)
    truth[3:12, 4:13, 3:7] = 1
    truth[6:8, 7:9, 3:7] = 0
    return outer, inner, truth


def _with_contours(folder: Path, seed: int, make: Callable[..., list[tuple[str, np.ndarray]]], **expected: Any) -> MaskExpected:
    named = expected.pop("named", True)
    phantom = random_phantom(seed)
    made = datasets(phantom)
    outer, inner, truth = _ring(phantom)
    contours = make(phantom, outer, inner)
    save(made, folder)
    save([structure_set(phantom, made, {1: contours}, named=named)], folder, names=lambda n: "rt.dcm")
    return MaskExpected([phantom], must_be_right=True, labels=truth, **expected)


def _refused(*codes: str) -> dict[str, Any]:
    return {"mask_outcomes": ("refused",), "mask_codes": codes}


def contours_xor(folder: Path, seed: int) -> MaskExpected:
    """PS3.3 C.8.8.6.3: an outer and an inner contour that are combined by XOR."""
    return _with_contours(folder, seed, lambda p, outer, inner: [("CLOSEDPLANAR_XOR", c) for c in (*outer, *inner)])


def contours_keyhole(folder: Path, seed: int) -> MaskExpected:
    """PS3.3 C.8.8.6.3: one contour, with a channel of no width to the inner one."""

    def make(phantom: Phantom, outer: list[np.ndarray], inner: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
        return [("CLOSED_PLANAR", np.concatenate([a, a[:1], b[::-1], b[-1:]])) for a, b in zip(outer, inner, strict=True)]

    return _with_contours(folder, seed, make)


def contours_twice(folder: Path, seed: int) -> MaskExpected:
    """Every outer contour stored again: from another corner, the other way round, with another point on its line, or rounded."""

    def again(contour: np.ndarray, number: int) -> np.ndarray:
        changed = [
            np.roll(contour, 1, axis=0),
            contour[::-1],
            np.insert(contour, 1, contour[:2].mean(0), axis=0),
            contour.round(2),
        ]
        return changed[(seed + number) % 4]

    def make(phantom: Phantom, outer: list[np.ndarray], inner: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
        return [("CLOSED_PLANAR", c) for c in (*outer, *inner, *[again(c, n) for n, c in enumerate(outer)])]

    return _with_contours(folder, seed, make)


def contours_xor_twice(folder: Path, seed: int) -> MaskExpected:
    def make(phantom: Phantom, outer: list[np.ndarray], inner: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
        return [("CLOSEDPLANAR_XOR", c) for c in (*outer, *inner, outer[seed % 4])]

    return _with_contours(folder, seed, make, **_refused("mask_values"))


def contours_cross(folder: Path, seed: int) -> MaskExpected:
    def make(phantom: Phantom, outer: list[np.ndarray], inner: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
        other = outline_of(phantom, 4, (8.5, 9.5), (15.5, 16.5))
        return [("CLOSED_PLANAR", c) for c in (*outer, other)]

    return _with_contours(folder, seed, make, **_refused("mask_values"))


def contours_of_no_type(folder: Path, seed: int) -> MaskExpected:
    """A type that the standard does not know, or none: the structure would vanish."""
    kind = ["", "CLOSED_NONPLANAR", "closed planar"][seed % 3]
    return _with_contours(folder, seed, lambda p, outer, inner: [(kind, c) for c in (*outer, *inner)], **_refused("corrupt"))


def contours_beyond(folder: Path, seed: int) -> MaskExpected:
    """A contour two slices above the image."""

    def make(phantom: Phantom, outer: list[np.ndarray], inner: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
        k = [-2.0, phantom.slices + 1.0][seed % 2]
        return [("CLOSED_PLANAR", c) for c in (*outer, *inner, outline_of(phantom, k, (2.5, 3.5), (11.5, 12.5)))]

    return _with_contours(folder, seed, make, **_refused("mask_mismatch"))


def contours_between(folder: Path, seed: int) -> MaskExpected:
    def make(phantom: Phantom, outer: list[np.ndarray], inner: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
        return [("CLOSED_PLANAR", c) for c in (*outer, outline_of(phantom, 4.5, (2.5, 3.5), (11.5, 12.5)))]

    return _with_contours(folder, seed, make, **_refused("mask_mismatch"))


def contours_rounded(folder: Path, seed: int) -> MaskExpected:
    """Planning systems write tenths of a millimetre."""
    return _with_contours(folder, seed, lambda p, outer, inner: [("CLOSED_PLANAR", c.round(1)) for c in (*outer, *inner)])


def contours_and_points(folder: Path, seed: int) -> MaskExpected:
    """A point of interest and an open line enclose nothing, and take nothing from the rest."""

    def make(phantom: Phantom, outer: list[np.ndarray], inner: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
        lines = [("POINT", outer[0][:1]), ("OPEN_PLANAR", outer[1][:3])]
        return [*lines, *[("CLOSED_PLANAR", c) for c in (*outer, *inner)]]

    return _with_contours(folder, seed, make)


def contours_name_no_series(folder: Path, seed: int) -> MaskExpected:
    """An RTSTRUCT without references, in the study of one series."""
    return _with_contours(folder, seed, lambda p, outer, inner: [("CLOSED_PLANAR", c) for c in (*outer, *inner)], named=False)


# ---- segmentation objects


def _segmentation(made: list[Dataset], masks: np.ndarray, kind: str, seed: int) -> Dataset:
    import highdicom
    from pydicom.sr.codedict import codes

    for ds in made:
        ds.PatientName, ds.PatientBirthDate, ds.StudyDate, ds.StudyTime = "A^B", "19700101", "20200101", "101010"
        ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "1", "1", "C^D"
    description = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="s",
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Bone,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    return highdicom.seg.Segmentation(
        source_images=made,
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=[description],
        series_instance_uid=generate_uid(entropy_srcs=["seg", str(seed)]),
        series_number=9,
        sop_instance_uid=generate_uid(entropy_srcs=["segi", str(seed)]),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )


def segmentation_names_no_series(folder: Path, seed: int) -> MaskExpected:
    """ReferencedSeriesSequence is type 1C: many objects of research tools do not have it. Geometry proves the image."""
    phantom = random_phantom(seed)
    made = datasets(phantom)
    labels = (_boxes(phantom, seed) == 1).astype(np.uint8)
    segmentation = _segmentation(made, labels.transpose(2, 1, 0), "BINARY", seed)
    del segmentation.ReferencedSeriesSequence
    save(made, folder)
    segmentation.save_as(folder / "seg.dcm")
    return MaskExpected([phantom], must_be_right=True, labels=labels)


def segmentation_fractional(folder: Path, seed: int) -> MaskExpected:
    phantom = random_phantom(seed)
    made = datasets(phantom)
    labels = (_boxes(phantom, seed) == 1).astype(np.uint8)
    segmentation = _segmentation(made, labels.transpose(2, 1, 0).astype(np.float32) * 0.5, "FRACTIONAL", seed)
    save(made, folder)
    segmentation.save_as(folder / "seg.dcm")
    return MaskExpected([phantom], must_be_right=True, labels=labels, **_refused("mask_values"))


# ---- masks beside an image of their name


def _save_nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    image = nibabel.Nifti1Image(values, affine)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nibabel.save(image, path)


def mask_off_by_micrometres(folder: Path, seed: int) -> MaskExpected:
    """Six voxels of 15 µm are less than a tenth of a millimetre."""
    phantom = micro_phantom(seed)
    image = nifti_image(phantom)
    labels = _boxes(phantom, seed)
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, folder / "sub-1_img.nii.gz")
    moved = image.affine.copy()
    moved[:3, 3] += moved[:3, seed % 3] * [6, 1, 0.5][seed // 3 % 3]
    _save_nifti(folder / "sub-1_seg.nii.gz", labels, moved)
    return MaskExpected([phantom], must_be_right=True, labels=labels, **_refused("mask_mismatch"))


def _image_and_mask(folder: Path, seed: int, names: tuple[str, str], *, digits: int | None = None, **found: Any) -> MaskExpected:
    """A NIfTI image and its mask under two names; `digits`: of the mask's affine."""
    phantom = random_phantom(seed)
    image = nifti_image(phantom)
    labels = _boxes(phantom, seed)
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, folder / f"{names[0]}.nii.gz")
    _save_nifti(folder / f"{names[1]}.nii.gz", labels, image.affine if digits is None else image.affine.round(digits))
    return MaskExpected([phantom], must_be_right=True, labels=labels, **found)


def mask_rounded(folder: Path, seed: int) -> MaskExpected:
    """The mask's affine in five digits, as a tool that writes text leaves it."""
    return _image_and_mask(folder, seed, ("sub-1_ct", "sub-1_seg"), digits=4)


def mask_in_another_format(folder: Path, seed: int) -> MaskExpected:
    """Image and mask in any two of NIfTI, NRRD and MetaImage, attached or not, turned or not, by the names of 3D Slicer too."""
    phantom = random_phantom(seed)
    image = nifti_image(phantom)
    values, affine, labels = np.asarray(image.dataobj), image.affine, _boxes(phantom, seed)
    folder.mkdir(parents=True, exist_ok=True)
    _write_any(folder, "sub-1_ct", values, affine, seed % 3)
    which = seed // 3 % 3
    name = ["sub-1_seg", "sub-1.seg", "sub-1-label"][seed // 9 % 3] if which == 1 else "sub-1_seg"
    _write_any(folder, name, labels, affine, which, detached=seed // 2 % 2 == 1)
    return MaskExpected([phantom], must_be_right=True, labels=labels)


def mask_named_otherwise(folder: Path, seed: int) -> MaskExpected:
    """A mask whose name fits no image, beside an image whose name only seems to be a mask's."""
    image, mask = ("label", "roi", "seg")[seed % 3], ("seg_final", "mask-v2", "Labels.2")[seed % 3]
    return _image_and_mask(folder, seed, (f"{image}-study_1_ct", f"patient_1_{mask}"), **_refused("label_map"))


def mask_named_by_its_kind_alone(folder: Path, seed: int) -> MaskExpected:
    """A folder for each patient, in which names say the kind and nothing else."""
    names = (("imaging", "segmentation"), ("ct", "seg"), ("image", "mask"), ("CT", "label"))[seed % 4]
    return _image_and_mask(folder, seed, names)


def _write_any(folder: Path, stem: str, values: np.ndarray, affine: np.ndarray, which: int, *, detached: bool = False) -> None:
    data = folder / f"{stem}.raw" if detached else None
    if which == 0:
        _save_nifti(folder / f"{stem}.nii.gz", values, affine)
    elif which == 1:
        fields = nrrd_fields(values, affine, space="right-anterior-superior")
        write_nrrd(
            folder / f"{stem}.{'nhdr' if data else 'nrrd'}",
            values,
            fields | ({"data file": data.name} if data else {}),
            data=data,
        )
    else:
        write_metaimage(folder / f"{stem}.{'mhd' if data else 'mha'}", values, metaimage_keys(values, affine), data=data)


def mask_of_other_grid(folder: Path, seed: int) -> MaskExpected:
    """A detached NRRD or MetaImage mask that lies a voxel off, is of another shape, or holds fractions."""
    phantom = random_phantom(seed)
    image = nifti_image(phantom)
    values, affine, labels = np.asarray(image.dataobj), image.affine, _boxes(phantom, seed)
    folder.mkdir(parents=True, exist_ok=True)
    _write_any(folder, "sub-1_ct", values, affine, seed % 3, detached=True)
    moved, shown = affine.copy(), labels
    if seed // 2 % 3 == 0:
        moved[:3, 3] += moved[:3, 0]
    elif seed // 2 % 3 == 1:
        shown = labels[:, :, 1:]
    else:
        shown = labels.astype(np.float32) * 0.5
    _write_any(folder, "sub-1_seg", shown, moved, 1 + seed % 2, detached=True)
    return MaskExpected([phantom], must_be_right=True, labels=labels, **_refused("mask_mismatch", "mask_values"))


DICOM_MASK_FAULTS: dict[str, Callable[[Path, int], Expected]] = {
    f.__name__: f
    for f in (
        contours_xor, contours_keyhole, contours_twice, contours_xor_twice, contours_cross, contours_of_no_type, contours_beyond,
        contours_between, contours_rounded, contours_and_points, contours_name_no_series, segmentation_names_no_series,
        segmentation_fractional,
    )
}  # fmt: skip
NIFTI_MASK_FAULTS: dict[str, Callable[[Path, int], Expected]] = {
    f.__name__: f
    for f in (
        mask_off_by_micrometres,
        mask_rounded,
        mask_in_another_format,
        mask_of_other_grid,
        mask_named_otherwise,
        mask_named_by_its_kind_alone,
    )
}
HARMLESS = {"contours_xor", "contours_keyhole", "contours_twice", "contours_rounded", "contours_and_points"}
HARMLESS |= {
    "mask_named_by_its_kind_alone",
    "contours_name_no_series",
    "segmentation_names_no_series",
    "mask_rounded",
    "mask_in_another_format",
}
