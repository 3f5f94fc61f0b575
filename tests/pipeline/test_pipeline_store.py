"""Nothing is made twice: each change of a study makes what is new, and the rest is restored or not asked for at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from test_pipeline_study import ROOT, ran, snakemake

from medssl.core.files import read_json, sha256_file

STUDY: dict[str, Any] = {
    "study": "twice",
    "id_key": str(ROOT / "demo" / "id_key"),
    "sources": {
        "ct": {
            "path": "pictures",
            "labels": "labels.csv",
            "groups": ["site"],
            "prepare": {"split": {"val_frac": 0.2, "test_frac": 0.4}},
        }
    },
    "reduce": {"arms": {"hash": {"threshold": 0}}, "controls": False},
    "pretrain": {
        "simclr": {
            **{"cohort": "ct", "backbone": {"resnet18": {"width": 0.25}}, "size": [32, 32]},
            **{"batch_size": 4, "max_steps": 2, "tensorboard": False},
        }
    },
    "evaluate": {"bootstrap": 100},
}
TASK = {"source": "ct", "modes": ["full"], "fractions": [1.0], "seeds": [0], "size": [16], "epochs": 1, "evaluations": 1}
AFTER_LABELS = {"ingest_labels", "finetune", "evaluate", "page", "report"}


class Folder:
    """A working folder, a study file that is changed step by step, and what ran since the last look."""

    def __init__(self, path: Path) -> None:
        self.path, self.study = path, yaml.safe_load(yaml.safe_dump(STUDY))
        write_pictures(path / "pictures", 40)

    def run(self, *targets: str) -> set[str]:
        """Run the study as far as the targets, names of rules or folders of jobs; the names of the rules that ran."""
        (self.path / "mine.yaml").write_text(yaml.safe_dump(self.study))
        wanted = [f"results/twice/{target}/receipt.json" if "/" in target else target for target in targets]
        done = snakemake(self.path, *wanted, "--quiet", "progress")
        assert done.returncode == 0, done.stderr[-3000:]
        return ran(done.stdout + done.stderr)

    def planned(self) -> set[str]:
        """The rules that a dry run would run for the whole study."""
        return self.run("report", "-n")

    @property
    def results(self) -> Path:
        return self.path / "results" / "twice"

    def write_labels(self, last: str = "large") -> None:
        rows = [f"{number},{'small' if number % 2 == 0 else 'large'},{'ab'[number % 3 == 0]}" for number in range(39)]
        (self.path / "labels.csv").write_text("\n".join(["id,label,site", *rows, f"39,{last},a"]))

    def trained(self) -> set[str]:
        """The pre-trainings whose receipt does not say that they were restored."""
        receipts = [read_json(path) for path in (self.results / "4_pretrain").rglob("receipt.json")]
        return {receipt["name"] for receipt in receipts if "restored" not in receipt}

    def fits(self, task: str = "spots") -> tuple[int, int]:
        """Fits of a task, and how many of them its last job made."""
        receipt = read_json(self.results / "5_finetune" / task / "receipt.json")
        return receipt["fits"], 0 if "restored" in receipt else receipt["fits"] - receipt["restored_fits"]

    def encoders(self) -> dict[str, str]:
        return {path.parent.name: sha256_file(path) for path in (self.results / "4_pretrain").rglob("encoder.safetensors")}


def write_pictures(folder: Path, count: int) -> None:
    """Pictures in noise, every other one with a larger spot."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(count)
    for number in range(count):
        picture = generator.integers(0, 120, (32, 32)).astype(np.uint8)
        picture[8 : 8 + 12 * (number % 2 + 1), 8:20] += 100
        Image.fromarray(picture).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Pre-trained without labels, which the study names already."""
    made = Folder(tmp_path_factory.mktemp("twice") / "s")
    made.study["finetune"] = {"spots": TASK}
    made.run("4_pretrain/ct/simclr-hash-seed0")
    assert made.trained() == {"ct/simclr-hash-seed0"}
    return made


def test_an_edited_option_trains_again_and_its_old_value_is_restored(folder: Folder) -> None:
    before = folder.encoders()
    folder.study["pretrain"]["simclr"]["lr"] = 0.01
    folder.run("4_pretrain/ct/simclr-hash-seed0")
    assert len(folder.trained()) == 1 and folder.encoders() != before
    del folder.study["pretrain"]["simclr"]["lr"]
    folder.run("4_pretrain/ct/simclr-hash-seed0")
    assert folder.encoders() == before and folder.trained() == set()


def test_a_label_file_added_or_changed_after_pretraining_reruns_nothing_before_finetune(folder: Folder) -> None:
    early = {path: path.stat().st_mtime_ns for path in folder.results.rglob("[1-4]_*/**/*") if path.is_file()}
    folder.write_labels()
    assert folder.planned() == AFTER_LABELS
    assert folder.run("report") == AFTER_LABELS
    page = read_json(folder.results / "7_report" / "study" / "report.json")["sections"]["data"]["tables"]
    assert sum(row["num_cases"] for row in page["labels"]) == 40
    assert "site" in (folder.results / "6_evaluate" / "spots" / "subgroups.tsv").read_text()
    assert folder.planned() == set()
    folder.write_labels("small")
    assert folder.planned() == AFTER_LABELS
    folder.write_labels()
    assert {path: path.stat().st_mtime_ns for path in early} == early
    assert folder.fits() == (2, 2)  # the encoder and scratch


def test_a_task_that_comes_late_makes_its_own_fits_and_trains_no_encoder_again(folder: Folder) -> None:
    """On a source of its own, so that the firewall looks again, and finds nothing."""
    before = folder.encoders()
    write_pictures(folder.path / "others", 20)
    rows = [f"{number},{'small' if number % 2 == 0 else 'large'}" for number in range(20)]
    (folder.path / "others.csv").write_text("\n".join(["id,label", *rows]))
    source = folder.study["sources"]["ct"] | {"path": "others", "labels": "others.csv", "groups": []}
    folder.study["sources"]["others"] = source
    folder.study["finetune"]["other"] = {**TASK, "source": "others"}
    assert "reduce_leakage" in folder.run("5_finetune/other", "5_finetune/spots")
    assert folder.encoders() == before and folder.trained() == set()
    assert folder.fits("other") == (2, 2) and folder.fits()[1] in (0, 2)  # the first task may not be asked for


def test_a_touched_label_file_or_source_file_makes_nothing(folder: Folder) -> None:
    before = folder.encoders()
    os.utime(folder.path / "labels.csv", (0, 0))
    os.utime(folder.path / "pictures" / "3.png", (0, 0))
    assert "ingest_labels" in folder.run("5_finetune/other", "5_finetune/spots")
    assert folder.encoders() == before and folder.trained() == set()
    assert folder.fits()[1] == 0 == folder.fits("other")[1]


def test_an_added_seed_or_share_makes_its_fits_alone_and_what_returns_makes_none(folder: Folder) -> None:
    steps = [([0, 1], [1.0], (4, 2)), ([0, 1], [0.5, 1.0], (8, 4)), ([0], [1.0], (2, 0)), ([0, 1], [0.5, 1.0], (8, 0))]
    for seeds, fractions, expected in steps:
        folder.study["finetune"]["spots"] = {**TASK, "seeds": seeds, "fractions": fractions}
        folder.run("5_finetune/spots")
        assert folder.fits() == expected, (seeds, fractions)


def test_an_added_encoder_makes_its_fits_alone(folder: Folder) -> None:
    folder.study["pretrain"]["simclr"]["seeds"] = [0, 1]
    folder.run("5_finetune/spots")
    assert folder.trained() == {"ct/simclr-hash-seed1"}
    assert folder.fits() == (12, 4)


def test_an_edited_backbone_reruns_what_can_load_it_and_nothing_else(tmp_path: Path) -> None:
    """On a copy of the program, so that a file of it can be edited: the plan of a study with two networks and two tasks."""
    for name in ("medssl", "workflow", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / "program" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, tmp_path / "program")
    folder = Folder(tmp_path / "s")
    plain = folder.study["pretrain"]["simclr"]
    folder.study["pretrain"] = {"flat": plain, "ways": {**plain, "backbone": "unet"}}
    folder.study["sources"]["ct"]["labels"] = "labels.csv"
    (folder.path / "labels.csv").write_text("\n".join(["id,label", *(f"{n},{'ab'[n % 2]}" for n in range(40))]))
    folder.study["finetune"] = {name: {**TASK, "inits": [name]} for name in ("flat", "ways")}
    (folder.path / "mine.yaml").write_text(yaml.safe_dump(folder.study))

    def code() -> dict[str, str]:
        command = "from medssl.study.dag import Dag; from medssl.study.file import load_study; import json; "
        command += "print(json.dumps({s.stage + ' ' + s.name: s.code for _, s in Dag(load_study(files=['mine.yaml'])).specs()}))"
        path = {**os.environ, "PYTHONPATH": str(tmp_path / "program")}
        said = subprocess.check_output([sys.executable, "-c", command], cwd=folder.path, env=path, text=True)
        return dict(json.loads(said))

    before = code()
    unet = tmp_path / "program" / "medssl" / "nn" / "backbones" / "unet.py"
    unet.write_text(unet.read_text() + "\n# a comment changes nothing\n")
    assert code() == before
    unet.write_text(unet.read_text() + "\nEDITED = True\n")
    after = code()
    assert {name for name in after if after[name] != before[name]} == {"pretrain ct/ways-hash-seed0", "finetune ways"}
