"""A mask as a DICOM Segmentation object of the series that it was made of: on its frames, for its patient and study."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medssl.core.errors import StudyError
from medssl.volume.geometry import LPS_TO_RAS

if TYPE_CHECKING:
    from pydicom import Dataset

PLACE_TOLERANCE_VOX = 0.25
"""How far a pixel of the source may lie from the mask voxel that is taken for it: positions in headers are rounded."""
PATIENT_AND_STUDY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
"""Attributes that must be there, be it without a value; de-identified files often lack some."""


@dataclass(frozen=True)
class Algorithm:
    """What made a mask: the model's name and version, and a number that stands for its weights."""

    model: str
    version: str
    weights: str


@dataclass(frozen=True)
class _Frame:
    """A plane of the source: `to_lps` takes (row, column, 1) to LPS mm, a (3, 3) array; `shape` is (rows, columns)."""

    to_lps: np.ndarray
    shape: tuple[int, int]


def segmentation_of(
    files: Sequence[Path], mask: np.ndarray, affine: np.ndarray, segments: Mapping[str, int], algorithm: Algorithm
) -> Dataset:
    """The Segmentation object (binary, a segment for each class) of a mask.

    Args:
        files: of the volume that the mask is of: one per slice, or one multi-frame object.
        mask: values `(i, j, k)`; affine: 4×4 to RAS+ mm.
        segments: by name of the class its value in the mask.

    Raises:
        StudyError: the files' pixels are not the mask's voxels one by one, or the object cannot be made.

    Source: DICOM PS3.3 A.51 and C.8.20, by highdicom.
    """
    import pydicom

    try:
        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    except Exception as error:  # pydicom raises what it likes for a file that changed since it was read
        raise StudyError(f"a file of the source cannot be read again ({type(error).__name__}).") from None
    if len({str(header.get("FrameOfReferenceUID", "")) for header in headers}) != 1:
        raise StudyError("its slices have different frames of reference, and a segmentation has one.")
    planes = _planes(headers, mask, affine)
    labels = np.zeros(planes.shape, np.uint8)
    for number, value in enumerate(segments.values(), start=1):
        labels[planes == value] = number
    try:
        for header in headers:
            _complete(header)
        with warnings.catch_warnings(action="ignore"):  # they quote the patient's name
            return _object(headers, labels, list(segments), algorithm)
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise StudyError(f"its headers do not make a segmentation ({error}).") from None


def _planes(headers: Sequence[Dataset], mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The mask on each frame of the source, `(frame, row, column)`.

    Raises:
        StudyError: the frames are not its slices, each once.
    """
    frames = _frames(headers)
    if len({frame.shape for frame in frames}) != 1:
        raise StudyError("its slices differ in their number of rows and columns.")
    rows, columns = frames[0].shape
    if len(frames) * rows * columns != mask.size:
        raise StudyError(
            f"the source has {len(frames)} frames of {rows} × {columns} pixels, and the mask "
            f"{' × '.join(map(str, mask.shape))} voxels."
        )
    to_voxel = np.linalg.inv(affine)
    steps = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), [1], indexing="ij"), axis=-1).reshape(-1, 3)
    planes = np.empty((len(frames), rows, columns), mask.dtype)
    taken = np.zeros(mask.shape, bool)
    for number, frame in enumerate(frames):
        points = (steps @ frame.to_lps.T) @ np.diag(np.diag(LPS_TO_RAS)[:3])
        voxels = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        whole = np.rint(voxels).astype(int)
        off = float(np.abs(voxels - whole).max())
        if off > PLACE_TOLERANCE_VOX or (whole < 0).any() or (whole >= mask.shape).any():
            raise StudyError(f"frame {number + 1} of the source does not lie on the mask's grid (off by {off:.2f} voxels).")
        place = tuple(whole.T)
        planes[number] = mask[place].reshape(rows, columns)
        taken[place] = True
    if not taken.all():
        raise StudyError("two frames of the source lie at one place.")
    return planes


def _frames(headers: Sequence[Dataset]) -> list[_Frame]:
    """The frames of single-frame objects, or of one multi-frame object, in their order.

    Raises:
        StudyError: the header does not say where each frame lies.
    """
    several = [header for header in headers if int(header.get("NumberOfFrames", 1) or 1) > 1]
    if several and len(headers) > 1:
        raise StudyError(f"the source has {len(headers)} objects, and one of them holds several frames.")
    if not several:
        return [_frame(header, header, header, header) for header in headers]
    (header,) = headers
    groups, shared = header.get("PerFrameFunctionalGroupsSequence"), header.get("SharedFunctionalGroupsSequence") or [{}]
    if not groups:
        raise StudyError("the source is one object of several frames whose header does not say where each of them lies.")

    def part(frame: Any, name: str) -> Any:
        found = frame.get(name) or shared[0].get(name)
        if not found:
            raise StudyError(f"the header of a frame of the source has no {name}.")
        return found[0]

    return [
        _frame(
            header,
            part(frame, "PlanePositionSequence"),
            part(frame, "PlaneOrientationSequence"),
            part(frame, "PixelMeasuresSequence"),
        )
        for frame in groups
    ]


def _frame(header: Dataset, position: Dataset, orientation: Dataset, measures: Dataset) -> _Frame:
    try:
        origin = np.array(position.ImagePositionPatient, float)
        along_row, along_column = np.array(orientation.ImageOrientationPatient, float).reshape(2, 3)
        between_rows, between_columns = map(float, measures.PixelSpacing)
        shape = int(header.Rows), int(header.Columns)
    except (AttributeError, ValueError, TypeError):
        raise StudyError("the header of a frame of the source does not say where it lies.") from None
    return _Frame(np.stack([along_column * between_rows, along_row * between_columns, origin], axis=1), shape)


def _complete(header: Dataset) -> None:
    """Make the attributes that a segmentation takes from its source valid: all there, whole, and in letters of every script."""
    header.decode()
    if any("ReferencedSOPClassUID" not in study for study in header.get("ReferencedStudySequence") or []):
        del header.ReferencedStudySequence  # an option of the standard, which some archives leave half empty
    header.SpecificCharacterSet = "ISO_IR 192"
    for name in PATIENT_AND_STUDY:
        if name not in header:
            setattr(header, name, "")


def _as_text(name: str) -> str:
    """A name as one value of a DICOM attribute, which a backslash would divide."""
    return name.replace("\\", "/")[:64]


def _object(headers: Sequence[Dataset], labels: np.ndarray, names: list[str], algorithm: Algorithm) -> Dataset:
    import highdicom
    from highdicom.sr.coding import CodedConcept
    from pydicom.sr.codedict import codes

    made_by = highdicom.AlgorithmIdentificationSequence(
        name=_as_text(algorithm.model), version=algorithm.version, family=codes.cid7162.ArtificialIntelligence
    )
    # What a class is in a clinical vocabulary is not known: its name is a code of this program.
    category = CodedConcept("309825002", "SCT", "Spatial and Relational Concept")
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=_as_text(name),
            segmented_property_category=category,
            segmented_property_type=CodedConcept(f"CLASS-{number}", "99MEDSSL", _as_text(name)),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=made_by,
        )
        for number, name in enumerate(names, start=1)
    ]
    return highdicom.seg.Segmentation(
        source_images=headers,
        pixel_array=labels,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=highdicom.UID(),
        series_number=9000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="medssl",
        manufacturer_model_name=_as_text(algorithm.model),
        software_versions=algorithm.version,
        device_serial_number=algorithm.weights[:64],
        series_description=_as_text(f"medssl {algorithm.model}"),
        content_description="Made by a model, not by a person",
    )
