"""Nothing personal of a source is in anything that a whole study writes, prints or logs, however it is packed."""

from __future__ import annotations

import base64
import gzip
import subprocess
from pathlib import Path

import warm
from canaries import all_text, plant, plant_pictures

from medssl.core.files import read_json

ROOT = Path(__file__).resolve().parent.parent.parent
STUDY = """\
study: tiny
sources:
  ct:
    path: {path}
    prepare:
      split: {{val_frac: 0, test_frac: 0}}
  eyes:
    path: {eyes}
    labels: folders
    records: {records}
    prepare:
      window_hu: [[0, 255]]
      split: {{val_frac: 0.2, test_frac: 0.4}}
cohorts:
  both: [ct, eyes]
prepare:
  window_hu: [[-1000, 400]]
reduce:
  arms:
    hash: {{threshold: 6}}
  controls: false
pretrain:
  guided:
    cohort: both
    objective: {{guided_contrast: {{near_records: {{age: 5}}, spurious: [site]}}}}
    backbone: {{resnet18: {{width: 0.25}}}}
    size: [32, 32]
    batch_size: 4
    max_steps: 4
finetune:
  eyes:
    source: eyes
    modes: [linear]
    fractions: [1.0]
    seeds: [0]
    size: [16]
evaluate:
  bootstrap: 100
"""


def test_the_search_finds_what_is_packed(tmp_path: Path) -> None:
    word = b"CANARY000X"
    (tmp_path / "a.html").write_bytes(b'<img src="data:image/png;base64,' + base64.b64encode(b"some " + word) + b'">')
    (tmp_path / "b.bin").write_bytes(b"head" + gzip.compress(b"other " + word[::-1]))
    text = all_text(tmp_path)
    assert word.decode() in text and word.decode()[::-1] in text


def test_no_canary_leaves_a_whole_study(tmp_path: Path) -> None:
    words = plant(tmp_path / "CANARYPATH" / "in", 100)
    assert len(words) >= 80
    words += plant_pictures(tmp_path / "CANARYPATH" / "eyes", 20)
    sites = ["CANARYSITEAX", "CANARYSITEBX"]
    rows = [f"{name}.png,{60 + n},{sites[n // 2 % 2]},CANARYNOTE{n}X" for n, name in enumerate(words[-20:])]
    (tmp_path / "CANARYPATH" / "records.csv").write_text("\n".join(["id,age,site,note", *rows]) + "\n")
    places = {"path": "CANARYPATH/in", "eyes": "CANARYPATH/eyes", "records": "CANARYPATH/records.csv"}
    (tmp_path / "mine.yaml").write_text(STUDY.format(**places))
    command = [warm.python(), "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2", "report"]
    done = subprocess.run(
        [*command, "--configfile", "mine.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = tmp_path / "results"
    assert list(results.glob("tiny/7_report/*/report.html")) or list(results.glob("tiny/7_report/report.html"))
    text = "\n".join([all_text(results), all_text(tmp_path / ".snakemake"), done.stdout, done.stderr])
    assert [word for word in [*words, "CANARYPATH", *sites, "CANARYNOTE"] if word in text] == []
    private = all_text(tmp_path / ".medssl")
    assert all(site in private for site in sites), "the values that the run reads lie where real paths do"
    assert "CANARYNOTE" not in private, "and no other column"
    (contract,) = results.glob("tiny/4_pretrain/both/guided-hash-seed0/contract.json")
    assert read_json(contract)["records"]["site"]["known"] > 0
