"""Files are written all or nothing; paths stay inside; hashes name content."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medssl.core.errors import DiskFullError, StudyError
from medssl.core.files import inside, require_free_space, sha256_file, sweep, write_if_changed, write_json, write_text, writing


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "table.tsv"
    write_text(target, "old")
    with pytest.raises(RuntimeError), writing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.tsv"]


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_then_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut there is the old file or the whole new one."""
    seen: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(str(Path(f"/proc/self/fd/{descriptor}").readlink())))
    monkeypatch.setattr(os, "replace", lambda old, new: (seen.append("renamed"), replace(old, new)))
    write_text(tmp_path / "table.tsv", "new")
    temporary, renamed, folder = seen
    assert temporary.endswith("-table.tsv") and (renamed, folder) == ("renamed", str(tmp_path))


def test_kill_9_while_writing_leaves_the_old_file_whole(tmp_path: Path, count: int) -> None:
    target = tmp_path / "big.bin"
    target.write_bytes(b"old")
    writer = (
        "import sys\nfrom medssl.core.files import writing\n"
        "with writing(sys.argv[1]) as t, open(t, 'wb') as f:\n"
        " for number in range(200): f.write(b'x' * 1_000_000); print(number, flush=True)\n"
    )
    for attempt in range(count):
        process = subprocess.Popen([sys.executable, "-c", writer, str(target)], stdout=subprocess.PIPE)
        assert process.stdout
        for megabyte in range(1 + 8 * attempt):
            assert int(process.stdout.readline()) == megabyte
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert target.read_bytes() == b"old"
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["big.bin"]


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "table.tsv"
    write_text(target, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(DiskFullError, match="free"):
            write_text(target, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert target.read_text() == "old"
    assert DiskFullError.exit_code == 5


def test_work_without_room_stops_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = shutil.disk_usage(tmp_path)._replace(free=100_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: disk)
    require_free_space(tmp_path / "new", 95_000_000)
    with pytest.raises(DiskFullError, match="needs 101 MB and has 100 MB free"):
        require_free_space(tmp_path / "new", 96_000_000)


def test_an_unchanged_text_keeps_its_time_stamp(tmp_path: Path) -> None:
    target = tmp_path / "spec.json"
    assert write_if_changed(target, "a")
    os.utime(target, ns=(1, 1))
    assert not write_if_changed(target, "a")
    assert target.stat().st_mtime_ns == 1
    assert write_if_changed(target, "b")


@pytest.mark.parametrize("part", ["../x", "/etc/passwd", "a/../../x", "ok/../../../x"])
def test_a_path_that_leaves_its_root_is_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(StudyError, match="leaves"):
        inside(tmp_path, part)


def test_a_link_that_leads_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(StudyError):
        inside(tmp_path, "link", "passwd")


def test_json_refuses_nan_and_the_hash_is_sha256(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    write_text(tmp_path / "abc", "abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
