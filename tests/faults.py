"""Every fault of the trust page on the analytic phantom, at any seed: what hospitals, disks and attackers do to files.

`FAULTS[name](folder, seed)` writes a source and returns the permitted outcomes. A volume is judged by the truth, not
by an earlier output: `judge` says right, refused or wrong, for medssl and for its peers.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel
import numpy as np
from phantoms import (
    CT_CLASS,
    MR_CLASS,
    Phantom,
    covers,
    datasets,
    new_file,
    random_phantom,
    save,
    set_stored,
    set_values,
    tilted,
    write,
)
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from medssl.core.rng import rng


@dataclass(frozen=True)
class Expected:
    """What a faulty source truly holds."""

    truths: list[Phantom] = field(default_factory=list)
    """Volumes that are there; a tool is right if it gives all of them."""
    contradictory: bool = False
    """The headers contradict themselves: to accept is wrong, whatever the values."""
    must_be_right: bool = False
    """Nothing is wrong with this source: medssl may not refuse it."""
    codes: tuple[str, ...] = ()
    """Codes that name the fault, where it is refused."""
    resampled: bool = False


@dataclass(frozen=True)
class Result:
    """A volume that a tool made: values `(i, j, k)`, affine to RAS+ mm."""

    values: np.ndarray
    affine: np.ndarray


def judge(expected: Expected, results: list[Result]) -> str:
    """`right`, `refused` or `wrong`."""
    if len(results) > len(expected.truths):
        # a localiser given as a separate image does no harm
        results = [result for result in results if min(result.values.shape) > 1]
    if not results:
        return "refused"
    if expected.contradictory or not expected.truths:
        return "wrong"
    left = list(expected.truths)
    for result in results:
        match = [truth for truth in expected.truths if _is_right(result, truth, expected.resampled)]
        if not match:
            return "wrong"
        left = [truth for truth in left if truth is not match[0]]
    return "wrong" if left else "right"


def _is_right(result: Result, truth: Phantom, resampled: bool) -> bool:
    values, affine = result.values, result.affine
    places = np.isfinite(affine).all() and np.linalg.matrix_rank(affine) == 4
    if values.ndim != 3 or not places or not covers(values, affine, truth):
        return False
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in values.shape], indexing="ij"), axis=-1)
    points = (grid @ affine[:3, :3].T + affine[:3, 3]) * [-1.0, -1.0, 1.0]
    error = np.abs(values.astype(float) - truth.value(points))
    if not resampled:
        return bool(error.max() <= 0.51)
    # half a unit of rounding and a tenth of a voxel along the gradient; the rim that no slice covers is left out
    allowed = 0.51 + 0.1 * max(*truth.spacing, truth.step) * float(np.linalg.norm(truth.slope_per_mm))
    inside = ~np.isin(values, (values.min(), -1024.0))
    enough = inside.sum() >= 0.85 * truth.columns * truth.rows * truth.slices
    return bool(enough and error[inside].max() <= allowed)


# ---- classic DICOM: the seventeen classes of the field table, and more


def _plain(folder: Path, seed: int, **options: object) -> tuple[Phantom, list[FileDataset]]:
    phantom = random_phantom(seed, **options)  # type: ignore[arg-type]
    return phantom, datasets(phantom)


def _inner(seed: int, count: int, name: str) -> int:
    return int(rng(seed, name).integers(1, count - 1))


def _any(seed: int, count: int, name: str) -> int:
    return int(rng(seed, name).integers(0, count))


def clean(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    save(made, folder)
    return Expected([phantom], must_be_right=True)


def shuffled(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for number, ds in enumerate(made):
        ds.InstanceNumber = len(made) - number
    order = rng(seed, "shuffle").permutation(len(made))
    save([made[n] for n in order], folder)
    return Expected([phantom], must_be_right=True)


def missing_slice(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    del made[_inner(seed, len(made), "which")]
    save(made, folder)
    return Expected([phantom], codes=("missing_slice",))


def missing_slices(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    which = 1 + rng(seed, "which").permutation(len(made) - 2)[:3]
    save([ds for n, ds in enumerate(made) if n not in which], folder)
    return Expected([phantom], codes=("missing_slice", "uneven"))


def missing_end_declared(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds in made:
        ds.ImagesInAcquisition = len(made)
    del made[-1 if seed % 2 else 0]
    save(made, folder)
    return Expected([phantom], codes=("incomplete",))


def same_file_twice(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    paths = save(made, folder)
    (folder / "copy.dcm").write_bytes(paths[_any(seed, len(paths), "which")].read_bytes())
    return Expected([phantom], must_be_right=True)


def same_pixels_new_name(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    save(made, folder)
    again = made[_any(seed, len(made), "which")]
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["again", str(seed)])
    write(again, folder / "copy.dcm")
    return Expected([phantom], must_be_right=True)


def two_images_one_place(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    save(made, folder)
    again = made[_any(seed, len(made), "which")]
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["again", str(seed)])
    again.InstanceNumber = len(made) + 1
    pixels = np.frombuffer(again.PixelData, "<u2").copy()
    pixels[rng(seed, "pixels").integers(0, pixels.size, 40)] += 60
    again.PixelData = pixels.tobytes()
    write(again, folder / "other.dcm")
    # a tool that happens to keep the right one of the two is right
    return Expected([phantom], codes=("conflict",))


def same_instance_other_pixels(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    save(made, folder)
    again = made[_any(seed, len(made), "which")]
    again.PixelData = bytes(reversed(again.PixelData))
    write(again, folder / "other.dcm")
    return Expected([phantom], contradictory=True, codes=("conflict",))


def two_series(folder: Path, seed: int) -> Expected:
    one = random_phantom(seed)
    other = replace(random_phantom(seed + 1000), seed=seed, constant=300.0)
    first, second = datasets(one, series="a"), datasets(other, series="b")
    mixed = [ds for pair in zip(first, second, strict=False) for ds in pair]
    mixed += first[len(second) :] + second[len(first) :]
    save(mixed, folder)
    return Expected([one, other], must_be_right=True)


def two_patients(folder: Path, seed: int) -> Expected:
    one = random_phantom(seed)
    other = replace(one, constant=250.0, origin=(5.0, 6.0, 7.0))
    save(datasets(one, series="a", study="a", patient="a") + datasets(other, series="b", study="b", patient="b"), folder)
    return Expected([one, other], must_be_right=True)


def localizer_inside(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    scout = datasets(replace(phantom, slices=1, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0)), series="a")[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["scout", str(seed)])
    save([scout, *made], folder)
    return Expected([phantom], must_be_right=True)


def gantry_tilt(folder: Path, seed: int) -> Expected:
    degrees = float(rng(seed, "tilt").uniform(-30, 30))
    phantom = tilted(random_phantom(seed, orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)), degrees)
    save(datasets(phantom), folder)
    return Expected([phantom], resampled=True, must_be_right=True)


def uneven_steps(folder: Path, seed: int) -> Expected:
    base = random_phantom(seed)
    half = base.slices // 2
    steps = np.where(np.arange(base.slices - 1) < half, base.step, base.step * float(rng(seed, "ratio").choice([2.0, 1.4, 0.5])))
    phantom = replace(base, depths=tuple(np.concatenate([[0.0], np.cumsum(steps)])))
    save(datasets(phantom), folder)
    return Expected([phantom], codes=("uneven",), resampled=True)


def file_cut(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    paths = save(made, folder)
    path = paths[_any(seed, len(paths), "which")]
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * rng(seed, "where").uniform(0.3, 0.98))])
    return Expected([phantom], codes=("truncated", "damaged_neighbour"))


def header_cut(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    paths = save(made, folder)
    path = paths[_any(seed, len(paths), "which")]
    path.write_bytes(path.read_bytes()[: int(rng(seed, "where").integers(133, 900))])
    return Expected([phantom], codes=("truncated", "damaged_neighbour", "missing_tag"))


def file_empty(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    paths = save(made, folder)
    paths[_any(seed, len(paths), "which")].write_bytes(b"")
    return Expected([phantom], codes=("empty", "damaged_neighbour"))


def half_the_pixels(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    ds = made[_any(seed, len(made), "which")]
    ds.PixelData = ds.PixelData[: len(ds.PixelData) // 4 * 2]
    save(made, folder)
    return Expected([phantom], codes=("pixel_length", "damaged_neighbour"))


def other_rows(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    number = _any(seed, len(made), "which")
    set_values(made[number], replace(phantom, rows=phantom.rows - 4).plane(phantom.positions()[number]))
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("mixed_matrix",))


def rescale_missing_in_one(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    ds = made[_any(seed, len(made), "which")]
    del ds.RescaleSlope, ds.RescaleIntercept
    save(made, folder)
    return Expected([phantom], codes=("mixed_rescale", "no_rescale"))


def rescale_missing(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds in made:
        del ds.RescaleSlope, ds.RescaleIntercept
    save(made, folder)
    return Expected([phantom], codes=("no_rescale",))


def intercept_flipped_in_one(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    made[_any(seed, len(made), "which")].RescaleIntercept = 1024
    save(made, folder)
    return Expected([phantom], codes=("implausible_hu", "mixed_rescale"))


def intercept_flipped(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds in made:
        ds.RescaleIntercept = 1024
    save(made, folder)
    return Expected([phantom], codes=("implausible_hu",))


def intercept_off_in_one(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    made[_any(seed, len(made), "which")].RescaleIntercept = int(rng(seed, "intercept").choice([-24, -2048, -512]))
    save(made, folder)
    return Expected([phantom], codes=("mixed_rescale", "implausible_hu"))


def slope_wrong(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    value = [0, -1, "1000", "nan", 50][seed % 5]
    for ds in made:
        ds.RescaleSlope = value if value != "nan" else 1
        if value == "nan":
            _raw_decimal(ds, "RescaleSlope", "NaN ")
    save(made, folder)
    return Expected([phantom], codes=("bad_rescale", "implausible_hu"))


def _raw_decimal(ds: FileDataset, name: str, text: str) -> None:
    """A decimal string that pydicom would not write itself."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(name))  # type: ignore[arg-type]
    value = text.encode() + b" " * (len(text) % 2)
    ds._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)


def rescale_varies(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for number, (ds, position) in enumerate(zip(made, phantom.positions(), strict=True)):
        ds.RescaleSlope, ds.RescaleIntercept = 1 if number % 2 else 0.5, -1024 if number % 3 else -1000
        set_values(ds, phantom.plane(position))
    save(made, folder)
    return Expected([phantom], must_be_right=True)


def spacing_absent(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds in made if seed % 2 else [made[_any(seed, len(made), "which")]]:
        del ds.PixelSpacing
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("no_spacing",))


def spacing_impossible(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    text = ["0\\0", "-0.7\\-0.7", "NaN\\NaN", "0.7", "0.7\\"][seed % 5]
    for ds in made if seed % 2 else [made[_any(seed, len(made), "which")]]:
        _raw_decimal(ds, "PixelSpacing", text)
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("no_spacing",))


def spacing_differs_in_one(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    made[_any(seed, len(made), "which")].PixelSpacing = [round(s * 1.3, 4) for s in phantom.spacing]
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("mixed_spacing",))


def spacing_swapped_in_one(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed, spacing=(0.6, 0.9))
    made = datasets(phantom)
    made[_any(seed, len(made), "which")].PixelSpacing = [0.9, 0.6]
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("mixed_spacing",))


def position_absent(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds in made if seed % 2 else [made[_any(seed, len(made), "which")]]:
        del ds.ImagePositionPatient
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("no_position",))


def position_not_a_number(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    _raw_decimal(made[_any(seed, len(made), "which")], "ImagePositionPatient", ["NaN\\0\\0", "1e99\\0\\0", "a\\b\\c"][seed % 3])
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("no_position",))


def orientation_absent(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds in made if seed % 2 else [made[_any(seed, len(made), "which")]]:
        del ds.ImageOrientationPatient
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("no_orientation",))


def orientation_differs_in_one(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    turned = [[0, 1, 0, 0, 0, -1], [-1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0]][seed % 3]
    made[_any(seed, len(made), "which")].ImageOrientationPatient = turned
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("mixed_orientation",))


def thickness_differs(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds in made:
        ds.SliceThickness = round(phantom.step * 1.7, 3)
    save(made, folder)
    return Expected([phantom], must_be_right=True)


def position_copied(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    number = _inner(seed, len(made), "which")
    made[number].ImagePositionPatient = made[number + 1].ImagePositionPatient
    save(made, folder)
    return Expected([phantom], codes=("conflict",))


def slice_shifted(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    number = _inner(seed, len(made), "which")
    moved = phantom.positions()[number] + np.array(phantom.orientation[:3]) * 3.0
    made[number].ImagePositionPatient = [repr(round(float(v), 6)) for v in moved]
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("shifted",))


def burned_in(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds in made:
        if seed % 3 == 0:
            ds.BurnedInAnnotation = "YES"
        elif seed % 3 == 1:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "SCREEN SAVE"]
        else:
            ds.SeriesDescription = "Screen Save"
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("burned_in",))


def derived_or_captured(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds in made:
        if seed % 2:
            ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        else:
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("derived", "secondary_capture"))


def two_kernels(folder: Path, seed: int) -> Expected:
    one = random_phantom(seed)
    other = replace(one, constant=180.0)
    sharp = datasets(other)
    for number, ds in enumerate(sharp):
        ds.ConvolutionKernel, ds.InstanceNumber = "B70f", 100 + number
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["k", str(seed), str(number)])
    save(datasets(one) + sharp, folder)
    return Expected([one, other], must_be_right=True)


def kernel_differs_in_one(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    made[_any(seed, len(made), "which")].ConvolutionKernel = "B70f"
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("mixed_content",))


def _several(folder: Path, seed: int, mark: Callable[[FileDataset, int, int], None], **options: object) -> Expected:
    base = random_phantom(seed, **options)  # type: ignore[arg-type]
    truths = [replace(base, constant=base.constant + 80.0 * t) for t in range(3)]
    made = []
    for t, truth in enumerate(truths):
        for number, ds in enumerate(datasets(truth)):
            uid = generate_uid(entropy_srcs=["t", str(seed), str(t), str(number)])
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
            ds.InstanceNumber = t * truth.slices + number + 1
            mark(ds, t, number)
            made.append(ds)
    save([made[n] for n in rng(seed, "shuffle").permutation(len(made))], folder)
    return Expected(truths, must_be_right=True)


def time_points(folder: Path, seed: int) -> Expected:
    def mark(ds: FileDataset, t: int, number: int) -> None:
        if seed % 3 == 0:
            ds.TemporalPositionIdentifier = t + 1
        elif seed % 3 == 1:
            ds.AcquisitionNumber = t + 1

    return _several(folder, seed, mark, modality="MR", constant=600.0)


def echoes(folder: Path, seed: int) -> Expected:
    def mark(ds: FileDataset, t: int, number: int) -> None:
        ds.EchoTime, ds.EchoNumbers = 10 * (t + 1), t + 1

    return _several(folder, seed, mark, modality="MR", constant=600.0)


def time_point_incomplete(folder: Path, seed: int) -> Expected:
    expected = time_points(folder, seed)
    paths = sorted(folder.iterdir())
    paths[_any(seed, len(paths), "which")].unlink()
    return replace(expected, must_be_right=False, codes=("incomplete", "missing_slice", "conflict"))


def padded(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds, position in zip(made, phantom.positions(), strict=True):
        values = phantom.plane(position)
        ds.RescaleIntercept = 0
        set_values(ds, values, bits=16, signed=True)
        ds.add_new(0x00280120, "SS", -2000)
    save(made, folder)
    return Expected([phantom], must_be_right=True)


# ---- syntaxes


def _encapsulated(ds: FileDataset, syntax: UID, encode: Callable[[np.ndarray], bytes]) -> None:
    dtype = ("i" if ds.PixelRepresentation else "u") + str(ds.BitsAllocated // 8)
    pixels = np.frombuffer(ds.PixelData, dtype, count=ds.Rows * ds.Columns).reshape(ds.Rows, ds.Columns)
    ds.PixelData = encapsulate([encode(pixels)])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax


def rle_frame(pixels: np.ndarray) -> bytes:
    """One run-length frame: byte planes, most significant first."""
    import imagecodecs

    planes = pixels.view(np.uint8).reshape(*pixels.shape, pixels.dtype.itemsize)
    segments = []
    for plane in reversed(range(pixels.dtype.itemsize)):
        segment = b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in np.ascontiguousarray(planes[..., plane]))
        segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = np.cumsum([64] + [len(s) for s in segments])[:-1]
    head = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments)))
    return head + b"".join(segments)


def compress(ds: FileDataset, name: str) -> None:
    """Compress a data set losslessly: `rle`, `j2k`, `jpegls`, `ljpeg`, `htj2k`."""
    import imagecodecs

    bits = int(ds.BitsStored)
    if name == "rle":
        _encapsulated(ds, RLELossless, rle_frame)
    elif name == "j2k":
        options = {"level": 0, "codecformat": "j2k", "reversible": True, "bitspersample": bits}
        _encapsulated(ds, JPEG2000Lossless, lambda p: imagecodecs.jpeg2k_encode(p, **options))
    elif name == "jpegls":
        _encapsulated(ds, JPEGLSLossless, lambda p: imagecodecs.jpegls_encode(p.view(f"u{p.dtype.itemsize}")))
    elif name == "ljpeg":
        width = int(ds.BitsAllocated)
        _encapsulated(ds, JPEGLosslessSV1, lambda p: imagecodecs.ljpeg_encode(p.view(f"u{width // 8}"), bitspersample=width))
    else:
        raise ValueError(name)


def _compressed(name: str) -> Callable[[Path, int], Expected]:
    def fault(folder: Path, seed: int) -> Expected:
        phantom, made = _plain(folder, seed)
        for ds in made:
            compress(ds, name)
        save(made, folder)
        return Expected([phantom], must_be_right=True)

    return fault


def _native(uid: str) -> Callable[[Path, int], Expected]:
    def fault(folder: Path, seed: int) -> Expected:
        phantom, made = _plain(folder, seed)
        for ds in made:
            if uid.endswith("2.2"):
                ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
            ds.file_meta.TransferSyntaxUID = UID(uid)
        save(made, folder)
        return Expected([phantom], must_be_right=True)

    return fault


def compressed_cut(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds in made:
        compress(ds, ["rle", "j2k", "jpegls", "ljpeg"][seed % 4])
    paths = save(made, folder)
    path = paths[_any(seed, len(paths), "which")]
    data = path.read_bytes()
    path.write_bytes(data[: -int(rng(seed, "where").integers(4, 200))])
    return Expected([phantom], codes=("truncated", "damaged_neighbour"))


def compressed_stream_cut(folder: Path, seed: int) -> Expected:
    """The stream inside its fragment ends early, the framing of the file being whole."""
    phantom, made = _plain(folder, seed)
    name = ["rle", "j2k", "jpegls", "ljpeg"][seed % 4]
    number = _any(seed, len(made), "which")
    for n, ds in enumerate(made):
        compress(ds, name)
        if n == number:
            from pydicom.encaps import generate_frames

            frame = next(generate_frames(ds.PixelData, number_of_frames=1))
            ds.PixelData = encapsulate([frame[: len(frame) // 2]])
    save(made, folder)
    return Expected([phantom], codes=("truncated", "decode"))


# ---- hostile DICOM


def deflate_bomb(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    for ds in made:
        ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1.99")
    paths = save(made, folder)
    path = paths[_any(seed, len(paths), "which")]
    data = path.read_bytes()
    start = _end_of_meta(data)
    body = zlib.decompress(data[start:], -15)
    deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = deflater.compress(body + struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, 40 << 20))
    chunk = b"\0" * (1 << 20)
    packed += b"".join(deflater.compress(chunk) for _ in range(40)) + deflater.flush()
    path.write_bytes(data[:start] + packed)
    return Expected([phantom], contradictory=True, codes=("bomb", "damaged_neighbour"))


def _end_of_meta(data: bytes) -> int:
    return 132 + 12 + struct.unpack("<I", data[140:144])[0]


def nested_deep(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    paths = save(made, folder)
    depth = int(rng(seed, "depth").integers(100, 2000))
    opening = struct.pack("<HH2sHI", 0x0040, 0x0555, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    data = paths[0].read_bytes()
    at = data.index(struct.pack("<HH", 0x7FE0, 0x0010))
    paths[0].write_bytes(data[:at] + opening * depth + closing * depth + data[at:])
    return Expected([phantom], contradictory=True, codes=("nested", "damaged_neighbour"))


def huge_matrix(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    ds = made[_any(seed, len(made), "which")]
    ds.Rows = ds.Columns = 60000
    if seed % 2:
        compress_as = ds.PixelData
        ds.PixelData = encapsulate([compress_as])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    save(made, folder)
    codes = ("pixel_length", "damaged_neighbour", "mixed_matrix", "decode", "too_large")
    return Expected([phantom], contradictory=True, codes=codes)


def linked(folder: Path, seed: int) -> Expected:
    phantom, made = _plain(folder, seed)
    paths = save(made, folder)
    outside = folder.parent.parent / f"outside-{seed}"
    outside.mkdir(exist_ok=True)
    number = _inner(seed, len(paths), "which")
    paths[number].rename(outside / "slice.dcm")
    paths[number].symlink_to(outside / "slice.dcm")
    os.mkfifo(folder / "pipe.dcm")
    return Expected([phantom], contradictory=True, codes=("link", "special_file", "missing_slice", "damaged_neighbour"))


# ---- other DICOM objects


def enhanced_file(phantom: Phantom, *, order: np.ndarray | None = None, times: int = 1) -> FileDataset:
    """An Enhanced CT or MR object of all slices (and time points), frames in any order."""
    ct = phantom.modality == "CT"
    ds = new_file((CT_CLASS if ct else MR_CLASS) + ".1", ["enhanced", str(phantom.seed)])
    ds.Modality, ds.ImageType = phantom.modality, ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.PatientID, ds.Manufacturer = f"patient-{phantom.seed}-e", "Philips"
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["es", str(phantom.seed)])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["ee", str(phantom.seed)])
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["ef", str(phantom.seed)])
    ds.InstanceNumber = 1
    frames = [(t, k) for t in range(times) for k in range(phantom.slices)]
    if order is not None:
        frames = [frames[n] for n in order]
    shared = Dataset()
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [repr(s) for s in phantom.spacing], phantom.step
    shared.PixelMeasuresSequence = Sequence([measures])
    plane = Dataset()
    plane.ImageOrientationPatient = [repr(float(v)) for v in phantom.orientation]
    shared.PlaneOrientationSequence = Sequence([plane])
    transform = Dataset()
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 1, -1024 if ct else 0, "HU" if ct else "US"
    shared.PixelValueTransformationSequence = Sequence([transform])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    items, planes = [], []
    for t, k in frames:
        item = Dataset()
        content = Dataset()
        content.StackID, content.InStackPositionNumber, content.TemporalPositionIndex = "1", k + 1, t + 1
        item.FrameContentSequence = Sequence([content])
        place = Dataset()
        position = phantom.positions()[k]
        place.ImagePositionPatient = [repr(round(float(v), 6)) for v in position]
        item.PlanePositionSequence = Sequence([place])
        items.append(item)
        planes.append(np.rint(phantom.plane(position) + 80.0 * t - float(transform.RescaleIntercept)).astype(np.uint16))
    ds.PerFrameFunctionalGroupsSequence = Sequence(items)
    set_stored(ds, planes[0], bits=12)
    ds.NumberOfFrames = len(planes)
    ds.PixelData = np.stack(planes).tobytes()
    return ds


def enhanced(folder: Path, seed: int) -> Expected:
    phantom = (
        random_phantom(seed, modality="CT", constant=0.0) if seed % 2 else random_phantom(seed, modality="MR", constant=600.0)
    )
    order = rng(seed, "frames").permutation(phantom.slices)
    ds = enhanced_file(phantom, order=order)
    if not seed % 2:
        del ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    save([ds], folder)
    return Expected([phantom], must_be_right=True)


def enhanced_in_time(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed, constant=0.0)
    save([enhanced_file(phantom, order=rng(seed, "frames").permutation(phantom.slices * 3), times=3)], folder)
    return Expected([replace(phantom, constant=80.0 * t) for t in range(3)], must_be_right=True)


def enhanced_gap(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed, constant=0.0)
    keep = np.delete(np.arange(phantom.slices), _inner(seed, phantom.slices, "which"))
    save([enhanced_file(phantom, order=keep)], folder)
    return Expected([phantom], codes=("missing_slice",))


# ---- NIfTI


def nifti_image(phantom: Phantom) -> nibabel.Nifti1Image:
    """The phantom as a NIfTI file, in its source grid."""
    from medssl.volume.geometry import slice_affine

    positions = phantom.positions()
    affine = slice_affine(positions[0], np.array(phantom.orientation), np.array(phantom.spacing), positions[1] - positions[0])
    values = np.stack([np.rint(phantom.plane(p)).T for p in positions], axis=2).astype(np.int16)
    image = nibabel.Nifti1Image(values, affine)
    image.set_sform(affine, 1)
    if phantom.step_direction is None:
        image.set_qform(affine, 1)
    else:
        image.set_qform(None, 0)
    image.header.set_xyzt_units("mm")
    return image


def _nifti(folder: Path, seed: int, name: str = "sub-1_ct.nii.gz", **options: object) -> tuple[Phantom, Path]:
    phantom = random_phantom(seed, **options)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    nibabel.save(nifti_image(phantom), path)
    return phantom, path


def _edit_header(path: Path, offset: int, kind: str, *values: float) -> None:
    """Change bytes of an uncompressed NIfTI header."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + kind, data, offset, *values)
    path.write_bytes(bytes(data))


def nifti_clean(folder: Path, seed: int) -> Expected:
    phantom, _ = _nifti(folder, seed, "sub-1_ct.nii.gz" if seed % 2 else "sub-1_ct.nii")
    return Expected([phantom], must_be_right=True)


def nifti_packed_cut(folder: Path, seed: int) -> Expected:
    phantom, path = _nifti(folder, seed)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * rng(seed, "where").uniform(0.1, 0.999))])
    return Expected([phantom], contradictory=True, codes=("truncated", "corrupt"))


def nifti_cut(folder: Path, seed: int) -> Expected:
    phantom, path = _nifti(folder, seed, "sub-1_ct.nii")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * rng(seed, "where").uniform(0.05, 0.999))])
    return Expected([phantom], contradictory=True, codes=("truncated",))


def nifti_not_finite(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed)
    folder.mkdir(parents=True, exist_ok=True)
    image = nifti_image(phantom)
    values = np.asarray(image.dataobj).astype(np.float32)
    values.flat[rng(seed, "voxel").integers(0, values.size, 3)] = [np.nan, np.inf, -np.inf][seed % 3]
    nibabel.save(nibabel.Nifti1Image(values, image.affine), folder / "sub-1_ct.nii.gz")
    return Expected([phantom], contradictory=True, codes=("nonfinite",))


def nifti_checksum(folder: Path, seed: int) -> Expected:
    phantom, path = _nifti(folder, seed)
    data = bytearray(path.read_bytes())
    data[-8 + seed % 4] ^= 0x55
    path.write_bytes(bytes(data))
    return Expected([phantom], contradictory=True, codes=("corrupt",))


def nifti_no_space(folder: Path, seed: int) -> Expected:
    phantom, path = _nifti(folder, seed, "sub-1_ct.nii")
    _edit_header(path, 252, "hh", 0, 0)
    return Expected([phantom], contradictory=True, codes=("no_space",))


def nifti_zero_affine(folder: Path, seed: int) -> Expected:
    phantom, path = _nifti(folder, seed, "sub-1_ct.nii")
    _edit_header(path, 252, "hh", 0, 1)
    _edit_header(path, 280, "12f", *([0.0] * 12 if seed % 2 else [1.0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0]))
    return Expected([phantom], contradictory=True, codes=("bad_affine",))


def nifti_forms_differ(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed)
    folder.mkdir(parents=True, exist_ok=True)
    image = nifti_image(phantom)
    moved = image.affine.copy()
    moved[:3, 3] += rng(seed, "shift").uniform(0.3, 5, 3)
    image.set_qform(moved, 1)
    nibabel.save(image, folder / "sub-1_ct.nii.gz")
    return Expected([phantom], contradictory=True, codes=("affines_disagree",))


def nifti_scaling_nan(folder: Path, seed: int) -> Expected:
    phantom, path = _nifti(folder, seed, "sub-1_ct.nii")
    _edit_header(path, 112, "ff", *[(np.nan, 5.0), (np.inf, 0.0), (1.0, np.nan)][seed % 3])
    return Expected([phantom], contradictory=True, codes=("nonfinite",))


def nifti_huge(folder: Path, seed: int) -> Expected:
    phantom, path = _nifti(folder, seed, "sub-1_ct.nii")
    _edit_header(path, 42, "hhh", 30000, 30000, 30000)
    if seed % 2:
        (folder / "sub-1_ct.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return Expected([phantom], contradictory=True, codes=("truncated", "bomb", "too_large"))


def nifti_bomb(folder: Path, seed: int) -> Expected:
    phantom, path = _nifti(folder, seed, "sub-1_ct.nii")
    (folder / "sub-1_ct.nii.gz").write_bytes(gzip.compress(path.read_bytes() + b"\0" * (60 << 20), 6))
    path.unlink()
    return Expected([phantom], contradictory=True, codes=("bomb",))


def nifti_empty(folder: Path, seed: int) -> Expected:
    phantom, path = _nifti(folder, seed)
    path.write_bytes(b"")
    return Expected([phantom], contradictory=True, codes=("empty",))


def nifti_not_scalar(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed)
    folder.mkdir(parents=True, exist_ok=True)
    image = nifti_image(phantom)
    values = np.asarray(image.dataobj)
    if seed % 2:
        colour = np.zeros(values.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
        nibabel.save(nibabel.Nifti1Image(colour, image.affine), folder / "sub-1_ct.nii.gz")
    else:
        vectors = np.stack([values] * 3, axis=-1)[:, :, :, None, :]
        nibabel.save(nibabel.Nifti1Image(vectors, image.affine), folder / "sub-1_ct.nii.gz")
    return Expected([phantom], contradictory=True, codes=("not_scalar", "many_dimensions"))


def nifti_sheared(folder: Path, seed: int) -> Expected:
    base = random_phantom(seed, orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    phantom = tilted(base, float(rng(seed, "tilt").choice([-1, 1]) * rng(seed, "tilt", 2).uniform(3, 25)))
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nifti_image(phantom), folder / "sub-1_ct.nii.gz")
    return Expected([phantom], resampled=True, must_be_right=True)


def nifti_in_time(folder: Path, seed: int) -> Expected:
    base = random_phantom(seed)
    truths = [replace(base, constant=100.0 + 70.0 * t) for t in range(4)]
    folder.mkdir(parents=True, exist_ok=True)
    images = [nifti_image(truth) for truth in truths]
    values = np.stack([np.asarray(image.dataobj) for image in images], axis=3)
    nibabel.save(nibabel.Nifti1Image(values, images[0].affine), folder / "sub-1_bold.nii.gz")
    return Expected(truths, must_be_right=True)


def nifti_longer(folder: Path, seed: int) -> Expected:
    phantom, path = _nifti(folder, seed, "sub-1_ct.nii")
    path.write_bytes(path.read_bytes() + rng(seed, "tail").bytes(int(rng(seed, "n").integers(17, 5000))))
    return Expected([phantom], contradictory=True, codes=("corrupt",))


DICOM_FAULTS: dict[str, Callable[[Path, int], Expected]] = {
    f.__name__: f
    for f in (
        clean, shuffled, missing_slice, missing_slices, missing_end_declared, same_file_twice, same_pixels_new_name,
        two_images_one_place, same_instance_other_pixels, two_series, two_patients, localizer_inside, gantry_tilt, uneven_steps,
        file_cut, header_cut, file_empty, half_the_pixels, other_rows, rescale_missing_in_one, rescale_missing,
        intercept_flipped_in_one, intercept_flipped, intercept_off_in_one, slope_wrong, rescale_varies, spacing_absent,
        spacing_impossible, spacing_differs_in_one, spacing_swapped_in_one, position_absent, position_not_a_number,
        orientation_absent, orientation_differs_in_one, thickness_differs, position_copied, slice_shifted, burned_in,
        derived_or_captured, two_kernels, kernel_differs_in_one, time_points, echoes, time_point_incomplete, padded,
        compressed_cut, compressed_stream_cut, deflate_bomb, nested_deep, huge_matrix, linked, enhanced, enhanced_in_time,
        enhanced_gap,
    )
}  # fmt: skip
DICOM_FAULTS |= {
    "implicit": _native("1.2.840.10008.1.2"),
    "big_endian": _native("1.2.840.10008.1.2.2"),
    "deflated": _native("1.2.840.10008.1.2.1.99"),
    "rle": _compressed("rle"),
    "jpeg_2000": _compressed("j2k"),
    "jpeg_ls": _compressed("jpegls"),
    "jpeg_lossless": _compressed("ljpeg"),
}
NIFTI_FAULTS: dict[str, Callable[[Path, int], Expected]] = {
    f.__name__: f
    for f in (
        nifti_clean, nifti_packed_cut, nifti_cut, nifti_not_finite, nifti_checksum, nifti_no_space, nifti_zero_affine,
        nifti_forms_differ, nifti_scaling_nan, nifti_huge, nifti_bomb, nifti_empty, nifti_not_scalar, nifti_sheared,
        nifti_in_time, nifti_longer,
    )
}  # fmt: skip
import faults_files  # noqa: E402
import faults_named  # noqa: E402
import faults_numbering  # noqa: E402
import faults_objects  # noqa: E402
import faults_people  # noqa: E402
import faults_scans  # noqa: E402
import faults_slices  # noqa: E402  its classes need what stands above
import faults_sound_scans  # noqa: E402
import faults_unread  # noqa: E402
from faults_grids import GRID_FAULTS  # noqa: E402  they need what stands above
from faults_masks import DICOM_MASK_FAULTS, NIFTI_MASK_FAULTS  # noqa: E402
from faults_modality import MODALITY_FAULTS  # noqa: E402
from faults_nifti import NIFTI_FAULTS as MORE_NIFTI_FAULTS  # noqa: E402

DICOM_FAULTS |= faults_slices.SLICE_FAULTS | DICOM_MASK_FAULTS | MODALITY_FAULTS | faults_files.FILE_FAULTS
DICOM_FAULTS |= faults_scans.SCAN_FAULTS | faults_sound_scans.SOUND_SCAN_FAULTS | faults_people.PEOPLE_FAULTS
DICOM_FAULTS |= faults_unread.UNREAD_FAULTS | faults_named.NAMED_DICOM_FAULTS | faults_objects.OBJECT_FAULTS
DICOM_FAULTS |= faults_numbering.NUMBERING_FAULTS
NIFTI_MASK_FAULTS |= faults_named.MASK_ORDER_FAULTS
NIFTI_FAULTS |= faults_named.NAMED_FAULTS
NIFTI_FAULTS |= MORE_NIFTI_FAULTS | GRID_FAULTS | NIFTI_MASK_FAULTS | faults_files.NIFTI_FILE_FAULTS

Fault = Callable[[Path, int], Expected]


def _own_seeds(faults: dict[str, Fault], first: int) -> dict[str, Fault]:
    """No two classes share identifiers, so that all may lie in one source; a step of 1009 varies every choice by seed."""

    def wrapped(fault: Fault, number: int) -> Fault:
        return lambda folder, seed: fault(folder, 1009 * seed + 7919 * number)

    return {name: wrapped(fault, first + number) for number, (name, fault) in enumerate(faults.items())}


DICOM_FAULTS, NIFTI_FAULTS = _own_seeds(DICOM_FAULTS, 0), _own_seeds(NIFTI_FAULTS, len(DICOM_FAULTS))
FAULTS = DICOM_FAULTS | NIFTI_FAULTS

FIELD_TABLE = {
    "01": "shuffled", "02": "missing_slice", "03": "same_file_twice", "04": "two_images_one_place", "05": "two_series",
    "06": "localizer_inside", "07": "gantry_tilt", "08": "uneven_steps", "09": "file_cut", "10": "half_the_pixels",
    "11": "other_rows", "13": "rescale_missing_in_one", "22": "spacing_absent", "23": "position_absent",
    "29": "spacing_differs_in_one", "30": "thickness_differs", "31": "position_copied",
}  # fmt: skip
"""The seventeen classes of the table of what trusted tools do, by their numbers there."""
