"""The page of benchmarks says what their last results say."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_is_written_from_the_results() -> None:
    made = runpy.run_path(str(ROOT / "benchmarks" / "write_docs.py"))["page"]()
    assert made == (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"), "run benchmarks/write_docs.py"
