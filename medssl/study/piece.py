"""A small, typical piece of a source: whole folders, or neighbours of a flat folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from medssl.core.errors import DiskFullError
from medssl.core.listing import walk
from medssl.study.planning import MB

FILES, FILES_MB = 48, 24.0
"""The most files, and their size, of a piece of a flat folder of volumes or images."""
SERIES_FILES, SERIES_MB = 1500, 600.0
"""A folder of DICOM stays whole up to this size, because it may be one series."""
NEIGHBOURS = 8
"""Files of a flat folder are taken in runs of this many, because a mask stands beside its image."""
ROOM = 12
"""Disk space for a piece and all its results, as a multiple of its size."""
SINGLE = (".nii", ".nii.gz", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy", ".npz")
"""Suffixes of files that are one volume or one image."""


@dataclass(frozen=True)
class Piece:
    """A copy of some files of a source."""

    source: str
    path: str
    num_bytes: float
    num_files: int
    of_files: int

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole source."""
        return self.num_files == self.of_files


def piece(name: str, path: str, labels: str | None, target: Path, count: int, *, spread: bool = False) -> Piece:
    """A copy of `count` typical folders of a source without its label files; a single file is used directly.

    spread: from all over the source, of any length.

    Raises:
        DiskFullError: too little room for it and its results.
    """
    root = Path(path).resolve()
    if root.is_file():
        return Piece(path, str(root), float(root.stat().st_size), 1, 1)
    folders: dict[str, list[tuple[str, int]]] = {}
    for relative, size, _, kind in walk(name, str(root)):
        if kind == "file" and not (labels and (root / relative).is_relative_to(labels)):
            folders.setdefault(str(Path(relative).parent), []).append((relative, size))
    chosen = typical(folders, count, spread=spread)
    num_bytes = float(sum(size for _, size in chosen))
    target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if free < ROOM * num_bytes:
        raise DiskFullError(
            f"the probe of source {name} needs about {ROOM * num_bytes / MB:.0f} MB in the temporary folder, and {free / MB:.0f} "
            "MB are free there. Set TMPDIR to a folder with more room."
        )
    for relative, _ in chosen:
        copy = target / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / relative, copy)
    return Piece(path, str(target), num_bytes, len(chosen), sum(map(len, folders.values())))


def typical(folders: dict[str, list[tuple[str, int]]], count: int, *, spread: bool = False) -> list[tuple[str, int]]:
    """(name, bytes) of the files of `count` folders of the usual length, each whole or cut to the limits of a piece.

    spread: folders of all lengths instead, evenly from the shortest to the longest.
    """
    usual = median(len(files) for files in folders.values())
    chosen = sorted(folders.values(), key=lambda files: (abs(len(files) - usual), files))
    if spread and count < len(chosen):
        chosen.sort(key=lambda files: (len(files), files))
        chosen = [chosen[(2 * number + 1) * len(chosen) // (2 * count)] for number in range(count)]
    chosen = chosen[:count]
    return [file for files in chosen for file in _cut(sorted(files), count)]


def _cut(files: list[tuple[str, int]], count: int) -> list[tuple[str, int]]:
    """A folder of volumes or images: runs of neighbours, spread evenly. One of DICOM: whole, or its beginning."""
    single = sum(name.lower().endswith(SINGLE) for name, _ in files) > len(files) / 2
    num_files, room_mb = (count * FILES, count * FILES_MB) if single else (SERIES_FILES, SERIES_MB)
    mean_mb = sum(size for _, size in files) / len(files) / MB
    most = max(2, min(num_files, int(room_mb / mean_mb) if mean_mb else num_files))
    if len(files) <= most:
        return files
    if not single:
        return files[:most]
    length = min(NEIGHBOURS, most)
    runs = most // length
    starts = [index * (len(files) // runs) // length * length for index in range(runs)]
    return [file for start in starts for file in files[start : start + length]]
