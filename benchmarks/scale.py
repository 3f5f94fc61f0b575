"""Planning a large study: 50,000 series of 100 slices as synthetic manifests; time, memory and jobs of `snakemake -n`.

`python benchmarks/scale.py` prints one RESULT line; `--quick` is a tenth of the size. Snakemake runs as users run it, except that
the source folders are read from a manifest; what listing real files costs is measured apart, on a small tree.
Goals: planning < 60 s, < 4 GB, < 2,000 jobs; nothing reruns when nothing changed, < 60 s.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from medssl.artefacts.series import SERIES
from medssl.core.files import write_json

ROOT = Path(__file__).resolve().parent.parent
SOURCES, SHARDS, SLICES = 4, 400, 100
WALK_FILES = 10_000

# The source folders of the study are what a manifest of (series, slices) says.
PLAN = """
import sys
from medssl.core import listing
def stamped(source, path):
    series, slices = map(int, open(path + "/manifest").read().split())
    time_ns = 1_700_000_000_000_000_000
    files = [(f"p{s // 4:05d}/s{s:06d}/{k:04d}.dcm", 525_000 + k, time_ns, "file") for s in range(series) for k in range(slices)]
    return [(file, time_ns) for file in files]
listing.stamped = stamped
from snakemake.cli import main
main(sys.argv[1:])
"""


def main() -> None:
    """Plan, pretend that all is done, plan again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    quick = parser.parse_args().quick
    series = 50_000 // (10 if quick else 1)
    with tempfile.TemporaryDirectory(prefix="medssl-scale-") as name:
        folder = Path(name)
        write_study(folder, series)
        figures: dict[str, Any] = {"series": series, "slices": series * SLICES}
        figures |= {f"first_{key}": value for key, value in plan(folder, "first listing, all to do").items()}
        figures |= {f"planned_{key}": value for key, value in plan(folder, "all to do").items()}
        finish(folder, series)
        figures |= {f"unchanged_{key}": value for key, value in plan(folder, "nothing changed").items()}
        figures["walk_us_per_file"] = round(walk_us(folder), 1)
    figures["peak_mb"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    figures["date"] = time.strftime("%Y-%m-%d")
    print("RESULT", json.dumps(figures))
    if not quick:
        write_json(ROOT / "benchmarks" / "results" / "scale.json", figures)
    goals = [figures["planned_s"] < 60, figures["unchanged_s"] < 60, figures["peak_mb"] < 4096, figures["planned_jobs"] < 2000]
    goals.append(figures["unchanged_jobs"] == 0)
    print("goals met" if all(goals) else f"goals missed: {goals}")


def write_study(folder: Path, series: int) -> Path:
    """A study of several sources that pre-train together, with shards of about 30 series."""
    for number in range(SOURCES):
        (folder / f"hospital{number}").mkdir()
        (folder / f"hospital{number}" / "manifest").write_text(f"{series // SOURCES} {SLICES}")
    sources = "\n".join(f"  hospital{n}: {{path: hospital{n}}}" for n in range(SOURCES))
    every = ", ".join(f"hospital{n}" for n in range(SOURCES))
    text = f"study: scale\nsources:\n{sources}\ncohorts: {{every: [{every}]}}\ningest: {{shards: {SHARDS}}}\n"
    text += "reduce: {controls: false}\npretrain: {simclr: {cohort: every, seeds: [0, 1, 2]}}\n"
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def snakemake(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Snakemake with the study, in its folder."""
    command = [sys.executable, "-c", PLAN, "-s", str(ROOT / "Snakefile"), "--cores", "2", "pretrain_every"]
    done = subprocess.run([*command, "--configfile", "study.yaml", *options], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-1500:] + done.stderr[-3000:])
    return done


def plan(folder: Path, what: str) -> dict[str, Any]:
    """Seconds and jobs of a dry run."""
    began_s = time.monotonic()
    said = snakemake(folder, "-n", "--quiet", "rules")
    spent_s = time.monotonic() - began_s
    totals = [line.split()[1] for line in (said.stdout + said.stderr).splitlines() if line.startswith("total ")]
    jobs = int(totals[0]) if totals else 0
    print(f"{what}: {spent_s:.1f} s, {jobs} jobs", flush=True)
    return {"s": round(spent_s, 1), "jobs": jobs}


def finish(folder: Path, series: int) -> None:
    """Make every output of every job, empty but for the table of series, and tell Snakemake that they are up to date."""
    for line in snakemake(folder, "-n", "--detailed-summary").stdout.splitlines()[1:]:
        path = folder / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == SERIES.file and path.parent.parent.name == "1_ingest":  # what planning reads of an earlier ingest
            SERIES.write_rows(path, (series_row(path.parent.name, number) for number in range(series // SOURCES)))
        else:
            path.write_text('{"stage": "", "name": "", "spec": "", "outputs": {}}\n')
    snakemake(folder, "--touch")


def series_row(source: str, number: int) -> dict[str, Any]:
    """A CT of a patient of its own."""
    eye = [[float(row == column) for column in range(4)] for row in range(4)]
    digest = f"{number:064x}"
    return {
        **{"volume_id": f"v-{source}{number:06d}", "series_id": f"s-{number:06d}", "subject_id": f"p-{number:06d}"},
        **{"unit": "patient", "kind": "volume", "format": "dicom", "modality": "CT", "shape": [512, 512, SLICES]},
        **{"spacing_mm": [0.7, 0.7, 1.0], "affine": eye, "dtype": "int16", "slope": 1.0, "intercept": 0.0},
        **{"orientation_source": "LPS", "num_files": SLICES, "bytes": SLICES * 526000, "content_sha256": digest, "lossy": False},
        **{"tilt_deg": None, "resampled": False, "time_index": None, "kernel": "B30f", "kvp": 120.0, "slice_thickness_mm": 1.0},
        **{"manufacturer_code": "siemens", "age_years": 60, "sex": "F", "label": False, "warnings": []},
    }


def walk_us(folder: Path) -> float:
    """Microseconds that listing a real file takes."""
    from medssl.core.listing import walk

    tree = folder / "tree"
    for number in range(WALK_FILES):
        path = tree / f"s{number // 100}" / f"{number % 100:04d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    began_s = time.monotonic()
    walk("tree", str(tree))
    return (time.monotonic() - began_s) / WALK_FILES * 1e6


if __name__ == "__main__":
    main()
