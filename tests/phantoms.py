"""An image whose every voxel is known: intensity is linear in patient millimetres, so any right volume reproduces it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from medssl.core.rng import rng

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"


@dataclass(frozen=True)
class Phantom:
    """A stack of slices through a linear field. Lengths in millimetres, LPS."""

    seed: int
    columns: int = 26
    rows: int = 22
    slices: int = 18
    spacing: tuple[float, float] = (0.8, 0.7)
    """DICOM PixelSpacing: between rows, between columns."""
    step: float = 2.5
    origin: tuple[float, float, float] = (-9.0, -7.0, -20.0)
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    step_direction: tuple[float, float, float] | None = None
    """Unit vector from slice to slice; None is the normal."""
    constant: float = 100.0
    slope_per_mm: tuple[float, float, float] = (3.0, 2.0, 5.0)
    modality: str = "CT"
    depths: tuple[float, ...] | None = None
    """Positions along the step direction where the steps are not even."""
    tags: dict[str, Any] = field(default_factory=dict)

    def value(self, points_lps: np.ndarray) -> np.ndarray:
        """The field at points `(..., 3)`."""
        return self.constant + points_lps @ np.array(self.slope_per_mm)

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])

    def positions(self) -> np.ndarray:
        """Centres of the first voxels, `(slices, 3)`."""
        direction = self.normal if self.step_direction is None else np.array(self.step_direction)
        depths = np.arange(self.slices) * self.step if self.depths is None else np.array(self.depths)
        return np.array(self.origin) + depths[:, None] * direction

    def plane(self, position: np.ndarray) -> np.ndarray:
        """Values `(rows, columns)` of the slice at a position."""
        j, i = np.meshgrid(np.arange(self.rows), np.arange(self.columns), indexing="ij")
        points = (
            position
            + i[..., None] * self.spacing[1] * np.array(self.orientation[:3])
            + j[..., None] * self.spacing[0] * np.array(self.orientation[3:])
        )
        return self.value(points)

    def corners(self) -> np.ndarray:
        """World LPS of the outermost voxel centres, `(8, 3)`."""
        ends = []
        for position in self.positions()[[0, -1]]:
            for i in (0, self.columns - 1):
                for j in (0, self.rows - 1):
                    ends.append(
                        position
                        + i * self.spacing[1] * np.array(self.orientation[:3])
                        + j * self.spacing[0] * np.array(self.orientation[3:])
                    )
        return np.array(ends)


def random_phantom(seed: int, **options: Any) -> Phantom:
    """A phantom of random size, spacing and place; oblique for every third seed."""
    r = rng(seed, "phantom")
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    if seed % 3 == 2:
        from scipy.spatial.transform import Rotation

        turn = Rotation.from_euler("xyz", r.uniform(-20, 20, 3), degrees=True).as_matrix()
        orientation = tuple(np.round(np.concatenate([turn[:, 0], turn[:, 1]]), 8))
    chosen = {
        "columns": int(r.integers(20, 34)),
        "rows": int(r.integers(20, 34)),
        "slices": int(r.integers(14, 26)),
        "spacing": (round(float(r.uniform(0.5, 1.2)), 3), round(float(r.uniform(0.5, 1.2)), 3)),
        "step": round(float(r.uniform(1.0, 4.0)), 2),
        "origin": tuple(np.round(r.uniform(-30, 30, 3), 2)),
        "orientation": orientation,
    }
    return Phantom(seed=seed, **{**chosen, **options})


def datasets(phantom: Phantom, *, series: str = "a", study: str = "a", patient: str = "a") -> list[FileDataset]:
    """One classic DICOM data set per slice, uncompressed explicit little endian, 12 of 16 bits, rescale 1 and -1024."""
    made = []
    study_uid = generate_uid(entropy_srcs=["study", str(phantom.seed), study])
    series_uid = generate_uid(entropy_srcs=["series", str(phantom.seed), series])
    frame_uid = generate_uid(entropy_srcs=["frame", str(phantom.seed), study])
    for number, position in enumerate(phantom.positions()):
        ds = new_file(CT_CLASS if phantom.modality == "CT" else MR_CLASS, ["instance", str(phantom.seed), series, str(number)])
        ds.Modality = phantom.modality
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if phantom.modality == "CT" else ["ORIGINAL", "PRIMARY", "M", "ND"]
        ds.PatientName, ds.PatientID = "Phantom^Linear", f"patient-{phantom.seed}-{patient}"
        ds.PatientAge, ds.PatientSex = "045Y", "F"
        ds.Manufacturer = "SIEMENS"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study_uid, series_uid, frame_uid
        ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = 3, number + 1, 1
        ds.SliceThickness = phantom.step
        ds.ImagePositionPatient = [repr(round(float(v), 6)) for v in position]
        ds.ImageOrientationPatient = [repr(float(v)) for v in phantom.orientation]
        ds.PixelSpacing = [repr(s) for s in phantom.spacing]
        if phantom.modality == "CT":
            ds.ConvolutionKernel, ds.KVP = "B40f", 120
            ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        else:
            ds.EchoTime, ds.EchoNumbers = 30, 1
        set_values(ds, phantom.plane(position))
        for name, value in phantom.tags.items():
            setattr(ds, name, value)
        made.append(ds)
    return made


def new_file(sop_class: str, entropy: list[str]) -> FileDataset:
    """An empty DICOM file of a class."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=entropy)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    return ds


def set_values(ds: Dataset, values: np.ndarray, *, bits: int = 12, signed: bool = False) -> None:
    """Store values `(rows, columns)` through the data set's own rescale."""
    stored = np.rint((values - float(ds.get("RescaleIntercept", 0))) / float(ds.get("RescaleSlope", 1)))
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if stored.min() < low or stored.max() > high:
        raise ValueError(f"values {stored.min()} to {stored.max()} do not fit {bits} bits")
    set_stored(ds, stored.astype(("i" if signed else "u") + ("1" if bits <= 8 else "2")), bits=bits)


def set_stored(ds: Dataset, stored: np.ndarray, *, bits: int) -> None:
    """Store raw pixels `(rows, columns)`."""
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *stored.shape, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = stored.dtype.itemsize * 8, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    raw = stored.tobytes()
    ds.PixelData = raw + b"\0" * (len(raw) % 2)
    ds["PixelData"].VR = "OW" if stored.dtype.itemsize == 2 else "OB"


def save(made: Sequence[FileDataset], folder: Path, *, names: Callable[[int], str] = lambda n: f"{n:04d}.dcm") -> list[Path]:
    """Write data sets into a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(made):
        path = folder / names(number)
        write(ds, path)
        paths.append(path)
    return paths


def write(ds: FileDataset, path: Path) -> None:
    """Write one data set in the syntax of its file meta information."""
    syntax = ds.file_meta.TransferSyntaxUID
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(path, ds, implicit_vr=implicit, little_endian=little, enforce_file_format=True)


def tilted(phantom: Phantom, degrees: float) -> Phantom:
    """The phantom scanned with a gantry tilt: slices turned about x, the table still moving along z."""
    angle = np.radians(degrees)
    return replace(
        phantom,
        orientation=(1.0, 0.0, 0.0, 0.0, round(float(np.cos(angle)), 8), round(float(np.sin(angle)), 8)),
        step_direction=(0.0, 0.0, 1.0),
    )


def largest_error(array: np.ndarray, affine: np.ndarray, phantom: Phantom, *, fill: float | None = None) -> float:
    """The largest difference between an array `(i, j, k)` with an affine to RAS+ mm and the truth, in value units.

    Voxels equal to `fill` are left out (the rim of a straightened stack).
    """
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in array.shape], indexing="ij"), axis=-1)
    points = grid @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]
    error = np.abs(array.astype(float) - phantom.value(points * [-1.0, -1.0, 1.0]))
    if fill is not None:
        error = error[array != fill]
    return float(error.max()) if error.size else np.inf


def covers(array: np.ndarray, affine: np.ndarray, phantom: Phantom, *, slack_vox: float = 0.6) -> bool:
    """Whether every corner of the phantom lies inside the array's grid."""
    corners = phantom.corners() * [-1.0, -1.0, 1.0]
    inverse = np.linalg.inv(affine)
    index = corners @ inverse[:3, :3].T + inverse[:3, 3]
    return bool((index > -slack_vox).all() and (index < np.array(array.shape) - 1 + slack_vox).all())
