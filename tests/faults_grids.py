"""Faults and harmless quirks of NRRD and MetaImage files, attached and detached."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from faults import Expected, nifti_image
from grid_files import SPACES, metaimage_keys, nrrd_fields, write_metaimage, write_nrrd
from phantoms import Phantom, random_phantom, tilted

from medssl.core.rng import rng


def _made(seed: int, **options: object) -> tuple[Phantom, np.ndarray, np.ndarray]:
    phantom = random_phantom(seed, **options)  # type: ignore[arg-type]
    image = nifti_image(phantom)
    return phantom, np.asarray(image.dataobj), image.affine


def nrrd_clean(folder: Path, seed: int) -> Expected:
    """Every space of the patient, both orders of bytes, packed and not, attached and detached."""
    phantom, values, affine = _made(seed)
    fields = nrrd_fields(values, affine, space=list(SPACES)[seed % len(SPACES)])
    fields |= {"endian": ["little", "big"][seed // 2 % 2], "encoding": ["raw", "gzip"][seed // 3 % 2]}
    detached = seed % 4 == 3
    name = "sub-1_ct.nhdr" if detached else "sub-1_ct.nrrd"
    data = folder / "values of 1.raw.gz" if detached else None
    write_nrrd(folder / name, values, fields | ({"data file": data.name} if data else {}), data=data)
    return Expected([phantom], must_be_right=True)


def metaimage_clean(folder: Path, seed: int) -> Expected:
    phantom, values, affine = _made(seed)
    if seed % 5 == 4:
        values = values.astype(np.float32)
    keys = metaimage_keys(values, affine)
    keys |= {"BinaryDataByteOrderMSB": str(seed // 2 % 2 == 1), "CompressedData": str(seed // 3 % 2 == 1)}
    detached = seed % 4 == 3
    data = folder / "1.zraw" if detached else None
    write_metaimage(folder / ("sub-1_ct.mhd" if detached else "sub-1_ct.mha"), values, keys, data=data)
    return Expected([phantom], must_be_right=True)


def nrrd_sheared(folder: Path, seed: int) -> Expected:
    base = random_phantom(seed, orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    phantom = tilted(base, float(rng(seed, "tilt").choice([-1, 1]) * rng(seed, "tilt", 2).uniform(3, 25)))
    image = nifti_image(phantom)
    values = np.asarray(image.dataobj)
    write_nrrd(folder / "sub-1_ct.nrrd", values, nrrd_fields(values, image.affine))
    return Expected([phantom], resampled=True, must_be_right=True)


def nrrd_unit(folder: Path, seed: int) -> Expected:
    """Micrometres or metres."""
    phantom, values, affine = _made(seed)
    write_nrrd(folder / "sub-1_ct.nrrd", values, nrrd_fields(values, affine, mm=[1e-3, 1e3][seed % 2]))
    return Expected([phantom], must_be_right=True)


def nrrd_skip(folder: Path, seed: int) -> Expected:
    """The values stand behind another header: byte skip of a number, or −1 for the end of the file."""
    phantom, values, affine = _made(seed)
    fields = nrrd_fields(values, affine) | {"data file": "./a.dat", "byte skip": str([48, -1][seed % 2])}
    write_nrrd(folder / "sub-1_ct.nhdr", values, fields, data=folder / "a.dat")
    (folder / "a.dat").write_bytes(b"x" * 48 + (folder / "a.dat").read_bytes())
    return Expected([phantom], must_be_right=True)


def metaimage_skip(folder: Path, seed: int) -> Expected:
    phantom, values, affine = _made(seed)
    keys = metaimage_keys(values, affine) | {"HeaderSize": str([48, -1][seed % 2])}
    write_metaimage(folder / "sub-1_ct.mhd", values, keys, data=folder / "a.raw")
    (folder / "a.raw").write_bytes(b"x" * 48 + (folder / "a.raw").read_bytes())
    return Expected([phantom], must_be_right=True)


def grid_no_space(folder: Path, seed: int) -> Expected:
    phantom, values, affine = _made(seed)
    if seed % 2:
        fields = nrrd_fields(values, affine)
        if seed % 4 == 1:
            fields["space"] = "scanner-xyz"
        else:
            del fields[["space", "space origin", "space directions"][seed // 4 % 3]]
        write_nrrd(folder / "sub-1_ct.nrrd", values, fields)
    else:
        keys = metaimage_keys(values, affine)
        del keys[["TransformMatrix", "Offset"][seed // 2 % 2]]
        write_metaimage(folder / "sub-1_ct.mha", values, keys)
    return Expected([phantom], contradictory=True, codes=("no_space",))


def grid_bad_affine(folder: Path, seed: int) -> Expected:
    phantom, values, affine = _made(seed)
    if seed % 2:
        fields = nrrd_fields(values, affine)
        fields["space directions"] = ["(1,0,0) (1,0,0) (0,0,1)", "(nan,0,0) (0,1,0) (0,0,1)", "(0,0,0) (0,1,0) (0,0,1)"][seed % 3]
        write_nrrd(folder / "sub-1_ct.nrrd", values, fields)
    else:
        keys = metaimage_keys(values, affine)
        keys["TransformMatrix"] = ["1 0 0 1 0 0 0 0 1", "nan 0 0 0 1 0 0 0 1", "2 0 0 0 2 0 0 0 2"][seed % 3]
        write_metaimage(folder / "sub-1_ct.mha", values, keys)
    return Expected([phantom], contradictory=True, codes=("bad_affine", "corrupt"))


def metaimage_letters_differ(folder: Path, seed: int) -> Expected:
    """AnatomicalOrientation names other axes than TransformMatrix."""
    phantom, values, affine = _made(seed, orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    keys = metaimage_keys(values, affine) | {"AnatomicalOrientation": ["ASL", "LAI", "RPI"][seed % 3]}
    write_metaimage(folder / "sub-1_ct.mha", values, keys)
    return Expected([phantom], contradictory=True, codes=("bad_affine",))


def grid_cut(folder: Path, seed: int) -> Expected:
    """The file that holds the values ends early, raw or packed; or the header does."""
    phantom, values, affine = _made(seed)
    detached, packed = seed // 2 % 2 == 1, seed // 4 % 2 == 1
    data = folder / "1.raw" if detached else None
    if seed % 2:
        fields = nrrd_fields(values, affine) | {"encoding": "gzip" if packed else "raw"}
        path = folder / ("sub-1_ct.nhdr" if detached else "sub-1_ct.nrrd")
        write_nrrd(path, values, fields | ({"data file": "1.raw"} if detached else {}), data=data)
    else:
        path = folder / ("sub-1_ct.mhd" if detached else "sub-1_ct.mha")
        write_metaimage(path, values, metaimage_keys(values, affine) | {"CompressedData": str(packed)}, data=data)
    path = data or path
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * rng(seed, "where").uniform(0.02, 0.995))])
    return Expected([phantom], contradictory=True, codes=("truncated", "corrupt", "not_an_image"))


def grid_checksum(folder: Path, seed: int) -> Expected:
    phantom, values, affine = _made(seed)
    path = folder / ("sub-1_ct.nrrd" if seed % 2 else "sub-1_ct.mha")
    if seed % 2:
        write_nrrd(path, values, nrrd_fields(values, affine) | {"encoding": "gzip"})
    else:
        write_metaimage(path, values, metaimage_keys(values, affine) | {"CompressedData": "True"})
    whole = bytearray(path.read_bytes())
    whole[-8 if seed % 2 else -2] ^= 0x55
    path.write_bytes(bytes(whole))
    return Expected([phantom], contradictory=True, codes=("corrupt",))


def grid_longer(folder: Path, seed: int) -> Expected:
    phantom, values, affine = _made(seed)
    path = folder / ("sub-1_ct.nrrd" if seed % 2 else "sub-1_ct.mha")
    if seed % 2:
        write_nrrd(path, values, nrrd_fields(values, affine))
    else:
        write_metaimage(path, values, metaimage_keys(values, affine))
    path.write_bytes(path.read_bytes() + rng(seed, "tail").bytes(int(rng(seed, "n").integers(17, 5000))))
    return Expected([phantom], contradictory=True, codes=("corrupt",))


def grid_bomb(folder: Path, seed: int) -> Expected:
    """A packed stream that continues after the values, or sizes beyond any machine's memory."""
    phantom, values, affine = _made(seed)
    more = values.astype("<i2").tobytes("F") + b"\0" * (40 << 20)
    huge = seed // 2 % 2 == 1
    if seed % 2:
        fields = nrrd_fields(values, affine) | {"encoding": "gzip", "data file": "1.gz"}
        fields |= {"sizes": "900000000 900000000 900000000"} if huge else {}
        write_nrrd(folder / "sub-1_ct.nhdr", values, fields, data=folder / "1.gz")
        if not huge:
            (folder / "1.gz").write_bytes(gzip.compress(more, 1))
    else:
        keys = metaimage_keys(values, affine) | {"CompressedData": "True"}
        keys |= {"DimSize": "900000000 900000000 900000000"} if huge else {}
        write_metaimage(folder / "sub-1_ct.mhd", values, keys, data=folder / "1.zraw")
        if not huge:
            (folder / "1.zraw").write_bytes(zlib.compress(more, 1))
    return Expected([phantom], contradictory=True, codes=("bomb", "truncated"))


def grid_points_elsewhere(folder: Path, seed: int) -> Expected:
    """A detached header that names a file outside its folder, a link, a pipe, itself, another image, or nothing."""
    phantom, values, affine = _made(seed)
    outside = folder.parent.parent / f"outside-{seed}.raw"
    outside.parent.mkdir(parents=True, exist_ok=True)
    outside.write_bytes(values.tobytes("F"))
    folder.mkdir(parents=True, exist_ok=True)
    name = ["../1.raw", str(outside), "link.raw", "pipe.raw", "gone.raw", "sub-1_ct", "..\\1.raw", "sub/1.raw"][seed // 2 % 8]
    (folder / "sub").mkdir()
    (folder / "sub" / "1.raw").write_bytes(values.tobytes("F"))
    (folder / "link.raw").symlink_to(outside)
    os.mkfifo(folder / "pipe.raw")
    if seed % 2:
        path = folder / "sub-1_ct.nhdr"
        write_nrrd(path, values, nrrd_fields(values, affine) | {"data file": name}, data=folder / "x")
    else:
        path = folder / "sub-1_ct.mhd"
        write_metaimage(path, values, metaimage_keys(values, affine) | {"ElementDataFile": name}, data=folder / "x")
    (folder / "x").unlink()
    if name == "sub-1_ct":
        path.write_bytes(path.read_bytes().replace(b"sub-1_ct", path.name.encode()))
    return Expected([phantom], contradictory=True, codes=("missing_data",))


def grid_shared_data(folder: Path, seed: int) -> Expected:
    """Two headers that name one data file: the first has it, the second is refused, and every file counts once."""
    phantom, values, affine = _made(seed)
    write_nrrd(folder / "sub-1_ct.nhdr", values, nrrd_fields(values, affine) | {"data file": "1.raw"}, data=folder / "1.raw")
    write_metaimage(folder / "sub-2_ct.mhd", values, metaimage_keys(values, affine), data=folder / "1.raw")
    return Expected([phantom], codes=("shared_data",))


def grid_several_files(folder: Path, seed: int) -> Expected:
    phantom, values, affine = _made(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(values.shape[2]):
        (folder / f"{k:03d}.raw").write_bytes(values[:, :, k].tobytes("F"))
    if seed % 2:
        name = ["LIST", f"%03d.raw 0 {values.shape[2] - 1} 1 2"][seed // 2 % 2]
        write_nrrd(folder / "sub-1_ct.nhdr", values, nrrd_fields(values, affine) | {"data file": name}, data=folder / "x")
    else:
        name = ["LIST", f"%03d.raw 0 {values.shape[2] - 1} 1"][seed // 2 % 2]
        write_metaimage(
            folder / "sub-1_ct.mhd", values, metaimage_keys(values, affine) | {"ElementDataFile": name}, data=folder / "x"
        )
    (folder / "x").unlink()
    return Expected([phantom], contradictory=True, codes=("many_files",))


def grid_not_scalar(folder: Path, seed: int) -> Expected:
    """Colours, vectors, lists of volumes, time."""
    phantom, values, affine = _made(seed)
    if seed % 2:
        kind = ["RGB-color", "vector", "list", "time"][seed // 2 % 4]
        several = np.asfortranarray(np.stack([values] * 3))
        fields = nrrd_fields(values, affine)
        fields |= {"dimension": "4", "sizes": f"3 {fields['sizes']}", "kinds": f"{kind} domain domain domain"}
        fields["space directions"] = "none " + fields["space directions"]
        write_nrrd(folder / "sub-1_ct.nrrd", several, fields)
    else:
        keys = metaimage_keys(values, affine)
        if seed // 2 % 2:
            keys |= {"ElementNumberOfChannels": "3"}
        else:
            keys |= {"NDims": "4", "DimSize": f"{keys['DimSize']} 3"}
        write_metaimage(folder / "sub-1_ct.mha", np.asfortranarray(np.stack([values] * 3, axis=-1)), keys)
    return Expected([phantom], contradictory=True, codes=("not_scalar", "many_dimensions"))


def grid_header_endless(folder: Path, seed: int) -> Expected:
    """A header of megabytes, a list of a million sizes, numbers that are none, a field twice."""
    phantom, values, affine = _made(seed)
    nrrd = seed % 2 == 1
    fields = nrrd_fields(values, affine) if nrrd else metaimage_keys(values, affine)
    sizes = "sizes" if nrrd else "DimSize"
    which = seed // 2 % 4
    if which == 0:
        fields |= {sizes: "2 " * 500_000}
    elif which == 1:
        fields = {f"x{n}": "y" * 60 for n in range(30_000)} | fields
        fields = ({} if nrrd else {"ObjectType": "Image"}) | fields
    elif which == 2:
        fields |= {sizes: ["1e3 x 4", "-20 20 20", "9" * 5000 + " 2 2"][seed // 8 % 3]}
    else:
        fields |= {sizes + " ": "2 2 2"}
    path = folder / ("sub-1_ct.nrrd" if nrrd else "sub-1_ct.mha")
    (write_nrrd if nrrd else write_metaimage)(path, values, fields)
    return Expected([phantom], contradictory=True, codes=("corrupt", "truncated", "too_large"))


def grid_encoding(folder: Path, seed: int) -> Expected:
    phantom, values, affine = _made(seed)
    if seed % 2:
        encoding = ["ascii", "hex", "bzip2"][seed // 2 % 3]
        write_nrrd(folder / "sub-1_ct.nrrd", values, nrrd_fields(values, affine) | {"encoding": encoding})
    else:
        write_metaimage(folder / "sub-1_ct.mha", values, metaimage_keys(values, affine) | {"BinaryData": "False"})
    return Expected([phantom], contradictory=True, codes=("unsupported_encoding",))


def grid_quantised(folder: Path, seed: int) -> Expected:
    """Stored numbers that stand for other values, by a function that readers leave out."""
    phantom, values, affine = _made(seed)
    if seed % 2:
        write_nrrd(folder / "sub-1_ct.nrrd", values, nrrd_fields(values, affine) | {"old min": "-1000", "old max": "3000"})
    else:
        keys = metaimage_keys(values, affine) | {
            "ElementToIntensityFunctionSlope": "2",
            "ElementToIntensityFunctionOffset": "-1024",
        }
        write_metaimage(folder / "sub-1_ct.mha", values, keys)
    return Expected([phantom], contradictory=True, codes=("unsupported_pixels", "bad_rescale"))


def grid_not_finite(folder: Path, seed: int) -> Expected:
    phantom, values, affine = _made(seed)
    values = values.astype(np.float32)
    values.flat[rng(seed, "voxel").integers(0, values.size, 3)] = [np.nan, np.inf, -np.inf][seed % 3]
    write_nrrd(folder / "sub-1_ct.nrrd", values, nrrd_fields(values, affine))
    return Expected([phantom], contradictory=True, codes=("nonfinite",))


def grid_no_hounsfield(folder: Path, seed: int) -> Expected:
    phantom, values, affine = _made(seed, constant=20.0)
    values = (values + 2024).astype(np.int16)
    if seed % 2:
        write_nrrd(folder / "sub-1_ct.nrrd", values, nrrd_fields(values, affine))
    else:
        write_metaimage(folder / "sub-1_ct.mha", values, metaimage_keys(values, affine))
    return Expected([phantom], contradictory=True, codes=("implausible_hu",))


def grid_data_with_a_mark(folder: Path, seed: int) -> Expected:
    """A data file whose first bytes look like another format; it is its header's all the same, and harms no series."""
    phantom, values, affine = _made(seed)
    write_metaimage(folder / "sub-1_ct.mhd", values, metaimage_keys(values, affine), data=folder / "a.raw")
    raw = (folder / "a.raw").read_bytes()
    keys = metaimage_keys(values, affine) | {"HeaderSize": "16"}
    mark = [b"\x1f\x8b" + b"\0" * 14, b"BZh" + b"\0" * 13, b"PK\x03\x04" + b"\0" * 12, b"ObjectType = Ima"][seed % 4]
    write_metaimage(folder / "sub-1_ct.mhd", values, keys, data=folder / "a.raw")
    (folder / "a.raw").write_bytes(mark + raw)
    return Expected([phantom], must_be_right=True)


GRID_FAULTS: dict[str, Callable[[Path, int], Expected]] = {
    f.__name__: f
    for f in (
        nrrd_clean, metaimage_clean, nrrd_sheared, nrrd_unit, nrrd_skip, metaimage_skip, grid_no_space, grid_bad_affine,
        metaimage_letters_differ, grid_cut, grid_checksum, grid_longer, grid_bomb, grid_points_elsewhere, grid_shared_data,
        grid_several_files, grid_not_scalar, grid_header_endless, grid_encoding, grid_quantised, grid_not_finite,
        grid_no_hounsfield, grid_data_with_a_mark,
    )
}  # fmt: skip
HARMLESS = {"nrrd_clean", "metaimage_clean", "nrrd_sheared", "nrrd_unit", "nrrd_skip", "metaimage_skip", "grid_data_with_a_mark"}
