"""A plan comes from a bounded piece of the study, which is run elsewhere with every file that the study names."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from medssl.cli import studies
from medssl.core.errors import DiskFullError, MedsslError, StudyError, TooManyRefusalsError
from medssl.study import piece as pieces
from medssl.study import probe, trials
from medssl.study.dag import Dag
from medssl.study.file import load_study
from medssl.study.planning import Cost, LargestBatch, Measured

DEMO = Path(__file__).resolve().parent.parent.parent / "demo"
NAMED: list[tuple[str, Any]] = [
    ("id_key", lambda path: {"id_key": path}),
    ("prepare split", lambda path: {"prepare": {"split": {"file": path}}}),
    ("split of a source", lambda path: {"sources": {"ct": {"path": "scans", "prepare": {"split": {"file": path}}}}}),
    ("labels", lambda path: {"sources": {"ct": {"path": "scans", "labels": path}}}),
    ("encoder of an arm", lambda path: {"reduce": {"arms": {"embedding": {"encoder": path}}}}),
    ("init_weights", lambda path: {"pretrain": {"simclr": {"init_weights": path}}}),
    ("weights of a task", lambda path: {"finetune": {"t": {"source": "ct", "weights": {"net": path}}}}),
]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("what", "study"), NAMED, ids=[what for what, _ in NAMED])
def test_a_file_that_the_study_names_is_found_from_elsewhere(tmp_path: Path, what: str, study: Any) -> None:
    values = {"sources": {"ct": {"path": "scans"}}, **study("given/file.tsv")}
    text = str(probe.absolute(load_study(values)))
    assert str(tmp_path / "given" / "file.tsv") in text and "'given/file.tsv'" not in text


def test_a_word_that_is_not_a_path_stays_a_word() -> None:
    study = {
        "sources": {"ct": {"path": "scans", "labels": "folders"}},
        "reduce": {"arms": {"hash": {}, "embedding": {"encoder": "simclr-hash-seed0"}}},
    }
    values = probe.absolute(load_study(study))
    assert values["sources"]["ct"]["labels"] == "folders"
    assert values["reduce"]["arms"]["embedding"]["encoder"] == "simclr-hash-seed0"
    assert values["prepare"]["split"]["file"] is None and values["id_key"] is None


def listed(folder: str, count: int, ending: str, mb: float) -> dict[str, list[tuple[str, int]]]:
    return {folder: [(f"{folder}/{number:05d}{ending}", int(mb * 1e6)) for number in range(count)]}


@pytest.mark.parametrize(("count", "most"), [(1, 48), (3, 144)])
def test_a_flat_folder_of_images_gives_pairs_of_neighbours_from_all_over_it(count: int, most: int) -> None:
    files = listed("flat", 10_000, ".nii.gz", 0.01)["flat"]
    names = [name for name, _ in pieces.typical({"flat": files}, count)]
    assert len(names) == len(set(names)) == most
    numbers = [int(name[5:10]) for name in names]
    assert all(number ^ 1 in numbers for number in numbers)  # an image and its mask
    assert numbers[0] == 0 and numbers[-1] > 8000


def test_large_volumes_are_cut_by_their_bytes() -> None:
    chosen = pieces.typical(listed("flat", 200, ".nii.gz", 5.0), 1)
    assert len(chosen) >= 2 and sum(size for _, size in chosen) <= pieces.FILES_MB * 1e6
    assert len(pieces.typical(listed("flat", 200, ".nii.gz", 500.0), 3)) == 2


def test_a_folder_of_dicom_stays_whole_unless_it_is_an_archive() -> None:
    series = {name: files for part in range(5) for name, files in listed(f"s{part}", 300, ".dcm", 0.5).items()}
    assert len(pieces.typical(series, 1)) == 300 and len(pieces.typical(series, 3)) == 900
    names = [name for name, _ in pieces.typical(listed("pacs", 90_000, "", 0.1), 1)]
    assert len(names) == pieces.SERIES_FILES and names == sorted(names) and names[-1] == "pacs/01499"


def test_a_piece_has_no_label_files_and_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scans/a.nii", "scans/masks/a.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(bytes(1000))
    one = pieces.piece("ct", "scans", str(tmp_path / "scans" / "masks"), tmp_path / "one", 3)
    assert one.num_bytes == 1000 and one.is_whole and [f.name for f in Path(one.path).rglob("*")] == ["a.nii"]
    monkeypatch.setattr(pieces, "ROOM", 1e15)
    with pytest.raises(DiskFullError, match="Set TMPDIR"):
        pieces.piece("ct", "scans", None, tmp_path / "two", 1)


@pytest.mark.parametrize(
    ("wanted", "samples", "tried"),
    [(64, 1000, [32, 64]), (64, 40, [16, 32]), (10, 7, [2, 5]), (64, 3, [2, 2]), (2, 100, [2, 2]), (1, 100, [2, 2])],
)
def test_the_batches_of_the_probe_are_never_empty(wanted: int, samples: int, tried: list[int]) -> None:
    assert trials.batches_to_try(wanted, samples) == tried


def test_a_piece_without_samples_says_so() -> None:
    with pytest.raises(StudyError, match="1 samples to train on"):
        trials.batches_to_try(64, 1)


def tiny(tmp_path: Path, **more: Any) -> Any:
    """Two short series of the bundled CT, ten slices each."""
    for series in ("demo1", "demo2"):
        (tmp_path / "scans" / series).mkdir(parents=True)
        for file in sorted((DEMO / "ct" / series).iterdir())[:10]:
            shutil.copyfile(file, tmp_path / "scans" / series / file.name)
    (tmp_path / "key").write_text("a key that is long enough")
    study = {"study": "tiny", "id_key": "key", "sources": {"ct": {"path": "scans"}}, "reduce": {"controls": False}}
    network = {"backbone": {"resnet18": {"width": 0.25}}, "size": [32], "batch_size": 8, "max_steps": 10}
    return load_study(study | {"pretrain": {"simclr": network}} | more)


def test_a_trial_is_stopped_when_the_time_is_over(tmp_path: Path) -> None:
    plan = trials.plan_of(tiny(tmp_path), 1, limit_s=0.01)
    assert plan.stopped_at == "ingest ct" and plan.costs and all(cost.hours is None for cost in plan.costs)


def test_a_job_stopped_between_its_steps_counts_as_not_measured(tmp_path: Path) -> None:
    piece = probe.Probe(tmp_path / "piece", tiny(tmp_path), 1, 1, deadline_s=0.0)
    piece.measured["ingest", "ct"] = Measured(1.0, 1.0, 1.0, 1.0)
    with pytest.raises(probe.OutOfTimeError, match="ingest ct"):
        piece.run("ingest", "ct", "convert")
    assert not piece.measured


def test_a_plan_that_is_ended_ends_its_trial_and_leaves_nothing(tmp_path: Path) -> None:
    study = tiny(tmp_path).model_dump(mode="json")
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    (tmp_path / "room").mkdir()
    command = [sys.executable, "-m", "medssl", "plan", "study.yaml"]
    with subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(tmp_path / "room")}, stderr=subprocess.PIPE, text=True
    ) as plan:
        assert plan.stderr is not None and "trial run of ingest ct" in plan.stderr.readline()
        trial = wait_for(lambda: [one for one in psutil.Process(plan.pid).children() if "ingest" in one.cmdline()])[0]
        plan.terminate()
        assert plan.wait(timeout=60) == 128 + signal.SIGTERM
    assert not psutil.pid_exists(trial.pid) and not list((tmp_path / "room").iterdir())


def wait_for(look: Callable[[], Any]) -> Any:
    """What `look` finds, as soon as it finds something."""
    for _ in range(600):
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("not found in 30 s")


@pytest.mark.parametrize("objective", ["swav", "joint_2d3d"])
def test_prototypes_fixed_for_more_steps_than_a_trial_has_are_planned(tmp_path: Path, objective: str) -> None:
    study = tiny(tmp_path)
    options = {"freeze_prototypes_steps": 313} | ({"volume_prototypes": 4} if objective == "joint_2d3d" else {})
    run = study.pretrain["simclr"].model_dump() | {"objective": {objective: options}, "max_steps": 1000}
    study = load_study(study.model_dump() | {"pretrain": {"fixed": run}})
    tried = probe.Probe(tmp_path / "piece", study, 1, 1, deadline_s=0.0).study.pretrain["fixed"]
    assert tried.max_steps == probe.PROBE_STEPS and tried.objective.options["freeze_prototypes_steps"] is None
    assert study.pretrain["fixed"].objective.options["freeze_prototypes_steps"] == 313


@pytest.mark.parametrize("stopped", ["ingest ct", "prepare ct", "reduce ct/describe"])
def test_what_was_measured_before_the_stop_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: str) -> None:
    """Trials of one second each; in the second piece the time ends at `stopped`, whose cost then comes from the first piece."""
    study, tried = tiny(tmp_path, finetune={"t": {"source": "ct"}}, sources={"ct": {"path": "scans", "labels": "folders"}}), []

    def run(piece: Any, stage: str, name: str, step: str | None = None, spec: str | None = None) -> Any:
        if f"{stage} {name}" == stopped and len(pieces_run) == 2:
            piece.measured.pop((stage, name), None)
            raise probe.OutOfTimeError(stopped)
        tried.append((stage, name))
        before = piece.measured.get((stage, name))
        wall_s = 1.0 + (before.wall_s if before else 0.0)
        piece.measured[stage, name] = Measured(piece.size_of(name), wall_s, 1.0, 1.0)
        return piece.measured[stage, name]

    stages, pieces_run = probe.Probe.run_cheap_stages, []
    monkeypatch.setattr(probe.Probe, "run", run)
    monkeypatch.setattr(probe.Probe, "samples", lambda *_: 10)
    monkeypatch.setattr(probe.Probe, "run_cheap_stages", lambda piece: (pieces_run.append(piece), stages(piece)))
    plan = trials.plan_of(study, 1, limit_s=600)
    known = {(cost.stage, cost.name) for cost in plan.costs if cost.hours is not None}
    assert plan.stopped_at == stopped and known == set(tried) and {stage for stage, _ in known} == {"ingest", "prepare", "reduce"}
    assert {(cost.stage, cost.name) for cost in plan.costs} == {(spec.stage, spec.name) for _, spec in Dag(study).specs()}


def test_a_stop_between_two_pretrainings_leaves_the_second_and_all_tasks_unplanned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks are bounded by the slowest pre-training, which is not known then."""
    study = tiny(tmp_path, finetune={"t": {"source": "ct"}}, sources={"ct": {"path": "scans", "labels": "folders"}})
    study.pretrain["other"] = study.pretrain["simclr"]
    of_first = {"per_image_s": 1.0, "start_s": 0.0, "batches": [4, 8], "ram_mb": [1.0, 2.0], "gpu_mb": [0.0, 0.0]}
    of_first |= {"took": Measured(1, 1, 1, 1), "largest_batch": lambda: LargestBatch(8), "per_pixel_s": lambda: 1.0}

    def tried(piece: Any, runs: list[tuple[str, str]], known: Any) -> Any:
        if "other" in runs[0][1]:
            raise probe.OutOfTimeError("pretrain ct/other-hash-seed0")
        return SimpleNamespace(**of_first)

    monkeypatch.setattr(trials, "_tried", tried)
    monkeypatch.setattr(trials._Trials, "take_piece", lambda self, _: self.probes.append(one))
    one = probe.Probe(tmp_path / "piece", study, 1, 1, 1e9)
    monkeypatch.setattr(probe.Probe, "samples", lambda *_: 10)
    plan = trials.plan_of(study, 1, limit_s=600)
    assert [cost.name for cost in plan.costs if cost.hours is not None] == ["ct/simclr-hash-seed0"]
    assert list(plan.batches) == ["simclr"] and plan.stopped_at == "pretrain ct/other-hash-seed0"


def test_the_command_prints_what_it_measured_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    costs = [Cost("ingest", "ct", 1.5, 1.5, 10.0, 10.0), Cost("pretrain", "ct/simclr-all-seed0", None, None, None, None)]
    monkeypatch.setattr(trials, "plan_of", lambda *_: trials.Plan(costs, {}, "prepare ct"))
    study = tiny(tmp_path)
    monkeypatch.setattr(studies, "_checked", lambda _: (Dag(study), None))
    with pytest.raises(MedsslError, match=r"stopped at prepare ct, after 600 s.*--limit-s"):
        studies.plan(tmp_path / "study.yaml")
    assert "1.500" in capsys.readouterr().out
    assert json.loads((tmp_path / "results" / "tiny" / "state" / "plan.json").read_text())


def test_equal_runs_are_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = tiny(tmp_path)
    plain = study.pretrain["simclr"]
    runs = {"one": plain, "same": plain.model_copy(update={"seeds": [1]}), "other": plain.model_copy(update={"lr": 0.5})}
    tries: list[Any] = []
    monkeypatch.setattr(trials, "_Tried", lambda *arguments: tries.append(arguments) or arguments)
    piece: Any = SimpleNamespace(study=SimpleNamespace(pretrain=runs), has_kept=lambda *_: True, samples=lambda *_: 10)
    known: dict[str, Any] = {}
    tried = [trials._tried(piece, [("ct", f"{name}-all-seed0")], known) for name in runs]
    assert tried[0] is tried[1] is not tried[2] and len(tries) == 2


def trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, image_s: float, whole: int, gpus: list[str]) -> tuple[Any, list[int]]:
    """A trial of batch 512 whose steps take `image_s` for an image and refuse a batch that is no multiple of `whole`."""
    tries: list[int] = []

    def run(stage: str, name: str, spec: str) -> Measured:
        tries.append(batch := int(spec))
        if batch % whole:
            raise probe.RefusedTrialError(f"batch {batch}")
        (tmp_path / "receipt.json").write_text("{}")
        rates = [1e-9, *[1 / image_s] * (probe.PROBE_STEPS - 1)]
        (tmp_path / "curve.tsv").write_text("\n".join(["images_per_s", *map(str, rates)]))
        return Measured(1.0, 1.0, 100.0 + batch, 1.0)

    monkeypatch.setattr(trials.gpus, "visible", lambda: gpus)
    dag = SimpleNamespace(layout=SimpleNamespace(pretrain=lambda cohort, run, file: file))
    piece: Any = SimpleNamespace(run=run, folder=tmp_path, dag=dag, with_batch=lambda name, batch: str(batch))
    network = tiny(tmp_path).pretrain["simclr"]
    return trials._in_time(piece, network, "ct", "simclr-all-seed0", [256, 512]), tries


@pytest.mark.parametrize(
    ("image_s", "gpus", "tries"),
    [(0.001, [], [16, 32, 256, 512]), (0.1, [], [16, 32]), (0.1, ["0"], [256, 512])],
)
def test_without_a_gpu_a_large_batch_is_tried_only_if_it_is_quick(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, image_s: float, gpus: list[str], tries: list[int]
) -> None:
    """Four steps of 768 images take 3 s or 307 s."""
    found, tried = trial(monkeypatch, tmp_path, image_s, 1, gpus)
    assert tried == tries and found.batches == tries[-2:] and found.per_image_s == pytest.approx(image_s)


@pytest.mark.parametrize(
    ("whole", "tries", "batches"),
    [(32, [16, 32], [32, 32]), (64, [16, 32, 256, 512], [256, 512]), (512, [16, 32, 256, 512], [512, 512])],
)
def test_a_batch_that_an_objective_refuses_does_not_end_the_plan(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, whole: int, tries: list[int], batches: list[int]
) -> None:
    found, tried = trial(monkeypatch, tmp_path, 0.1, whole, [])
    assert tried == tries and found.batches == batches and len(found.ram_mb) == 2


def test_a_trial_fails_if_every_batch_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="batch 512"):
        trial(monkeypatch, tmp_path, 0.1, 1000, [])


@pytest.mark.full
def test_partitions_that_do_not_halve_are_planned(tmp_path: Path) -> None:
    """Half of a batch of 12 holds no equal parts of four partitions."""
    every = {"prepare": {"split": {"val_frac": 0, "test_frac": 0}}, "reduce": {"arms": {"all": {}}, "controls": False}}
    study = tiny(tmp_path, **every)
    run = study.pretrain["simclr"].model_dump() | {"objective": {"global_contrast": {"variant": "gd"}}, "batch_size": 12}
    study = load_study(study.model_dump() | {"pretrain": {"gd": run}})
    plan = trials.plan_of(study, 1, limit_s=600)
    assert str(plan.batches["gd"]) == "12 or more" and plan.stopped_at is None


@pytest.mark.full
def test_every_stage_of_a_study_has_its_line(tmp_path: Path) -> None:
    study = tiny(tmp_path, sources={"ct": {"path": "scans", "labels": "labels.tsv"}}, finetune={"t": {"source": "ct"}})
    (tmp_path / "labels.tsv").write_text("id\tlabel\n")
    plan = trials.plan_of(study, 1, limit_s=600)
    unplanned = [(cost.stage, cost.name) for cost in plan.costs if cost.hours is None]
    assert unplanned == [("ingest", "ct/labels"), ("evaluate", "t"), ("report", "ct"), ("report", "study")]
    assert {cost.stage for cost in plan.costs if cost.hours} == {"ingest", "prepare", "reduce", "pretrain", "finetune"}
    assert next(cost for cost in plan.costs if cost.stage == "finetune").disk_mb is None
    assert (
        plan.batches["simclr"].size >= 2 and plan.stopped_at is None and Path.cwd() == tmp_path and not Path("results").exists()
    )


def mixed(tmp_path: Path, good: int, bad: int) -> Any:
    """Folders of the usual length that hold no image, and a few short ones that hold a scan."""
    study = tiny(tmp_path)
    for number in range(bad):
        (tmp_path / "scans" / f"a{number}").mkdir()
        for file in range(4):
            (tmp_path / "scans" / f"a{number}" / f"{file}.dcm").write_bytes(b"no image" * 100)
    if good < 2:
        for series in ("demo1", "demo2")[good:]:
            shutil.rmtree(tmp_path / "scans" / series)
    return study


@pytest.mark.full
def test_a_mixed_folder_is_planned_from_what_is_accepted(tmp_path: Path) -> None:
    plan = trials.plan_of(mixed(tmp_path, good=2, bad=12), 1, limit_s=600)
    assert plan.batches["simclr"].size >= 2 and all(cost.hours is not None for cost in plan.costs if cost.stage == "ingest")


@pytest.mark.full
def test_a_folder_without_an_image_says_what_was_met_and_no_file_that_is_gone(tmp_path: Path) -> None:
    study = mixed(tmp_path, good=0, bad=2)
    with pytest.raises(TooManyRefusalsError) as error:
        trials.plan_of(study, 1, limit_s=600)
    sentence = str(error.value)
    assert "8 of 8 files of source ct" in sentence and "none of them can be used" in sentence and "medssl check scans" in sentence
    assert "medssl-plan-" not in sentence and "items.tsv" not in sentence


def test_the_next_piece_comes_from_all_over_the_source(tmp_path: Path) -> None:
    folders = {f"s{number}": [(f"s{number}/{file}", 1) for file in range(number + 1)] for number in range(9)}
    assert {name.split("/")[0] for name, _ in pieces.typical(folders, 3)} == {"s3", "s4", "s5"}
    assert {name.split("/")[0] for name, _ in pieces.typical(folders, 3, spread=True)} == {"s1", "s4", "s7"}
    assert len(pieces.typical(folders, 20, spread=True)) == sum(range(1, 10))


@pytest.mark.parametrize("refusal", [TooManyRefusalsError, probe.RefusedTrialError])
@pytest.mark.parametrize(("usable_from", "tries"), [(1, 1), (5, 3), (99, 3)])
def test_a_piece_grows_until_something_of_it_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usable_from: int, tries: int, refusal: type[MedsslError]
) -> None:
    """Of twelve folders pieces take 1, 4 and then all, as 16 are more than there are."""
    study, taken = mixed(tmp_path, good=2, bad=10), []

    def stages(piece: Any) -> None:
        taken.append(len(list((piece.folder / "sources" / "ct").iterdir())))
        if taken[-1] < usable_from:
            raise refusal("none")

    monkeypatch.setattr(probe.Probe, "run_cheap_stages", stages)
    monkeypatch.setattr(probe.Probe, "samples", lambda *_: 10)
    found = trials._Trials(study, tmp_path, 1, 1e9, lambda _: None)
    try:
        found.take_piece(1)
        assert [one.pieces["ct"].num_files > 0 for one in found.probes] == [True]
    except refusal:
        assert usable_from == 99
    assert taken == [1, 4, 12][:tries]
