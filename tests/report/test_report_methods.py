"""The methods paragraph says what was done, by the options and the tables, and no more."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest
from made_rows import ROW, SCORED, sentences

from medssl.artefacts.encoder import Contract, KnownOf
from medssl.core import plugins
from medssl.report.evidence import Evidence
from medssl.report.model_card import model_card
from medssl.report.parts import part_of, way_of_split
from medssl.report.section import Table
from medssl.report.sections.answer import answer
from medssl.report.sections.data import data
from medssl.report.sections.flow import flow
from medssl.report.sections.leakage import leakage
from medssl.report.sections.methods import methods
from medssl.report.sections.paired_tests import paired_tests
from medssl.report.sections.pretraining import pretraining
from medssl.report.shown_study import ShownStudy

FOLDED = pd.DataFrame(
    {
        "sample_id": [f"v-{n}" for n in range(6)], "volume_id": [f"v-{n}" for n in range(6)],
        "subject_id": ["p-0", "p-0", "p-1", "p-1", "p-2", "p-2"], "split": "train", "fold": [0, 0, 1, 1, 2, 2],
        "kind": "volume", "unit": "patient", "label": ["a", "b"] * 3,
    }
)  # fmt: skip


def test_folds_stand_where_parts_do() -> None:
    """Three patients in three folds: every sentence and table of the split speaks of the folds."""
    study = {"prepare": DRAWN | {"split": {"folds": 3}}}
    series = pd.DataFrame({"modality": ["CT"], "num_files": [6], "kind": "volume", "resampled": False, "subject_id": "p-0"})
    evidence = Evidence(title="t", series={"ct": series}, samples={"ct": FOLDED}, study=study)
    parts, labels = (next(b for b in data(evidence).blocks if isinstance(b, Table) and b.name == n) for n in ("parts", "labels"))
    assert parts.rows["split"].tolist() == ["fold 0", "fold 1", "fold 2"] and parts.rows["subjects"].tolist() == [1, 1, 1]
    assert list(labels.shown) == ["Source", "Class", "fold 0", "fold 1", "fold 2"]
    drawn = str(flow(evidence).blocks[0].body)  # type: ignore[union-attr]
    assert "Cross-validation: 6 slices" in drawn and "in 3 folds, split into 3 folds by patient" in drawn.replace("</text>", " ")
    assert "fold 2: 2 slices" in drawn and "Training part" not in drawn
    text = methods(evidence).facts["text"]
    assert "ct: 3-fold cross-validation by patient; predictions pooled over folds." in text
    assert leakage(evidence).lead.startswith("No subject"), "each patient is in one fold"
    torn = FOLDED.assign(fold=[0, 1, 1, 1, 2, 2])
    assert leakage(Evidence(title="t", samples={"ct": torn})).lead.startswith("1 subjects or volumes")
    assert part_of(FOLDED.drop(columns="fold")).tolist() == ["train"] * 6


def test_the_methods_name_the_true_length_of_a_run_and_what_it_began_from() -> None:
    from medssl.report.sections.methods import _pretraining

    settled = {"objective": {"name": "local_contrast"}, "backbone": {"name": "unet"}, "epochs": 100, "batch_size": 10}
    runs = {"gd_lr": settled | {"max_steps": 300, "init_run": "gd"}, "long": settled | {"max_steps": None, "init_run": None}}
    curves = {f"ct/{name}-all-seed0": pd.DataFrame() for name in runs}
    text = _pretraining(Evidence(title="t", curves=curves, study={"pretrain": runs}))
    first, second = text.split(";")
    assert "starting from gd, 300 steps" in first and "epochs" not in first
    assert "100 epochs" in second and "starting from random weights" in second


PLAIN, SEPARATED = {"name": "simclr", "options": {}}, {"name": "sepclr", "options": {"background": "healthy"}}
GUIDED = {"name": "guided_contrast", "options": {"near_label": True, "near_records": {"age": 5}, "spurious": ["site"]}}
UNGUIDED = {"name": "guided_contrast", "options": {"near_label": False, "near_records": {}, "spurious": []}}


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ({"plain": PLAIN}, "without labels"),
        ({"plain": PLAIN, "loose": UNGUIDED}, "without labels"),
        ({"apart": SEPARATED}, "with labels or records (apart reads labels or sources (background: healthy))"),
        ({"guided": GUIDED}, "with labels or records (guided reads labels and records of age and site)"),
        (
            {"guided": GUIDED, "plain": PLAIN},
            "without labels, except in some runs (guided reads labels and records of age and site)",
        ),
    ],
)
def test_a_pretraining_that_reads_labels_or_records_is_not_called_free_of_labels(runs: dict[str, Any], words: str) -> None:
    curve = pd.DataFrame({"epoch": range(4), "step": range(4), "loss": 1.0})
    study = {"pretrain": {name: {"objective": objective} for name, objective in runs.items()}}
    evidence = Evidence(title="t", curves={f"ct/{name}-all-seed0": curve for name in runs}, study=study)
    for text in (*map(sentences, [pretraining(evidence), methods(evidence), answer(evidence)]), model_card(evidence)):
        assert words in text
        if words != "without labels":
            assert not re.search(r"without labels(?!, except)", text.replace("measured without labels", ""))


def test_the_page_counts_what_records_say_and_names_a_label_among_them() -> None:
    known = {"age": {"kind": "number", "known": 40, "missing": 2}}
    contract = Contract.model_construct(records={name: KnownOf(**values) for name, values in known.items()})
    curve = pd.DataFrame({"epoch": range(4), "step": range(4), "loss": 1.0})
    study = {"pretrain": {"guided": {"objective": GUIDED}}, "sources": {"ct": {"label_as_feature": True}}}
    run = "ct/guided-all-seed0"
    section = pretraining(Evidence(title="t", curves={run: curve}, contracts={run: contract}, study=study))
    (table,) = [block for block in section.blocks if getattr(block, "name", "") == "records"]
    assert table.rows.to_dict("records") == [{"run": run, "column": "age", **known["age"]}]
    assert "The records of source ct may give the label of a downstream task away" in sentences(section)


@pytest.mark.parametrize("name", plugins.names("objective"))
def test_every_objective_is_cited(name: str) -> None:
    study = {"pretrain": {"run": {"objective": {"name": name}, "backbone": {"name": "resnet18"}, "epochs": 1}}}
    section = methods(Evidence(title="t", curves={"ct/run-all-seed0": pd.DataFrame()}, study=study))
    assert len(section.facts["references"]) == 1
    assert f"{plugins.find('objective', name).constant('TITLE')} [1], ResNet-18, starting" in section.facts["text"]


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["bca", "bca"], "(BCa) [1]."),
        (["bca", "normal", "bca"], "in 2, normal, where the bootstrap was far off the estimate in 1 of 3 scores."),
        (["percentile"], ": percentile."),
    ],
)
def test_methods_name_the_intervals_that_were_made(kinds: list[str], words: str) -> None:
    scores = pd.DataFrame([SCORED | {"metric": "dice", "method": kind} for kind in kinds])
    text = methods(Evidence(title="t", scores={"heart": scores}, study={"evaluate": {"bootstrap": 200}})).facts["text"]
    assert words in text
    assert ("(BCa)" in text) == ("bca" in kinds)


COMPARED = ROW | {"class": "organ", "effect": 0.3, "effect_name": "d_z", "note": None}


@pytest.mark.parametrize(
    ("methods_used", "words", "silent"),
    [
        ([], [], ["bootstrapped in pairs", "Wilcoxon", "DeLong", "Holm"]),
        (["bootstrap (bca)"], ["bootstrapped in pairs", "Holm"], ["Wilcoxon", "DeLong"]),
        (["bootstrap (bca)", "delong", "wilcoxon"], ["bootstrapped in pairs", "DeLong", "Wilcoxon", "Holm"], []),
    ],
)
def test_methods_name_the_tests_that_were_made(methods_used: list[str], words: list[str], silent: list[str]) -> None:
    scores = pd.DataFrame([SCORED | {"metric": "auc", "method": "bca"}])
    compared = pd.DataFrame([COMPARED | {"method": method} for method in methods_used], columns=[*COMPARED, "method"])
    text = methods(Evidence(title="t", scores={"x": scores}, comparisons={"x": compared})).facts["text"]
    assert all(word in text for word in words) and not any(word in text for word in silent)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"holm_over": "arms"}, "over the arms compared with one reference, within a mode and share of labels"),
        ({"holm_over": "task"}, "over the arms compared with one reference, in all modes and shares of labels of a task"),
        ({}, "over the arms compared with one reference"),
    ],
)
def test_the_family_of_holms_correction_is_that_of_the_options(options: dict[str, str], words: str) -> None:
    scores = pd.DataFrame([SCORED | {"metric": "auc", "method": "bca"}])
    compared = pd.DataFrame([COMPARED | {"method": "bootstrap (bca)"}])
    evidence = Evidence(title="t", scores={"x": scores}, comparisons={"x": compared}, study={"evaluate": options})
    for text in (sentences(paired_tests(evidence)), methods(evidence).facts["text"]):
        assert re.search(re.escape(words) + r"(\.| \[)", text), text


@pytest.mark.parametrize("rule", ["validation mean Dice", "last step (no validation cases)"])
def test_methods_name_seeds_and_selection_as_the_table_of_fits_has_them(rule: str) -> None:
    fits = pd.DataFrame({"mode": "full", "fraction": 1.0, "seed": 0, "pretrain_seed": [0, 1, 2, None], "selection": rule})
    text = methods(Evidence(title="t", fits={"heart": fits})).facts["text"]
    assert f"1 fine-tuning seed on each of 3 pre-training seeds; the model was chosen by: {rule}" in text
    assert "validation part only" not in text


@pytest.mark.parametrize(
    ("inits", "fractions", "words", "subsets"),
    [
        ({"a": ["imagenet"]}, [1.0], "Each encoder was fine-tuned with one recipe", ""),
        ({"a": ["scratch-resnet18"]}, [1.0], "Networks from random weights were fine-tuned", ""),
        (
            {"a": ["imagenet", "scratch-resnet18"]},
            [0.1, 1.0],
            "Each encoder and a network of the same architecture from random",
            "nested and",
        ),
        (
            {"a": ["imagenet", "scratch-resnet18"], "b": ["imagenet"]},
            [0.1],
            "from random weights (in a) were fine-tuned",
            "drawn by unit",
        ),
    ],
)
def test_methods_name_the_starts_and_subsets_that_there_were(
    inits: dict[str, list[str]], fractions: list[float], words: str, subsets: str
) -> None:
    fits = {
        task: pd.DataFrame([{"init": name, "mode": "full", "fraction": f, "seed": 0} for name in names for f in fractions])
        for task, names in inits.items()
    }
    text = methods(Evidence(title="t", fits=fits)).facts["text"]
    assert words in text and (f"subsets were {subsets}" in text if subsets else "subsets" not in text)
    assert ("random weights" in text) == ("scratch-resnet18" in inits["a"])


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([(0, 0), (1, 1), (2, 2)], "3 fine-tuning seeds, one to each of 3 pre-training seeds"),
        ([(run, seed) for run in range(3) for seed in range(2)], "2 fine-tuning seeds on each of 3 pre-training seeds"),
        ([(0, 0), (0, 1)], "; 2 fine-tuning seeds;"),
    ],
)
def test_methods_tell_paired_seeds_from_crossed_ones(seeds: list[tuple[int, int]], words: str) -> None:
    rows = [{"init": "simclr-hash", "pretrain_seed": run, "seed": seed} for run, seed in seeds]
    rows += [{"init": "scratch-resnet18", "pretrain_seed": run, "seed": seed} for run, seed in seeds]
    fits = pd.DataFrame(rows).assign(mode="full", fraction=1.0)
    assert words in methods(Evidence(title="t", fits={"heart": fits})).facts["text"]


def test_methods_give_counts_of_labels_as_they_were_asked_for() -> None:
    fits = pd.DataFrame(
        {
            "fit_id": ["scratch-resnet18-full-n2-s0", "scratch-resnet18-full-1-s0"],
            "mode": "full",
            "fraction": [0.125, 1.0],
            "num_train_units": [2, 16],
            "seed": 0,
        }
    )
    scores = pd.DataFrame({"confidence": [0.95], "method": ["percentile"], "metric": ["dice"], "unit": ["patient"]})
    text = methods(Evidence(title="t", fits={"heart": fits}, scores={"heart": scores})).facts["text"]
    assert "labels of 2 patients, 100 % of the labels" in text.replace("\N{NARROW NO-BREAK SPACE}", " ") and "12.5" not in text


def test_methods_say_what_surface_scores_mean_and_what_the_network_sees() -> None:
    scores = pd.DataFrame([SCORED | {"metric": metric, "method": "bca"} for metric in ("dice", "hd95", "nsd")])
    prepare = {"window_hu": [[-1000.0, 400.0]], "percentiles": [0.5, 99.5], "spacing_mm": None}
    study = {"prepare": prepare, "sources": {"heart": {"prepare": {"spacing_mm": [2.0, 2.0, None]}}, "ct": {}}}
    scores["options"] = [{}, {"percentile": 95.0}, {"tolerance_mm": 3.0}]
    series = {"heart": pd.DataFrame({"modality": ["MR"]}), "ct": pd.DataFrame({"modality": ["CT"]})}
    text = methods(Evidence(title="t", scores={"heart": scores}, series=series, study=study)).facts["text"]
    assert "95th percentiles" in text and "within 3 mm" in text
    assert "CT to -1000 to 400 HU; MR to the 0.5 to 99.5 percentiles" in text
    assert "heart to 2 × 2 × unchanged mm" in text
    assert "pictures" not in text


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"resampled": [False, False]}, "reoriented to RAS+ without interpolation. "),
        ({"resampled": [True, False]}, "to RAS+, without interpolation but for 1 of 2 volumes or image sets, whose tilted or"),
        ({}, "reoriented to RAS+. "),
    ],
)
def test_methods_say_of_interpolation_what_the_tables_of_ingest_say(columns: dict[str, list[bool]], words: str) -> None:
    series = pd.DataFrame({"modality": ["CT", "CT"], "kind": "volume"} | columns)
    assert words in methods(Evidence(title="t", series={"ct": series})).facts["text"]


@pytest.mark.parametrize(
    ("orders", "words"),
    [
        ({"a": "listed"}, "subsets were nested and taken in the order of the split file"),
        ({"a": "drawn", "b": "listed"}, "drawn by unit and class, or taken in the order of the split file (b)"),
    ],
)
def test_methods_say_whose_labels_were_taken_in_a_listed_order(orders: dict[str, str], words: str) -> None:
    fits = pd.DataFrame([{"init": "imagenet", "mode": "full", "fraction": f, "seed": 0} for f in (0.1, 0.5)])
    study = {"finetune": {task: {"label_order": order} for task, order in orders.items()}}
    text = methods(Evidence(title="t", fits=dict.fromkeys(orders, fits), study=study)).facts["text"]
    assert words in text


DRAWN = {
    "window_hu": [[-1000.0, 1000.0]],
    "percentiles": [0.5, 99.5],
    "spacing_mm": None,
    "split": {"val_frac": 0.1, "file": None},
}


LISTED = {"split": {"file": "split.tsv"}}


@pytest.mark.parametrize(
    ("kind", "unit", "study", "words"),
    [
        ("volume", "patient", {"prepare": DRAWN}, "by patient"),
        ("images", "image", {"prepare": DRAWN}, "as the source names parts, else by image"),
        ("images", "image", {"prepare": DRAWN | LISTED}, "by a given list"),
        ("volume", "patient", {"prepare": DRAWN, "sources": {"ct": {"prepare": LISTED}}}, "by a given list"),
        ("volume", "patient", {}, ""),
    ],
)
def test_the_known_facts_of_the_parts_are_stated(kind: str, unit: str, study: dict[str, dict], words: str) -> None:
    samples = pd.DataFrame({"sample_id": ["a", "b"], "split": ["train", "test"], "kind": kind, "unit": unit})
    assert way_of_split("ct", samples, ShownStudy.model_validate(study)) == words
    assert way_of_split("ct", samples.assign(split="train"), ShownStudy.model_validate(study)) == "", "nothing was held out"
    series = pd.DataFrame({"modality": ["CT"], "num_files": [2], "kind": kind})
    evidence = Evidence(title="t", series={"ct": series}, samples={"ct": samples}, study=study)
    drawn = str(flow(evidence).blocks[0].body)  # type: ignore[union-attr]
    text = methods(evidence).facts["text"]
    assert (", split" in drawn) == bool(words) and "by patient where" not in text
    assert f"test parts: ct {words}." in text if words else "test parts" not in text


def test_methods_claim_no_more_of_claim_than_the_page_answers() -> None:
    series = {"ct": pd.DataFrame({"modality": ["CT"]})}
    alone = methods(Evidence(title="t", series=series)).facts["text"]
    assert "CLAIM" not in alone
    on_page = methods(Evidence(title="t", series=series, on_page=frozenset({"data"}))).facts["text"]
    assert "answers 2 of 44 CLAIM items [1]; the others name who must answer." in on_page
