"""An end of a series lies in a file that is not read: an unfinished transfer, an archive, a link, a separate folder.

Nothing is missing in the middle, so the rest looks complete. It is refused if the name says that the file is a slice;
otherwise the volume is accepted with the warning `unread_beside` (`tests/ingest/test_ingest_unread.py`).
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

from faults import Expected
from phantoms import datasets, random_phantom, save

Fault = Callable[[Path, int], Expected]


def _end_as(names: Callable[[str, int], str], content: Callable[[bytes, int], bytes], *codes: str, right: bool = False) -> Fault:
    """The file of the last slice has another name and content."""

    def fault(folder: Path, seed: int) -> Expected:
        phantom = random_phantom(seed)
        paths = save(datasets(phantom), folder)
        last = paths[-1]
        data = content(last.read_bytes(), seed)
        last.unlink()
        target = folder / names(last.name, seed)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
        return Expected([phantom], must_be_right=right, codes=(*codes, "damaged_neighbour"))

    return fault


def _unfinished(name: str, seed: int) -> str:
    forms = ("{}.part", ".{}.aB3xYz", "{}.crdownload", "{}.filepart", "{}.k3Fs9Qa1.partial", "{}~", ".syncthing.{}.tmp", "{}.tmp")
    return forms[seed % len(forms)].format(name)


def _begun(data: bytes, seed: int) -> bytes:
    """What a transfer has written: the room alone, the first bytes, or nothing."""
    return (b"\0" * len(data), data[: 150 + seed % 90], b"")[seed // 8 % 3]


def _packed(data: bytes, seed: int) -> bytes:
    return gzip.compress(data)


def _alone(name: str, seed: int) -> str:
    return f"rest/{name}"


def _alone_and_packed(name: str, seed: int) -> str:
    return f"rest/{name}.gz"


def _same(data: bytes, seed: int) -> bytes:
    return data


def unfinished_copy_beside(folder: Path, seed: int) -> Expected:
    """A transfer that began again: the slice is there, and a stump of it is left."""
    phantom = random_phantom(seed)
    paths = save(datasets(phantom), folder)
    (folder / _unfinished(paths[-1].name, seed)).write_bytes(_begun(paths[-1].read_bytes(), seed))
    (folder / f"{paths[0].name}.gz").write_bytes(gzip.compress(paths[0].read_bytes()))
    return Expected([phantom], must_be_right=True)


def whole_under_an_unfinished_name(folder: Path, seed: int) -> Expected:
    """What a file is, its content says: all of the slice is there."""
    phantom = random_phantom(seed)
    last = save(datasets(phantom), folder)[-1]
    last.rename(folder / _unfinished(last.name, seed))
    return Expected([phantom], must_be_right=True)


def slices_in_folders_of_their_own(folder: Path, seed: int) -> Expected:
    """A folder for each slice; the last one is a stump."""
    phantom = random_phantom(seed)
    paths = save(datasets(phantom), folder)
    for path in paths:
        place = folder / path.stem
        place.mkdir()
        path.rename(place / "image.dcm")
    last = folder / paths[-1].stem / "image.dcm"
    last.write_bytes(_begun(last.read_bytes(), seed))
    return Expected([phantom], codes=("damaged_neighbour",))


def damaged_grid_beside_slices_in_two_folders(folder: Path, seed: int) -> Expected:
    """A NIfTI that was cut off, in a separate folder, is not named like a slice: a series in two folders is not in doubt."""
    phantom = random_phantom(seed)
    last = save(datasets(phantom), folder / "scan")[-1]
    (folder / "scan" / "rest").mkdir()
    last.rename(folder / "scan" / "rest" / last.name)
    (folder / "other").mkdir()
    (folder / "other" / "brain.nii.gz").write_bytes(gzip.compress(b"a volume" * 999)[: 20 + seed])
    return Expected([phantom], must_be_right=True)


UNREAD = (
    unfinished_copy_beside, whole_under_an_unfinished_name, slices_in_folders_of_their_own,
    damaged_grid_beside_slices_in_two_folders,
)  # fmt: skip
UNREAD_FAULTS: dict[str, Fault] = {
    "end_unfinished": _end_as(_unfinished, _begun, "truncated", "corrupt", "empty"),
    "end_packed": _end_as(lambda name, seed: f"{name}.gz", _packed, "archive"),
    "end_stump_in_its_own_folder": _end_as(_alone, _begun, "truncated", "corrupt", "empty"),
    "end_packed_in_its_own_folder": _end_as(_alone_and_packed, _packed, "archive"),
    "end_whole_in_its_own_folder": _end_as(_alone, _same, right=True),
    **{f.__name__: f for f in UNREAD},
}
HARMLESS = (
    "end_whole_in_its_own_folder", "unfinished_copy_beside", "whole_under_an_unfinished_name",
    "damaged_grid_beside_slices_in_two_folders",
)  # fmt: skip
