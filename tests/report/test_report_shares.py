"""The page names the labels that subsets really took, from a table of fits as finetune writes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from medssl.artefacts.names import arm_and_seed, share_word
from medssl.core.files import sha256_text
from medssl.finetune.subsets import classes_of_units, first_of_each_class, shares_of, subset, unit_order
from medssl.report.comparison import score_pairs
from medssl.report.evidence import Evidence
from medssl.report.model_card import model_card
from medssl.report.page_text import plain
from medssl.report.section import Figure, Section, Table, Text
from medssl.report.sections.answer import answer
from medssl.report.sections.label_efficiency import label_efficiency
from medssl.report.sections.methods import methods
from medssl.report.sections.paired_tests import paired_tests
from medssl.report.sections.results import results
from medssl.report.shares import labels_of, share_name, share_phrase, share_place, share_words

NUM_UNITS, NUM_CLASSES, NUM_VAL = 44, 11, 15
SEEDS = (0, 1, 2)
UNITS = pd.DataFrame({"unit": ["image"]})
WHY = "so that each class has one"


def fits_of(
    fractions: list[float], counts: list[int], num_classes: int = NUM_CLASSES, both: float = 0.0, per_class: tuple[int, ...] = ()
) -> pd.DataFrame:
    """The table of fits of a task with 44 training images; `both`: how many of them are of two classes."""
    targets = np.eye(num_classes, dtype=np.uint8)[np.arange(NUM_UNITS) % num_classes]
    targets[: int(both * NUM_UNITS), 0] = 1
    units = [f"v-{n:03d}" for n in range(NUM_UNITS)]
    classes = [frozenset(f"c{n}" for n in np.flatnonzero(row)) for row in targets]
    rows = []
    for seed in SEEDS:
        order, num_cover = unit_order(units, classes, seed)
        of_each = {
            n: first_of_each_class(order, classes_of_units(units, classes), sorted(set[str]().union(*classes)), n)
            for n in per_class
        }
        for share in shares_of(fractions, counts, NUM_UNITS, {n: len(taken) for n, taken in of_each.items()}):
            taken = of_each[int(share.amount)] if share.kind == "per_class" else subset(order, num_cover, share)
            word = share_word(share.amount, share.kind)
            of_share = {"fraction": share.fraction(NUM_UNITS), "seed": seed, "mode": "linear", "num_train_units": len(taken)}
            of_share |= {"num_units": NUM_UNITS, "num_val": NUM_VAL, "train_ids_sha256": sha256_text(",".join(sorted(taken)))}
            for start in ("scratch-resnet18", "simclr-all-seed0"):
                arm, pretrain_seed = arm_and_seed(start)
                fit = {"fit_id": f"{start}-linear-{word}-s{seed}", "init": str(arm), "pretrain_seed": pretrain_seed}
                rows.append(fit | of_share | {"selection": "validation macro AUC"})
    return pd.DataFrame(rows)


def evidence_of(fits: pd.DataFrame) -> Evidence:
    """A task with a score per start and share, and the comparison of the two starts."""
    place = {"mode": "linear", "metric": "auc", "class": "macro", "better": "higher", "n": 80, "unit": "image"}
    more = place | {"confidence": 0.95, "num_seeds": 3, "seed_sd": 0.01, "method": "bca", "note": None, "options": {}}
    scores = [
        more | {"init": init, "fraction": share, "estimate": 0.8, "low": 0.7, "high": 0.9}
        for init in ("scratch-resnet18", "simclr-all")
        for share in sorted(set(fits["fraction"]))
    ]
    gap = {
        "a": "simclr-all",
        "b": "scratch-resnet18",
        "difference": 0.1,
        "low": 0.05,
        "high": 0.2,
        "p": 0.01,
        "p_holm": 0.02,
        "p_holm_task": 0.02,
    }
    gap |= more | {"method": "bootstrap (bca)", "effect": 0.4, "effect_name": "d_z", "seeds_above": 3}
    compared = [gap | {"fraction": share} for share in sorted(set(fits["fraction"]))]
    lost = {"score_most": 0.85, "score_fewest": 0.8, "fall": 0.05, "low": 0.01, "high": 0.09}
    lost |= {"fraction_most": max(fits["fraction"]), "fraction_fewest": min(fits["fraction"])}
    falls = [more | lost | {"init": init} for init in ("scratch-resnet18", "simclr-all")]
    tables = {"scores": scores, "comparisons": compared, "falls": falls}
    return Evidence(title="t", fits={"organs": fits}, **{name: {"organs": pd.DataFrame(rows)} for name, rows in tables.items()})


def sentences(section: Section) -> str:
    """The sentences of a section, with plain spaces."""
    parts = [Markup("{}").format(block.html).striptags() for block in section.blocks if isinstance(block, Text)]
    return " ".join(parts).replace("\u202f", " ")


def test_a_share_is_named_by_what_was_taken_where_each_class_needs_more() -> None:
    labels = labels_of(fits_of([0.05, 0.1, 0.25, 0.5, 1.0], []), UNITS)
    names = {share: share_name(share, labels).replace("\u202f", " ") for share in labels}
    assert names == {0.05: "25 % (11 images)", 0.1: "25 % (11 images)", 0.25: "25 %", 0.5: "50 %", 1.0: "100 %"}
    assert share_words(0.05, labels) == f"With 25\u202f% of the labels (11 images, {WHY})"
    assert share_phrase(0.25, labels) == "25\u202f% of the labels" and share_words(1.0, labels) == "With all labels"
    assert [share_place(share, labels) for share in labels] == [0.25, 0.25, 0.25, 0.5, 1.0]


def test_a_count_is_named_by_what_was_taken_as_well() -> None:
    labels = labels_of(fits_of([1.0], [3, 11, 20]), UNITS)
    assert [share_phrase(share, labels) for share in labels][:3] == [
        f"labels of 11 images ({WHY})",
        "labels of 11 images",
        "labels of 20 images",
    ]


def test_a_count_per_class_is_named_as_one() -> None:
    fits = fits_of([1.0], [22], per_class=(1, 3, 4))
    labels = labels_of(fits, UNITS)
    names = [share_name(share, labels).replace("\u202f", " ") for share in labels]
    assert names == ["1 image per class", "22 images", "3 images per class", "100 %"], "four of each are all"
    assert share_words(11 / NUM_UNITS, labels) == "With labels of 1 image per class"
    assert [share_place(share, labels) for share in labels] == [0.25, 0.5, 0.75, 1.0]
    said = sentences(methods(evidence_of(fits)))
    assert "labels of 1 image per class, labels of 22 images, labels of 3 images per class" in said


def test_seeds_that_took_more_or_less_are_reported_as_a_range() -> None:
    fits = fits_of([0.01, 1.0], [], num_classes=2, both=0.3)
    taken = set(fits.loc[fits["fraction"] == 0.01, "num_train_units"])
    assert taken == {1, 2}, "some images of the rarer class are of both, so that one image can be a cover"
    labels = labels_of(fits, UNITS)
    assert share_name(0.01, labels).replace("\u202f", " ") == "2 % to 5 % (1 to 2 images)"
    assert 1 / NUM_UNITS < share_place(0.01, labels) < 2 / NUM_UNITS


@pytest.mark.parametrize(
    ("dropped", "fractions", "words"),
    [
        (["num_units"], [0.05, 1.0], f"With 25\u202f% of the labels (11 images, {WHY})"),
        (["num_units"], [0.05, 0.25], "With 5\u202f% of the labels"),
        (["num_units", "num_train_units", "num_val"], [0.05, 1.0], "With 5\u202f% of the labels"),
    ],
)
def test_an_older_table_of_fits_gives_a_page(dropped: list[str], fractions: list[float], words: str) -> None:
    evidence = evidence_of(fits_of(fractions, []).drop(columns=dropped))
    assert share_words(0.05, labels_of(evidence.fits["organs"], UNITS)) == words
    for section in (answer, label_efficiency, results, paired_tests, methods):
        assert section(evidence).answered
    assert "| simclr-all |" in model_card(evidence)


def test_shares_that_are_the_same_units_are_one_point_at_their_real_place() -> None:
    section = label_efficiency(evidence_of(fits_of([0.05, 0.1, 0.25, 1.0], [])))
    figure = next(block for block in section.blocks if isinstance(block, Figure))
    places = figure.rows.groupby("init")["taken_frac"].agg(list).to_dict()
    assert places == {"scratch-resnet18": [0.25, 1.0], "simclr-all": [0.25, 1.0]}
    assert str(figure.body).count('class="dot') == 4
    told = f"5 %, 10 % and 25 % of the labels are the same 11 images, {WHY}: they are reported once."
    assert sentences(section).count("are the same 11 images") == 1 and told in sentences(section)
    falls = next(block for block in section.blocks if isinstance(block, Table))
    assert "from 100\u202f% of the labels to 25\u202f% (11 images)" in falls.caption


def test_nothing_falls_where_all_shares_are_the_same_units() -> None:
    section = label_efficiency(evidence_of(fits_of([0.5, 1.0], [], num_classes=NUM_UNITS)))
    assert not any(isinstance(block, Table) for block in section.blocks)


def test_subsets_that_differ_are_not_reported_as_equal() -> None:
    section = label_efficiency(evidence_of(fits_of([0.25, 0.5, 1.0], [])))
    figure = next(block for block in section.blocks if isinstance(block, Figure))
    assert sorted(set(figure.rows["taken_frac"])) == [0.25, 0.5, 1.0]
    assert "reported once" not in sentences(section)


@pytest.mark.parametrize("counts", [[], [3]])
def test_no_sentence_and_no_table_names_a_share_that_was_not_taken(counts: list[int]) -> None:
    evidence = evidence_of(fits_of([0.05, 0.1, 1.0], counts))
    made: list[tuple[str, Any]] = [(maker.__name__, maker(evidence)) for maker in (answer, results, paired_tests, methods)]
    for name, section in made:
        shown = [block.shown.to_string() for block in section.blocks if isinstance(block, Table)]
        text = " ".join([sentences(section), *shown]).replace("\u202f", " ")
        assert "11 images" in text and " 5 %" not in text and "10 %" not in text, name
    assert model_card(evidence).count("25\u202f% (11 images)") == 2, "a line per start"


def test_methods_say_how_many_cases_chose_the_model() -> None:
    assert "chosen by: validation macro AUC (15 validation cases)" in sentences(methods(evidence_of(fits_of([1.0], []))))


def test_scores_of_more_labels_than_were_asked_for_do_not_meet_others() -> None:
    reports = []
    for num_classes in (2, 11):
        evidence = evidence_of(fits_of([0.05, 1.0], [], num_classes=num_classes))
        reports.append({"title": "t", "sections": {"results": plain(results(evidence))}})
    assert set(score_pairs(*reports)["fraction"]) == {1.0}
    assert set(score_pairs(reports[0], reports[0])["fraction"]) == {0.05, 1.0}
