"""What the page concludes: words follow numbers, a hint is called one, and what is lost with fewer labels is reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_rows import ROW, sentences
from markupsafe import Markup

from medssl.report.evidence import Evidence
from medssl.report.section import Table
from medssl.report.sections.answer import alike, answer, claim, claim_together, detail, detail_together, verdict_of, with_limits
from medssl.report.sections.label_efficiency import label_efficiency
from medssl.report.shares import labels_of


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({}, "better", "was better than training from scratch"),
        ({"better": "lower"}, "worse", "was worse than"),
        ({"low": -0.01}, "unclear", "no clear difference"),
        ({"p_holm": 0.06}, "uncorrected", "not settled"),
        ({"low": np.nan, "high": np.nan}, "unknown", "too few cases"),
        ({"low": np.nan, "high": np.nan, "p": 1.0}, "unclear", "no clear difference"),
        ({"low": -0.05, "high": -0.01}, "worse", "was worse than"),
        ({"confidence": 0.9, "p": 0.07, "p_holm": 0.07}, "better", "was better than"),
        ({"confidence": 0.9, "p": 0.07, "p_holm": 0.14}, "uncorrected", "once corrected for the number of comparisons"),
        ({"confidence": 0.99, "p": 0.008, "p_holm": 0.016}, "uncorrected", "once corrected"),
        ({"p": 0.06, "p_holm": 0.06}, "unclear", "no clear difference"),
    ],
)
def test_words_follow_the_interval_and_the_corrected_p_value(changes: dict[str, object], verdict: str, words: str) -> None:
    row = ROW | changes
    assert verdict_of(row) == verdict
    assert words in Markup(claim(row)).striptags()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 8, "unit": "patient"}, "on these 8 patients, simclr-hash did better than training from scratch: a hint"),
        ({"fits_a": 3, "fits_b": 1}, "with one fit from scratch, simclr-hash did better than training from scratch: a hint"),
        ({"fits_a": 1, "fits_b": 9, "better": "lower"}, "with one fit of simclr-hash, simclr-hash did worse than"),
        ({"b": "simclr-all", "fits_a": 9, "fits_b": 1}, "with one fit of simclr-all, simclr-hash did better than simclr-all"),
        ({"n": 1, "fits_a": 1, "fits_b": 1, "low": -0.01}, "on this 1 image, with one fit each, there is no clear difference"),
        ({"n_rarer": 4}, "with 4 images of the rarer class, simclr-hash did better than training from scratch: a hint"),
        ({"labels": "With labels of 1 patient", "n": 8}, "With labels of 1 patient, on these 8 images,"),
    ],
)
def test_few_patients_or_a_single_fit_make_a_hint_and_no_finding(changes: dict[str, object], words: str) -> None:
    said = Markup(claim(ROW | changes)).striptags()
    assert words in said
    assert " was better" not in said and " was worse" not in said
    together = Markup(claim_together(pd.DataFrame([ROW | changes, ROW | changes | {"a": "other"}]))).striptags()
    assert " was better" not in together and " was worse" not in together
    assert ("A hint, not a finding." in together) == ("did" in said)


def test_the_limits_of_a_comparison_are_reported_for_each_group() -> None:
    rows = [ROW | {"a": f"arm{n}", "fits_a": 1 + n % 2, "fits_b": 3} for n in range(6)]
    groups = alike(pd.DataFrame(rows))
    assert [len(group) for group in groups] == [3, 3]
    claims = [Markup(claim_together(group)).striptags() for group in groups]
    assert any(
        "with one fit of the first, in 3 comparisons with training from scratch the first did better" in one for one in claims
    )
    assert any("the first was better: arm1, arm3, arm5." in one for one in claims)


def test_the_fits_behind_a_claim_are_those_of_the_scores() -> None:
    scores = pd.DataFrame([ROW | {"init": "simclr-hash", "num_seeds": 9}, ROW | {"init": "scratch-resnet18", "num_seeds": 1}])
    fits = pd.DataFrame({"fit_id": ["scratch-resnet18-full-n3-s0"], "fraction": 0.05, "num_train_units": 3})
    row = with_limits(pd.DataFrame([ROW]), scores, labels_of(fits, scores)).iloc[0]
    assert (row["fits_a"], row["fits_b"], row["labels"]) == (9, 1, "With labels of 3 images")


def test_the_note_of_a_row_stands_in_its_detail() -> None:
    scores = pd.DataFrame([{**ROW, "init": arm, "estimate": 0.9} for arm in ("simclr-hash", "scratch-resnet18")])
    note = "n below 50: the interval may be too narrow; left out: 2 of 8 cases, undefined in the first (2) or second (0)"
    said = detail(ROW | {"note": note}, scores)
    assert "seeds. Note: n below 50: the interval may be too narrow; left out: 2 of 8 cases" in said
    together = detail_together(pd.DataFrame([ROW | {"note": note}] * 2))
    assert together.endswith("below. Note: n below 50: the interval may be too narrow.")


@pytest.mark.parametrize("mode", ["full", "gradual", "linear", "knn", "decoder"])
def test_a_frozen_random_encoder_is_not_called_training_from_scratch(mode: str) -> None:
    words = Markup(claim(ROW | {"mode": mode})).striptags()
    assert ("training from scratch" in words) == (mode in ("full", "gradual"))
    assert ("frozen random weights" in words) == (mode in ("linear", "knn", "decoder"))


def test_the_numbers_stand_below_the_claim() -> None:
    scores = pd.DataFrame(
        [{**ROW, "init": arm, "estimate": value} for arm, value in (("simclr-hash", 0.91), ("scratch-resnet18", 0.88))]
    )
    interval = "95\u202f% interval +0.010 to +0.050, p = 0.008"
    assert detail(ROW, scores) == f"AUC 0.910 against 0.880: +0.030 ({interval}), larger in 3 of 3 seeds."


def test_many_comparisons_are_reported_by_their_results() -> None:
    rows = [ROW | {"a": f"arm{n}", "difference": 0.03 + n / 1000} for n in range(9)]
    rows += [ROW | {"a": f"arm{n}", "low": -0.01} for n in range(9, 12)]
    rows += [ROW | {"a": "arm1", "b": "arm0"}, ROW | {"a": "arm2", "b": "arm0", "fraction": 1.0}]
    groups = alike(pd.DataFrame(rows))
    assert [len(group) for group in groups] == [9, 3, 1, 1], "scratch first, then by share of labels"
    assert sum(len(group) for group in groups) == len(rows)
    better, unclear = (Markup(claim_together(group)).striptags() for group in groups[:2])
    assert "in 9 comparisons with training from scratch the first was better: arm0, arm1," in better
    assert "3 comparisons with training from scratch show no clear difference: arm9, arm10, arm11." in unclear
    pairs = pd.DataFrame([ROW | {"a": f"arm{n}", "b": b} for b in ("all", "every_n") for n in range(3)])
    assert Markup(claim_together(pairs)).striptags().endswith(": arm0, arm1, arm2 against all; arm0, arm1, arm2 against every_n.")
    assert detail_together(groups[0]).startswith("AUC differences +0.030 to +0.038;")
    assert "<b>" not in claim_together(pd.DataFrame([ROW | {"a": "<b>arm</b>"}, ROW]))


def test_names_cannot_break_out_of_a_claim() -> None:
    assert "<b>" not in claim(ROW | {"a": "<b>arm</b>"})


def scores_of(scores: dict[str, dict[float, float]], metric: str = "auc") -> pd.DataFrame:
    """A task's scores by starting point and share of labels."""
    rows = [
        {"init": init, "fraction": share, "estimate": value, "low": value - 0.02, "high": value + 0.02, "mode": mode}
        for mode in ("linear", "full")
        for init, by_share in scores.items()
        for share, value in by_share.items()
    ]
    more = {"metric": metric, "class": "macro", "n": 80, "unit": "image", "confidence": 0.95, "num_seeds": 3}
    return pd.DataFrame(rows).assign(**more)


def falls_of(falls: dict[str, float], modes: tuple[str, ...] = ("linear", "full"), metric: str = "auc") -> pd.DataFrame:
    """What each starting point loses from all labels to 5 %, as evaluate writes it."""
    rows = [{"init": init, "fall": fall, "mode": mode} for mode in modes for init, fall in falls.items()]
    table = pd.DataFrame(rows).assign(score_most=0.9, fraction_most=1.0, fraction_fewest=0.05)
    table = table.assign(score_fewest=table["score_most"] - table["fall"], low=table["fall"] - 0.01, high=table["fall"] + 0.01)
    return table.assign(**{"metric": metric, "class": "macro", "n": 80, "confidence": 0.95, "seeds_in_interval": 3})


def test_what_each_starting_point_loses_with_fewer_labels_stands_least_first() -> None:
    scores = scores_of({"scratch-resnet18": {0.05: 0.6, 0.5: 0.7, 1.0: 0.9}, "spark": {0.05: 0.8, 1.0: 0.9}})
    falls = falls_of({"scratch-resnet18": 0.3, "spark": 0.1})
    section = label_efficiency(Evidence(title="t", scores={"organs": scores}, falls={"organs": falls}))
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert "from 100\u202f% of the labels to 5\u202f%" in table.caption and "over test cases and seeds" in table.caption
    assert table.rows["mode"].tolist() == ["full", "full", "linear", "linear"]
    assert table.rows["init"].tolist() == ["spark", "scratch-resnet18"] * 2
    assert table.rows["fall_frac"].tolist() == pytest.approx([0.1 / 0.9, 0.3 / 0.9] * 2)
    assert table.shown["Falls by"].tolist() == ["0.100", "0.300"] * 2
    assert table.shown["Interval"].tolist() == ["+0.090 to +0.110", "+0.290 to +0.310"] * 2


def test_whether_one_starting_point_loses_less_than_another_stands_beside() -> None:
    scores, falls = scores_of({"spark": {0.05: 0.8, 1.0: 0.9}}), falls_of({"spark": 0.1, "simclr": 0.2})
    row = {"a": "spark", "b": "simclr", "mode": "full", "metric": "auc", "class": "macro", "fraction_most": 1.0}
    row |= {"fraction_fewest": 0.05, "difference": -0.1, "low": -0.2, "high": -0.01, "p": 0.01, "p_holm": 0.02}
    row |= {"seeds_in_interval": 3, "note": "without the spread over seeds of simclr: fewer than 3"}
    compared = pd.DataFrame([row, row | {"metric": "accuracy", "class": "all"}])
    evidence = Evidence(title="t", scores={"x": scores}, falls={"x": falls}, fall_comparisons={"x": compared})
    _, table = (block for block in label_efficiency(evidence).blocks if isinstance(block, Table))
    assert table.shown.to_dict("records") == [
        {"First − second": "spark − simclr", "Mode": "full fine-tuning", "Difference of falls": "−0.100",
         "Interval": "−0.200 to −0.010", "p": "0.010", "p (Holm)": "0.020"}
    ]  # fmt: skip
    assert "falls: without the spread over seeds of simclr: fewer than 3." in sentences(label_efficiency(evidence))


def test_one_share_of_labels_tells_nothing_of_what_is_lost() -> None:
    section = label_efficiency(Evidence(title="t", scores={"organs": scores_of({"scratch-resnet18": {1.0: 0.9}})}))
    assert not any(isinstance(block, Table) for block in section.blocks)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([3, 3], "over test cases and seeds: they show how much chance in both can"),
        ([3, 0], "over test cases, and over seeds where there are three or more: they show how much chance in both"),
        (
            [0, 0],
            "over test cases, of means over seeds: they show how much chance in the choice of cases can",
        ),
    ],
)
def test_the_answer_says_whether_its_intervals_know_the_seeds(counts: list[int], words: str) -> None:
    compared = pd.DataFrame([ROW | {"a": f"arm{n}", "seeds_in_interval": count} for n, count in enumerate(counts)])
    compared = compared.assign(method="bootstrap (bca+seeds)", options=[{}] * len(counts))
    scores = scores_of({"arm0": {0.05: 0.6}, "arm1": {0.05: 0.6}, "scratch-resnet18": {0.05: 0.6}}).assign(unit="image")
    evidence = Evidence(title="t", scores={"organs": scores}, comparisons={"organs": compared})
    assert words in sentences(answer(evidence))


# The clearest of all modes


def in_modes(*changes: dict[str, object]) -> Evidence:
    """A task with a comparison for each of `changes`; p is corrected over all of them in `p_holm_task`."""
    rows = [ROW | {"a": f"arm{n}", "p_holm_task": ROW["p_holm"]} | change for n, change in enumerate(changes)]
    compared = pd.DataFrame(rows).assign(method="bootstrap (bca)", seeds_in_interval=0, options=[{}] * len(rows))
    arms = {f"arm{n}": {0.05: 0.6, 1.0: 0.7} for n in range(len(rows))} | {"scratch-resnet18": {0.05: 0.5, 1.0: 0.6}}
    return Evidence(title="t", scores={"x": scores_of(arms).assign(unit="image")}, comparisons={"x": compared})


def test_the_clearest_result_is_that_of_any_mode_and_its_p_is_corrected_over_all() -> None:
    evidence = in_modes(
        {"low": -0.01, "p": 0.3, "p_holm_task": 0.3},
        {"mode": "linear", "p": 0.0004, "p_holm_task": 0.0012},
        {"mode": "linear", "fraction": 1.0, "low": -0.05, "high": -0.02, "p": 0.001, "p_holm_task": 0.002},
    )
    said = sentences(answer(evidence)).replace("\u202f", " ")
    assert (
        "The clearest of all results: with 5 % of the labels (linear probe), arm1 was better than frozen random weights" in said
    )
    assert "p = 0.001 over all 3 comparisons" in said
    assert (
        "Of 3 comparisons with scratch in 2 modes at 2 shares of labels, 1 favours the pre-trained arm, 1 favours scratch and"
        in said
    )
    assert "1 shows no clear difference. Here p is corrected over 3 comparisons (Holm)." in said
    assert (
        said.index("clearest of all") < said.index("Full fine-tuning") < said.index("there is no clear difference between arm0")
    )


def test_what_the_number_of_all_comparisons_takes_away_is_not_reported_as_clear() -> None:
    evidence = in_modes({"p_holm_task": 0.2}, {"mode": "linear", "p": 0.001, "p_holm_task": 0.06})
    said = sentences(answer(evidence))
    assert (
        "No result is settled over all modes. The clearest is this: with 5 % of the labels (linear probe), the difference" in said
    )
    assert "between arm1 and frozen random weights is not settled" in said and "arm1 was better" not in said
    assert "arm0 was better than training from scratch" in said, "by its own family, as the sentence below says"
    few = replace(evidence, study={"evaluate": {"bootstrap": 30}})
    assert "30 draws of the bootstrap cannot settle so many: set evaluate.bootstrap to 40 or more." in sentences(answer(few))


def test_a_single_comparison_is_reported_once() -> None:
    said = sentences(answer(in_modes({})))
    assert "The clearest" not in said and said.count("arm0 was better") == 1


def test_among_equal_p_the_one_farthest_from_no_difference_is_the_clearest() -> None:
    near, far = {"low": 0.001, "high": 0.09}, {"mode": "linear", "low": 0.025, "high": 0.035}
    for changes in ([near, far], [far, near]):
        assert "(linear probe)" in sentences(answer(in_modes(*changes)))


def test_arms_are_not_the_clearest_where_scratch_was_compared() -> None:
    evidence = in_modes({"p": 0.01}, {"b": "arm0", "p": 0.0001}, {"mode": "linear", "p": 0.02})
    assert "than training from scratch" in sentences(answer(evidence)).split("Of 2 comparisons")[0]
