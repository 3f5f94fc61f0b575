"""A job whose options, code and input bytes are known is restored, and one of which any of these differs is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from medssl.core.files import read_json, sha256_file, write_json, write_text
from medssl.core.job import Spec, job, named_paths, paths_in
from medssl.core.store import Store

BASE = Spec("reduce", "ct/hash", "s", "", 0, "c0de", {"threshold": 6}, {}, "")


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """A job that reads a table and a folder of arrays of stage prepare."""
    root = tmp_path / "s"
    prepared = root / "2_prepare" / "ct"
    for name, text in (("samples.parquet", "one"), ("arrays/v-1.npy", "two"), ("notes.txt", "three")):
        write_text(prepared / name, text)
    list_outputs(prepared)
    inputs = {"samples": [str(prepared / "samples.parquet")], "arrays": [str(prepared / "arrays")]}
    return dataclasses.replace(BASE, root=str(root), inputs=inputs, out=str(root / "3_reduce" / "ct" / "hash"))


def list_outputs(folder: Path) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "receipt.json"]
    outputs = {str(p.relative_to(folder)): {"sha256": sha256_file(p), "size": p.stat().st_size} for p in files}
    write_json(folder / "receipt.json", {"stage": "prepare", "name": "ct", "spec": "x", "outputs": outputs})


def make(spec: Spec, text: str = "kept") -> bool:
    """Run the job as the command line does; True if it was restored."""
    with job(spec) as work:
        if work.restore():
            return True
        write_text(work.path("keep.parquet"), text)
        write_text(work.path("pictures", "one.png"), text)
        work.wrote(work.path("keep.parquet"), work.path("pictures", "one.png"))
        work.notes["restored_fits"] = 3
        work.write_receipt()
    return False


def forget(spec: Spec) -> None:
    """What Snakemake does before it runs a job."""
    for path in Path(spec.out).rglob("*"):
        if path.is_file():
            path.unlink()


def test_an_equal_job_is_restored_with_equal_bytes_and_a_receipt_that_says_so(spec: Spec) -> None:
    assert not make(spec)
    before = read_json(Path(spec.out) / "receipt.json")
    forget(spec)
    assert make(spec, "other")
    after = read_json(Path(spec.out) / "receipt.json")
    assert (Path(spec.out) / "keep.parquet").read_text() == "kept"
    assert after["outputs"] == before["outputs"] and after["wall_s"] == before["wall_s"]
    assert "restored" in after and "restored" not in before
    assert before["restored_fits"] == 3 and "restored_fits" not in after, "what that job had restored itself"


def test_a_restored_array_takes_no_room(spec: Spec) -> None:
    make(spec)
    forget(spec)
    make(spec)
    assert (Path(spec.out) / "pictures/one.png").stat().st_nlink == 2


@pytest.mark.parametrize("restored", [False, True])
def test_who_writes_into_a_table_or_encoder_does_not_reach_what_is_kept(spec: Spec, restored: bool) -> None:
    make(spec)
    if restored:
        forget(spec)
        assert make(spec)
    with open(Path(spec.out) / "keep.parquet", "r+") as file:
        file.write("kePt")
    assert make(spec) and (Path(spec.out) / "keep.parquet").read_text() == "kept"


@pytest.mark.parametrize("restored", [False, True])
def test_arrays_are_write_protected_and_what_snakemake_makes_again_is_not(spec: Spec, restored: bool) -> None:
    """It refuses to run a job whose outputs are; arrays below them are none of its outputs, and a job makes them again."""
    make(spec)
    if restored:
        forget(spec)
        assert make(spec)
    modes = {path.name: path.stat().st_mode & 0o222 for path in Path(spec.out).rglob("*") if path.is_file()}
    assert modes["one.png"] == 0 and modes["keep.parquet"] and modes["receipt.json"]
    assert not make(dataclasses.replace(spec, code="newer"), "newer")
    assert (Path(spec.out) / "pictures/one.png").read_text() == "newer"


@pytest.mark.parametrize(
    "change",
    [{"options": {"threshold": 5}}, {"code": "other"}, {"seed": 1}, {"name": "ct/other"}, {"given": {"split": "ab"}}],
    ids=lambda change: next(iter(change)),
)
def test_another_option_code_seed_or_given_file_is_made(spec: Spec, change: dict) -> None:
    make(spec)
    assert not make(dataclasses.replace(spec, **change))


@pytest.mark.parametrize(("name", "same"), [("samples.parquet", False), ("arrays/v-1.npy", False), ("notes.txt", True)])
def test_bytes_of_inputs_count_and_nothing_else_does(spec: Spec, name: str, same: bool) -> None:
    make(spec)
    folder = Path(spec.root) / "2_prepare" / "ct"
    write_text(folder / name, "changed")
    list_outputs(folder)
    assert make(spec) is same


def test_a_touched_input_and_a_moved_study_change_nothing(spec: Spec, tmp_path: Path) -> None:
    make(spec)
    (Path(spec.root) / "2_prepare" / "ct" / "samples.parquet").touch()
    assert make(spec)
    moved = tmp_path / "elsewhere"
    Path(spec.root).rename(moved)
    inputs = {name: [path.replace(spec.root, str(moved)) for path in paths] for name, paths in spec.inputs.items()}
    assert make(dataclasses.replace(spec, root=str(moved), inputs=inputs, out=spec.out.replace(spec.root, str(moved))))


@pytest.mark.parametrize("damage", ["pictures/one.png", "receipt.json"])
def test_a_changed_stored_file_is_not_restored_and_is_reported(
    spec: Spec, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(spec)
    (kept,) = (Path(spec.root) / "state" / "store").glob("??/*")
    (kept / damage).chmod(0o644)
    with open(kept / damage, "r+") as file:  # in place, so that its other name changes too
        file.write("kePt")
    assert not make(spec)
    said = capsys.readouterr().err
    assert said.startswith("reduce ct/hash: ") and f"({damage} is not as it was made), so the job runs again" in said
    assert (Path(spec.out) / "pictures/one.png").read_text() == "kept"
    assert make(spec) and capsys.readouterr().err == ""


def test_stored_files_survive_a_job_that_writes_its_results_again(spec: Spec) -> None:
    make(spec)
    assert not make(dataclasses.replace(spec, code="newer"), "newer")
    forget(spec)
    assert make(spec) and (Path(spec.out) / "keep.parquet").read_text() == "kept"


def test_files_of_another_run_leave_and_other_jobs_below_stay(spec: Spec) -> None:
    make(spec)
    write_text(Path(spec.out) / "pictures" / "two.png", "of a longer run")
    write_text(Path(spec.out) / "inner" / "receipt.json", "{}")
    write_text(Path(spec.out) / "events" / "tfevents", "watched")
    assert make(spec)
    left = {str(path.relative_to(spec.out)) for path in Path(spec.out).rglob("*") if path.is_file()}
    assert left == {"keep.parquet", "pictures/one.png", "receipt.json", "inner/receipt.json", "events/tfevents"}


@pytest.mark.parametrize("stage", ["ingest", "report"])
def test_a_stage_whose_inputs_are_unknown_always_runs(spec: Spec, stage: str) -> None:
    other = dataclasses.replace(spec, stage=stage)
    make(other)
    assert not make(other)


def test_a_job_without_a_code_hash_is_not_kept(spec: Spec) -> None:
    make(dataclasses.replace(spec, code=""))
    assert not list(Store(Path(spec.layout.state("store", ""))).entries())


def test_a_process_that_joins_knows_without_writing(spec: Spec) -> None:
    make(spec)
    forget(spec)
    with job(spec, joins=True) as work:
        assert work.restore()
    assert not (Path(spec.out) / "keep.parquet").exists()


def test_a_folder_is_an_input_through_the_receipt_that_lists_its_files(spec: Spec) -> None:
    folder = Path(spec.root) / "2_prepare" / "ct"
    assert dict(named_paths(spec.inputs)) == {"samples.0": str(folder / "samples.parquet"), "arrays.0": str(folder / "arrays")}
    assert list(paths_in(spec)) == [str(folder / "samples.parquet"), str(folder / "receipt.json")]
