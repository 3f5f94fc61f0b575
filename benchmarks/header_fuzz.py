"""Thousands of mutations of the header of one slice of a series: right, or refused; never changed, crashed or lost.

One slice, most often an end, gets one mutation: a value, a value representation, a length, a tag, the order or number of
elements, a cut, or flipped bits before the pixels. `right` is a volume of every slice whose values and places are those that
the files state; `refused`: no volume. `changed` is the rest: a slice short, or values or places that are not the truth. A
rescale that a mutation turns into another valid one is the file's word: the truth moves with it where pydicom, an independent
reader, reads it so from the mutated file.

Ends with RESULT {json}.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "ingest")]

from ingesting import KEY, Ingested, ingest  # noqa: E402
from phantoms import Phantom, covers, datasets, random_phantom, write  # noqa: E402

from medssl.core.files import write_json  # noqa: E402
from medssl.core.rng import rng  # noqa: E402
from medssl.ingest.codes import CODES, codes_of_checks  # noqa: E402
from medssl.ingest.reading_pool import ReadingPool  # noqa: E402

TOLERANCE = 0.51
"""Value units: half a unit of rounding."""
BATCH = 100
SHORT = frozenset(
    [b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM"]
) | {b"UI", b"UL", b"US"}
WORDS = (
    b"",
    b"0",
    b"1",
    b"-1",
    b"NaN",
    b"inf",
    b"1e30",
    b"A",
    b"YES",
    b"LOCALIZER",
    b"DERIVED\\SECONDARY",
    b"1\\2\\3",
    b"\xff\xfe",
    b"9" * 70,
)
REPRESENTATIONS = (b"UN", b"OB", b"SQ", b"US", b"UL", b"DS", b"LO", b"FD", b"XX", b"\0\0", b"ZZ")


@dataclass(frozen=True)
class Element:
    """An element of a file: where it begins, where its value begins, and how long that is."""

    start: int
    body: int
    length: int
    tag: tuple[int, int]


def elements_of(data: bytes) -> list[Element]:
    """The elements of a whole explicit little endian file without sequences, the pixels last."""
    found, offset = [], 132
    while offset < len(data):
        tag, vr = struct.unpack_from("<HH", data, offset), data[offset + 4 : offset + 6]
        short = vr in SHORT
        (length,) = struct.unpack_from("<H" if short else "<I", data, offset + (6 if short else 8))
        body = offset + (8 if short else 12)
        found.append(Element(offset, body, length, tag))
        offset = body + length
    return found


# ---- the mutations: bytes of a slice, its elements, another slice of the series, a generator → other bytes

Mutation = Callable[[bytes, list[Element], bytes, np.random.Generator], bytes]


def _value(data: bytes, elements: list[Element], value: bytes, element: Element) -> bytes:
    """The file with another value of an element, framed as it should be."""
    value += (b"\0" if data[element.start + 4 : element.start + 6] == b"UI" else b" ") * (len(value) % 2)
    short = element.body - element.start == 8
    head = (
        data[element.start : element.start + 6] + (b"" if short else b"\0\0") + struct.pack("<H" if short else "<I", len(value))
    )
    return data[: element.start] + head + value + data[element.body + element.length :]


def other_word(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    element = elements[int(r.integers(0, len(elements) - 1))]
    return _value(data, elements, WORDS[int(r.integers(0, len(WORDS)))], element)


def other_sign(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    """One byte of a value becomes a digit, a letter or anything."""
    element = elements[int(r.integers(0, len(elements) - 1))]
    if not element.length:
        return other_word(data, elements, other, r)
    at = element.body + int(r.integers(0, element.length))
    choice = (b"0123456789"[int(r.integers(0, 10))], b".-+\\ AZ^"[int(r.integers(0, 8))], int(r.integers(0, 256)))
    return data[:at] + bytes([choice[int(r.integers(0, 3))]]) + data[at + 1 :]


def value_of_another_element(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    one, two = (elements[int(n)] for n in r.integers(0, len(elements) - 1, 2))
    return _value(data, elements, data[two.body : two.body + two.length], one)


def value_of_another_slice(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    own = elements[int(r.integers(0, len(elements) - 1))]
    same = [e for e in elements_of(other) if e.tag == own.tag]
    return _value(data, elements, other[same[0].body : same[0].body + same[0].length], own)


def other_representation(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    element = elements[int(r.integers(0, len(elements)))]
    return data[: element.start + 4] + REPRESENTATIONS[int(r.integers(0, len(REPRESENTATIONS)))] + data[element.start + 6 :]


def other_length(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    element = elements[int(r.integers(0, len(elements)))]
    short = element.body - element.start == 8
    at = element.start + (6 if short else 8)
    lengths = [0, element.length + 2, max(element.length - 2, 0), element.length + 1, 0xFFFF, 0xFFFE]
    if not short:
        lengths += [0xFFFFFFFF, 0x7FFFFFFF, 0x10000]
    length = lengths[int(r.integers(0, len(lengths)))]
    packed = struct.pack("<H", length & 0xFFFF) if short else struct.pack("<I", length)
    return data[:at] + packed + data[at + len(packed) :]


def other_tag(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    element = elements[int(r.integers(0, len(elements)))]
    at = element.start + int(r.integers(0, 4))
    return data[:at] + bytes([data[at] ^ (1 << int(r.integers(0, 8)))]) + data[at + 1 :]


def swapped(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    one = int(r.integers(0, len(elements) - 1))
    first, second = elements[one], elements[one + 1]
    end = second.body + second.length
    return data[: first.start] + data[second.start : end] + data[first.start : second.start] + data[end:]


def dropped(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    element = elements[int(r.integers(0, len(elements)))]
    return data[: element.start] + data[element.body + element.length :]


def doubled(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    element = elements[int(r.integers(0, len(elements)))]
    end = element.body + element.length
    return data[:end] + data[element.start : end] + data[end:]


def _header_end(elements: list[Element]) -> int:
    return elements[-1].body


def cut(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    return data[: int(r.integers(0, _header_end(elements)))]


def bits_flipped(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(r.integers(1, 4))):
        changed[int(r.integers(0, _header_end(elements)))] ^= 1 << int(r.integers(0, 8))
    return bytes(changed)


def bytes_lost(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    at = int(r.integers(0, _header_end(elements)))
    return data[:at] + data[at + int(r.integers(1, 9)) :]


def bytes_put_in(data: bytes, elements: list[Element], other: bytes, r: np.random.Generator) -> bytes:
    at = int(r.integers(0, _header_end(elements)))
    return data[:at] + r.bytes(int(r.integers(1, 9))) + data[at:]


MUTATIONS: tuple[Mutation, ...] = (
    other_word, other_sign, value_of_another_element, value_of_another_slice, other_representation, other_length, other_tag,
    swapped, dropped, doubled, cut, bits_flipped, bytes_lost, bytes_put_in,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A series of which one slice is mutated."""

    phantom: Phantom
    mutation: str
    position: int
    mutated: bytes


def bytes_of(ds: Any) -> bytes:
    """A data set as the bytes of its file."""
    buffer = io.BytesIO()
    write(ds, buffer)  # type: ignore[arg-type]
    return buffer.getvalue()


def made(number: int, root: Path) -> Case:
    """Write case `number` into a folder of its own."""
    r = rng(number, "header fuzz")
    options = {} if number % 3 else {"modality": "MR", "constant": 600.0}
    phantom = random_phantom(number, columns=12, rows=10, slices=8, slope_per_mm=(1.5, 1.0, 1.2), **options)
    slices = [bytes_of(ds) for ds in datasets(phantom)]
    position = (0, len(slices) - 1, int(r.integers(1, len(slices) - 1)))[number // 3 % 3]
    mutation = MUTATIONS[number % len(MUTATIONS)]
    other = slices[(position + 1 + int(r.integers(0, len(slices) - 1))) % len(slices)]
    mutated = mutation(slices[position], elements_of(slices[position]), other, r)
    folder = root / str(number)
    folder.mkdir(parents=True)
    for n, data in enumerate(slices):
        (folder / f"{n:03d}.dcm").write_bytes(mutated if n == position else data)
    return Case(phantom, mutation.__name__, position, mutated)


# ---- the judgement


def judged(case: Case, found: Ingested) -> str:
    """`right`, `refused`, or what is wrong: `short`, `place`, `values`, `several`, `lost`."""
    if found.num_files != case.phantom.slices:
        return "lost"
    volumes = [volume for volume in found.volumes if min(volume[0].shape) > 1]
    if not volumes:
        return "refused"
    if len(volumes) > 1:
        return "several"
    values, affine, _ = volumes[0]
    if sorted(values.shape) != sorted([case.phantom.columns, case.phantom.rows, case.phantom.slices]):
        return "short"
    if not covers(values, affine, case.phantom):
        return "place"
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in values.shape], indexing="ij"), axis=-1)
    points = (grid @ affine[:3, :3].T + affine[:3, 3]) * [-1.0, -1.0, 1.0]
    truth = case.phantom.value(points)
    error = np.abs(values.astype(float) - truth)
    if error.max() <= TOLERANCE:
        return "right"
    slope, intercept = as_stated(case)
    of_slice = np.argmin(_along(points, case.phantom), axis=-1)
    stored = truth - (-1024.0 if case.phantom.modality == "CT" else 0.0)
    moved = np.where(of_slice == case.position, stored * slope + intercept, truth)
    return "right" if np.abs(values.astype(float) - moved).max() <= TOLERANCE + 1e-4 * np.abs(moved).max() else "values"


def _along(points: np.ndarray, phantom: Phantom) -> np.ndarray:
    """Distance of points from the plane of every slice, along the normal."""
    return np.abs((points @ phantom.normal)[..., None] - phantom.positions() @ phantom.normal)


def as_stated(case: Case) -> tuple[float, float]:
    """Slope and intercept of the mutated slice as pydicom reads them."""
    import pydicom

    usual = (1.0, -1024.0) if case.phantom.modality == "CT" else (1.0, 0.0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(io.BytesIO(case.mutated), force=True)
            return float(ds.get("RescaleSlope", usual[0])), float(ds.get("RescaleIntercept", usual[1]))
    except Exception:
        return usual


def run(numbers: range, readers: ReadingPool) -> Iterator[tuple[int, Case, str, Ingested]]:
    """Number, case, verdict and what was made of each."""
    known = set(CODES) | set(codes_of_checks())
    for start in range(numbers.start, numbers.stop, BATCH):
        batch = range(start, min(start + BATCH, numbers.stop))
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "in"
            cases = {number: made(number, root) for number in batch}
            found = ingest(root, Path(scratch) / "out", readers=readers)
            for number, case in cases.items():
                result = found[str(number)]
                crashed = result.codes & {"crashed", "timeout"} or not result.codes <= known
                yield number, case, "crash" if crashed else judged(case, result), result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="5,000 mutations")
    parser.add_argument("--show", action="store_true", help="say what is neither right nor refused")
    options = parser.parse_args()
    count = 5000 if options.full else options.count
    verdicts: Counter[str] = Counter()
    table: Counter[tuple[str, str]] = Counter()
    with ReadingPool(KEY, 2) as readers:
        for number, case, verdict, result in run(range(options.first, options.first + count), readers):
            verdicts[verdict] += 1
            table[case.mutation, verdict] += 1
            if options.show and verdict not in ("right", "refused"):
                sentences = [f"{row['code']}: {row['sentence']}" for row in result.rejected]
                print(number, case.mutation, case.phantom.modality, case.position, verdict, sentences, flush=True)
    for mutation in (m.__name__ for m in MUTATIONS):
        words = {word: table[mutation, word] for word in sorted(verdicts)}
        print(f"{mutation:28s}" + "".join(f"{word} {number:5d}  " for word, number in words.items()))
    changed = sum(verdicts[word] for word in ("short", "place", "values", "several"))
    summary = {"mutations": count, "right": verdicts["right"], "refused": verdicts["refused"], "changed": changed}
    summary |= {"crashes": verdicts["crash"], "files_lost": verdicts["lost"], "date": datetime.now(UTC).date().isoformat()}
    if options.full:
        write_json(ROOT / "benchmarks" / "results" / "header_fuzz.json", summary)
    print("RESULT " + json.dumps(summary))
    raise SystemExit(bool(changed or verdicts["crash"] or verdicts["lost"]))


if __name__ == "__main__":
    main()
