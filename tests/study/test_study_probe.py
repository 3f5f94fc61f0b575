"""A plan comes from a bounded piece of the study, which is run elsewhere with every file that the study names."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medssl.core.errors import DiskFullError, MedsslError, StudyError, TooManyRefusalsError
from medssl.study import piece as pieces
from medssl.study import probe
from medssl.study.file import load_study

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
    assert probe.batches_to_try(wanted, samples) == tried


def test_a_piece_without_samples_says_so() -> None:
    with pytest.raises(StudyError, match="1 samples to train on"):
        probe.batches_to_try(64, 1)


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


def test_a_probe_is_stopped_when_its_time_is_over(tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match=r"stopped at ingest ct.*--limit-s"):
        probe.costs(tiny(tmp_path), 1, limit_s=0.01)


def test_equal_runs_are_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = tiny(tmp_path)
    plain = study.pretrain["simclr"]
    runs = {"one": plain, "same": plain.model_copy(update={"seeds": [1]}), "other": plain.model_copy(update={"lr": 0.5})}
    tries: list[Any] = []
    monkeypatch.setattr(probe, "_Tried", lambda *arguments: tries.append(arguments) or arguments)
    piece: Any = SimpleNamespace(study=SimpleNamespace(pretrain=runs), has_kept=lambda *_: True, samples=lambda *_: 10)
    known: dict[str, Any] = {}
    tried = [probe._tried(piece, [("ct", f"{name}-all-seed0")], known) for name in runs]
    assert tried[0] is tried[1] is not tried[2] and len(tries) == 2


@pytest.mark.full
def test_every_stage_of_a_study_has_its_line(tmp_path: Path) -> None:
    study = tiny(tmp_path, sources={"ct": {"path": "scans", "labels": "labels.tsv"}}, finetune={"t": {"source": "ct"}})
    (tmp_path / "labels.tsv").write_text("id\tlabel\n")
    found, batches = probe.costs(study, 1, limit_s=600)
    unplanned = [(cost.stage, cost.name) for cost in found if cost.hours is None]
    assert unplanned == [("ingest", "ct/labels"), ("evaluate", "t"), ("report", "ct"), ("report", "study")]
    assert {cost.stage for cost in found if cost.hours} == {"ingest", "prepare", "reduce", "pretrain", "finetune"}
    assert next(cost for cost in found if cost.stage == "finetune").disk_mb is None
    assert batches["simclr"].size >= 2 and Path.cwd() == tmp_path and not Path("results").exists()


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
    found, batches = probe.costs(mixed(tmp_path, good=2, bad=12), 1, limit_s=600)
    assert batches["simclr"].size >= 2 and all(cost.hours is not None for cost in found if cost.stage == "ingest")


@pytest.mark.full
def test_a_folder_without_an_image_says_what_was_met_and_no_file_that_is_gone(tmp_path: Path) -> None:
    study = mixed(tmp_path, good=0, bad=2)
    with pytest.raises(TooManyRefusalsError) as error:
        probe.costs(study, 1, limit_s=600)
    sentence = str(error.value)
    assert "8 of 8 files of source ct" in sentence and "none of them can be used" in sentence and "medssl check scans" in sentence
    assert "medssl-plan-" not in sentence and "items.tsv" not in sentence


def test_the_next_piece_comes_from_all_over_the_source(tmp_path: Path) -> None:
    folders = {f"s{number}": [(f"s{number}/{file}", 1) for file in range(number + 1)] for number in range(9)}
    assert {name.split("/")[0] for name, _ in pieces.typical(folders, 3)} == {"s3", "s4", "s5"}
    assert {name.split("/")[0] for name, _ in pieces.typical(folders, 3, spread=True)} == {"s1", "s4", "s7"}
    assert len(pieces.typical(folders, 20, spread=True)) == sum(range(1, 10))


@pytest.mark.parametrize(("usable_from", "tries"), [(1, 1), (5, 3), (99, 3)])
def test_a_piece_grows_until_something_of_it_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usable_from: int, tries: int
) -> None:
    """Of twelve folders pieces take 1, 4 and then all, as 16 are more than there are."""
    study, taken = mixed(tmp_path, good=2, bad=10), []

    def stages(piece: Any) -> None:
        taken.append(len(list((piece.folder / "sources" / "ct").iterdir())))
        if taken[-1] < usable_from:
            raise TooManyRefusalsError("none")

    monkeypatch.setattr(probe._Probe, "run_cheap_stages", stages)
    monkeypatch.setattr(probe._Probe, "samples", lambda *_: 10)
    (tmp_path / "pieces").mkdir()
    try:
        found = probe._usable(tmp_path / "pieces", study, 1, 1, 1e9)
        assert found.pieces["ct"].num_files > 0
    except TooManyRefusalsError:
        assert usable_from == 99
    assert taken == [1, 4, 12][:tries]
