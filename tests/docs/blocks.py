"""The fenced blocks of the documentation, with their language, their line, and whether they are marked as not run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "STYLE.md", "SECURITY.md")),
        ROOT / "demo" / "README.md",
    ]
)
NOT_RUN = re.compile(r"<!-- not run: (.+) -->$")
DOCS_TEST = "<!-- run by make docs-test -->"


@dataclass(frozen=True)
class Block:
    """A fenced block: `language` is what stands behind the fence, `not_run` the reason given on the line above it.

    `docs_test`: Python that needs the results of the page's commands, so that only `make docs-test` runs it.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str
    docs_test: bool = False


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page, in their order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opened = re.match(r"( *)```(.*)$", lines[number])
        if opened is None:
            number += 1
            continue
        start, indent = number, opened[1]
        number += 1
        while lines[number].strip() != "```":
            number += 1
        text = "\n".join(line.removeprefix(indent) for line in lines[start + 1 : number]) + "\n"
        above = lines[start - 1].strip() if start else ""
        reason = NOT_RUN.match(above)
        why_not = reason[1] if reason else ""
        yield Block(str(page.relative_to(ROOT)), start + 1, opened[2].strip(), text, why_not, above == DOCS_TEST)
        number += 1


def blocks(language: str = "") -> list[Block]:
    """All blocks of all pages, or those of a language."""
    return [block for page in PAGES for block in blocks_of(page) if language in ("", block.language)]
