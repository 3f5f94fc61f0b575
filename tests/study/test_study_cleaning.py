"""`medssl clean` takes what can be made again, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medssl.artefacts.wanted import WantedFits
from medssl.cli import app
from medssl.core.errors import LockedError
from medssl.core.files import read_json, sha256_file, write_json
from medssl.core.job import Spec, paths_in
from medssl.core.lock import hold
from medssl.core.store import Store
from medssl.study.cleaning import ARRAYS, UNUSED, removable, remove, trained_again
from medssl.study.dag import Dag
from medssl.study.file import load_study

STUDY = "study: s\nsources: {ct: {path: scans}}\n"
KEPT = [
    "4_pretrain/ct/simclr-hash-seed0/encoder.safetensors",
    "2_prepare/ct/samples.parquet",
    "logs/a.log",
    "1_ingest/ct/series.tsv",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results with 1000 bytes of each kind, in a folder with the study file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    dag = Dag(load_study(files=["study.yaml"]))
    dag.write_specs()
    run = next(spec for _, spec in dag.specs() if spec.stage == "pretrain")
    made = [
        "1_ingest/ct/volumes/v-1/image.npy",
        "2_prepare/ct/arrays/v-1.npy",
        f"state/pretrain/{run.hash}-0123/step-00000001.json",
    ]
    made += [
        "state/reduce/descriptors/ab.parquet",
        "state/pretrain/ffffffffffffffff-0123/step-00000001.json",
        "3_reduce/ct/hash/.tmp-0a1b2c3d-keep.parquet",
        *KEPT,
    ]
    for name in made:
        path = dag.layout.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    return dag.layout.root


def files(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.name != ".lock" and "specs" not in p.parts}


def test_what_goes_and_what_stays(root: Path) -> None:
    before = files(root)
    kinds = removable(root)
    assert {kind.what.split()[0]: kind.num_bytes for kind in kinds} == dict.fromkeys(
        ("volumes", "arrays", "caches", "states", "leftovers"), 1000
    )
    remove(root, kinds)
    gone = before - files(root)
    assert len(gone) == 5 and not any(name.startswith("state/pretrain") and "ffff" not in name for name in gone)
    assert set(KEPT) <= files(root) and removable(root) == []


def test_it_asks_and_says_how_much(root: Path) -> None:
    before = files(root)
    said = CliRunner().invoke(app, ["clean", "study.yaml"], input="n\n")
    assert "0.0 MB" in said.output and "arrays of prepare" in said.output and files(root) == before
    assert CliRunner().invoke(app, ["clean", "study.yaml"], input="").exit_code != 0 and files(root) == before
    assert CliRunner().invoke(app, ["clean", "study.yaml", "--yes"]).exit_code == 0 and files(root) != before
    assert "nothing" in CliRunner().invoke(app, ["clean", "study.yaml"]).output


def finish(root: Path) -> None:
    """A receipt for every training of the study."""
    for _, spec in Dag(load_study(files=["study.yaml"])).specs():
        if spec.stage in ("pretrain", "finetune"):
            receipt = {"stage": spec.stage, "name": spec.name, "spec": spec.hash, "outputs": {}}
            write_json(Path(spec.out) / "receipt.json", receipt)


def test_it_says_before_it_asks_what_will_be_trained_again(root: Path) -> None:
    study = "study: s\nsources: {ct: {path: scans}, mr: {path: scans}, organs: {path: organs}}\n"
    study += "pretrain: {a: {cohort: ct, seeds: [0, 1]}, b: {cohort: mr}}\nfinetune: {plain: {source: organs, inits: [b]}}\n"
    study += "reduce: {leakage: report}\n"
    Path("study.yaml").write_text(study)
    Dag(load_study(files=["study.yaml"])).write_specs()
    said = CliRunner().invoke(app, ["clean", "study.yaml"], input="n\n").output
    assert "repeats the training" not in said  # nothing is trained yet
    finish(root)
    assert trained_again(root, removable(root)) == [("pretrain", "ct/a-hash-seed0"), ("pretrain", "ct/a-hash-seed1")]
    (root / "2_prepare/organs/arrays").mkdir(parents=True)
    (root / "2_prepare/organs/arrays/v.npy").write_bytes(bytes(10))
    said = CliRunner().invoke(app, ["clean", "study.yaml"], input="n\n").output
    assert "2 finished pre-trainings and 1 tasks" in said and said.index("repeats the training") < said.index("Remove ")
    caches = [kind for kind in removable(root) if kind.what.split()[0] in ("caches", "leftovers", "states")]
    assert trained_again(root, caches) == []


def test_without_specs_no_state_goes_and_every_training_is_counted(root: Path) -> None:
    finish(root)
    shutil.rmtree(root / "specs")
    kinds = removable(root)
    assert not [kind for kind in kinds if kind.what.startswith("states")]
    assert len(trained_again(root, kinds)) == 1


def states(root: Path) -> set[str]:
    return {path.name for path in (root / "state" / "pretrain").iterdir()}


def test_what_the_study_file_wants_stays_whatever_the_last_run_wanted(root: Path) -> None:
    """An option set back in the file, and not yet run, finds what is kept of it."""
    (of_the_file,) = {name for name in states(root) if not name.startswith("ffff")}
    edited = Dag(load_study({"study": "s", "sources": {"ct": {"path": "scans"}}, "pretrain": {"simclr": {"lr": 0.5}}}))
    edited.write_specs()
    (of_the_run,) = {f"{spec.hash}-0123" for _, spec in edited.specs() if spec.stage == "pretrain"}
    write_json(root / "state" / "pretrain" / of_the_run / "step-00000001.json", {})
    assert len({of_the_file, of_the_run}) == 2
    assert CliRunner().invoke(app, ["clean", "study.yaml", "--yes"]).exit_code == 0
    assert states(root) == {of_the_file, of_the_run}


def test_specs_of_jobs_that_a_study_no_longer_has_go_so_that_their_states_can(root: Path) -> None:
    state = next(name for name in states(root) if not name.startswith("ffff"))
    without = "study: s\nsources: {ct: {path: scans}}\npretrain: {moco: {}}\n"
    Path("study.yaml").write_text(without)
    dag = Dag(load_study(files=["study.yaml"]))
    dag.write_specs()
    assert {str(path) for path in (root / "specs").rglob("*.json")} == {path for path, _ in dag.specs()}
    assert CliRunner().invoke(app, ["clean", "study.yaml", "--yes"]).exit_code == 0
    assert state not in states(root)


# Fits that are kept


TASKS = STUDY + "finetune: {one: {source: ct}, two: {source: ct}}\n"


def kept(root: Path) -> set[str]:
    return {path.name for path in (root / "state" / "finetune" / "fits").iterdir()}


@pytest.fixture
def tasks(root: Path) -> list[Spec]:
    """Two tasks that have said nothing yet, and four fits on disk."""
    Path("study.yaml").write_text(TASKS)
    dag = Dag(load_study(files=["study.yaml"]))
    dag.write_specs()
    for key in ("of_one", "of_both", "of_two", "of_none"):
        write_json(root / "state" / "finetune" / "fits" / key / "fit.json", {})
    return [spec for _, spec in dag.specs() if spec.stage == "finetune"]


def begins(spec: Spec, *keys: str) -> None:
    WantedFits(spec=spec.hash, fit_keys=sorted(keys)).write(WantedFits.path(spec.layout, spec.name))


def ends(spec: Spec, *keys: str) -> None:
    receipt = {"stage": "finetune", "name": spec.name, "spec": spec.hash, "outputs": {}, "fit_keys": sorted(keys)}
    write_json(Path(spec.out) / "receipt.json", receipt)


def test_fits_of_a_killed_task_stay_and_unwanted_ones_go(root: Path, tasks: list[Spec]) -> None:
    one, two = tasks
    ends(one, "of_one", "of_both")
    begins(two, "of_both", "of_two", "not_made_yet")
    (unused,) = [kind for kind in removable(root) if kind.what == UNUSED]
    assert [path.name for path in unused.paths] == ["of_none"]
    assert CliRunner().invoke(app, ["clean", "study.yaml", "--yes"]).exit_code == 0
    assert kept(root) == {"of_one", "of_both", "of_two"}


def test_tasks_whose_fits_are_all_kept_are_not_said_to_be_trained_again(root: Path, tasks: list[Spec]) -> None:
    one, two = tasks
    ends(one, "of_one", "of_both")
    ends(two, "of_two", "which_is_gone")
    assert ("finetune", "two") in trained_again(root, removable(root))
    assert ("finetune", "one") not in trained_again(root, removable(root))
    encoder = next(Path(path).parent for path in paths_in(one) if "4_pretrain" in str(path))
    write_json(encoder / "receipt.json", {"stage": "pretrain", "name": "ct/x", "spec": "x", "outputs": {}})
    assert ("finetune", "one") in trained_again(root, removable(root)), "its encoder is trained again, and may differ"


def test_no_fit_goes_as_long_as_a_task_has_not_said_what_it_wants(root: Path, tasks: list[Spec]) -> None:
    one, two = tasks
    ends(one, "of_one", "of_both")
    assert UNUSED not in {kind.what for kind in removable(root)}, "the other has said nothing"
    ends(two, "of_two")
    Path("study.yaml").write_text(TASKS.replace("two: {source: ct}", "two: {source: ct, seeds: [7]}"))
    assert CliRunner().invoke(app, ["clean", "study.yaml", "--yes"]).exit_code == 0
    assert len(kept(root)) == 4, "it was edited since, and what it wants now is not known"
    Path("study.yaml").write_text(TASKS)
    WantedFits.path(two.layout, "two").parent.mkdir(parents=True)
    WantedFits.path(two.layout, "two").write_text("{")
    assert CliRunner().invoke(app, ["clean", "study.yaml", "--yes"]).exit_code == 0
    assert kept(root) == {"of_one", "of_both", "of_two"}


def test_not_while_another_program_works_on_the_study(root: Path) -> None:
    before = files(root)
    with hold(root / ".lock"), pytest.raises(LockedError):
        remove(root, removable(root))
    assert files(root) == before


def test_a_link_is_removed_and_not_what_it_leads_to(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_bytes(bytes(5000))
    (root / "1_ingest" / "mr").mkdir()
    (root / "1_ingest" / "mr" / "volumes").symlink_to(tmp_path / "elsewhere")
    remove(root, removable(root))
    assert (tmp_path / "elsewhere" / "precious").is_file()


def test_what_the_store_keeps_is_not_trained_again_and_goes_when_the_study_no_longer_has_it(root: Path) -> None:
    finish(root)
    run = root / "4_pretrain/ct/simclr-hash-seed0"
    receipt = read_json(run / "receipt.json")
    outputs = {"encoder.safetensors": {"size": 1000, "sha256": sha256_file(run / "encoder.safetensors")}}
    store = Store(root / "state" / "store")
    assert trained_again(root, removable(root)) == [("pretrain", "ct/simclr-hash-seed0")]
    store.keep("ab" * 16, run, receipt | {"outputs": outputs})
    assert trained_again(root, removable(root)) == []
    assert not [kind for kind in removable(root) if kind.what == UNUSED]
    store.keep("cd" * 16, run, receipt | {"outputs": outputs, "spec": "of an earlier study file"})
    (unused,) = [kind for kind in removable(root) if kind.what == UNUSED]
    assert unused.paths == (store.folder / "cd" / ("cd" * 16),)
    assert unused.num_bytes == len((unused.paths[0] / "receipt.json").read_bytes()) + 1000
    remove(root, [unused])
    assert store.find("ab" * 16) and not store.find("cd" * 16)


def test_arrays_that_the_store_keeps_too_free_their_room(root: Path) -> None:
    folder = root / "2_prepare/ct"
    outputs = {"arrays/v-1.npy": {"size": 1000, "sha256": sha256_file(folder / "arrays/v-1.npy")}}
    receipt = {"stage": "prepare", "name": "ct", "spec": "x", "outputs": outputs}
    Store(root / "state" / "store").keep("ef" * 16, folder, receipt)
    (arrays,) = [kind for kind in removable(root) if kind.what == ARRAYS]
    kept = root / "state" / "store" / "ef" / ("ef" * 16)
    assert set(arrays.paths) == {folder / "arrays", kept}
    assert arrays.num_bytes == 1000 + len((kept / "receipt.json").read_bytes())
