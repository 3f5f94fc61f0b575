"""Names: text and value are each other's inverse, and two things never share one."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medssl.artefacts import names
from medssl.artefacts.names import (
    Arm,
    FitId,
    Run,
    ShareKind,
    Start,
    arm_and_seed,
    is_scratch,
    reduction_of,
    share_of,
    share_word,
    unique,
)
from medssl.core.errors import StudyError

# words that look like other parts of a name are the ones that go wrong
WORDS = st.one_of(
    st.sampled_from(["a", "a_b", "b_c", "c", "seed0", "s0", "f1", "n8", "0p05", "1", "beef", "full", "all", "0_", "scratch_a"]),
    st.from_regex(r"[a-z0-9][a-z0-9_]{0,5}", fullmatch=True),
).filter(lambda word: word != names.SCRATCH)
NUMBERS = st.integers(0, 10**6)
RUNS = st.builds(Run, WORDS, WORDS, NUMBERS)
SCRATCHES = st.builds(
    lambda backbone, digest: Arm("scratch", backbone=backbone, digest=digest), WORDS, st.sampled_from(["", "beef", "0000"])
)
ARMS = st.one_of(RUNS.map(lambda run: run.start.arm), SCRATCHES, st.builds(Arm, WORDS))
STARTS = st.one_of(
    RUNS.map(Start.of_run), st.builds(Start.given, WORDS), st.builds(Start, SCRATCHES, st.one_of(st.none(), NUMBERS))
)
SHARES = st.one_of(
    st.builds(lambda n: share_word(n, "units"), NUMBERS),
    st.builds(lambda f: share_word(f, "fraction"), st.one_of(st.floats(0, 1), st.sampled_from([0.05, 1e-5, 1.0, 0.1]))),
)
FITS = st.builds(FitId, STARTS, WORDS, SHARES, NUMBERS, st.one_of(st.none(), NUMBERS))
KINDS = {Run: RUNS, Arm: ARMS, Start: STARTS, FitId: FITS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_parse_is_the_inverse_of_str(kind: type, data: st.DataObject) -> None:
    name = data.draw(KINDS[kind])
    assert kind.parse(str(name)) == name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(text=st.text("abs_0123456789efpn-", max_size=24))
def test_a_text_is_read_as_itself_or_refused_with_a_sentence(kind: type, text: str) -> None:
    try:
        name = kind.parse(text)
    except StudyError as error:
        assert "; expected " in str(error)
    else:
        assert str(name) == text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_two_different_names_have_different_texts(kind: type, data: st.DataObject) -> None:
    one, other = data.draw(KINDS[kind]), data.draw(KINDS[kind])
    assume(one != other)
    assert str(one) != str(other)


@pytest.mark.parametrize(
    "text",
    ["", "-", "a", "a-b", "a-b-c", "a-b-seed", "a-b-seed00", "a-b-seed-1", "A-b-seed0", "a-b-seed0-", "_a-b-seed0", "a-b-seed٣",
     "a-b-seed0\n", "scratch-b-seed0", "a--seed0"],
)  # fmt: skip
def test_a_name_that_is_not_a_run_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match="expected name-arm-seedN"):
        Run.parse(text)


@pytest.mark.parametrize("text", ["scratch", "scratch-", "scratch-a-b-c", "a-b-c", "scratch-a-bee", "a-b-seed0", "é"])
def test_a_name_that_is_not_an_arm_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match="is not the name of an arm"):
        Arm.parse(text)


def test_underscores_are_kept_so_that_two_runs_do_not_meet_in_one_fit() -> None:
    fits = [FitId(Run(name, arm, 0).start, "full", "0p05", 0) for name, arm in (("a_b", "c"), ("a", "b_c"))]
    assert [str(fit) for fit in fits] == ["a_b-c-seed0-full-0p05-s0", "a-b_c-seed0-full-0p05-s0"]
    assert unique(fits) == [str(fit) for fit in fits]


def test_two_things_with_one_name_are_refused() -> None:
    same = Arm("scratch", backbone="resnet18", digest="beef")
    with pytest.raises(StudyError, match="'scratch-resnet18-beef'"):
        unique([same, Arm("simclr", reduction="all"), same])


def test_scratch_bears_its_backbone_and_says_when_its_options_are_not_the_defaults() -> None:
    defaults = {"width": 1.0, "stem": "imagenet"}
    assert str(Arm.of_scratch("resnet18", dict(reversed(defaults.items())), defaults)) == "scratch-resnet18"
    other = Arm.of_scratch("resnet18", defaults | {"width": 0.5}, defaults)
    # the digest is of the options as canonical JSON, by an independent hash
    import hashlib

    assert other.digest == hashlib.sha256(b'{"stem":"imagenet","width":0.5}').hexdigest()[:4]
    assert str(Start(other, 3)) == f"scratch-resnet18-{other.digest}-seed3"


@pytest.mark.parametrize("kind", ["pretrain", "weights"])
def test_scratch_is_reserved(kind: str) -> None:
    assert "random weights" in (names.why_reserved(kind, "scratch") or "")
    with pytest.raises(StudyError, match="reserved"):
        Run("scratch", "all", 0) if kind == "pretrain" else Start.given("scratch")


def test_a_column_init_is_read_with_and_without_its_seed() -> None:
    assert arm_and_seed("simclr-hash-seed0") == (Arm("simclr", reduction="hash"), 0)
    assert arm_and_seed("simclr-hash") == (Arm("simclr", reduction="hash"), None)
    assert arm_and_seed("simclr-seed0") == (Arm("simclr", reduction="seed0"), None)
    assert arm_and_seed("scratch-resnet18-seed2") == (Arm("scratch", backbone="resnet18"), 2)
    assert arm_and_seed("radimagenet") == (Arm("radimagenet"), None)


@given(ARMS)
def test_an_arm_is_of_one_kind_and_scratch_is_seen_in_its_text(arm: Arm) -> None:
    assert [arm.is_run, arm.is_given, arm.is_scratch].count(True) == 1
    assert is_scratch(str(arm)) == arm.is_scratch


@given(RUNS)
def test_the_reduction_of_a_run_lies_in_its_cohort(run: Run) -> None:
    assert reduction_of(f"ct/{run}") == f"ct/{run.arm}"
    assert reduction_of(str(run)) == run.arm
    assert reduction_of(f"ct/{run.arm}") == ""
    assert run.start.run == run


@pytest.mark.parametrize(
    ("amount", "kind", "word"),
    [
        (0.05, "fraction", "0p05"),
        (1.0, "fraction", "1"),
        (8, "units", "n8"),
        (8, "per_class", "c8"),
        (1e-5, "fraction", "0p00001"),
    ],
)
def test_a_share_has_a_word_without_a_dash(amount: float, kind: ShareKind, word: str) -> None:
    assert share_word(amount, kind) == word
    assert share_of(word) == (amount, kind)


@given(st.floats(0, 1))
def test_every_fraction_has_its_own_word(fraction: float) -> None:
    assert share_of(share_word(fraction, "fraction")) == (fraction, "fraction")


@pytest.mark.parametrize("word", ["", "n", "0p", "0p050", "1e-05", "00", "n08", "0.05", "p5", "٣"])
def test_a_word_that_is_not_a_share_is_refused(word: str) -> None:
    with pytest.raises(StudyError, match="share of labels"):
        share_of(word)
