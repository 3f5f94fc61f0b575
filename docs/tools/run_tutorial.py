"""Runs the tutorial for real, in a copy of the tree: every command, then the notebook. `make docs-test`; ends with RESULT {json}.

The blocks are those that tests/docs/blocks.py finds; lines that are marked as not run are left out. With a folder as argument
the copy is made there and stays.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "docs"))

from blocks import blocks_of  # noqa: E402

PAGES = ["docs/tutorial/first_encoder.md"]
NOTEBOOK = "docs/tutorial/python_api.ipynb"


def main() -> int:
    """Run the lines in their order and print the seconds of each; 1 at the first that fails."""
    seconds: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="medssl-tutorial-") as place:
        copy = Path(sys.argv[1] if len(sys.argv) > 1 else place) / "medssl"
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
        for name in filter(None, listed.split("\0")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
        environment = os.environ | {"PYTHONPATH": str(copy)}
        for page in PAGES:
            for block in blocks_of(ROOT / page):
                if block.language != "bash" or block.not_run:
                    continue
                for line in block.text.strip().splitlines():
                    began = time.monotonic()
                    print(f"$ {line}", flush=True)
                    code = subprocess.run(line, shell=True, cwd=copy, env=environment).returncode
                    seconds.append((line, round(time.monotonic() - began, 1)))
                    if code:
                        print(f"{page}, line {block.line}: exit code {code}")
                        return 1
        began = time.monotonic()
        run_notebook(copy)
        seconds.append((NOTEBOOK, round(time.monotonic() - began, 1)))
    total_s = round(sum(taken for _, taken in seconds), 1)
    print("RESULT", json.dumps({"lines": len(seconds), "total_s": total_s, "seconds": seconds}))
    return 0


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
