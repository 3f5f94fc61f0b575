"""A sentence composed of several has one mark at the end of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from sentences import DOUBLED

from medssl.core.errors import did_you_mean, ended
from medssl.core.listing import nothing_at
from medssl.study.file import Places


@pytest.mark.parametrize("text", ["a", "a.", "a?", "a!", "a…", "a 'b'", "a (b)"])
def test_a_sentence_ends_once(text: str) -> None:
    assert ended(text) in (text, f"{text}.") and ended(ended(text)) == ended(text) and ended(text)[-1] in ".?!…"
    assert not DOUBLED.search(ended(text) + " More.")


@pytest.mark.parametrize("known", [[], ["word"], ["other"]])
def test_a_hint_ends_the_sentence_that_it_stands_in(known: list[str], tmp_path: Path) -> None:
    hint = f"there is no 'wrod'.{did_you_mean('wrod', known)}"
    (tmp_path / "labels.csv").touch()
    for text in (hint, nothing_at(str(tmp_path / "label.csv")), nothing_at(str(tmp_path / "other"))):
        sentence = Places({}).sentence(("a",), text)
        assert sentence[-1] in ".?" and not DOUBLED.search(sentence) and not DOUBLED.search(f"{ended(text)} More.")


@pytest.mark.parametrize(
    "text", ["Did you mean 'x'?. More", "nothing here.. More", "Known: a., got 1", "what?, got 1", "it is so.."]
)
def test_doubled_marks_are_seen(text: str) -> None:
    assert DOUBLED.search(text)


@pytest.mark.parametrize("text", ["../a and ./b", "a.nii.gz, b", "from 0.5, to 1", "and so on …", "a/.. is", "such as *.tsv."])
def test_marks_within_names_do_not_end_a_sentence(text: str) -> None:
    assert not DOUBLED.search(text)
