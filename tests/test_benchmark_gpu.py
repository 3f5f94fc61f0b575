"""`make bench-gpu`: every section runs in small, and one that hangs or fails stops no other."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import warm

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.py"


def found_in(folder: Path, *options: str) -> dict[str, Any]:
    """What the benchmark says in its last line, which is what it writes."""
    command = [warm.python(), str(SCRIPT), "--small", "--out", str(folder), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    word, _, text = done.stdout.strip().splitlines()[-1].partition(" ")
    assert word == "RESULT" and json.loads(text) == json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    return dict(json.loads(text))


def test_every_section_runs_in_small(tmp_path: Path) -> None:
    from medssl.core import plugins

    result = found_in(tmp_path)
    sections = result["sections"]
    assert result["claims"]["not_held"] == []
    assert {name: section["ended"] for name, section in sections.items()} == dict.fromkeys(the_script()["SECTIONS"], "done")
    found = {name: section["found"] for name, section in sections.items()}
    assert not [what for tries in found.values() for what, figures in tries.items() if "failed" in figures]
    for dims in ("2d", "3d"):
        assert set(found[f"objectives_{dims}"]) == set(plugins.names("objective"))
        assert all(figures["finite"] for figures in found[f"objectives_{dims}"].values())
    assert len(found["equal_bits"]) == 6 and all(figures["equal"] for figures in found["equal_bits"].values())
    assert found["compiled"] and all(figures["as_eager"] for figures in found["compiled"].values())
    assert all(len(found[name]) == count for name, count in {"vit_loop": 1, "vit_volumes": 2, "mae_tokens": 3}.items())
    assert found["mae_tokens"]["25% of the patches"]["gflop_share"] < 0.35, (
        "the class token, registers and patches are all counted"
    )
    for loop in ("real_loop", "small_unet"):
        timed = [figures for figures in found[loop].values() if "left_out" not in figures]
        assert len(timed) >= 2 and all(figures["images_per_s"] > 0 and 0 <= figures["waiting_frac"] <= 1 for figures in timed)
    assert found["spark"]["apart in float64"]["gradient_difference_frac"] < 1e-9
    assert found["classification"].keys() == {"linear", "full"}
    assert found["predict"]["again"]["volumes"] == 2


def test_a_claim_that_does_not_hold_is_named() -> None:
    tries = {"a": {"equal": True}, "b": {"equal": False}, "c": {"failed": "ValueError: no"}, "d": {"finite": True, "loss": 0.0}}
    sections = {"bits": {"ended": "done", "found": tries}, "loop": {"ended": "out of time", "found": {}}}
    held = the_script()["claims"](sections)
    assert held == {"checked": 6, "num_not_held": 3, "not_held": ["loop", "bits · b", "bits · c"]}


def test_the_limits_of_all_sections_are_eight_minutes() -> None:
    assert sum(limit_s for _, limit_s in the_script()["SECTIONS"].values()) == 480


def test_a_section_out_of_time_is_killed_with_all_that_it_started_and_its_figures_are_kept(tmp_path: Path) -> None:
    code = (
        "import pathlib, subprocess, sys, time\n"
        'print(\'FOUND ["hangs", "first", {"figure": 1}]\', flush=True)\n'
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    section = the_script()["run_limited"](["hangs"], [sys.executable, "-c", code], 5.0)["hangs"]
    assert section["ended"] == "out of time" and section["found"] == {"first": {"figure": 1}}
    child = int((tmp_path / "child").read_text())
    for _ in range(3000):  # the kernel ends it in its own time
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.01)
    pytest.fail("what the section started is still there")


def test_a_section_that_fails_says_why_and_keeps_its_figures() -> None:
    code = "print('FOUND [\"fails\", \"first\", {\"figure\": 1}]', flush=True); print('noise'); raise ValueError('no such thing')"
    section = the_script()["run_limited"](["fails"], [sys.executable, "-c", code], 60.0)["fails"]
    assert section["ended"] == "failed: ValueError: no such thing" and section["found"] == {"first": {"figure": 1}}


def test_of_sections_that_share_a_process_those_before_a_failure_are_done() -> None:
    code = "print('ENDED one', flush=True); raise ValueError('no such thing')"
    found = the_script()["run_limited"](["one", "other"], [sys.executable, "-c", code], 60.0)
    assert [found[name]["ended"] for name in ("one", "other")] == ["done", "failed: ValueError: no such thing"]


def test_each_section_has_a_process_of_its_own_unless_in_small() -> None:
    together, names = the_script()["together"], list(the_script()["SECTIONS"])
    assert together(names, small=False) == [[name] for name in names]
    in_small = together(names, small=True)
    assert sorted(name for group in in_small for name in group) == sorted(names) and len(in_small) == 4


def test_without_a_gpu_it_says_so_unless_asked_for_the_small_one() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "no CUDA device here" in done.stderr and "--small" in done.stderr


def test_the_minutes_of_a_study_lie_on_the_line_through_two_lengths() -> None:
    # fits of 20 and 120 steps take 2 and 4 s: 0.02 s a step and 1.6 s beside; the processes take 4 s to start
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        from gpu_sections.fits import drawn_on
    finally:
        sys.path.remove(str(SCRIPT.parent))

    figures = [{"fits": 5, "seconds_of_a_fit": fit_s, "seconds": whole_s} for fit_s, whole_s in ((2.0, 6.0), (4.0, 9.0))]
    assert drawn_on(*figures, 20, 120, 5)["minutes_extrapolated"] == pytest.approx((4 + 45 / 5 * 41.6) / 60, abs=0.01)


def the_script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))
