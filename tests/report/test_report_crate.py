"""The crate passes the public validator; what it leaves open of the recommendations is listed here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic_study import spec, write_study

from medssl.core import job as jobs
from medssl.report.run import run

VALIDATOR = Path(sys.prefix) / "validator"
"""roc-validator with all that it depends on, out of sight of everything else."""
PROFILE = "process-run-crate-0.5"
"""The checks of ro-crate-1.1 belong to it."""
METADATA = "ro-crate-metadata.json"

OPEN = {
    "ro-crate-1.1_22.2": "the author is for the authors to state",
    "ro-crate-1.1_22.3": "so is the publisher",
    "process-run-crate-0.5_8.6": "who ran a job stays out of the results",
    "ro-crate-1.1_28.1": "a file outside of the page's folder is named by its content, which is no address",
    "process-run-crate-0.5_3.2": "medssl itself has no address",
    "process-run-crate-0.5_5.1": "nor an absolute name",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """What the validator says of a study's crate, and of that crate with three mistakes in it."""
    if not (VALIDATOR / "rocrate_validator").is_dir():
        pytest.skip("roc-validator is not there: make test installs it beside the environment")
    root = tmp_path_factory.mktemp("study")
    with jobs.job(spec(root, write_study(root, num_test=60))) as job:
        run(job)
    broken = shutil.copytree(job.out, root / "broken")
    spoil(broken / METADATA)
    answer = root / "answer.json"
    script = Path(__file__).parent / "validate_crate.py"
    # -S: only the validator's own packages, not those of this environment
    command = [sys.executable, "-S", "-P", str(script), str(answer), PROFILE, str(job.out), str(broken)]
    environment = os.environ | {"PYTHONPATH": str(VALIDATOR)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(("whole", "broken"), json.loads(answer.read_text()).values(), strict=True))


def spoil(path: Path) -> None:
    crate: dict[str, Any] = json.loads(path.read_text())
    crate["@context"] = crate["@context"][0]
    for thing in crate["@graph"]:
        if thing["@id"] == "./":
            del thing["datePublished"]
        if thing["@type"] == "CreateAction":
            del thing["instrument"]
    path.write_text(json.dumps(crate))


def test_the_crate_keeps_every_must(found: dict[str, list[dict[str, str]]]) -> None:
    assert [issue for issue in found["whole"] if issue["severity"] == "REQUIRED"] == []


def test_what_the_crate_leaves_open_is_known(found: dict[str, list[dict[str, str]]]) -> None:
    assert {issue["check"] for issue in found["whole"]} == set(OPEN)
    software = [issue["about"] for issue in found["whole"] if issue["check"].startswith("process-run-crate-0.5_3")]
    assert [about.rpartition("#")[2] for about in software] == ["medssl"]


def test_the_validator_sees_mistakes(found: dict[str, list[dict[str, str]]]) -> None:
    said = " ".join(issue["says"] for issue in found["broken"] if issue["severity"] == "REQUIRED")
    for word in ('"sha256"', "datePublished", "instrument"):
        assert word in said
