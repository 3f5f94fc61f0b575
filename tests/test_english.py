"""Docstrings, comments, docs and test names use the words of STYLE.md: what its list always calls wrong occurs nowhere."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "demo/README.md")
"""Beside the documentation. STYLE.md lists the words themselves."""
NEVER = re.compile(
    r"\b(told|untold|anew|(tell|tells|set) (them )?apart|go on|goes on|nobody|anybody|somebody|in silence|without a word|learnt"
    r"|held against|thrown? away|(is|are) said)\b|(?<!here )\b(is|are|was|were) no (?!longer|more|other)\w+",
    re.IGNORECASE,
)
"""Words that STYLE.md lists; `learnt` in code marks is a field of contracts."""


def prose(path: Path) -> str:
    """The docstrings, texts below fields and comments of a module; all of a page but its code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        kept = [t.string for t in tokens if t.type == tokenize.COMMENT or (t.type == tokenize.STRING and t.string[-3:] == '"""')]
        text = "\n".join(kept)
    return re.sub(r"```.*?```|`[^`\n]*`", "`", re.sub(r"\s*\n\s*#?\s*", " ", text) if path.suffix == ".py" else text, flags=re.S)


def files() -> list[Path]:
    return [*sorted((ROOT / "medssl").rglob("*.py")), *sorted((ROOT / "docs").rglob("*.md")), *(ROOT / page for page in PAGES)]


def wrong(text: str) -> list[str]:
    return [text[max(0, found.start() - 40) : found.end() + 30] for found in NEVER.finditer(text)]


def test_words_that_the_style_forbids_occur_nowhere() -> None:
    found = {str(path.relative_to(ROOT)): places for path in files() if (places := wrong(prose(path)))}
    assert not found


def test_names_of_tests_are_sentences_in_these_words() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("*.py")))
    names = re.findall(r"^def test_(\w+)\(", text, re.MULTILINE)
    assert len(names) > 1000 and [name for name in names if wrong(name.replace("_", " "))] == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Scans are told apart by their times.",
        "Masks are drawn anew.",
        "It is no multiple of four.",
        "A stopped run goes on where it was.",
        "Nobody is held out.",
        "The features were learnt before.",
    ],
)
def test_a_forbidden_word_is_found(sentence: str) -> None:
    assert wrong(sentence)


def test_the_list_of_the_style_has_every_word_that_is_looked_for() -> None:
    style = (ROOT / "STYLE.md").read_text(encoding="utf-8").split("## Words")[1].split("\n## ")[0]
    right, listed = zip(*(line.strip("| ").split(" | ") for line in style.splitlines() if line.startswith("| ")), strict=True)
    assert len(right) > 10
    for word in ("told", "anew", "go on", "nobody", "in silence", "learnt", "is no", "throw away", "set apart"):
        assert any(word in cell for cell in listed), word
