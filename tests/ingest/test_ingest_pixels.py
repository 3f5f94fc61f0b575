"""Every transfer syntax in clinical use against a golden decode: exact where lossless, within one where lossy."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from faults import compress, rle_frame
from ingesting import KEY, ingest
from phantoms import datasets, random_phantom, save, set_stored, set_values, write
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless

from medssl.core.rng import rng
from medssl.ingest.dicom.elements import parse
from medssl.ingest.dicom.header import read_header
from medssl.ingest.dicom.pixels import frame_pixels, is_lossy
from medssl.ingest.dicom.tags import SEQUENCES, WANTED
from medssl.ingest.refusal import Refusal
from medssl.ingest.storing import storage_for

NATIVE = {"explicit": "1.2.840.10008.1.2.1", "implicit": "1.2.840.10008.1.2", "big_endian": "1.2.840.10008.1.2.2"}
NATIVE |= {"deflated": "1.2.840.10008.1.2.1.99"}


def decoded(ds, frame: int = 0) -> np.ndarray:
    """Pixels `(rows, columns)` of a data set written and read back."""
    buffer = io.BytesIO()
    write(ds, buffer)
    parsed = parse(buffer.getvalue(), WANTED, SEQUENCES, inflated_limit=lambda values: 1 << 20)
    layout = read_header(parsed, KEY).layout
    decoded.lossy = is_lossy(parsed, layout)  # type: ignore[attr-defined]
    return frame_pixels(parsed, layout, frame).T


def a_slice(bits: int, signed: bool, seed: int = 0):
    """A data set of noise over the whole range of its bits, and the pixels."""
    ds = datasets(random_phantom(seed))[0]
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    dtype = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"
    pixels = rng(seed, "pixels", bits, int(signed)).integers(low, high + 1, (23, 31)).astype(dtype)
    pixels[0, :2] = low, high
    set_stored(ds, pixels, bits=bits)
    return ds, pixels


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [*NATIVE, "rle", "j2k", "jpegls", "ljpeg", "htj2k"])
def test_lossless_syntax_is_bit_exact(syntax: str, bits: int, signed: bool) -> None:
    import imagecodecs

    ds, pixels = a_slice(bits, signed)
    if syntax in NATIVE:
        if syntax == "big_endian" and bits > 8:
            ds.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
        ds.file_meta.TransferSyntaxUID = UID(NATIVE[syntax])
    elif syntax == "htj2k":
        if not imagecodecs.HTJ2K.available:
            pytest.skip("no encoder for HTJ2K here")
        ds.PixelData = encapsulate([imagecodecs.htj2k_encode(np.ascontiguousarray(pixels), reversible=True)])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.201")
    elif syntax == "j2k" and signed:
        # OpenJPEG's Python face writes unsigned streams only: the two's complement bits go through it
        mask = (1 << bits) - 1
        stream = imagecodecs.jpeg2k_encode(
            (pixels.view(f"u{pixels.itemsize}") & mask), level=0, codecformat="j2k", reversible=True, bitspersample=bits
        )
        ds.PixelData = encapsulate([stream])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    else:
        if signed and syntax in ("jpegls", "ljpeg"):
            set_stored(ds, pixels, bits=bits)
        compress(ds, syntax)
    assert np.array_equal(decoded(ds), pixels)
    assert not decoded.lossy  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("syntax", "bits"),
    [(f"1.2.840.10008.1.2.4.{tail}", bits) for tail, bits in ((50, 8), (51, 12), (81, 12), (91, 12))],
)
def test_lossy_syntax_is_within_one_of_pydicoms_decoder_and_marked(syntax: str, bits: int) -> None:
    import imagecodecs

    ds = datasets(random_phantom(1, columns=32, rows=32))[0]
    smooth = (np.add.outer(np.arange(32), np.arange(32)) * (2 if bits == 8 else 40)).astype("u1" if bits == 8 else "u2")
    set_stored(ds, smooth, bits=bits)
    j2k = {"level": 70, "codecformat": "j2k", "reversible": False, "bitspersample": 12}
    stream = {
        "1.2.840.10008.1.2.4.50": lambda: imagecodecs.jpeg8_encode(smooth, level=90),
        "1.2.840.10008.1.2.4.51": lambda: imagecodecs.jpeg8_encode(smooth, level=90, bitspersample=12),
        "1.2.840.10008.1.2.4.81": lambda: imagecodecs.jpegls_encode(smooth, level=2),
        "1.2.840.10008.1.2.4.91": lambda: imagecodecs.jpeg2k_encode(smooth, **j2k),
    }[syntax]()
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    mine = decoded(ds).astype(int)
    assert decoded.lossy  # type: ignore[attr-defined]
    assert np.abs(mine - ds.pixel_array.astype(int)).max() <= 1
    assert np.abs(mine - smooth.astype(int)).max() <= 40


def test_bits_above_the_stored_ones_are_not_pixels() -> None:
    ds, pixels = a_slice(12, False)
    ds.PixelData = (pixels | 0x7000).tobytes()
    assert np.array_equal(decoded(ds), pixels)


def test_frame_of_several_fragments_is_joined() -> None:
    ds, pixels = a_slice(12, False)
    compress(ds, "jpegls")
    from pydicom.encaps import generate_frames

    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame], fragments_per_frame=3)
    assert np.array_equal(decoded(ds), pixels)


@pytest.mark.parametrize("fragments", [1, 2])
def test_frames_of_an_encapsulated_object_are_separated(fragments: int, tmp_path: Path, readers) -> None:
    from faults import enhanced_file

    phantom = random_phantom(1, constant=400.0)
    ds = enhanced_file(phantom)
    planes = np.frombuffer(ds.PixelData, "<u2").reshape(phantom.slices, phantom.rows, phantom.columns)
    ds.PixelData = encapsulate([rle_frame(plane) for plane in planes], fragments_per_frame=fragments)
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.5")
    save([ds], tmp_path / "s" / "case")
    values, affine, _ = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"].volumes[0]
    from phantoms import largest_error

    assert largest_error(values, affine, phantom) <= 0.51


@pytest.mark.parametrize("change", ["colour", "one_bit", "high_bit", "float", "unknown_syntax"])
def test_pixels_that_are_not_scalars_are_refused(change: str, tmp_path: Path, readers) -> None:
    made = datasets(random_phantom(0))
    for ds in made:
        if change == "colour":
            ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
            ds.PixelData = ds.PixelData * 3
        elif change == "one_bit":
            ds.BitsAllocated = ds.BitsStored = 1
            ds.PixelData = ds.PixelData[: (ds.Rows * ds.Columns + 7) // 8 + 1]
        elif change == "high_bit":
            ds.HighBit = 14
        elif change == "float":
            del ds.PixelData
            ds.FloatPixelData = np.zeros((ds.Rows, ds.Columns), np.float32).tobytes()
        else:
            ds.PixelData = encapsulate([ds.PixelData])
            ds["PixelData"].is_undefined_length = True
            ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")
    save(made, tmp_path / "s" / "case")
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"]
    assert not found.volumes
    expected = {"colour": "colour", "unknown_syntax": "unsupported_syntax"}.get(change, "unsupported_pixels")
    assert found.codes & {expected, "pixel_length"}, found.codes


@pytest.mark.parametrize(("bits", "intercept", "dtype"), [(12, -1024, "int16"), (16, 0, "float32"), (16, -32768, "int16")])
def test_values_are_stored_exactly(bits: int, intercept: int, dtype: str, tmp_path: Path, readers) -> None:
    phantom = random_phantom(3, modality="MR")
    made = datasets(phantom)
    rows = []
    for n, ds in enumerate(made):
        ds.RescaleSlope, ds.RescaleIntercept = 1, intercept
        pixels = rng(n, "any").integers(0, 1 << bits, (phantom.rows, phantom.columns)).astype(np.uint16)
        set_stored(ds, pixels, bits=bits)
        rows.append(pixels.T.astype(float) + intercept)
    save(made, tmp_path / "s" / "case")
    values, _, row = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"].volumes[0]
    assert row["dtype"] == dtype
    assert np.array_equal(np.sort(values, axis=None), np.sort(np.stack(rows), axis=None))


def test_fractional_common_slope_stays_beside_int16(tmp_path: Path, readers) -> None:
    phantom = random_phantom(4, modality="MR", constant=400.0)
    made = datasets(phantom)
    for ds, position in zip(made, phantom.positions(), strict=True):
        ds.RescaleSlope, ds.RescaleIntercept = 0.25, 3.5
        set_values(ds, phantom.plane(position))
    save(made, tmp_path / "s" / "case")
    values, affine, row = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"].volumes[0]
    from phantoms import largest_error

    assert (row["dtype"], row["slope"], row["intercept"]) == ("int16", 0.25, 3.5)
    assert largest_error(values, affine, phantom) <= 0.13


def test_storage_is_int16_only_where_it_is_exact() -> None:
    assert storage_for((0, 4095), {(1.0, -1024.0)}, resampled=False).dtype == "int16"
    assert storage_for((0, 40000), {(1.0, 0.0)}, resampled=False).dtype == "float32"
    assert storage_for((0, 4095), {(1.0, 0.0), (0.5, 0.0)}, resampled=False).dtype == "float32"
    assert not storage_for((0, 4095), {(0.5, 0.0)}, resampled=False).apply_rescale


def test_header_and_stream_that_disagree_on_the_size_are_refused() -> None:
    ds, _ = a_slice(12, False)
    compress(ds, "jpegls")
    ds.Rows += 1
    with pytest.raises(Refusal, match="pixels, the header says"):
        decoded(ds)
