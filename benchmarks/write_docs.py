"""docs/benchmarks.md from the last results of each benchmark: what was asked for, beside what was seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"

N, Y = "dcm2niix -z n", "dcm2niix -z y"
LINES = [
    ("faults", "faulty series wrong, medssl", "medssl/wrong", "0"),
    ("faults", "faulty series right / refused, medssl", ("medssl/right", "medssl/refused"), ""),
    ("faults", "the same series wrong, dcm2niix", "dcm2niix/wrong", ""),
    ("faults", "the same series wrong, SimpleITK", "SimpleITK/wrong", ""),
    ("faults", "the same series wrong, dicom2nifti", "dicom2nifti/wrong", ""),
    ("ingest", f"slices/s over {N}, uncompressed, whole process", f"medssl_over/uncompressed/{N}", "≥ 1"),
    ("ingest", f"slices/s over {N}, uncompressed, without start-up", f"medssl_over_further/uncompressed/{N}", "≥ 1"),
    ("ingest", f"slices/s over {Y}, uncompressed, without start-up", f"medssl_over_further/uncompressed/{Y}", "≥ 10"),
    ("ingest", "slices/s over SimpleITK, JPEG lossless, without start-up", "medssl_over_further/ljpeg/SimpleITK", "≥ 2"),
    ("ingest", "slices/s over SimpleITK, JPEG-LS, without start-up", "medssl_over_further/jpegls/SimpleITK", "≥ 2"),
    ("ingest", "peak memory of a series / at start, MB", ("peak_mb/medssl/series", "peak_mb/medssl/start"), "≤ 3 volumes more"),
    ("ingest", "start-up, s", "start_s/medssl", ""),
    ("reduce", "three hashes of a slice over imagehash", "figures/hashes/ratio", "≥ 8"),
    ("reduce", "all descriptors over the naive chain", "figures/describe/ratio", "≥ 5"),
    ("reduce", "entropy of a slice over scikit-image", "figures/entropy/ratio", "≥ 15"),
    ("reduce", "mutual information of a pair over histogram2d", "figures/mutual_information/ratio", "≥ 8"),
    ("reduce", "SSIM of a pair over scikit-image", "figures/ssim/ratio", "≥ 5"),
    ("reduce", "pairs within 6 of 10⁴ codes over imagededup's BK-tree", "figures/search/10000/ratio_bk_tree", "≥ 100"),
    ("reduce", "pairs within 6 of 10⁵ codes over faiss", "figures/search/100000/ratio_faiss", "≥ 3"),
    ("leakage", "copies found of 50, the worst disguise", "least_found", "≥ 49"),
    ("leakage", "false alarms", "false_alarm_frac", "< 0.01"),
    ("scale", "planning 50,000 series, s", "planned_s", "< 60"),
    ("scale", "planning again, nothing changed, s", "unchanged_s", "< 60"),
    ("scale", "peak memory of planning, MB", "peak_mb", "< 4096"),
    ("scale", "jobs planned", "planned_jobs", "< 2000"),
    ("scale", "listing a real file, µs (5 million: add five times as many seconds)", "walk_us_per_file", ""),
    ("plan", "hours planned over hours taken, all stages", "time_ratio", "0.75 to 1.25"),
    ("plan", "disk planned over disk taken", "disk_ratio", "0.75 to 1.25"),
    ("plan", "the probe, s", "probe_s", "about 60"),
]
"""(benchmark, what, place or places in its results, goal)"""


def page() -> str:
    """The text of docs/benchmarks.md."""
    text = "# Benchmarks\n\nRatios against what a user would use instead, in one run on the same input: `make bench-<name>`. "
    text += "Absolute times of shared\nmachines mean little. "
    text += "This page is written by `benchmarks/write_docs.py` from `benchmarks/results/`.\n"
    for name in dict.fromkeys(line[0] for line in LINES):
        path = RESULTS / f"{name}.json"
        text += f"\n## {name}\n\n{summary(ROOT / 'benchmarks' / f'{name}.py')}\n\n"
        if not path.is_file():
            text += f"No kept results; `make bench-{name}` makes them.\n"
            continue
        kept = json.loads(path.read_text(encoding="utf-8"))
        text += "| figure | seen | goal |\n|---|---|---|\n"
        for _, what, places, goal in (line for line in LINES if line[0] == name):
            seen = " / ".join(_shown(_at(kept, place)) for place in ([places] if isinstance(places, str) else places))
            text += f"| {what} | {seen} | {goal} |\n"
        versions = ", ".join(f"{tool} {number}" for tool, number in sorted(kept.get("versions", {}).items()))
        text += f"\n{kept.get('date', 'undated')}{', ' + versions if versions else ''}\n"
    return text


def summary(script: Path) -> str:
    """The first sentence of a script."""
    return script.read_text(encoding="utf-8").split('"""')[1].split("\n\n")[0].replace("\n", " ").strip()


def _at(kept: Any, place: str) -> Any:
    for part in place.split("/"):
        kept = kept.get(part) if isinstance(kept, dict) else None
    return kept


def _shown(value: Any) -> str:
    if value is None:
        return "not run"
    return (
        f"{value:.3g}"
        if isinstance(value, float) and value < 1000
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
