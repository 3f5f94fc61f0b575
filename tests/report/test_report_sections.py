"""Sections say no more than their tables: words follow numbers, flows add up, pictures are picked by rule."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup
from PIL import Image

from medssl.core import plugins
from medssl.report.chart import Axis, Line, axis, category_axis, line_chart
from medssl.report.checklist_items import AUTHORS, CLAIM, CLINICIANS, DATA_HOLDER, MI_CLAIM, TRIPOD
from medssl.report.evidence import Evidence, arm_of_run, stage_and_name, tones
from medssl.report.flow_chart import LINE_LETTERS, Step, flow_chart
from medssl.report.model_card import model_card
from medssl.report.pictures import chosen_slices, picture, to_gray
from medssl.report.run import _spread, _with_given_masks
from medssl.report.section import Figure, Section, Table, Text, count, counted, duration, number, p_value, percent, span
from medssl.report.sections.answer import alike, answer, claim, claim_together, detail, detail_together, verdict_of, with_limits
from medssl.report.sections.checklists import _row
from medssl.report.sections.compute import compute, cost_of_arms
from medssl.report.sections.data import data
from medssl.report.sections.failures import failures
from medssl.report.sections.flow import flow
from medssl.report.sections.label_efficiency import label_efficiency
from medssl.report.sections.leakage import leakage
from medssl.report.sections.methods import methods
from medssl.report.sections.paired_tests import paired_tests
from medssl.report.sections.pretraining import pretraining
from medssl.report.sections.provenance import provenance
from medssl.report.sections.results import results
from medssl.report.shares import labels_of, ordered_shares, share_name, share_phrase, share_words
from medssl.report.words import (
    WITH_OPTIONS,
    headline,
    metric_name,
    name_in,
    way_of_split,
)

ROW = {
    "a": "simclr-hash", "b": "scratch", "mode": "full", "fraction": 0.05, "metric": "auc", "class": "macro", "better": "higher",
    "difference": 0.03, "low": 0.01, "high": 0.05, "p": 0.004, "p_holm": 0.008, "n": 80, "unit": "image", "confidence": 0.95,
    "num_seeds": 3, "seeds_above": 3,
}  # fmt: skip


def sentences(section: Section) -> str:
    """The sentences of a section."""
    return " ".join([section.lead, *(Markup("{}").format(b.html).striptags() for b in section.blocks if isinstance(b, Text))])


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


def test_what_bounds_a_comparison_is_told_of_each_group() -> None:
    rows = [ROW | {"a": f"arm{n}", "fits_a": 1 + n % 2, "fits_b": 3} for n in range(6)]
    groups = alike(pd.DataFrame(rows))
    assert [len(group) for group in groups] == [3, 3]
    told = [Markup(claim_together(group)).striptags() for group in groups]
    assert any(
        "with one fit of the first, in 3 comparisons with training from scratch the first did better" in one for one in told
    )
    assert any("the first was better: arm1; arm3; arm5." in one for one in told)


def test_the_fits_behind_a_claim_are_those_of_the_scores() -> None:
    scores = pd.DataFrame([ROW | {"init": "simclr-hash", "num_seeds": 9}, ROW | {"init": "scratch", "num_seeds": 1}])
    fits = pd.DataFrame({"fit_id": ["scratch-full-n3-s0"], "fraction": 0.05, "num_train_units": 3})
    row = with_limits(pd.DataFrame([ROW]), scores, labels_of(fits, scores)).iloc[0]
    assert (row["fits_a"], row["fits_b"], row["labels"]) == (9, 1, "With labels of 3 images")


def test_the_note_of_a_row_stands_in_its_detail() -> None:
    scores = pd.DataFrame([{**ROW, "init": arm, "estimate": 0.9} for arm in ("simclr-hash", "scratch")])
    note = "n below 50: the interval may be too narrow; left out: 2 of 8 cases, undefined in the first (2) or second (0)"
    said = detail(ROW | {"note": note}, scores)
    assert "seeds. Note: n below 50: the interval may be too narrow; left out: 2 of 8 cases" in said
    together = detail_together(pd.DataFrame([ROW | {"note": note}] * 2))
    assert together.endswith("below. Note: n below 50: the interval may be too narrow.")


def test_a_score_is_named_with_the_option_that_it_depends_on() -> None:
    assert metric_name("nsd", '{"tolerance_mm":2.0}') == "NSD at 2 mm"
    assert metric_name("sensitivity_at_specificity", '{"specificity":0.9}') == "Sensitivity at specificity 0.9"
    assert metric_name("hd95", '{"percentile":95.0}') == "HD95 (mm)"
    assert metric_name("dice", "{}") == metric_name("dice") == "Dice"
    for name in plugins.names("metric"):
        options = plugins.find("metric", name).check({})
        assert metric_name(name, json.dumps(options)), name
        assert bool(options) == (name in WITH_OPTIONS), f"{name}: an option that its name does not say"
    table = pd.DataFrame({"metric": ["dice", "nsd"], "options": ["{}", '{"tolerance_mm":1.5}']})
    assert name_in(table, "nsd") == "NSD at 1.5 mm"


def test_counts_that_were_asked_for_are_told_as_counts() -> None:
    names = ["scratch-full-n1-s0", "scratch-full-n3-s0", "scratch-full-n3-s1", "scratch-full-0p5-s0", "scratch-full-n90-s0"]
    fits = pd.DataFrame({"fit_id": names, "fraction": [1 / 28, 3 / 28, 3 / 28, 0.5, 1.0], "num_train_units": [1, 3, 4, 14, 28]})
    labels = labels_of(fits, pd.DataFrame({"unit": ["patient"]}))
    assert share_name(1 / 28, labels) == "1 patient"
    assert share_phrase(3 / 28, labels) == "labels of 3 to 4 patients (so that each class has one)"
    assert share_words(1 / 28, labels) == "With labels of 1 patient"
    assert share_phrase(0.5, labels) == "50\u202f% of the labels"
    assert share_words(1.0, labels) == "With all labels"
    assert labels_of(None, None) == {}


@pytest.mark.parametrize("mode", ["full", "gradual", "linear", "knn", "decoder"])
def test_a_frozen_random_encoder_is_not_called_training_from_scratch(mode: str) -> None:
    words = Markup(claim(ROW | {"mode": mode})).striptags()
    assert ("training from scratch" in words) == (mode in ("full", "gradual"))
    assert ("random weights, also frozen" in words) == (mode in ("linear", "knn", "decoder"))


def test_the_numbers_stand_below_the_claim() -> None:
    scores = pd.DataFrame([{**ROW, "init": arm, "estimate": value} for arm, value in (("simclr-hash", 0.91), ("scratch", 0.88))])
    interval = "95\u202f% interval +0.010 to +0.050, p = 0.008"
    assert detail(ROW, scores) == f"AUC 0.910 against 0.880: +0.030 ({interval}), larger in 3 of 3 seeds."


def test_many_comparisons_are_told_by_what_came_out() -> None:
    rows = [ROW | {"a": f"arm{n}", "difference": 0.03 + n / 1000} for n in range(9)]
    rows += [ROW | {"a": f"arm{n}", "low": -0.01} for n in range(9, 12)]
    rows += [ROW | {"a": "arm1", "b": "arm0"}, ROW | {"a": "arm2", "b": "arm0", "fraction": 1.0}]
    groups = alike(pd.DataFrame(rows))
    assert [len(group) for group in groups] == [9, 3, 1, 1], "scratch first, then by share of labels"
    assert sum(len(group) for group in groups) == len(rows)
    better, unclear = (Markup(claim_together(group)).striptags() for group in groups[:2])
    assert "in 9 comparisons with training from scratch the first was better: arm0; arm1;" in better
    assert "3 comparisons with training from scratch show no clear difference: arm9; arm10; arm11." in unclear
    assert detail_together(groups[0]).startswith("AUC differences +0.030 to +0.038;")
    assert "<b>" not in claim_together(pd.DataFrame([ROW | {"a": "<b>arm</b>"}, ROW]))


def test_names_cannot_break_out_of_a_claim() -> None:
    assert "<b>" not in claim(ROW | {"a": "<b>arm</b>"})


@pytest.mark.parametrize("name", plugins.names("section"))
def test_every_section_can_speak_of_nothing(name: str) -> None:
    section = plugins.find("section", name).load()(Evidence(title="empty"))
    assert section.title
    assert section.lead
    if not section.answered:
        assert not section.blocks


def test_sections_have_distinct_places() -> None:
    places = [plugins.find("section", name).load().__globals__["PLACE"] for name in plugins.names("section")]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(("items", "length"), [(CLAIM, 44), (TRIPOD, 27), (MI_CLAIM, 6)])
def test_every_checklist_item_has_an_owner_and_known_evidence(items: tuple, length: int) -> None:
    assert [item.number for item in items] == [str(n + 1) for n in range(length)]
    evidence = Evidence(title="t")
    for item in items:
        assert item.owner
        assert bool(item.section) == bool(item.needs)
        if item.section:
            assert item.section in plugins.names("section")
            assert hasattr(evidence, item.needs)


@pytest.mark.parametrize(
    ("label", "mask", "labelled"), [(None, None, 0.0), ("covid", None, 1.0), (None, "arrays/v-1-mask.npy", 0.5)]
)
def test_a_class_or_a_mask_makes_a_slice_labelled(label: str | None, mask: str | None, labelled: float) -> None:
    samples = pd.DataFrame({"volume_id": ["v-1", "v-1", "v-2", "v-2"], "subject_id": None, "split": "train"})
    samples = samples.assign(label=pd.Series([label] * 4, dtype=object))
    volumes = pd.DataFrame({"volume_id": ["v-1", "v-2"], "mask": pd.Series([mask, None], dtype=object)})
    series = pd.DataFrame({"volume_id": ["v-1", "v-2"], "modality": "MR"})
    evidence = Evidence(title="t", series={"heart": series}, samples={"heart": samples}, volumes={"heart": volumes})
    tables = {block.name: block.rows for block in data(evidence).blocks if isinstance(block, Table)}
    assert tables["sources"]["labelled"].tolist() == [labelled]
    row = tables["parts"].iloc[0]
    assert (row["volumes"], row["slices"], row["with_class"], row["with_mask"]) == (2, 4, 4 if label else 0, 2 if mask else 0)


def test_masks_of_a_label_file_count_and_those_with_the_images_stay() -> None:
    volumes = pd.DataFrame({"volume_id": ["v-1", "v-2", "v-3"], "mask": pd.Series(["own.npy", None, None], dtype=object)})
    given = pd.DataFrame({"volume_id": ["v-1", "v-2"], "index": None, "label": None, "mask": ["a.npy", "b.npy"]})
    masks = _with_given_masks(volumes, given)["mask"]
    assert masks.iloc[:2].tolist() == ["own.npy", "b.npy"] and masks.isna().tolist() == [False, False, True]
    assert _with_given_masks(volumes, given.drop(columns="mask")) is volumes


def source(files: list[int], refused: list[tuple[str, int]]) -> Evidence:
    series = pd.DataFrame({"num_files": files, "subject_id": [f"p-{i}" for i in range(len(files))], "kind": "volume"})
    rejected = pd.DataFrame(refused, columns=["code", "num_files"]).assign(sentence="why", item_id="x")
    return Evidence(title="t", series={"ct": series}, rejected={"ct": rejected})


def test_the_flow_counts_every_file_once() -> None:
    section = flow(source([20, 30], [("truncated", 3), ("localizer", 2), ("truncated", 1)]))
    rows = section.blocks[0].rows.set_index(["step", "what"])["count"]  # type: ignore[union-attr]
    assert rows["found", "files"] == 56
    assert rows["refused", "all"] == 6
    assert rows["refused", "truncated"] == 4
    assert rows["accepted", "volumes"] == 2


def test_many_refusal_codes_are_summed_up_in_the_picture_and_listed_in_the_table() -> None:
    section = flow(source([5], [(f"code{i}", 1) for i in range(9)]))
    assert "and 4 more reasons" in str(section.blocks[0].body)  # type: ignore[union-attr]
    assert len(section.blocks[1].rows) == 9  # type: ignore[union-attr]


def test_a_subject_in_two_splits_is_reported() -> None:
    samples = pd.DataFrame(
        {"subject_id": ["p-1", "p-1"], "volume_id": ["v-1", "v-2"], "split": ["train", "test"], "kind": "volume"}
    )
    assert "1 subjects or volumes are in two splits" in leakage(Evidence(title="t", samples={"ct": samples})).lead


def test_leaks_are_counted_by_cohort_and_by_arm_where_arms_differ() -> None:
    samples = pd.DataFrame({"subject_id": ["p"], "volume_id": ["v"], "split": ["train"], "kind": ["volume"]})
    reasons = {"pool/all": ["leak", "kept", "leak"], "pool/hash": ["leak", "duplicate", "leak"], "ct/all": ["kept"] * 3}
    reasons["ct/hash"] = ["leak", "kept", "kept"]
    keeps = {name: pd.DataFrame({"reason": values}) for name, values in reasons.items()}
    section = leakage(Evidence(title="t", samples={"chest": samples, "heart": samples}, keeps=keeps))
    table = next(block for block in section.blocks if isinstance(block, Table) and block.name == "leak-drops")
    assert table.shown.to_numpy().tolist() == [["ct", "all", "0"], ["ct", "hash", "1"], ["pool", "all, hash", "2"]]
    assert "n/a" not in table.shown.to_numpy().ravel()


def test_pictures_of_what_the_firewall_found_and_of_the_nearest() -> None:
    near = {"query_id": "v-a-0", "pool_id": "v-b-1", "how": "nearest", "score": 0.71}
    gone = {"query_id": "v-a-0", "pool_id": "v-not-pictured", "how": "slice", "score": 0.95}
    leak = {"same": 0.88, "pairs": [gone], "nearest": [near]}
    planes = {name: np.zeros((8, 8), np.uint8) for name in ("v-a-0", "v-b-1")}
    samples = pd.DataFrame(
        {"sample_id": ["v-a-0"], "volume_id": ["v-a"], "subject_id": ["p"], "split": ["test"], "kind": ["volume"]}
    )
    section = leakage(Evidence(title="t", samples={"ct": samples}, leaks={"ct/leakage": leak}, planes=planes))
    figures = [block for block in section.blocks if isinstance(block, Figure)]
    assert [figure.name for figure in figures] == ["leakage-nearest"]
    assert figures[0].body.count("<img") == 2 and "likeness 0.71" in figures[0].body and "0.88" in figures[0].caption


def keep_table(num: int = 100) -> pd.DataFrame:
    kept = np.arange(num) % 2 == 0
    names = [f"v-1-{i:04d}" for i in range(num)]
    twins = [None if k else names[i - 1] for i, k in enumerate(kept)]
    distance = np.where(kept, 0, np.arange(num)).astype(np.float32)
    return pd.DataFrame({"sample_id": names, "keep": kept, "reason": "duplicate", "twin": twins, "distance": distance})


def test_contact_sheets_step_evenly_from_the_nearest_to_the_farthest_pair() -> None:
    chosen = chosen_slices(keep_table())
    assert len(chosen) == 18
    assert not chosen["keep"].any()
    assert chosen["distance"].is_monotonic_increasing
    assert chosen["distance"].iloc[0] == 1
    assert chosen["distance"].iloc[-1] == 99
    pd.testing.assert_frame_equal(chosen, chosen_slices(keep_table().sample(frac=1, random_state=3)))


def test_volume_planes_are_shown_as_radiologists_look() -> None:
    plane = np.zeros((4, 6))
    plane[3, 5] = 100  # the patient's right, front
    assert to_gray(plane, 0, 100, is_volume=True)[0, 0] == 255
    assert to_gray(plane, 0, 100, is_volume=False)[5, 3] == 255
    assert to_gray(plane, 0, 100, is_volume=True).shape == (6, 4)


def test_a_window_clips() -> None:
    gray = to_gray(np.array([[-2000.0, 0.0, 3000.0]]), -1000, 1000, is_volume=False)
    assert gray.ravel().tolist() == [0, 128, 255]


def test_pictures_are_small_and_inside() -> None:
    html = picture(np.zeros((500, 400), np.uint8), "a <slice>")
    assert 'width="106"' in html
    assert "a &lt;slice&gt;" in html
    assert "data:image/jpeg;base64," in html


@pytest.mark.parametrize("values", [[0.1, 0.9], [-3.2, 4.4], [1e-5, 3e-5], [5.0, 5.0], [0.0, 0.0], [np.nan, 1.0], []])
def test_axes_hold_their_values_with_few_round_ticks(values: list[float]) -> None:
    made = axis("x", values)
    known = [v for v in values if np.isfinite(v)]
    assert all(made.low <= v <= made.high for v in known)
    assert 2 <= len(made.ticks) <= 10
    for value, text in made.ticks:
        assert float(text.replace("−", "-")) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 7.0], [1.0, 240.0], [3.0, 3.0]])
def test_what_is_counted_has_whole_ticks(values: list[float]) -> None:
    made = axis("epoch", values, num_ticks=4, whole=True)
    assert len(made.ticks) >= 2 and all(text == f"{value:g}" == f"{int(value)}" for value, text in made.ticks)


def test_long_ticks_have_room_beside_the_label() -> None:
    for low, high in ((0.0, 1.0), (0.023051, 0.023252)):
        drawn = str(line_chart([Line("a", "tone1", ((0, low), (1, high)))], axis("x", [0, 1]), axis("y", [low, high]), alt="a"))
        ticks = re.findall(r'<text class="tick" x="([\d.]+)" y="[\d.]+" text-anchor="end">([^<]*)<', drawn)
        assert all(float(right) - 7 * len(text) > 21 for right, text in ticks), "beside the upright label"


def test_a_log_axis_spaces_by_ratio() -> None:
    made = category_axis("labels", [0.01, 0.1, 1.0], ["1", "10", "100"], log=True)
    first, second, third = (made.place(v) for v in (0.01, 0.1, 1.0))
    assert second - first == pytest.approx(third - second)


def test_chart_texts_are_escaped() -> None:
    x = Axis("<x>", 0, 1, ((0, "<0>"),))
    assert "<x>" not in line_chart([], x, x, alt='"><script>')
    assert "<script>" not in line_chart([], x, x, alt='"><script>')


def test_names_are_read_off_folders() -> None:
    assert stage_and_name(PurePath("r/s/3_reduce/ct/hash/keep.parquet")) == ("reduce", "ct/hash")
    assert stage_and_name(Path("/x/1_ingest/ct/receipt.json")) == ("ingest", "ct")
    assert arm_of_run("ct/simclr-hash-seed0") == "ct/hash"
    assert arm_of_run("ct/simclr-random_n-seed12") == "ct/random_n"


def test_scratch_is_grey_and_arms_keep_their_colour() -> None:
    colour = tones(["simclr-hash", "scratch", "simclr-all"])
    assert colour == {"scratch": "ref", "simclr-all": "c0", "simclr-hash": "c1"}
    assert tones(["mae-all", "scratch", "scratch-vit-1"]) == {"scratch": "ref", "scratch-vit-1": "ref", "mae-all": "c0"}


def test_the_headline_is_dice_or_auc_over_classes() -> None:
    table = pd.DataFrame({"metric": ["accuracy", "auc", "auc", "auc"], "class": ["all", "liver", "lung", "macro"]})
    assert headline(table) == ("auc", "macro")
    assert headline(pd.DataFrame({"metric": ["auc", "brier"], "class": ["covid", "all"]})) == ("auc", "covid")
    assert headline(pd.DataFrame({"metric": ["dice", "iou"], "class": ["organ", "organ"]})) == ("dice", "organ")
    assert headline(pd.DataFrame({"metric": ["f1", "f1"], "class": ["covid", "macro"]})) == ("f1", "covid")


def test_percents_say_the_number() -> None:
    space = "\u202f"
    written = {
        0.0: "0", 1.0: "100", 0.05: "5", 0.254: "25", 0.01: "1", 0.0099: "1.0", 0.006: "0.6", 0.001: "0.1", 0.0004: "0.04",
        -0.25: "−25", -0.004: "−0.4", 1.5: "150",
    }  # fmt: skip
    assert {value: percent(value) for value in written} == {value: f"{text}{space}%" for value, text in written.items()}
    assert percent(0.12345, 1) == f"12.3{space}%" and percent(0.0004, 1) == f"0.0{space}%"
    assert percent(None) == percent(float("nan")) == "n/a"


def test_numbers_are_written_for_people() -> None:
    assert number(-0.0004) == "0.000"
    assert number(-0.01, sign=True) == "−0.010"
    assert number(None) == number(float("nan")) == "n/a"
    assert count(1234567) == "1\u202f234\u202f567"
    assert counted(1, "file") == "1 file"
    assert counted(23, "file") == "23 files"
    assert percent(0.05) == "5\u202f%"
    assert percent(0.004) == "0.4\u202f%"
    assert p_value(0.0002) == "< 0.001"
    assert span(0.1, float("nan")) == "n/a"
    assert [duration(s) for s in (3.21, 42, 89, 200, 5390, 9000)] == ["3.2 s", "42 s", "89 s", "3.3 min", "89.8 min", "2.5 h"]
    assert ordered_shares(pd.Series([1.0, 0.05, 20, 5])) == [5, 20, 0.05, 1.0]
    assert share_words(1.0) == "With all labels"
    assert share_words(20) == "With 20 labelled cases"


def test_the_page_names_the_commands_days_and_energy_of_its_receipts() -> None:
    receipt = {"environment": {}, "outputs": {}, "inputs": {}, "wall_s": 10.0, "threads": 2}
    receipts = {
        "ingest/ct": receipt | {"command": "snakemake --cores 2 pretrain_ct", "date": "2026-01-30", "energy_j": {"cpu0": 3600.0}},
        "prepare/ct": receipt | {"command": "snakemake --cores 4 report", "date": "2026-02-01", "energy_j": {"cpu0": 1800.0}},
        "reduce/ct/hash": receipt | {"command": None, "energy_j": {}},
    }
    told = " ".join(
        str(block.html) for block in provenance(Evidence(title="t", receipts=receipts)).blocks if isinstance(block, Text)
    )
    assert "snakemake --cores 2 pretrain_ct" in told and "snakemake --cores 4 report" in told
    assert "from 2026-01-30 to 2026-02-01" in told
    assert "the command" not in told.lower()
    section = compute(Evidence(title="t", receipts=receipts))
    assert section.facts["energy_wh"] == 1.5 and section.facts["energy_of_jobs"] == 2
    assert "1.5 Wh in 2 jobs" in " ".join(str(block.html) for block in section.blocks if isinstance(block, Text))
    silent = compute(Evidence(title="t", receipts={"ingest/ct": receipt}))
    assert "no counter was readable" in " ".join(str(block.html) for block in silent.blocks if isinstance(block, Text))


def test_provenance_prints_what_it_does_not_know_as_not_given() -> None:
    receipts = {
        "ingest/ct": {"code": "c0de"},
        "pretrain/ct/a-all-seed0": {"code": "aaaa"},
        "pretrain/ct/a-all-seed1": {"code": "bbbb"},
    }
    section = provenance(Evidence(title="t", receipts=receipts))
    told = " ".join(str(block.html) for block in section.blocks if isinstance(block, Text))
    assert "snakemake" not in told and "repeats the study: not given" in told
    origin = next(block for block in section.blocks if isinstance(block, Table) and block.name == "origin").rows
    values = dict(zip(origin["what"], origin["value"], strict=True))
    assert values["Code of pretrain (hash)"] == "aaaa, bbbb" and values["Code of ingest (hash)"] == "c0de"
    assert sum(value == "not given" for value in values.values()) == 3


def test_provenance_names_every_commit_lock_and_package_that_jobs_ran_with() -> None:
    clean = {"commit": "a" * 40, "dirty": False, "lock_sha256": "1" * 64, "lock_differs": {}}
    changed = clean | {"dirty": True, "lock_differs": {"torch": "2.14.0"}}
    told = {}
    for name, origins in {"one": [clean, clean], "several": [clean, changed, None]}.items():
        receipts = {f"ingest/{place}": {"origin": origin} for place, origin in enumerate(origins)}
        section = provenance(Evidence(title="t", receipts=receipts))
        rows = next(block for block in section.blocks if isinstance(block, Table) and block.name == "origin").rows
        told[name] = list(rows["value"])[:3]
    assert told["one"] == ["a" * 40 + " (no file differed)", "1" * 64, "none"]
    commits, lock, differing = told["several"]
    assert commits.count("a" * 40) == 2 and "files differed" in commits and "not given: 1 job" in commits
    assert lock == f"{'1' * 64}: 2 jobs; not given: 1 job" and differing == "torch 2.14.0"


EVERYTHING = {field.name: {"x": 1} for field in dataclasses.fields(Evidence) if field.name not in ("title", "on_page")}


@pytest.mark.parametrize(
    ("on_page", "read", "num_answered"),
    [
        (plugins.names("section"), EVERYTHING, 23),
        (plugins.names("section"), {}, 0),
        ([], EVERYTHING, 0),
        (["flow", "answer"], EVERYTHING, 4),
    ],
)
def test_an_item_is_answered_only_by_a_section_of_the_page_that_was_given(
    on_page: list[str], read: dict[str, dict[str, int]], num_answered: int
) -> None:
    evidence = Evidence(title="t", on_page=frozenset(on_page), **read)  # type: ignore[arg-type]
    rows = [_row(evidence, item) for item in CLAIM]
    answered = [row for row in rows if row["state"] == "answered"]
    owned = [row for row in rows if row["state"] == "owner"]
    assert all(row["where"].startswith("#") and row["where"][1:] in on_page for row in answered)
    assert all(row["where"] in (AUTHORS, CLINICIANS, DATA_HOLDER) for row in owned)
    assert (len(answered), len(owned)) == (num_answered, 44 - num_answered)


def test_the_methods_name_the_true_length_of_a_run_and_what_it_began_from() -> None:
    from types import SimpleNamespace

    from medssl.report.sections.methods import _pretraining

    settled = {"objective": {"name": "local_contrast"}, "backbone": {"name": "unet"}, "epochs": 100, "batch_size": 10}
    runs = {"gd_lr": settled | {"max_steps": 300, "init_run": "gd"}, "long": settled | {"max_steps": None, "init_run": None}}
    text = _pretraining(SimpleNamespace(curves={"a": None, "b": None}, study={"pretrain": runs}))  # type: ignore[arg-type]
    first, second = text.split(";")
    assert "begun from gd, 300 steps" in first and "epochs" not in first
    assert "100 epochs" in second and "begun from random weights" in second


def test_a_pretraining_that_is_told_the_background_is_not_called_free_of_labels() -> None:
    curve = pd.DataFrame({"epoch": range(4), "step": range(4), "loss": 1.0})
    sepclr = {"objective": {"name": "sepclr", "options": {"background": "healthy"}}}
    for recipe, words in (("apart", "told by label or source: apart, background healthy)"), ("plain", "")):
        study = {"pretrain": {"apart": sepclr, "plain": {"objective": {"name": "simclr", "options": {}}}}}
        evidence = Evidence(title="t", curves={f"ct/{recipe}-all-seed0": curve}, study=study)
        sections = [pretraining(evidence), methods(evidence), answer(evidence)]
        for text in (*map(sentences, sections), model_card(evidence)):
            assert re.search("without labels|No labels|Labels played no part", text)
            assert words in text and ("told by label" in text) == bool(words)


@pytest.mark.parametrize("name", plugins.names("objective"))
def test_every_objective_is_cited(name: str) -> None:
    study = {"pretrain": {"run": {"objective": {"name": name}, "backbone": {"name": "resnet18"}, "epochs": 1}}}
    section = methods(Evidence(title="t", curves={"ct/run-all-seed0": pd.DataFrame()}, study=study))
    assert len(section.facts["references"]) == 1
    assert f"{name} [1]" in section.facts["text"]


SCORED = {"init": "a", "mode": "full", "fraction": 1.0, "class": "organ", "confidence": 0.95, "estimate": 0.9}


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
        ({"a": ["scratch"]}, [1.0], "Networks from random weights were fine-tuned", ""),
        (
            {"a": ["imagenet", "scratch"]},
            [0.1, 1.0],
            "Each encoder and a network of the same architecture from random",
            "nested and",
        ),
        ({"a": ["imagenet", "scratch"], "b": ["imagenet"]}, [0.1], "from random weights (in a) were fine-tuned", "drawn by unit"),
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
    assert ("random weights" in text) == ("scratch" in inits["a"])


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
    rows += [{"init": "scratch", "pretrain_seed": run, "seed": seed} for run, seed in seeds]
    fits = pd.DataFrame(rows).assign(mode="full", fraction=1.0)
    assert words in methods(Evidence(title="t", fits={"heart": fits})).facts["text"]


def test_methods_give_counts_of_labels_as_they_were_asked_for() -> None:
    fits = pd.DataFrame(
        {
            "fit_id": ["scratch-full-n2-s0", "scratch-full-f1-s0"],
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
    study["evaluate"] = {"metrics": [{"name": "nsd", "options": {"tolerance_mm": 3.0}}]}
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
def test_of_the_parts_is_said_what_is_known(kind: str, unit: str, study: dict[str, dict], words: str) -> None:
    samples = pd.DataFrame({"sample_id": ["a", "b"], "split": ["train", "test"], "kind": kind, "unit": unit})
    assert way_of_split("ct", samples, study) == words
    assert way_of_split("ct", samples.assign(split="train"), study) == "", "nothing was held out"
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


def test_a_box_of_the_flow_breaks_what_is_longer_than_a_line() -> None:
    words = " ".join(f"run-{number}" for number in range(30))
    picture = str(flow_chart([Step("Kept", (words,), "Dropped", (words,))], alt="flow"))
    lines = re.findall(r'class="box-line"[^>]*>([^<]*)<', picture)
    assert max(map(len, lines)) <= LINE_LETTERS
    assert " ".join(lines).split() == [*words.split(), *words.split()]


@pytest.mark.parametrize(("epochs", "along"), [(1, "step"), (2, "step"), (3, "epoch")])
def test_a_run_of_few_epochs_has_its_loss_drawn_by_step(epochs: int, along: str) -> None:
    steps = np.arange(1, 13)
    curve = pd.DataFrame({"epoch": (steps - 1) * epochs // 12, "step": steps, "loss": 1.0 / steps, "lr": 0.1})
    section = pretraining(Evidence(title="t", curves={"pool/simclr-all-seed0": curve}))
    loss = next(block for block in section.blocks if isinstance(block, Figure) and block.name == "loss")
    assert len(loss.rows) == (12 if along == "step" else epochs)
    assert f"by {along}" in loss.caption and f", {along} " in str(loss.body)
    ends = next(block for block in section.blocks if isinstance(block, Table) and block.name == "runs").rows.iloc[0]
    assert (ends["first_loss"], ends["last_loss"]) == (loss.rows["loss"].iloc[0], loss.rows["loss"].iloc[-1])


def png_of(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 4)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_all_that_a_run_logs_is_drawn_and_every_recipe_shows_its_views_once() -> None:
    curve = pd.DataFrame({"epoch": range(4), "step": range(4), "loss": 1.0, "images_per_s": 9.0, "rankme": 3.0})
    curves = {
        "pool/simclr-all-seed0": curve.assign(grad_norm=1.5),
        "pool/swav-all-seed0": curve.assign(prototype_usage=[0.5, 0.6, 0.7, 0.8], knn_volume=float("nan")),
    }
    png, other = png_of(4), png_of(5)
    views = {f"pool/{name}-{arm}-seed{seed}": png for name in ("simclr", "moco") for arm in ("all", "hash") for seed in (0, 1)}
    views["pool/swav-all-seed0"] = other
    section = pretraining(Evidence(title="t", curves=curves, views=views))
    figures = {block.name: block for block in section.blocks if isinstance(block, Figure)}
    assert set(figures["health"].rows) == {"run", "epoch", "step", "rankme"}
    logged = figures["logged"].rows
    assert set(logged) == {"run", "epoch", "step", "grad_norm", "prototype_usage"}
    assert logged["prototype_usage"].dropna().tolist() == [0.5, 0.6, 0.7, 0.8]
    assert [name for name in figures if name.startswith("views")] == ["views-pool-moco-all-seed0", "views-pool-swav-all-seed0"]


def test_what_was_told_of_hidden_patches_is_shown_over_the_epochs() -> None:
    curve = pd.DataFrame({"epoch": range(9), "step": range(9), "loss": 1.0})
    curves = {"pool/spark-all-seed0": curve, "pool/spark-all-seed1": curve}
    pictures = {run: {1: png_of(4), 5: png_of(5), 9: png_of(6)} for run in curves}
    section = pretraining(Evidence(title="t", curves=curves, pictures=pictures))
    (figure,) = (block for block in section.blocks if isinstance(block, Figure) and block.name.startswith("pictures"))
    assert "after epochs 1, 5 and 9" in figure.caption and figure.rows["epoch"].tolist() == [1, 5, 9]
    assert re.findall(r"<p>Epoch (\d)</p><img", str(figure.body)) == ["1", "5", "9"]
    assert [len(_spread([Path("a")] * number, 4)) for number in (0, 1, 3, 100)] == [0, 1, 3, 4]
    assert _spread([Path(str(epoch)) for epoch in range(100)], 4) == [Path("0"), Path("33"), Path("66"), Path("99")]


def test_two_tables_name_one_speed_of_a_run() -> None:
    curve = pd.DataFrame({"epoch": [0, 0, 0, 1, 1, 1, 2], "step": range(7), "loss": 1.0})
    curve["images_per_s"] = [10.0, 60.0, 61.0, 62.0, 20.0, 64.0, 30.0]
    evidence = Evidence(title="t", curves={"ct/simclr-all-seed0": curve})
    runs = next(block for block in pretraining(evidence).blocks if isinstance(block, Table) and block.name == "runs").rows
    assert runs["images_per_s"].tolist() == cost_of_arms(evidence)["images_per_s"].tolist() == [60.0]


@pytest.mark.parametrize(
    ("metrics", "heads"),
    [
        ({"auc": ["covid"], "f1": ["covid", "macro"], "accuracy": ["all"]}, ["AUC (covid)", "F1 (covid)", "Accuracy"]),
        ({"auc": ["a", "b", "macro"], "f1": ["a", "b", "macro"]}, ["AUC", "F1"]),
        ({"dice": ["liver"]}, ["Dice (liver)"]),
        ({"dice": ["liver", "spleen"]}, ["Dice (liver)", "Dice (spleen)"]),
    ],
)
def test_a_score_of_two_classes_is_that_of_the_positive_one_and_named_so(metrics: dict[str, list[str]], heads: list[str]) -> None:
    more = {"n": 9, "unit": "image", "num_seeds": 1, "seed_sd": 0.0, "method": "bca", "note": None, "low": 0.1, "high": 0.9}
    scores = pd.DataFrame([SCORED | more | {"metric": name, "class": c} for name, classes in metrics.items() for c in classes])
    table = results(Evidence(title="t", scores={"x": scores})).blocks[0]
    assert isinstance(table, Table) and list(table.shown)[2:] == heads


def test_cases_name_the_share_of_labels_that_their_arm_was_given() -> None:
    cases = pd.DataFrame({"case_id": [f"v-{n}" for n in range(6)], "unit_id": "p", "arm": "a", "mode": "full", "seed": 0})
    cases = cases.assign(brier=np.linspace(0, 1, 6), target="x", predicted="y")
    given = {"few": cases.assign(fraction=0.25), "whole": cases.assign(fraction=1.0)}
    lead = failures(Evidence(title="t", cases=given)).lead.replace("\u202f", " ")
    assert lead.endswith("of one arm with 25 % of the labels or 100 % of the labels.")
    assert failures(Evidence(title="t", cases={"few": given["few"]})).lead.endswith("of one arm with 25\u202f% of the labels.")


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


def test_what_each_starting_point_loses_with_fewer_labels_stands_least_first() -> None:
    given = {"scratch": {0.05: 0.6, 0.5: 0.7, 1.0: 0.9}, "spark": {0.05: 0.82, 1.0: 0.92}, "late": {0.5: 0.8, 1.0: 0.9}}
    section = label_efficiency(Evidence(title="t", scores={"organs": scores_of(given)}))
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert "from 100\u202f% of the labels to 5\u202f%" in table.caption
    assert table.rows["mode"].tolist() == ["full", "full", "linear", "linear"]
    assert table.rows["init"].tolist() == ["spark", "scratch"] * 2, "late was not fitted on 5 %"
    assert table.rows["falls_by"].tolist() == pytest.approx([0.1, 0.3] * 2)
    assert table.rows["falls_frac"].tolist() == pytest.approx([0.1 / 0.92, 0.3 / 0.9] * 2)
    assert table.shown["Falls by"].tolist() == ["0.100", "0.300"] * 2


def test_a_score_that_is_better_the_lower_it_is_falls_when_it_grows() -> None:
    scores = scores_of({"scratch": {0.1: 30.0, 1.0: 20.0}}, "hd95")
    compared = pd.DataFrame([ROW | {"metric": "hd95", "better": "lower"}])
    section = label_efficiency(Evidence(title="t", scores={"heart": scores}, comparisons={"heart": compared}))
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert table.rows["falls_by"].tolist() == [10.0, 10.0]


def test_one_share_of_labels_tells_nothing_of_what_is_lost() -> None:
    section = label_efficiency(Evidence(title="t", scores={"organs": scores_of({"scratch": {1.0: 0.9}})}))
    assert not any(isinstance(block, Table) for block in section.blocks)
