"""What a check has found: lines for a person's own screen, values for programs. It names files, and is for them alone."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from medssl.artefacts.series import rows_of
from medssl.ingest.checking import Checked
from medssl.ingest.codes import sentence_of

PLACES = 5
"""Places of a code, and files of a place, that are named before the rest is counted."""
VOLUMES = 20


def screen_lines(checked: Checked) -> Iterator[str]:
    """Accepted volumes, then refused files by code and by folder; readable also where thousands are refused."""
    series, rejected, items = rows_of(checked.series), checked.rejected, checked.items
    kinds = f"{_counted(len(series), 'volume')} of {len({row['series_id'] for row in series}):,} series"
    slices, files = sum(row["shape"][2] for row in series), int(checked.series["num_files"].sum())
    yield f"{kinds}, {_counted(slices, 'slice')}, {_counted(files, 'file')} accepted"
    places = {volume: _place(list(names)) for volume, names in items.groupby("volume_id")["file"]}
    for row in series[:VOLUMES]:
        yield "  " + "  ".join([places[row["volume_id"]], row["modality"], _size(row), row["volume_id"], *_warned(row)])
    if len(series) > VOLUMES:
        yield f"  … and {_counted(len(series) - VOLUMES, 'volume')} more"
    warned = Counter(code for row in series for code in row["warnings"])
    yield from (f"{code}: a warning of {_counted(count, 'volume')}: {sentence_of(code)}" for code, count in warned.most_common())
    yield f"{_counted(int(rejected['num_files'].sum()), 'file')} refused"
    counts = rejected.groupby("code")["num_files"].sum().sort_values(ascending=False, kind="stable")
    for code in counts.index:
        yield ""
        yield f"{code}: {_counted(int(counts[code]), 'file')}: {sentence_of(code)}"
        yield from _places(items[items["code"] == code], f"{sentence_of(code)}: ")
    if len(rejected):
        yield ""
        yield "--table FILE writes what became of every file, with its sentence and ids."
    if not checked.keyed:
        yield ""
        yield "These ids hold for this path alone: .medssl/id_key is not here. --id-key FILE and --name give those of a study."


def as_values(checked: Checked) -> dict[str, Any]:
    """The same for programs: the rows of both ledgers, and of every file."""
    files = {"accepted": int(checked.series["num_files"].sum()), "refused": int(checked.rejected["num_files"].sum())}
    tables = {"series": checked.series, "rejected": checked.rejected, "items": checked.items}
    return {
        "files": files,
        "keyed": checked.keyed,
        **{name: [_plain(row) for row in rows_of(table)] for name, table in tables.items()},
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Values that JSON has."""
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()}


def _places(items: pd.DataFrame, meaning: str) -> Iterator[str]:
    """A line for each folder of refused files, the fullest first, with the ids of their refusals and what is special of them."""
    folders: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for file, sentence, item in zip(items["file"], items["sentence"], items["item_id"], strict=True):
        folders[str(PurePosixPath(file).parent)].append((file, sentence, item))
    ordered = sorted(folders.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    for _, found in ordered[:PLACES]:
        names = sorted({file for file, _, _ in found})
        yield f"  {_place(names)}  {', '.join(sorted({item for _, _, item in found})[:PLACES])}"
        details = sorted({sentence.removeprefix(meaning) for _, sentence, _ in found if sentence.startswith(meaning)})
        if details:
            yield f"    {details[0]}" + (f" (and {len(details) - 1} more reasons like it)" if len(details) > 1 else "")
    rest = ordered[PLACES:]
    if rest:
        yield f"  … and {_counted(len(rest), 'folder')} more with {_counted(sum(len(found) for _, found in rest), 'file')}"


def _place(names: list[str]) -> str:
    """Where files are: one by its name, a few in a folder by theirs, many by their first and last."""
    names = sorted(set(names))
    folders = {str(PurePosixPath(name).parent) for name in names}
    if len(names) == 1:
        return names[0]
    if len(folders) > 1:
        return f"{_counted(len(names), 'file')} in {len(folders)} folders, {names[0]} to {names[-1]}"
    folder = folders.pop()
    short = [PurePosixPath(name).name + ("/" if name.endswith("/") else "") for name in names]
    within = ", ".join(short) if len(short) <= PLACES else f"{short[0]} to {short[-1]}"
    return f"{'' if folder == '.' else f'{folder}/: '}{_counted(len(names), 'file')}, {within}"


def _size(row: dict[str, Any]) -> str:
    shape = "×".join(map(str, row["shape"]))
    return shape if row["spacing_mm"] is None else f"{shape} of {'×'.join(f'{mm:.4g}' for mm in row['spacing_mm'])} mm"


def _warned(row: dict[str, Any]) -> list[str]:
    return [f"warnings: {', '.join(row['warnings'])}"] if row["warnings"] else []


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
