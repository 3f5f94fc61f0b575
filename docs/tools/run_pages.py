"""Runs tutorial, notebook and how-to pages for real, in a copy of the tree. `make docs-test`; ends with RESULT {json}.

    python docs/tools/run_pages.py [--copy FOLDER] [PAGE …]

Without a page it runs all of `PAGES`, in their order, and the notebook after the tutorial. The blocks are those that
tests/docs/blocks.py finds. A line of a shell runs as it is written, except that `/data` and `/new` are folders of small scans
in the copy (docs/tools/small_scans.py), and that the studies of the how-to pages are short (`shorten`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "docs"), str(ROOT / "docs")]

from blocks import Block, blocks_of  # noqa: E402

from tools.small_scans import write_scans  # noqa: E402

TUTORIAL = "docs/tutorial/first_encoder.md"
NOTEBOOK = "docs/tutorial/python_api.ipynb"
PAGES = [
    TUTORIAL,
    "docs/explanation/reducers/index.md",
    "README.md",
    "docs/howto/own_dicom.md",
    "docs/howto/nnunet.md",
    "docs/howto/late_labels.md",
    "docs/howto/read_a_report.md",
    "docs/howto/python.md",
    "docs/howto/monai.md",
    "docs/howto/timm.md",
    "docs/howto/torchvision.md",
    "docs/howto/hf.md",
    "docs/howto/kfold.md",
    "docs/howto/mask_folder.md",
    "docs/howto/predict.md",
]
"""In the order of a reader: a page uses what the pages before it have made."""
STUDY = "configs/mine.yaml"
"""The study file of the how-to pages: a YAML block with sources is all of it, one without replaces its sections."""


def main() -> int:
    """Run the pages and print the seconds of each line; 1 at the first line that fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--copy", type=Path, help="make the copy in this folder and keep it; a second call continues there")
    parser.add_argument("pages", nargs="*", default=PAGES)
    given = parser.parse_args()
    seconds: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="medssl-pages-") as place:
        copy = (given.copy or Path(place)) / "medssl"
        copy_tree(copy)
        if not (copy / "data").is_dir():
            write_scans(copy)
        for page in given.pages:
            if not run_page(page, copy, seconds):
                return 1
            if page == TUTORIAL:
                began = time.monotonic()
                run_notebook(copy)
                seconds.append((NOTEBOOK, round(time.monotonic() - began, 1)))
    total_s = round(sum(taken for _, taken in seconds), 1)
    print("RESULT", json.dumps({"pages": len(given.pages), "lines": len(seconds), "total_s": total_s, "seconds": seconds}))
    return 0


def copy_tree(copy: Path) -> None:
    """The files that git knows, in another folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)


def run_page(page: str, copy: Path, seconds: list[tuple[str, float]]) -> bool:
    """Run a page's lines in their order, then its Python; False at the first that fails."""
    print(f"\n# {page}", flush=True)
    shutil.rmtree(copy / "exported", ignore_errors=True)  # each page exports to it
    for block in blocks_of(ROOT / page):
        if block.language == "yaml" and page.startswith("docs/howto/"):
            set_sections(copy / STUDY, yaml.safe_load(block.text))
        if block.language == "bash" and not block.not_run:
            for line in block.text.strip().splitlines():
                if not ran(["bash", "-c", in_the_copy(line)], line, block, copy, seconds):
                    return False
    python = [block for block in blocks_of(ROOT / page) if block.docs_test]
    if python:
        text = "\n".join(block.text for block in python)
        return ran([sys.executable, "-c", in_the_copy(text)], f"Python of {page}", python[0], copy, seconds)
    return True


def ran(command: list[str], name: str, block: Block, copy: Path, seconds: list[tuple[str, float]]) -> bool:
    """Whether a command ended well; its seconds are added."""
    for study in (copy / STUDY, copy / "mine.yaml"):
        if study.is_file():
            shorten(study)
    print(f"$ {name}", flush=True)
    began = time.monotonic()
    code = subprocess.run(command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}).returncode
    seconds.append((name, round(time.monotonic() - began, 1)))
    if code:
        print(f"{block.page}, line {block.line}: exit code {code}")
    return code == 0


def in_the_copy(text: str) -> str:
    """A text whose folders of scans are those of the copy."""
    return re.sub(r"(?<![\w.])/(data|new|some)/", r"\1/", text)


def set_sections(path: Path, block: dict[str, Any]) -> None:
    """Write a page's block as the study file, or put its sections into the one that is there."""
    study = {} if "sources" in block else yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(in_the_copy(yaml.safe_dump(study | block)), encoding="utf-8")


def shorten(path: Path) -> None:
    """Small images and a few steps, so that a study of the how-to pages takes seconds."""
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    for run in study.setdefault("pretrain", {"simclr": {}}).values():
        run.update({"max_steps": 4, "size": [32], "batch_size": 8})
        if run.get("spatial_dims") == 3:
            run.update({"max_steps": 1, "size": [64] * 3, "batch_size": 2})
        run.pop("device", None)
    for task in study.get("finetune", {}).values():
        task.update({"max_steps": 4, "size": [32], "batch_size": 4, "seeds": [0]})
    path.write_text(yaml.safe_dump(study), encoding="utf-8")


def run_notebook(copy: Path) -> None:
    """Run the cells where the results lie, and keep what they print in the tree's own notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell stops with an error.
    """
    import nbclient
    import nbformat

    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(copy)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":  # without bars of progress
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, ROOT / NOTEBOOK)


if __name__ == "__main__":
    sys.exit(main())
