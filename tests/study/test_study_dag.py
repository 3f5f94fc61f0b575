"""An edited option or source file changes the specs of exactly the jobs that depend on it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

from medssl.artefacts.names import Run
from medssl.core.errors import StudyError
from medssl.core.listing import load_key, minted, walk
from medssl.ingest.options import IngestOptions
from medssl.study.dag import Dag
from medssl.study.file import load_study
from medssl.study.options import Study
from medssl.study.source_files import SourceFiles
from medssl.study.sources import refresh

ROOT = Path(__file__).resolve().parent.parent.parent
BASE = {
    "study": "s",
    "sources": {"ct": {"path": "scans"}, "organs": {"path": "organs"}},
    "pretrain": {"simclr": {"cohort": "ct", "arms": ["all", "hash"], "seeds": [0, 1]}},
    "finetune": {"organs": {"source": "organs"}},
}


def specs(**changes: object) -> dict[str, str]:
    return {path: spec.to_json() for path, spec in Dag(load_study({**BASE, **changes})).specs()}


def changed(**changes: object) -> set[str]:
    before, after = specs(), specs(**changes)
    assert set(before) == set(after)
    return {path.removeprefix("results/s/specs/") for path in before if before[path] != after[path]}


def test_every_job_has_one_spec() -> None:
    stages = [path.split("/")[3] for path in specs()]
    assert {stage: stages.count(stage) for stage in stages} == {
        "ingest": 2, "prepare": 2, "reduce": 2 * 6, "pretrain": 4, "finetune": 1, "evaluate": 1, "report": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"evaluate": {"bootstrap": 500}}, {"evaluate/organs.json", "report/study.json"}),
        ({"report": {"title": "x"}}, {"report/study.json", "report/ct.json"}),
        (
            {"sources": {"ct": {"path": "scans"}, "organs": {"path": "organs", "prepare": {"cache": "blosc2"}}}},
            {"prepare/organs.json", "report/ct.json", "report/study.json"},
        ),
        ({"sources": {"ct": {"path": "elsewhere"}, "organs": {"path": "organs"}}}, set()),  # the listing tells, not the spec
    ],
)
def test_an_edited_option_changes_exactly_its_jobs(changes: dict, stages: set[str]) -> None:
    assert changed(**changes) == stages


def test_label_files_are_inputs_of_pre_training_only_where_an_objective_asks_for_a_label() -> None:
    sources = {"eyes": {"path": "eyes", "labels": "eyes.csv"}, "controls": {"path": "controls"}}
    cohorts = {"both": ["eyes", "controls"]}
    read = {}
    for name, objective in (
        ("label", {"sepclr": {"background": "healthy"}}),
        ("source", {"sepclr": {"background": "controls"}}),
        ("none", "simclr"),
    ):
        study = {
            "study": "s",
            "sources": sources,
            "cohorts": cohorts,
            "pretrain": {"run": {"cohort": "both", "objective": objective}},
        }
        dag = Dag(load_study(study))
        read[name] = dag.pretrain_inputs(*dag.runs()[0]).get("labels")
    assert read == {"label": {"eyes": dag.layout.labels("eyes", "labels.parquet")}, "source": None, "none": None}


def test_no_spec_holds_the_path_of_a_source() -> None:
    text = "".join(specs(sources={"ct": {"path": "/data/DOE^JANE"}, "organs": {"path": "organs"}}).values())
    assert "DOE" not in text


def test_what_a_job_reads_is_what_others_write() -> None:
    dag = Dag(load_study(BASE))
    written = {path for path, _ in dag.specs()}
    reads = dag.reads("pretrain", "ct/simclr-hash-seed1")
    assert dag.layout.reduce("ct", "hash", "keep.parquet") in reads
    assert dag.layout.prepare("ct", "samples.parquet") in reads
    assert dag.layout.spec("pretrain", "ct/simclr-hash-seed1") in written


def test_a_new_file_in_a_source_is_noticed_without_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans" / "deep").mkdir(parents=True)
    (tmp_path / "scans" / "a.dcm").write_bytes(b"x")
    (tmp_path / "scans" / "deep" / "link").symlink_to("/etc/passwd")
    layout, key = Dag(load_study(BASE)).layout, load_key(None)

    def digest() -> str:
        refresh(layout, "ct", SourceFiles.of("ct", "scans", None, IngestOptions()), key)
        return Path(layout.listing("ct")).read_text()

    first = digest()
    assert digest() == first and "a.dcm" not in first
    (tmp_path / "scans" / "deep" / "b.dcm").write_bytes(b"y")
    (tmp_path / "scans" / "deep" / "b.dcm").chmod(0)
    assert digest() != first
    assert [(row[0], row[3]) for row in walk("ct", "scans")] == [("a.dcm", "file"), ("deep/b.dcm", "file"), ("deep/link", "link")]


@pytest.mark.parametrize(("make", "words"), [(False, "does not exist"), (True, "empty folder")])
def test_a_missing_or_empty_source_says_so(tmp_path: Path, make: bool, words: str) -> None:
    if make:
        (tmp_path / "scans").mkdir()
    with pytest.raises(StudyError, match=words):
        walk("ct", str(tmp_path / "scans"))


def test_ids_depend_on_the_key_and_the_key_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key = load_key(None)
    assert load_key(None) == key and len(key) == 64
    assert (tmp_path / ".medssl" / "id_key").stat().st_mode & 0o077 == 0
    assert minted(key, "p", "DOE^JANE") != minted(b"another key, long enough", "p", "DOE^JANE")
    with pytest.raises(StudyError, match="missing or shorter"):
        load_key("nowhere")


def test_cohorts_join_sources() -> None:
    study: Study = load_study({**BASE, "cohorts": {"both": ["ct", "organs"]}, "pretrain": {"simclr": {"cohort": "both"}}})
    dag = Dag(study)
    assert dag.cohorts() == ["both"] and dag.runs("both") == [("both", Run("simclr", "hash", 0))]
    assert len([p for p in dag.reads("pretrain", "both/simclr-hash-seed0") if p.endswith("samples.parquet")]) == 2


def test_the_licence_of_the_data_reaches_the_runs_that_learn_from_it() -> None:
    free = {"path": "organs", "licence": "CC-BY-4.0"}
    changes = {"sources": {**BASE["sources"], "organs": free}, "cohorts": {"both": ["ct", "organs"]}}  # type: ignore[dict-item]
    study = {**BASE, **changes, "pretrain": {"alone": {"cohort": "ct"}, "joined": {"cohort": "both"}}}
    found = {spec.name: spec.options["licences"] for _, spec in Dag(load_study(study)).specs() if spec.stage == "pretrain"}
    assert found == {"ct/alone-hash-seed0": {}, "both/joined-hash-seed0": {"ct": "not given", "organs": "CC-BY-4.0"}}


CHAIN = {
    "first": {"cohort": "ct", "arms": ["all", "hash"], "seeds": [0, 1]},
    "second": {"cohort": "organs", "arms": ["hash"], "seeds": [1], "init_run": "first"},
}


def test_a_chained_run_reads_what_the_run_before_it_writes_at_its_arm_and_seed() -> None:
    dag = Dag(load_study({**BASE, "pretrain": CHAIN}))
    reads = dag.reads("pretrain", "organs/second-hash-seed1")
    before = [dag.layout.pretrain("ct", "first-hash-seed1", f"{name}.safetensors") for name in ("encoder", "parts")]
    assert [path for path in reads if "4_pretrain" in path] == before
    assert not [path for path in dag.reads("pretrain", "ct/first-hash-seed1") if "4_pretrain" in path]
    assert {*before, dag.layout.pretrain("ct", "first-hash-seed1", "receipt.json")} <= set(dag.artefacts("organs"))


NAMED = [
    ("prepare.split.file", lambda path: {"prepare": {"split": {"file": path}}}, "prepare/"),
    ("pretrain.simclr.init_weights", lambda path: {"pretrain": {"simclr": {"cohort": "ct", "init_weights": path}}}, "pretrain/"),
    (
        "finetune.organs.weights.net",
        lambda path: {"finetune": {"organs": {"source": "organs", "weights": {"net": path}}}},
        "finetune/",
    ),
]


@pytest.mark.parametrize(("key", "study", "stage"), NAMED, ids=[key for key, *_ in NAMED])
def test_a_file_that_the_study_names_is_there_before_any_work_and_edited_reruns_its_jobs(
    tmp_path: Path, key: str, study: Callable[[str], dict], stage: str
) -> None:
    file = tmp_path / "given"
    with pytest.raises(StudyError, match=f"{re.escape(key)} does not exist"):
        specs(**study(str(file)))
    file.write_text("one")
    before = specs(**study(str(file)))
    assert specs(**study(str(file))) == before
    file.write_text("other")
    after = specs(**study(str(file)))
    changed = {path.removeprefix("results/s/specs/") for path in before if before[path] != after[path]}
    assert changed and all(name.startswith(stage) for name in changed)


class Resources(dict):
    """What the plug-in sees of a job's resources: keys that are also attributes."""

    __getattr__ = dict.__getitem__


def sbatch(rule: str, asked: Callable[[str], Any]) -> list[str]:
    """What the SLURM plug-in says to sbatch of tasks, nodes and GPUs for a job of `rule`, which names its resources."""
    text = Path(ROOT / "workflow" / rule).read_text()
    found = {what: asked(what) for what in re.findall(r"^        (\w+)=lambda w: JOBS\.(?:task_)?machine", text, re.MULTILINE)}
    job = SimpleNamespace(threads=8, resources=Resources({what: value for what, value in found.items() if value is not None}))
    params = dict.fromkeys(("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir"), "")
    line = get_submit_command(job, params) + set_gres_string(job)
    return sorted(word for word in shlex.split(line) if re.match("--(nodes|ntasks|gpus|gres|cpus)", word))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ["--ntasks=1"]),  # device: auto takes what the profile gives
        ({"device": "cpu", "devices": 2}, ["--ntasks=1"]),
        ({"device": "cuda"}, ["--gpus=1", "--nodes=1"]),
        ({"device": "cuda", "devices": 2}, ["--gpus=2", "--nodes=1"]),
        ({"device": "cuda", "devices": 4, "nodes": 2}, ["--gres=gpu:4", "--nodes=2", "--ntasks=2"]),
        ({"device": "cpu", "nodes": 2}, ["--nodes=2", "--ntasks=2"]),
    ],
)
def test_sbatch_gets_devices_and_nodes_of_a_run_once(settings: dict, said: list[str]) -> None:
    dag = Dag(load_study({**BASE, "pretrain": {"simclr": {"cohort": "ct", **settings}}}))
    found = sbatch("4_pretrain.smk", lambda what: dag.machine("simclr-hash-seed0", what))
    assert found == ["--cpus-per-task=8", *said]


@pytest.mark.parametrize(("device", "said"), [("auto", ["--ntasks=1"]), ("cuda", ["--gpus=1", "--nodes=1"])])
def test_sbatch_gets_the_gpu_of_a_task(device: str, said: list[str]) -> None:
    dag = Dag(load_study({**BASE, "finetune": {"organs": {"source": "organs", "device": device}}}))
    assert sbatch("5_finetune.smk", lambda what: dag.task_machine("organs", what)) == ["--cpus-per-task=8", *said]


def test_an_example_of_the_slurm_profile_hides_no_setting_when_its_comment_mark_goes() -> None:
    text = (ROOT / "configs" / "profiles" / "slurm" / "config.yaml").read_text()
    freed = re.sub(r"^( +)# (\w+: |- )", r"\1\2", text, flags=re.MULTILINE)
    assert freed != text
    root = yaml.compose(freed, Loader=yaml.SafeLoader)
    rules = next(value for key, value in root.value if key.value == "set-resources")
    for mapping in (root, rules, *(value for _, value in rules.value)):
        keys = [key.value for key, _ in mapping.value]
        assert len(keys) == len(set(keys)), keys
    assert {"runtime", "mem_mb", "gpu"} <= set(yaml.safe_load(freed)["set-resources"]["pretrain"])


def test_every_reduction_is_judged_by_the_controls_of_its_count() -> None:
    arms = {"hash": {"threshold": 6}, "ssim": {"match": "hash"}, "few": {"reducer": "hash", "threshold": 9}}
    arms |= {"fewer": {"reducer": "random_n", "match": "few"}}
    dag = Dag(load_study({**BASE, "reduce": {"arms": arms}}))
    assert {arm: dag.controls_of(arm) for arm in dag.arms} == {
        "hash": ["every_n", "random_n"], "ssim": ["every_n", "random_n"], "few": ["fewer"],
        "fewer": [], "all": [], "every_n": [], "random_n": [],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["weights", "weights.safetensors", "my.folder/weights", "v1.2"])
def test_a_file_that_the_study_names_is_an_input_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in (name, f"{name}-split"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text("id\tsplit\n")
    study = {
        "study": "s",
        "output": "results.v2",
        "sources": {"ct": {"path": "scans", "prepare": {"split": {"file": f"{name}-split"}}}},
        "reduce": {"arms": {"near": {"reducer": "embedding", "encoder": name}}},
        "pretrain": {"simclr": {"init_weights": name}},
        "finetune": {"task": {"source": "ct", "weights": {"given": name}}},
    }
    dag = Dag(load_study(study))
    assert f"{name}-split" in dag.reads("prepare", "ct")
    assert name in dag.reads("reduce", "ct/near") and name in dag.reads("pretrain", "ct/simclr-near-seed0")
    own = {path for _, spec in dag.specs() for path in dag.reads(spec.stage, spec.name) if name not in path}
    assert own and all(path.startswith(("results.v2/s/", ".medssl/s/")) and Path(path).suffix for path in own)
    assert "results.v2/s/2_prepare/ct/receipt.json" in dag.reads("pretrain", "ct/simclr-near-seed0")
    assert dag.artefacts("study") and all(path.startswith("results.v2/s/") for path in dag.artefacts("study"))


@pytest.mark.parametrize(("allowed", "beside"), [(False, {"age", "sex"}), (True, set())])
def test_labels_are_compared_with_the_records_that_a_run_reads(allowed: bool, beside: set[str], tmp_path: Path) -> None:
    for name in ("records.csv", "labels.csv"):
        (tmp_path / name).write_text("id\n")
    source = {"path": "scans", "records": str(tmp_path / "records.csv"), "labels": str(tmp_path / "labels.csv")}
    options = {"near_records": {"age": 5}, "spurious": ["sex"]}
    guided = {"cohort": "ct", "objective": {"guided_contrast": options}}
    study = {"study": "s", "sources": {"ct": source | {"label_as_feature": allowed}}, "pretrain": {"guided": guided}}
    found = dict(Dag(load_study({**study, "finetune": {"ill": {"source": "ct"}}})).specs())
    assert set(found["results/s/specs/ingest/ct/labels.json"].inputs.get("records", {})) == beside
    assert set(next(spec for path, spec in found.items() if "/pretrain/" in path).inputs["records"]["ct"]) == {"age", "sex"}
