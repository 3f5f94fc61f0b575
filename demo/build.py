"""Rebuild this folder's images from their public sources: `python demo/build.py PATH_OF_DEMO_SOURCES [--into FOLDER]`.

The only place of the project that writes DICOM; nothing of medssl is imported. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless

HERE = Path(__file__).resolve().parent
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "medssl/demo")
FACTOR = 2
"""In-plane pixels averaged along each axis: 512 → 256."""


@dataclass(frozen=True)
class Series:
    """How one chest CT is written."""

    source: str
    patient: str
    syntax: UID
    signed: bool
    head_first: bool
    """Instance 1 is the slice nearest the head; otherwise the one nearest the feet."""


SERIES = (
    Series("lung1", "DEMO1", ExplicitVRLittleEndian, signed=True, head_first=False),
    Series("lung2", "DEMO2", JPEGLSLossless, signed=False, head_first=True),
)
SPINE = {
    "sub-spinect_ct.nii.gz": "sub-ct_label-22_ct.nii.gz",
    "sub-spinect_mask.nii.gz": "sub-ct_seg-subreg_label-22_msk.nii.gz",
    "sub-spinemr_T2w.nii.gz": "sub-mri_label-6_T2w.nii.gz",
    "sub-spinemr_mask.nii.gz": "sub-mri_seg-subreg_label-6_msk.nii.gz",
}
VERTEBRAE = {
    "sub-spinect_vertebrae.nii.gz": "sub-ct_seg-vert_label-22_msk.nii.gz",
    "sub-spinemr_vertebrae.nii.gz": "sub-mri_seg-vert_label-6_msk.nii.gz",
}


def build(sources: Path, into: Path) -> None:
    """Write ct/, ct_masks/, spine/, spine_vertebrae/ and organs/ below `into`, in place of those of this folder."""
    for folder in (into / name for name in ("ct", "ct_masks", "spine", "spine_vertebrae", "organs")):
        if folder.exists() and into != HERE:
            raise SystemExit(f"{folder} exists: name an empty folder")
        shutil.rmtree(folder, ignore_errors=True)
    for series in SERIES:
        image, affine = read_nrrd(sources / "pyradiomics" / f"{series.source}_image.nrrd")
        lesion, lesion_affine = read_nrrd(sources / "pyradiomics" / f"{series.source}_label.nrrd")
        if image.shape != lesion.shape or not np.array_equal(affine, lesion_affine):
            raise ValueError(f"{series.source}: image and lesion mask lie on different grids")
        image_hu, small_affine = mean_of_blocks(image), affine_of_blocks(affine)
        write_series(into / "ct" / series.patient.lower(), image_hu, small_affine, series)
        check_series(into / "ct" / series.patient.lower(), image, affine)
        write_mask(into / "ct_masks" / f"{series.patient.lower()}_lesion.nii.gz", majority_of_blocks(lesion), small_affine)
    for target, source in SPINE.items():
        copy(sources / "tptbox" / source, into / "spine" / target)
    for target, source in VERTEBRAE.items():
        copy(sources / "tptbox" / source, into / "spine_vertebrae" / target)
    copy(sources / "organamnist_2200.npz", into / "organs" / "organamnist_2200.npz")


def read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array `(x, y, z)` and affine to LPS+ millimetres of a gzip NRRD file of shorts in patient space."""
    header, _, data = path.read_bytes().partition(b"\n\n")
    lines = [line for line in header.decode("ascii").splitlines()[1:] if line and not line.startswith("#")]
    field = dict(line.split(": ", 1) for line in lines)
    expected = {"type": "short", "encoding": "gzip", "endian": "little", "space": "left-posterior-superior"}
    if any(field.get(name) != value for name, value in expected.items()):
        raise ValueError(f"{path.name}: expected {expected}, got {field}")
    shape = tuple(int(n) for n in field["sizes"].split())
    affine = np.eye(4)
    for axis, direction in enumerate(field["space directions"].split()):
        affine[:3, axis] = vector(direction)
    affine[:3, 3] = vector(field["space origin"])
    return np.frombuffer(gzip.decompress(data), "<i2").reshape(shape, order="F"), affine


def vector(text: str) -> list[float]:
    """Three numbers of NRRD's `(a,b,c)`, freed of the last binary digit's noise (`-777.49999999999977`)."""
    return [round(float(n), 10) for n in text.strip("()").split(",")]


def blocks(array: np.ndarray) -> np.ndarray:
    """A view `(x, FACTOR, y, FACTOR, z)` of in-plane blocks."""
    x, y, z = array.shape
    return array.reshape(x // FACTOR, FACTOR, y // FACTOR, FACTOR, z)


def mean_of_blocks(image: np.ndarray) -> np.ndarray:
    """Mean of each block in whole HU (halves go up): int16, at most 0.5 HU from the exact mean."""
    total = blocks(image).astype(np.int32).sum(axis=(1, 3))
    return ((total + FACTOR * FACTOR // 2) // (FACTOR * FACTOR)).astype(np.int16)


def majority_of_blocks(mask: np.ndarray) -> np.ndarray:
    """1 where at least half of a block is lesion: uint8."""
    return (blocks(mask != 0).sum(axis=(1, 3)) * 2 >= FACTOR * FACTOR).astype(np.uint8)


def affine_of_blocks(affine: np.ndarray) -> np.ndarray:
    """Affine of the block centres: steps grow by FACTOR, the first centre moves by (FACTOR − 1) / 2 source pixels."""
    small = affine.copy()
    small[:3, :2] *= FACTOR
    small[:3, 3] += affine[:3, :2].sum(axis=1) * (FACTOR - 1) / 2
    return small


def minted(*names: str) -> str:
    """A UID under 2.25 that depends on nothing but its names."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(names)).int}"


def write_series(folder: Path, image_hu: np.ndarray, affine: np.ndarray, series: Series) -> None:
    """Write `image_hu` `(x, y, z)` with its LPS affine as one CT image file per slice."""
    folder.mkdir(parents=True)
    order = range(image_hu.shape[2])
    for number, k in enumerate(reversed(order) if series.head_first else order, start=1):
        dataset = slice_header(affine, k, number, series)
        dataset.Rows, dataset.Columns = image_hu.shape[1], image_hu.shape[0]
        put_pixels(dataset, image_hu[:, :, k].T, series)
        dataset.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)


def slice_header(affine: np.ndarray, k: int, number: int, series: Series) -> Dataset:
    """Everything but the pixels of slice `k`: identity, geometry, and how the values came about."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = series.syntax
    dataset.file_meta.ImplementationClassUID = minted("writer")
    dataset.file_meta.ImplementationVersionName = "MEDSSL_DEMO"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = minted(series.patient, "instance", str(number))
    dataset.StudyInstanceUID = minted(series.patient, "study")
    dataset.SeriesInstanceUID = minted(series.patient, "series")
    dataset.FrameOfReferenceUID = minted(series.patient, "frame")
    dataset.PatientID = dataset.PatientName = series.patient
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "published without identity; rewritten from NRRD"
    dataset.Modality, dataset.BodyPartExamined = "CT", "CHEST"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.DerivationDescription = f"{FACTOR} x {FACTOR} in-plane mean of the published {series.source}"
    dataset.LossyImageCompression = "00"
    dataset.BurnedInAnnotation = "NO"
    dataset.SeriesNumber, dataset.AcquisitionNumber, dataset.InstanceNumber = 1, 1, number
    for unknown in (
        *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID", "PatientBirthDate", "PatientSex"),
        *("Manufacturer", "KVP", "PatientPosition", "PositionReferenceIndicator"),
    ):
        setattr(dataset, unknown, None)
    step_mm = np.linalg.norm(affine[:3, :3], axis=0)
    dataset.ImageOrientationPatient = decimals([*affine[:3, 0] / step_mm[0], *affine[:3, 1] / step_mm[1]])
    dataset.ImagePositionPatient = decimals(affine[:3, 3] + affine[:3, 2] * k)
    dataset.PixelSpacing = decimals([step_mm[1], step_mm[0]])
    # the source states the distance of the slices, not their thickness
    dataset.SliceThickness = dataset.SpacingBetweenSlices = decimals([step_mm[2]])[0]
    return dataset


def decimals(numbers: list[float] | np.ndarray) -> list[str]:
    """DICOM decimal strings (at most 16 characters) that read back as the very numbers."""
    texts = [repr(round(float(n), 9) + 0.0).removesuffix(".0") for n in numbers]
    if any(len(text) > 16 or abs(float(text) - n) > 1e-9 for text, n in zip(texts, numbers, strict=True)):
        raise ValueError(f"{texts} cannot hold {numbers} as DICOM decimal strings")
    return texts


def put_pixels(dataset: Dataset, plane_hu: np.ndarray, series: Series) -> None:
    """Store a plane `(row, column)` in HU: signed 16-bit as it is, or unsigned 16-bit with intercept −1024."""
    intercept = 0 if series.signed else -1024
    stored = np.ascontiguousarray(plane_hu.astype(np.int32) - intercept)
    low, high = (-(2**15), 2**15 - 1) if series.signed else (0, 2**16 - 1)
    if stored.min() < low or stored.max() > high:
        raise ValueError(f"{series.patient}: stored values {stored.min()}…{stored.max()} do not fit 16 bits")
    stored = stored.astype("<i2" if series.signed else "<u2")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(series.signed)
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", str(intercept), "HU"
    if series.syntax.is_compressed:
        code = without_spiff(imagecodecs.jpegls_encode(stored, level=0))
        if not np.array_equal(imagecodecs.jpegls_decode(code), stored):
            raise ValueError(f"{series.patient}: JPEG-LS did not give the pixels back")
        dataset.PixelData = encapsulate([code])
        dataset["PixelData"].VR = "OB"
    else:
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW"


def without_spiff(code: bytes) -> bytes:
    """A JPEG-LS stream without the SPIFF header (APP8 segments) that the encoder puts first and scanners do not."""
    while code[2:4] == b"\xff\xe8":
        code = code[:2] + code[4 + int.from_bytes(code[4:6], "big") :]
    return code


def check_series(folder: Path, source_hu: np.ndarray, source_affine: np.ndarray) -> None:
    """Read a written series back and compare values (≤ 0.5 HU) and block centres (≤ 1e-6 mm) with the source itself."""
    for path in sorted(folder.glob("*.dcm")):
        dataset = pydicom.dcmread(path)
        position_mm = np.array(dataset.ImagePositionPatient, float)
        k = round((position_mm[2] - source_affine[2, 3]) / source_affine[2, 2])
        first_block_mm = (source_affine @ [(FACTOR - 1) / 2, (FACTOR - 1) / 2, k, 1])[:3]
        got_hu = dataset.pixel_array.T * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        worst_hu = np.abs(blocks(source_hu[:, :, k : k + 1]).mean(axis=(1, 3))[:, :, 0] - got_hu).max()
        if worst_hu > 0.5 or np.abs(first_block_mm - position_mm).max() > 1e-6:
            raise ValueError(f"{path}: {worst_hu} HU from the source, first voxel at {position_mm}, expected {first_block_mm}")


def write_mask(path: Path, mask: np.ndarray, affine_lps: np.ndarray) -> None:
    """Write a mask `(x, y, z)` as NIfTI on the grid of its CT (LPS → RAS: the first two world axes change sign)."""
    image = nibabel.Nifti1Image(mask, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), 9, mtime=0))


def copy(source: Path, target: Path) -> None:
    """Copy a file's bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", type=Path, help="folder that holds pyradiomics/, tptbox/ and organamnist_2200.npz")
    parser.add_argument("--into", type=Path, default=HERE)
    options = parser.parse_args()
    build(options.sources, options.into.resolve())
    files = [path for path in options.into.rglob("*") if path.is_file()]
    print(f"{options.into}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
