"""Whether results can be written, and never become images or labels of the study that makes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from medssl.core.label_table import FOLDERS
from medssl.core.layout import PRIVATE, Layout
from medssl.study.file import Loc
from medssl.study.options import Study

Problem = tuple[Loc, str]


def folder_problems(study: Study, layout: Layout) -> Iterator[Problem]:
    """Problems of the folders to write to, and of sources and labels that overlap with them."""
    for key, folder in (("output", layout.root), ("id_key", PRIVATE)):
        if text := _not_writable(folder):
            yield (key,), f"{str(folder)!r} cannot be written to: {text}"
    for name, source in study.sources.items():
        for key, path in (("path", source.path), ("labels", source.labels)):
            if path not in (None, FOLDERS) and (text := _meets_results(Path(str(path)), layout.root)):
                yield ("sources", name, key), f"{path!r} {text}. Keep images, labels and results in folders of their own"


def _not_writable(folder: Path) -> str:
    """Why a folder cannot be made or written to; empty if it can. Nothing is made to find out."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        return f"{str(there)!r} is not a folder. Name another place, or move it away"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{str(there)!r} is closed to the account that runs medssl. Name another place, or open it"
    return ""


def _meets_results(path: Path, root: Path) -> str:
    """How input files overlap with the folders to write to; empty if they do not."""
    place = path.resolve()
    for what, folder in (("the results of this study", root), ("the private files of medssl", PRIVATE)):
        own = folder.resolve()
        if own.is_relative_to(place):
            return f"contains {what} ({folder}), which would be read with the rest"
        if place.is_relative_to(own):
            return f"lies within {what} ({folder})"
    others = [above for above in (place, *place.parents) if _holds_results(above)]
    others += [folder for folder in (place.iterdir() if place.is_dir() else ()) if _holds_results(folder)]
    return f"holds results of another study ({others[0].name})" if others else ""


def _holds_results(folder: Path) -> bool:
    return (folder / "specs").is_dir() and (folder / "sources").is_dir()
