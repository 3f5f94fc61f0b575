"""The findings of a check: lines for the user's own screen, values for programs. It names files, so it is for the user only."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from medssl.ingest.checking import Checked
from medssl.ingest.codes import sentence_of
from medssl.ingest.ledger import Row

PLACES = 5
"""Places of a code, and files of a place, that are listed before the rest is only counted."""
VOLUMES = 20
SERIES_ID = re.compile(r"s-[0-9a-f]{12}")


def screen_lines(checked: Checked) -> Iterator[str]:
    """Accepted volumes, then refused files by code and by folder; readable even if thousands are refused."""
    series, rejected, items = checked.series, checked.rejected, checked.items
    yield f"{_accepted(series)}, {_counted(_num_files(series), 'file')} accepted"
    names: dict[str, list[str]] = defaultdict(list)
    for item in items:
        names[item["volume_id"]].append(item["file"])
    for row in sorted(series, key=lambda row: min(names[row["volume_id"]], default=""))[:VOLUMES]:
        place = _source(row, names[row["volume_id"]])
        yield "  " + "  ".join([place, row["modality"], _size(row), row["volume_id"], *_warned(row)])
    if len(series) > VOLUMES:
        yield f"  … and {len(series) - VOLUMES:,} more"
    warned = Counter(code for row in series for code in row["warnings"])
    yield from (f"{code}: a warning of {_counted(count, 'volume')}: {sentence_of(code)}" for code, count in warned.most_common())
    files_of = {item["series_id"]: item["file"] for item in reversed(items) if item["series_id"]}

    def of_series(found: re.Match[str]) -> str:
        return files_of.get(found[0], found[0])

    yield f"{_counted(_num_files(rejected), 'file')} refused"
    counts = Counter({code: 0 for code in sorted({row["code"] for row in rejected})})
    for row in rejected:
        counts[row["code"]] += row["num_files"]
    for code, count in counts.most_common():
        yield ""
        yield f"{code}: {_counted(count, 'file')}: {sentence_of(code)}"
        for line in _places([item for item in items if item["code"] == code], f"{sentence_of(code)}: "):
            yield SERIES_ID.sub(of_series, line)
    if checked.remarks:
        yield ""
        yield from (f"note: {remark}" for remark in checked.remarks)


def hints(checked: Checked) -> Iterator[str]:
    """What else `medssl check` can show."""
    if len(checked.rejected):
        yield ""
        yield "--table FILE writes every file with its id, and why it is refused."
    if not checked.keyed:
        yield ""
        yield "These ids are of this path only: there is no .medssl/id_key here. --id-key FILE and --name give those of a study."


def as_values(checked: Checked) -> dict[str, Any]:
    """The same for programs: the rows of both ledgers, and of every file."""
    files = {"accepted": _num_files(checked.series), "refused": _num_files(checked.rejected)}
    ledgers = {"series": checked.series, "rejected": checked.rejected, "items": checked.items}
    return {"files": files, "keyed": checked.keyed, **ledgers, "remarks": checked.remarks}


def _accepted(series: list[Row]) -> str:
    """How many volumes, slices and masks there are, and how many pictures: those of one size are one row."""
    volumes = [row for row in series if row["kind"] == "volume"]
    pictures = [row for row in series if row["kind"] != "volume"]
    parts = []
    if volumes or not pictures:
        slices, masks = sum(row["shape"][2] for row in volumes), sum(row["label"] for row in volumes)
        parts = [f"{_counted(len(volumes), 'volume')} of {len({row['series_id'] for row in volumes}):,} series"]
        parts += [_counted(slices, "slice"), *([_counted(masks, "mask")] if masks else [])]
    if pictures:
        number = sum(row["shape"][2] for row in pictures)
        parts.append(f"{_counted(number, 'picture')} of {_counted(len(pictures), 'size')}")
    return ", ".join(parts)


def _source(row: Row, names: list[str]) -> str:
    """The files of a row; an image and its mask by both names."""
    if row["kind"] == "volume" and row["label"] and row["format"] != "dicom" and len(set(names)) == 2:
        return " + ".join(sorted(names))
    return _place(names)


def _num_files(rows: list[Row]) -> int:
    return sum(int(row["num_files"]) for row in rows)


def _places(items: list[Row], meaning: str) -> Iterator[str]:
    """A line for each folder of refused files, the fullest first, with the ids and particulars of their refusals."""
    folders: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for item in items:
        folders[str(PurePosixPath(item["file"]).parent)].append((item["file"], item["sentence"], item["item_id"]))
    ordered = sorted(folders.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    for _, found in ordered[:PLACES]:
        names = sorted({file for file, _, _ in found})
        yield f"  {_place(names)}  {', '.join(sorted({item_id for _, _, item_id in found})[:PLACES])}"
        details = sorted({sentence.removeprefix(meaning) for _, sentence, _ in found if sentence.startswith(meaning)})
        if details:
            yield f"    {details[0]}" + (f" (and {len(details) - 1} more reasons like it)" if len(details) > 1 else "")
    rest = ordered[PLACES:]
    if rest:
        yield f"  … and {_counted(len(rest), 'folder')} more with {_counted(sum(len(found) for _, found in rest), 'file')}"


def _place(names: list[str]) -> str:
    """The location of files: one by its name, a few in a folder by theirs, many by their first and last."""
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
