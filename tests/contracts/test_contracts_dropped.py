"""Adding a plug-in is one file: one of each kind, dropped into a copy of the package, is found by its folder and runs a study."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import warm
import yaml
from PIL import Image

from medssl.core.files import read_json
from medssl.core.plugins import KINDS
from medssl.core.tables import read_parquet, read_tsv

ROOT = Path(__file__).resolve().parents[2]
DROPPED = Path(__file__).parent / "dropped"
NAMES = {
    "check": "even_slices",
    "reducer": "first_slices",
    "objective": "equal_means",
    "backbone": "one_convolution",
    "task": "closest_centre",
    "metric": "not_last",
    "section": "headcount",
}
STUDY = {
    "study": "dropped",
    "id_key": str(ROOT / "demo" / "id_key"),
    "sources": {
        "ct": {"path": "scans", "prepare": {"split": {"val_frac": 0, "test_frac": 0}}},
        "eyes": {"path": "eyes", "labels": "folders", "prepare": {"split": {"val_frac": 0.2, "test_frac": 0.4}}},
    },
    "reduce": {"arms": {"few": {"reducer": {"first_slices": {"n": 5}}}}, "controls": False, "leakage": "report"},
    "pretrain": {
        "equal": {
            "cohort": "ct",
            "objective": {"equal_means": {"weight": 2.0}},
            "backbone": {"one_convolution": {"width": 3}},
            "size": [16, 16],
            "batch_size": 4,
            "max_steps": 2,
        }
    },
    "finetune": {
        "eyes": {
            "source": "eyes",
            "task": "closest_centre",
            "options": {"sharpness": 9},
            "fractions": [1.0],
            "seeds": [0],
            "size": [16],
        }
    },
    "evaluate": {"bootstrap": 100, "metrics": ["not_last"]},
    "report": {"sections": ["headcount", "results"]},
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the study, run by a copy of the package with seven files more; nothing else of it was touched."""
    folder = tmp_path_factory.mktemp("dropped")
    program = folder / "program"
    for name in ("medssl", "workflow", "profiles"):
        shutil.copytree(ROOT / name, program / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, program)
    for kind, name in NAMES.items():
        shutil.copy(DROPPED / f"{kind}.py", program / "medssl" / KINDS[kind] / f"{name}.py")
    (folder / "scans").mkdir()
    for file in sorted((ROOT / "demo" / "ct" / "demo1").iterdir())[10:21]:
        shutil.copy(file, folder / "scans")
    generator = np.random.default_rng(0)
    for number in range(20):
        picture = generator.integers(0, 90, (20, 20)).astype(np.uint8) + 80 * (number % 2)
        target = folder / "eyes" / ("dark", "light")[number % 2] / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.astype(np.uint8)).save(target)
    (folder / "mine.yaml").write_text(yaml.safe_dump(STUDY))
    line = [warm.python(), "-m", "snakemake", "-s", str(program / "Snakefile"), "--cores", "2", "report"]
    done = subprocess.run(
        [*line, "--configfile", "mine.yaml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(program)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "results" / "dropped"


@pytest.mark.parametrize("kind", KINDS)
def test_each_dropped_file_is_all_there_is_of_its_plug_in(kind: str) -> None:
    """No file of the package holds its name."""
    assert set(NAMES) == set(KINDS)
    assert [path for path, words in words_of_the_package().items() if NAMES[kind] in words] == []


@cache
def words_of_the_package() -> dict[Path, set[object]]:
    """The constants of each file."""
    trees = {path: ast.parse(path.read_text()) for path in (ROOT / "medssl").rglob("*.py")}
    return {path: {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} for path, tree in trees.items()}


def test_the_dropped_check_warned(ran: Path) -> None:
    assert read_tsv(ran / "1_ingest/ct/series.tsv")["warnings"].tolist() == ['["odd_slices"]']


def test_the_dropped_reducer_kept_the_first_slices(ran: Path) -> None:
    keep = read_parquet(ran / "3_reduce/ct/few/keep.parquet")
    assert keep["keep"].tolist() == [True] * 5 + [False] * 6


def test_the_dropped_objective_and_backbone_made_an_encoder(ran: Path) -> None:
    contract = read_json(ran / "4_pretrain/ct/equal-few-seed0/contract.json")
    assert (contract["objective"], contract["backbone"], contract["backbone_options"]) == (
        "equal_means",
        "one_convolution",
        {"width": 3},
    )


def test_the_dropped_task_and_metric_scored_each_start(ran: Path) -> None:
    scores = read_tsv(ran / "6_evaluate/eyes/scores.tsv")
    learnt, scratch = sorted(set(scores["init"]))
    assert set(scores["metric"]) == {"not_last"} and learnt == "equal-few"
    assert scratch.startswith("scratch-one_convolution-")  # and a digest, as its width is not the default
    model = ran / "5_finetune/eyes/models/equal-few-seed0"
    assert read_json(model / "contract.json")["task"] == "closest_centre"


def test_the_dropped_section_is_on_the_page(ran: Path) -> None:
    assert "This page is about 2 volumes." in (ran / "7_report/study/report.html").read_text()
    assert list(read_json(ran / "7_report/study/report.json")["sections"]) == ["headcount", "results"]
