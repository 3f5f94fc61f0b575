"""Labels may come late: a label file added or changed after pre-training reruns nothing before fine-tuning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from test_pipeline_study import ROOT, ran, snakemake

from medssl.core.files import read_json

STUDY = """\
study: late
id_key: {key}
sources:
  ct:
    path: pictures
    labels: labels.csv
    groups: [site]
    prepare:
      split: {{val_frac: 0.2, test_frac: 0.4}}
reduce:
  arms:
    hash: {{threshold: 0}}
  controls: false
pretrain:
  simclr:
    size: [32, 32]
    batch_size: 4
    max_steps: 2
finetune:
  spots:
    source: ct
    modes: [linear]
    fractions: [1.0]
    seeds: [0]
    size: [16]
evaluate:
  bootstrap: 100
"""
AFTER_LABELS = {"ingest_labels", "finetune", "evaluate", "page", "report"}


def make_folder(folder: Path, count: int = 40) -> Path:
    (folder / "pictures").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        picture = generator.integers(0, 120, (32, 32)).astype(np.uint8)
        picture[8 : 8 + 12 * (number % 2 + 1), 8:20] += 100
        Image.fromarray(picture).save(folder / "pictures" / f"{number}.png")
    (folder / "mine.yaml").write_text(STUDY.format(key=ROOT / "demo" / "id_key"))
    return folder


def write_labels(folder: Path, last: str) -> None:
    rows = [f"{number},{'small' if number % 2 == 0 else 'large'},{'ab'[number % 3 == 0]}" for number in range(39)]
    (folder / "labels.csv").write_text("\n".join(["id,label,site", *rows, f"39,{last},a"]))


def planned(folder: Path) -> set[str]:
    done = snakemake(folder, "report", "-n", "--quiet", "progress")
    assert done.returncode == 0, done.stderr[-2000:]
    return ran(done.stdout + done.stderr)


def test_a_label_file_added_or_changed_after_pretraining_reruns_nothing_before_finetune(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    done = snakemake(folder, "pretrain_ct")
    assert done.returncode == 0, done.stderr[-3000:]
    early = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("[1-4]_*/**/*") if path.is_file()}
    write_labels(folder, "small")
    assert planned(folder) == AFTER_LABELS
    done = snakemake(folder, "report")
    assert done.returncode == 0, done.stderr[-3000:]
    results = folder / "results" / "late"
    page = read_json(results / "7_report" / "study" / "report.json")["sections"]["data"]["tables"]
    assert sum(row["num_cases"] for row in page["labels"]) == 40
    assert "site" in (results / "6_evaluate" / "spots" / "subgroups.tsv").read_text()
    assert len(planned(folder)) == 0
    write_labels(folder, "large")
    assert planned(folder) == AFTER_LABELS
    assert {path: path.stat().st_mtime_ns for path in early} == early
