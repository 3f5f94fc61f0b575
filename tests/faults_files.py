"""Faults and harmless quirks of files and folders: names that are not text, unreadable files, and the series that they affect.

Each class is like those of `faults.py`. `HARMLESS` names the classes that are sound series: they may not be refused.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
from faults import Expected, nifti_image
from phantoms import datasets, random_phantom, save
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from medssl.core.rng import rng

Fault = Callable[[Path, int], Expected]
LATIN = os.fsdecode(b"M\xfcller")
"""A name in Latin-1, which is not UTF-8."""


def _end(count: int, seed: int) -> int:
    return -1 if seed % 2 else 0


# ---- names that are not text


def _named(names: Callable[[int], str]) -> Fault:
    def fault(folder: Path, seed: int) -> Expected:
        phantom = random_phantom(seed)
        made = datasets(phantom)
        for number, ds in enumerate(made):
            (folder / names(number)).parent.mkdir(parents=True, exist_ok=True)
            save([ds], folder, names=lambda _, number=number: names(number))
        return Expected([phantom], must_be_right=True)

    return fault


def names_of_one_byte_apart(folder: Path, seed: int) -> Expected:
    """Two series whose folders differ in a byte that is not UTF-8."""
    truths = []
    for number, byte in enumerate((b"\xfc", b"\xe4")):
        phantom = replace(random_phantom(seed + number), seed=seed)
        save(datasets(phantom, series=f"n{number}"), folder / os.fsdecode(b"M" + byte + b"ller"))
        truths.append(phantom)
    return Expected(truths, must_be_right=True)


def nifti_latin_names(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed)
    image = nifti_image(phantom)
    (folder / LATIN).mkdir(parents=True)
    for kind in ("ct", "seg"):
        nibabel.save(image, folder / "a.nii.gz")
        if kind == "seg":
            values = (image.get_fdata() > 0).astype("uint8")
            nibabel.save(nibabel.Nifti1Image(values, image.affine), folder / "a.nii.gz")
        (folder / "a.nii.gz").rename(folder / LATIN / f"{LATIN}_{kind}.nii.gz")
    return Expected([phantom], must_be_right=True)


def nifti_mask_leads_nowhere(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed)
    folder.mkdir(parents=True)
    nibabel.save(nifti_image(phantom), folder / "pt_ct.nii.gz")
    (folder / "pt_seg.nii.gz").symlink_to(folder / "nothing")
    return Expected([phantom], must_be_right=True)


# ---- the slice at an end cannot be read, or is another object: without it the volume would be an end short


def _end_changed(change: Callable[[FileDataset, int], None], *codes: str) -> Fault:
    """The data set of an end slice is changed before it is written."""

    def fault(folder: Path, seed: int) -> Expected:
        phantom = random_phantom(seed)
        made = datasets(phantom)
        change(made[_end(len(made), seed)], seed)
        save(made, folder)
        return Expected([phantom], codes=(*codes, "damaged_neighbour"))

    return fault


def _end_damaged(damage: Callable[[bytes, int], bytes], *codes: str, names: Callable[[int], str] | None = None) -> Fault:
    """The bytes of the file of an end slice are damaged."""

    def fault(folder: Path, seed: int) -> Expected:
        phantom = random_phantom(seed)
        paths = save(datasets(phantom), folder, names=names or (lambda n: f"{n:04d}.dcm"))
        path = paths[_end(len(paths), seed)]
        path.write_bytes(damage(path.read_bytes(), seed))
        return Expected([phantom], codes=(*codes, "damaged_neighbour"))

    return fault


def _other_syntax(data: bytes, seed: int) -> bytes:
    """The file names a syntax that is private, of the standard and not decoded, or none at all."""
    unknown = (b"1.3.46.670589.33.1.4.1", b"1.2.840.10008.1.2.4.100", b"1.2.840.10008.1.2.7.1", b"1.2.840.113619.5.2", b"9.9")
    named = unknown[seed % len(unknown)]
    named += b"\0" * (len(named) % 2)
    at = data.index(struct.pack("<HH", 0x0002, 0x0010) + b"UI")
    (length,) = struct.unpack_from("<H", data, at + 6)
    (group_length,) = struct.unpack_from("<I", data, 140)
    head = data[:140] + struct.pack("<I", group_length + len(named) - length) + data[144 : at + 6]
    return head + struct.pack("<H", len(named)) + named + data[at + 8 + length :]


def _within(tag: tuple[int, int], vr: bytes) -> Callable[[bytes, int], bytes]:
    """A byte inside the value of an element becomes another."""

    def damage(data: bytes, seed: int) -> bytes:
        at = data.index(struct.pack("<HH", *tag) + vr)
        (length,) = struct.unpack_from("<H", data, at + 6)
        where = at + 8 + int(rng(seed, "byte").integers(0, length - 2))
        other = b"A7\0 \xff"[seed % 5]
        return data[:where] + bytes([other if other != data[where] else ord("8")]) + data[where + 1 :]

    return damage


def _no_series(ds: FileDataset, seed: int) -> None:
    if seed % 3:
        del ds.SeriesInstanceUID
    else:
        ds.SeriesInstanceUID = ""


def end_of_four_without_series(folder: Path, seed: int) -> Expected:
    """As many slices of an end as make a volume of their own."""
    phantom = random_phantom(seed, slices=12)
    made = datasets(phantom)
    for ds in made[:4] if seed % 2 else made[-4:]:
        _no_series(ds, seed)
    save(made, folder)
    return Expected([phantom], codes=("missing_tag", "damaged_neighbour"))


def _other_class(ds: FileDataset, seed: int) -> None:
    classes = (
        "1.2.840.10008.5.1.4.1.1.66",
        "1.2.840.10008.5.1.4.1.1.3",
        "1.2.840.10008.5.1.4.1.1.66.4",
        "1.2.840.10008.5.1.4.1.1.11.1",
    )
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = classes[seed % len(classes)]


def _other_modality(ds: FileDataset, seed: int) -> None:
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
    ds.Modality = "US"


def _no_mark(data: bytes, seed: int) -> bytes:
    changed = (b"DICN", b"\0\0\0\0", b"dicm", b"\xff\xff\xff\xff")[seed % 4]
    return data[:128] + changed + data[132:]


def _first_bytes_lost(data: bytes, seed: int) -> bytes:
    return data[int(rng(seed, "lost").integers(1, 140)) :]


def _zeros(data: bytes, seed: int) -> bytes:
    return b"\0" * len(data)


def _noise(data: bytes, seed: int) -> bytes:
    return rng(seed, "noise").bytes(len(data))


def _stump(data: bytes, seed: int) -> bytes:
    return data[: (0, 200, 131, 60)[seed % 4]]


def _hashed(number: int) -> str:
    return f"{rng(number, 'hash').bytes(8).hex()}.dcm"


def _uids(number: int) -> str:
    return f"{generate_uid(entropy_srcs=['name', str(number)])}.dcm"


def link_where_the_end_was(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed)
    paths = save(datasets(phantom), folder)
    path = paths[_end(len(paths), seed)]
    path.unlink()
    path.symlink_to(folder / "nothing" if seed % 4 < 2 else path)
    return Expected([phantom], codes=("link", "damaged_neighbour"))


# ---- an unreadable file beside a sound series


def _beside(
    name: Callable[[int], str], *, right: bool, declared: bool = False, names: Callable[[int], str] | None = None
) -> Fault:
    """A stump of a file beside a whole series; `name` of its number of slices. Not `right`: the end is lost."""

    def fault(folder: Path, seed: int) -> Expected:
        phantom = random_phantom(seed)
        made = datasets(phantom)
        for ds in made if declared else []:
            ds.ImagesInAcquisition = len(made)
        whole = made if right else made[:-1]
        paths = save(whole, folder, names=names or (lambda n: f"{n:04d}.dcm"))
        (folder / name(len(whole))).write_bytes(_stump(paths[0].read_bytes(), seed))
        return Expected([phantom], must_be_right=right, codes=() if right else ("damaged_neighbour",))

    return fault


def stump_of_another_series(folder: Path, seed: int) -> Expected:
    """Two series in a flat folder; the stump is the next file of the second, and of the first it is none."""
    one = random_phantom(seed)
    other = replace(random_phantom(seed + 1000), seed=seed)
    whole = save(datasets(one, series="a"), folder, names=lambda n: f"CT_1_{n:04d}")
    lost = datasets(other, series="b")[:-1]
    save(lost, folder, names=lambda n: f"CT_2_{n:04d}")
    (folder / f"CT_2_{len(lost):04d}").write_bytes(_stump(whole[0].read_bytes(), seed))
    return Expected([one], must_be_right=True)


def other_files_beside(folder: Path, seed: int) -> Expected:
    """What exports leave beside images: text, tables, pictures of folders, links and pipes of other names."""
    phantom = random_phantom(seed)
    save(datasets(phantom), folder, names=(lambda n: f"IM{n:04d}") if seed % 2 else _hashed)
    for name in ("README", "Thumbs.db", "series.json", "VERSION", ".DS_Store", "report 2.pdf"):
        (folder / name).write_bytes(b"nothing to see " * (1 + seed % 3))
    (folder / "latest").symlink_to("nothing")
    (folder / "loop").symlink_to("loop")
    (folder / "folder").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    return Expected([phantom], must_be_right=True)


# ---- what images say of themselves


def described_by_slice(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed)
    made = datasets(phantom)
    for ds in made:
        ds.SeriesDescription = ("UNSAVED", "t1 Saveby", "epi_SaveBySlc", "dti_savebyslc_b0")[seed % 4]
    save(made, folder)
    return Expected([phantom], must_be_right=True)


def described_as_saved(folder: Path, seed: int) -> Expected:
    phantom = random_phantom(seed)
    made = datasets(phantom)
    for ds in made:
        ds.SeriesDescription = ("Screen Save", "saved images", "SCREEN_SAVE", "ScreenSave", "CT-Save")[seed % 5]
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("burned_in",))


def frames_not_read(folder: Path, seed: int) -> Expected:
    """Several frames in one object, or sheets of tiles, without what places each."""
    phantom = random_phantom(seed, modality="MR", constant=600.0)
    made = datasets(phantom)
    for ds in made:
        if seed % 3 == 0:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "VFRAME"]
        elif seed % 3 == 1:
            ds.add_new(0x00650010, "LO", "Image Private Header")
            ds.add_new(0x00651050, "DS", "16")
        else:
            ds.NumberOfFrames, ds.PixelData = 2, ds.PixelData * 2
    save(made, folder)
    return Expected([phantom], contradictory=True, codes=("unsupported_frames",))


SYNTAX, SERIES = ((0x0002, 0x0010), b"UI"), ((0x0020, 0x000E), b"UI")

FILE_FAULTS: dict[str, Fault] = {
    "latin_file_names": _named(lambda n: f"{LATIN} {n:03d}.dcm"),
    "latin_folder": _named(lambda n: f"{LATIN}/{n:03d}.dcm"),
    "control_signs_in_names": _named(lambda n: f"a\tb\nc\\x41\x1b[31m\x1f{n:03d}.dcm"),
    "end_of_unknown_syntax": _end_damaged(_other_syntax, "unsupported_syntax"),
    "end_corrupt_in_syntax": _end_damaged(_within(*SYNTAX), "unsupported_syntax", "corrupt", "decode", "missing_tag"),
    "end_corrupt_in_series": _end_damaged(_within(*SERIES), "mixed_series", "corrupt"),
    "end_without_series": _end_changed(_no_series, "missing_tag"),
    "end_of_four_without_series": end_of_four_without_series,
    "end_of_another_class": _end_changed(_other_class, "unsupported_object", "mixed_content"),
    "end_of_another_modality": _end_changed(_other_modality, "unsupported_modality", "mixed_modality"),
    "end_without_mark": _end_damaged(_no_mark, "corrupt"),
    "end_without_first_bytes": _end_damaged(_first_bytes_lost, "corrupt", "not_an_image"),
    "end_of_zeros": _end_damaged(_zeros, "corrupt"),
    "end_of_noise": _end_damaged(_noise, "not_an_image"),
    "end_of_noise_among_hashes": _end_damaged(_noise, "not_an_image", names=_hashed),
    "end_a_stump_among_hashes": _end_damaged(_stump, names=_hashed),
    "end_a_stump_among_identifiers": _end_damaged(_stump, names=_uids),
    "end_a_stump_without_suffix": _end_damaged(_stump, names=lambda n: f"IM{n}"),
    "stump_is_the_end": _beside(lambda n: f"{n:04d}.dcm", right=False),
    "stump_is_the_end_unpadded": _beside(lambda n: f"I{n}", right=False, names=lambda n: f"I{n}"),
    "stump_named_otherwise": _beside(lambda n: "extra.dcm", right=True),
    "stump_far_away": _beside(lambda n: f"{n + 300:04d}.dcm", right=True),
    "stump_of_another_number": _beside(lambda n: "CT_9_0001.dcm", right=True, names=lambda n: f"CT_3_{n:04d}.dcm"),
    "stump_beside_all_declared": _beside(lambda n: f"{n:04d}.dcm", right=True, declared=True),
    **{
        f.__name__: f
        for f in (
            names_of_one_byte_apart, link_where_the_end_was, stump_of_another_series, other_files_beside, described_by_slice,
            described_as_saved, frames_not_read,
        )
    },
}  # fmt: skip
NIFTI_FILE_FAULTS: dict[str, Fault] = {f.__name__: f for f in (nifti_latin_names, nifti_mask_leads_nowhere)}

HARMLESS = (
    "latin_file_names", "latin_folder", "control_signs_in_names", "names_of_one_byte_apart", "stump_named_otherwise",
    "stump_far_away",
    "stump_of_another_number", "stump_beside_all_declared", "stump_of_another_series", "other_files_beside", "described_by_slice",
    "nifti_latin_names", "nifti_mask_leads_nowhere",
)  # fmt: skip
"""Classes of sound series: a refusal is a fault of the reader."""
POLICY = ("described_as_saved",)
"""What medssl refuses as a matter of policy: a peer that reads it is not wrong."""
