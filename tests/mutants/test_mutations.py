"""The list of `make mutants` fits the code: every text is there once, every change can be read, every package has some."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from mutations import MUTATIONS, Mutation, home, named_tests

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("core", "volume", "ingest", "prepare", "reduce", "nn", "pretrain", "finetune", "evaluate", "report")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.package}: {m.breaks}")
def test_a_mutation_has_its_place_its_tests_and_still_is_python(mutation: Mutation) -> None:
    text = home(ROOT, mutation).read_text(encoding="utf-8")
    sound, broken = (ast.dump(ast.parse(t)) for t in (text, text.replace(mutation.old, mutation.new)))
    assert sound != broken, "the mutation changes nothing"
    named, found = mutation.tests.split(), named_tests(ROOT, mutation)
    assert ["::" in test for test in found] == ["::" in test for test in named], f"{named}: a test of that name is not there"


def test_every_package_is_broken_and_no_sentence_stands_twice() -> None:
    counts = Counter(mutation.package for mutation in MUTATIONS)
    assert set(counts) >= set(PACKAGES) and min(counts.values()) >= 5 and counts.total() >= 70
    assert len({mutation.breaks for mutation in MUTATIONS}) == len(MUTATIONS)


def test_a_text_that_is_gone_or_stands_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "medssl").mkdir()
    mutation = Mutation("core", "x", "a = 1", "a = 2", "core/test_core_rng.py")
    for text in ("b = 1\n", "a = 1\na = 1\n"):
        (tmp_path / "medssl" / "a.py").write_text(text)
        with pytest.raises(LookupError, match="must stand once"):
            home(tmp_path, mutation)
