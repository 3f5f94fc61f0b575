"""`medssl plan` compared with the actual run, stage by stage, on the bundled CT or your own folder.

`python benchmarks/plan.py [--source FOLDER] [--steps N]` prints a line a stage and one RESULT line. Goal: within 25 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import pandas as pd

from medssl.core.files import write_json
from medssl.study.file import load_study
from medssl.study.trials import plan_of

ROOT = Path(__file__).resolve().parent.parent
STUDY = """\
study: planned
id_key: {key}
sources: {{ct: {{path: {source}, prepare: {{split: {{val_frac: 0, test_frac: 0}}}}}}}}
reduce: {{controls: false}}
pretrain: {{simclr: {{size: [64, 64], max_steps: {steps}}}}}
"""


def main() -> None:
    """Plan, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT / "demo" / "ct")
    parser.add_argument("--steps", type=int, default=60)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medssl-bench-plan-") as name:
        folder = Path(name)
        study = folder / "study.yaml"
        study.write_text(STUDY.format(key=ROOT / "demo" / "id_key", source=chosen.source.resolve(), steps=chosen.steps))
        began_s = time.monotonic()
        found = plan_of(load_study(files=[str(study)]), 1, limit_s=600).costs
        probe_s = time.monotonic() - began_s
        planned_s: dict[str, float] = defaultdict(float)
        for cost in found:
            if cost.hours is not None:
                planned_s[cost.stage] += cost.hours * 3600
        planned_mb = sum(cost.disk_mb or 0 for cost in found)
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "1", "pretrain_ct"]
        subprocess.run([*command, "--configfile", str(study)], cwd=folder, check=True, capture_output=True)
        results = folder / "results" / "planned"
        actual_s = {stage: sum(seconds(path) for path in (results / "benchmarks" / stage).glob("*.tsv")) for stage in planned_s}
        kept = [path for path in results.glob("[1-4]_*/**/*") if path.is_file()]
        actual_mb = sum(path.stat().st_size for path in kept) / 1e6
    for stage, wanted_s in planned_s.items():
        print(f"{stage:<10} planned {wanted_s:7.1f} s  took {actual_s[stage]:7.1f} s  ratio {wanted_s / actual_s[stage]:.2f}")
    ratio = sum(planned_s.values()) / sum(actual_s.values())
    print(f"{'disk':<10} planned {planned_mb:7.1f} MB took {actual_mb:6.1f} MB  ratio {planned_mb / actual_mb:.2f}")
    stages = {stage: {"planned": round(planned_s[stage], 1), "took": round(actual_s[stage], 1)} for stage in planned_s}
    figures = {"stages_s": stages, "probe_s": round(probe_s, 1), "time_ratio": round(ratio, 3)}
    figures |= {"disk_ratio": round(planned_mb / actual_mb, 3), "date": time.strftime("%Y-%m-%d")}
    print("RESULT", json.dumps(figures))
    write_json(ROOT / "benchmarks" / "results" / "plan.json", figures)


def seconds(path: Path) -> float:
    """Seconds of a job, as Snakemake measured them."""
    return float(pd.read_csv(path, sep="\t")["s"].sum())


if __name__ == "__main__":
    main()
