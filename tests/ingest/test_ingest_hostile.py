"""Hostile files are refused: quickly, within little memory, and without an exception of another kind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from faults import FAULTS, compress, enhanced_file, nifti_image
from ingesting import KEY, ingest
from phantoms import datasets, random_phantom, save, write
from pydicom.uid import UID

from medssl.core.rng import rng
from medssl.ingest.codes import CODES
from medssl.ingest.dicom.elements import parse
from medssl.ingest.dicom.header import read_header
from medssl.ingest.dicom.tags import SEQUENCES, WANTED
from medssl.ingest.opening import kind_of
from medssl.ingest.reading_pool import ReadingPool
from medssl.ingest.refusal import Refusal

SYNTAXES = ("explicit", "implicit", "big_endian", "deflated", "rle", "j2k", "jpegls", "ljpeg")


def one_file(name: str, seed: int = 0) -> bytes:
    """A single slice in a syntax, as bytes."""
    ds = datasets(random_phantom(seed))[0]
    if name in ("rle", "j2k", "jpegls", "ljpeg"):
        compress(ds, name)
    elif name != "explicit":
        uid = {"implicit": "1.2.840.10008.1.2", "big_endian": "1.2.840.10008.1.2.2", "deflated": "1.2.840.10008.1.2.1.99"}[name]
        if name == "big_endian":
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = UID(uid)
    buffer = io.BytesIO()
    write(ds, buffer)  # type: ignore[arg-type]
    return buffer.getvalue()


def seed_files() -> dict[str, bytes]:
    """One whole file of each kind."""
    from PIL import Image

    phantom = random_phantom(1)
    files = {f"{name}.dcm": one_file(name) for name in SYNTAXES}
    buffer = io.BytesIO()
    write(enhanced_file(random_phantom(2, constant=400.0, slices=6)), buffer)  # type: ignore[arg-type]
    files["enhanced.dcm"] = buffer.getvalue()
    files["a_ct.nii"] = nifti_image(phantom).to_bytes()
    import gzip

    files["a_ct.nii.gz"] = gzip.compress(files["a_ct.nii"], mtime=0)
    picture = np.arange(40 * 30, dtype=np.uint8).reshape(30, 40)
    for form in ("png", "jpeg"):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, form)
        files[f"a.{form}"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.stack([picture] * 4), labels=np.arange(4))
    files["a.npz"] = buffer.getvalue()
    return files


@pytest.mark.parametrize("name", SYNTAXES)
def test_file_cut_at_any_byte_is_refused_as_truncated(name: str, request: pytest.FixtureRequest) -> None:
    data = one_file(name)
    number = 200 if request.config.getoption("--full") else 60
    limit = lambda values: 100_000  # noqa: E731
    read_header(parse(data, WANTED, SEQUENCES, inflated_limit=limit), KEY)
    other = Counter()
    for where in rng(0, "cut", name).integers(1, len(data) - 1, number):
        cut = data[: int(where)]
        with pytest.raises(Refusal) as caught:
            assert kind_of(cut) == "dicom"
            read_header(parse(cut, WANTED, SEQUENCES, inflated_limit=limit), KEY)
        if caught.value.code != "truncated":
            other[caught.value.code, int(where)] += 1
    assert not other


def mutants(count: int) -> dict[str, bytes]:
    """Flips, splices, lengths set to extremes and cuts of the seed files."""
    files = list(seed_files().items())
    made = {}
    for n in range(count):
        r = rng(n, "fuzz")
        name, data = files[n % len(files)]
        damaged = bytearray(data)
        for _ in range(int(r.integers(1, 9))):
            kind, at = int(r.integers(0, 5)), int(r.integers(0, len(damaged)))
            # headers are where the harm is done
            at = at if r.random() < 0.3 else int(r.integers(0, min(len(damaged), 1800)))
            if kind == 0:
                damaged[at] ^= 1 << int(r.integers(0, 8))
            elif kind == 1:
                extremes = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\x01\0\0\0"]
                damaged[at : at + 4] = extremes[int(r.integers(0, 4))]
            elif kind == 2:
                other = files[int(r.integers(0, len(files)))][1]
                start = int(r.integers(0, len(other)))
                damaged[at : at + 40] = other[start : start + int(r.integers(1, 80))]
            elif kind == 3:
                damaged[at:at] = r.bytes(int(r.integers(1, 64)))
            else:
                del damaged[at : at + int(r.integers(1, 40))]
        made[f"{n}/{name}"] = bytes(damaged)
    return made


def test_fuzzed_files_are_refused_or_read_within_limits(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    number = 2000 if request.config.getoption("--full") else 200
    root = tmp_path / "s"
    for name, data in mutants(number).items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(data)
    with ReadingPool(KEY, 2) as readers:
        started = max(map(_peak_mb, readers._processes))
        found = ingest(root, tmp_path / "x", options={"min_slices": 1}, readers=readers, depth=0)
        peak = max(map(_peak_mb, readers._processes))
    codes = Counter(code for one in found.values() for code in one.codes)
    assert set(codes) <= set(CODES)
    assert codes["timeout"] == 0
    assert peak - started < 190
    # what was accepted is whole: every file is in one table
    assert sum(one.num_files for one in found.values()) == number


def _peak_mb(reader: Any) -> float:
    """The most memory that a reading process held, with all that its parent held when it was forked."""
    text = Path(f"/proc/{reader._process.pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM"))) / 1024


@pytest.mark.parametrize("name", ["deflate_bomb", "nifti_bomb", "nifti_huge", "huge_matrix", "nested_deep"])
def test_bombs_are_refused_within_190_mb(name: str, tmp_path: Path) -> None:
    FAULTS[name](tmp_path / "s" / "case", 1)
    with ReadingPool(KEY, 1) as readers:
        started = _peak_mb(readers._processes[0])
        found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)["case"]
        peak = _peak_mb(readers._processes[0])
    assert not found.volumes
    assert peak - started < 190


def test_run_length_and_jpeg_2000_bombs_are_refused(tmp_path: Path, readers) -> None:
    import imagecodecs
    from pydicom.encaps import encapsulate

    phantom = random_phantom(0)
    big = np.zeros((8000, 8000), np.uint8)
    stream = imagecodecs.jpeg2k_encode(big, level=0, codecformat="j2k", reversible=True)
    for number, (name, frame) in enumerate(
        {
            "j2k": stream,
            "rle": struct.pack("<16I", 2, 64, 70, *[0] * 13) + b"\x81\0" * 60000,
        }.items()
    ):
        made = datasets(phantom, series=name)
        for ds in made:
            compress(ds, name)
        made[number].PixelData = encapsulate([frame])
        save(made, tmp_path / "s" / name)
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)
    assert not found["j2k"].volumes
    assert "decode" in found["j2k"].codes
    assert not found["rle"].volumes or found["rle"].codes


def test_reader_that_hangs_or_dies_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with ReadingPool(KEY, 1) as readers:
        reader = readers._processes[0]
        path = tmp_path / "a.dcm"
        path.write_bytes(one_file("explicit"))
        good = {"path": str(path), "size": path.stat().st_size}
        assert "header" in readers.ask("scan", good, memory_mb=150, timeout_s=20)
        os.kill(reader._process.pid, 19)  # type: ignore[union-attr]
        assert readers.ask("scan", good, memory_mb=150, timeout_s=0.5)["code"] == "timeout"
        assert "header" in readers.ask("scan", good, memory_mb=150, timeout_s=20)
        os.kill(reader._process.pid, 9)  # type: ignore[union-attr]
        os.waitid(os.P_PID, reader._process.pid, os.WEXITED | os.WNOWAIT)  # type: ignore[union-attr]
        assert "header" in readers.ask("scan", good, memory_mb=150, timeout_s=20)


def test_a_reading_process_holds_nothing_of_its_parent(tmp_path: Path) -> None:
    """No file, no lock and no pipe of another one; and its parent's ways to end are not its own."""
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        with open(tmp_path / "lock", "w"), ReadingPool(KEY, 3) as readers:
            readers.ask("scan", {"path": "none", "size": 1, "mtime_ns": 0}, memory_mb=150, timeout_s=20)
            for reader in readers._processes[:1]:
                of = Path(f"/proc/{reader._process.pid}")  # type: ignore[union-attr]
                assert sorted(os.listdir(of / "fd")) == ["0", "1", "2", "3"]
                caught = next(line for line in (of / "status").read_text().splitlines() if line.startswith("SigCgt"))
                assert not int(caught.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_reading_processes_end_with_a_parent_that_is_killed() -> None:
    program = "import os; from medssl.ingest.reading_pool import ReadingPool; readers = ReadingPool(b'k' * 32, 3); "
    program += "print(*(r._process.pid for r in readers._processes), flush=True); os.kill(os.getpid(), 9)"
    found = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert found.returncode == -9 and len(found.stdout.split()) == 3
    for pid in map(int, found.stdout.split()):
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            assert select.select([handle], [], [], 20)[0], "it outlives its parent"
            os.close(handle)


@pytest.mark.parametrize("second", [None, 7])
@pytest.mark.parametrize("name", ["explicit", "implicit", "big_endian"])
def test_an_element_that_stands_twice_is_refused(name: str, second: int | None) -> None:
    whole = one_file(name)
    rows = datasets(random_phantom(0))[0].Rows
    order = ">" if name == "big_endian" else "<"
    head = struct.pack(f"{order}HH", 0x0028, 0x0010)
    head += struct.pack("<I", 2) if name == "implicit" else b"US" + struct.pack(f"{order}H", 2)
    element = head + struct.pack(f"{order}H", rows)
    assert whole.count(element) == 1 and parse(whole, WANTED, SEQUENCES)
    again = element if second is None else head + struct.pack(f"{order}H", second)
    with pytest.raises(Refusal) as refused:
        parse(whole.replace(element, element + again), WANTED, SEQUENCES)
    assert refused.value.code == "corrupt" and "out of order" in str(refused.value)


def test_archives_are_refused_by_name(tmp_path: Path, readers) -> None:
    import tarfile
    import zipfile

    root = tmp_path / "s"
    for name in ("zip", "tar", "tgz"):
        (root / name).mkdir(parents=True)
    inner = tmp_path / "a.dcm"
    inner.write_bytes(one_file("explicit"))
    with zipfile.ZipFile(root / "zip" / "a.dcm", "w") as archive:
        archive.write(inner, "a.dcm")
    for name, mode in (("tar", "w"), ("tgz", "w:gz")):
        with tarfile.open(root / name / "x", mode) as tar:  # type: ignore[call-overload]
            tar.add(inner, "a.dcm")
    found = ingest(root, tmp_path / "x", readers=readers)
    assert [found[name].codes for name in ("zip", "tar", "tgz")] == [{"archive"}] * 3


def test_files_are_found_by_content_not_by_suffix(tmp_path: Path, readers) -> None:
    phantom = random_phantom(0)
    save(datasets(phantom), tmp_path / "s" / "case", names=lambda n: f"image.{n}.txt")
    nibabel.save(nifti_image(random_phantom(1)), tmp_path / "b.nii")
    (tmp_path / "s" / "other").mkdir()
    (tmp_path / "b.nii").rename(tmp_path / "s" / "other" / "b.dcm")
    found = ingest(tmp_path / "s", tmp_path / "x", readers=readers)
    assert [found[name].volumes[0][2]["format"] for name in ("case", "other")] == ["dicom", "nifti"]


def test_nothing_of_a_header_reaches_an_answer_but_the_allow_list(tmp_path: Path) -> None:
    ds = datasets(random_phantom(0))[0]
    canary = "CANARYNAME"
    ds.PatientName, ds.PatientID, ds.AccessionNumber, ds.InstitutionName = canary, canary, canary, canary
    ds.ConvolutionKernel, ds.Manufacturer, ds.SeriesDescription, ds.PatientSex = canary, canary, canary, "X"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", canary]
    path = tmp_path / f"{canary}.dcm"
    write(ds, path)
    with ReadingPool(KEY, 1) as readers:
        answer = readers.ask("scan", {"path": str(path), "size": path.stat().st_size}, memory_mb=150, timeout_s=20)
    assert canary not in json.dumps(answer)


def test_pydicoms_own_files_meet_nothing_but_refusals(tmp_path: Path, readers) -> None:
    import pydicom

    source = Path(pydicom.__file__).parent / "data" / "test_files"
    if not source.is_dir():
        pytest.skip("pydicom was installed without its test files")
    number = 0
    for path in sorted(source.rglob("*")):
        if path.is_file():
            (tmp_path / "s" / str(number)).mkdir(parents=True)
            (tmp_path / "s" / str(number) / "a.dcm").write_bytes(path.read_bytes())
            number += 1
    found = ingest(tmp_path / "s", tmp_path / "x", options={"min_slices": 1}, readers=readers, depth=0)[""]
    assert found.num_files == number
    assert found.codes <= set(CODES)
    assert not found.codes & {"timeout", "crashed"}
    unforeseen = [row["sentence"] for row in found.rejected if "while reading" in row["sentence"]]
    assert not unforeseen
