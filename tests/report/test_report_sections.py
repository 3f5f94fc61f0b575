"""Sections say no more than their tables: flows add up, parts and folds are counted once, sources of numbers are named."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_rows import SCORED, sentences
from PIL import Image
from synthetic_study import receipt

from medssl.artefacts.keep import Leaks
from medssl.artefacts.samples import Fingerprint
from medssl.core import plugins
from medssl.report.checklist_items import AUTHORS, CLAIM, CLINICIANS, DATA_HOLDER, MI_CLAIM, TRIPOD
from medssl.report.evidence import Evidence
from medssl.report.run import _spread, _with_given_masks
from medssl.report.section import Figure, Table, Text
from medssl.report.sections.checklists import _row
from medssl.report.sections.compute import compute, cost_of_arms
from medssl.report.sections.data import data
from medssl.report.sections.failures import failures
from medssl.report.sections.flow import flow
from medssl.report.sections.leakage import leakage
from medssl.report.sections.operating_points import operating_points
from medssl.report.sections.pretraining import pretraining
from medssl.report.sections.provenance import provenance
from medssl.report.sections.reduction import reduction
from medssl.report.sections.results import results
from medssl.report.shares import labels_of, share_name, share_phrase, share_words
from medssl.report.words import headline, metric_name, name_in, ordered_modes, title_of


def test_a_score_is_named_with_the_option_that_it_depends_on() -> None:
    assert metric_name("nsd", {"tolerance_mm": 2.0}) == "NSD at 2 mm"
    assert metric_name("sensitivity_at_specificity", {"specificity": 0.9}) == "Sensitivity at specificity 0.9"
    assert metric_name("hd95", {"percentile": 95.0}) == "HD95 (mm)"
    assert metric_name("dice", {}) == metric_name("dice") == "Dice"
    assert metric_name("of_another_time", {"a": 1}) == "of another time"
    table = pd.DataFrame({"metric": ["dice", "nsd"], "options": [{}, {"tolerance_mm": 1.5}]})
    assert name_in(table, "nsd") == "NSD at 1.5 mm"


def test_the_page_calls_a_reducer_what_it_calls_itself() -> None:
    keep = pd.DataFrame({"sample_id": ["v-0"], "keep": [True], "twin": [None], "reason": ["kept"], "distance": [0.0]})
    names = plugins.names("reducer")
    section = reduction(Evidence(title="t", keeps={f"ct/{name}": keep for name in names}))
    (table,) = [block for block in section.blocks if isinstance(block, Table) and block.name == "arms"]
    assert table.shown["Reducer"].tolist() == [plugins.find("reducer", name).constant("TITLE") for name in sorted(names)]
    assert title_of("reducer", "of_another_time") == "of_another_time"


def test_patients_of_an_image_set_are_those_of_its_images() -> None:
    """The row of a set has no patient where its images are of several."""
    series = pd.DataFrame({"num_files": [3], "kind": "images", "unit": "patient", "subject_id": [None], "modality": "OT"})
    images = {"sample_id": ["a", "b", "c"], "volume_id": "v-0", "subject_id": ["p-0", "p-0", "p-1"], "split": "train"}
    samples = pd.DataFrame(images | {"kind": "images", "unit": "patient", "label": None})
    evidence = Evidence(title="t", series={"eyes": series}, samples={"eyes": samples})
    table = next(block for block in data(evidence).blocks if isinstance(block, Table))
    assert (table.shown["Subjects"].item(), table.shown["Unit"].item()) == ("2", "patient")
    drawn = str(flow(evidence).blocks[0].body)  # type: ignore[union-attr]
    assert "2 subjects" in drawn and "no patient ids" not in drawn


def test_requested_counts_are_reported_as_counts() -> None:
    names = [
        "scratch-resnet18-full-n1-s0",
        "scratch-resnet18-full-n3-s0",
        "scratch-resnet18-full-n3-s1",
        "scratch-resnet18-full-0p5-s0",
        "scratch-resnet18-full-n90-s0",
    ]
    fits = pd.DataFrame({"fit_id": names, "fraction": [1 / 28, 3 / 28, 3 / 28, 0.5, 1.0], "num_train_units": [1, 3, 4, 14, 28]})
    labels = labels_of(fits, pd.DataFrame({"unit": ["patient"]}))
    assert share_name(1 / 28, labels) == "1 patient"
    assert share_phrase(3 / 28, labels) == "labels of 3 to 4 patients (so that each class has one)"
    assert share_words(1 / 28, labels) == "With labels of 1 patient"
    assert share_phrase(0.5, labels) == "50\u202f% of the labels"
    assert share_words(1.0, labels) == "With all labels"
    assert labels_of(None, None) == {}


@pytest.mark.parametrize(("items", "length"), [(CLAIM, 44), (TRIPOD, 27), (MI_CLAIM, 6)])
def test_every_checklist_item_has_an_owner(items: tuple, length: int) -> None:
    assert [item.number for item in items] == [str(n + 1) for n in range(length)]
    assert all(item.owner for item in items)


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


def test_what_an_arm_kept_of_each_source_is_shown_where_there_are_several() -> None:
    samples = {
        source: pd.DataFrame({"sample_id": ids, "volume_id": "v", "kind": "image", "index": 0})
        for source, ids in {"chest": ["c0", "c1"], "heart": ["h0", "h1", "h2", "h3"]}.items()
    }

    def keep(ids: list[str], kept: list[str]) -> pd.DataFrame:
        return pd.DataFrame({"sample_id": ids, "keep": [one in kept for one in ids], "twin": None, "distance": np.nan})

    both = ["c0", "c1", "h0", "h1", "h2", "h3"]
    keeps = {"pool/hash": keep(both, ["c0", "c1", "h2"]), "pool/all": keep(both, both), "heart/all": keep(both[2:], both[2:])}
    section = reduction(Evidence(title="t", samples=samples, keeps=keeps))
    (table,) = (block for block in section.blocks if isinstance(block, Table) and block.name == "arms_by_source")
    assert table.shown.to_numpy().tolist() == [
        ["pool/all", "chest", "2", "2", "100\u202f%"],
        ["pool/all", "heart", "4", "4", "100\u202f%"],
        ["pool/hash", "chest", "2", "2", "100\u202f%"],
        ["pool/hash", "heart", "1", "4", "25\u202f%"],
    ]
    alone = reduction(Evidence(title="t", samples=samples, keeps={"heart/all": keeps["heart/all"]}))
    assert all(block.name != "arms_by_source" for block in alone.blocks)


def test_leaks_are_counted_by_cohort_and_by_arm_where_arms_differ() -> None:
    samples = pd.DataFrame({"subject_id": ["p"], "volume_id": ["v"], "split": ["train"], "kind": ["volume"]})
    reasons = {"pool/all": ["leak", "kept", "leak"], "pool/hash": ["leak", "duplicate", "leak"], "ct/all": ["kept"] * 3}
    reasons["ct/hash"] = ["leak", "kept", "kept"]
    keeps = {name: pd.DataFrame({"reason": values}) for name, values in reasons.items()}
    section = leakage(Evidence(title="t", samples={"chest": samples, "heart": samples}, keeps=keeps))
    table = next(block for block in section.blocks if isinstance(block, Table) and block.name == "leak-drops")
    assert table.shown.to_numpy().tolist() == [["ct", "all", "0"], ["ct", "hash", "1"], ["pool", "all, hash", "2"]]
    assert "n/a" not in table.shown.to_numpy().ravel()


@pytest.mark.parametrize(
    ("queries", "found", "words"),
    [
        (24, 0, "ct: none of the 24 held-out images was found in the 16 pre-training slices."),
        (0, 0, "ct: the tasks have no held-out images to look for."),
        (24, 3, None),
    ],
)
def test_a_firewall_that_finds_nothing_says_so_in_words(queries: int, found: int, words: str | None) -> None:
    samples = pd.DataFrame({"subject_id": ["p"], "volume_id": ["v"], "split": ["train"], "kind": ["volume"]})
    counts = {"queries": queries, "queries_found": found, "pool": 16, "pool_excluded": found, "how": {}, "policy": "exclude"}
    leak = Leaks(**counts, same=0.88, pairs=[], nearest=[])
    section = leakage(Evidence(title="t", samples={"ct": samples}, leaks={"ct/leakage": leak}))
    said = [block.html for block in section.blocks if isinstance(block, Text) and block.kind == "plain"]
    assert said == ([] if words is None else [words])


def test_a_firewall_that_compared_no_pixels_says_so() -> None:
    samples = pd.DataFrame({"subject_id": ["p"], "volume_id": ["v"], "split": ["train"], "kind": ["volume"]})
    counts = {"queries": 24, "queries_found": 0, "pool": 16, "pool_excluded": 0, "how": {}, "policy": "exclude"}
    leak = Leaks(**counts, look_up="ids", same=0.88, pairs=[], nearest=[])
    section = leakage(Evidence(title="t", samples={"ct": samples}, leaks={"ct/leakage": leak}))
    table = next(block for block in section.blocks if isinstance(block, Table) and block.name == "firewall")
    said = " ".join(block.html for block in section.blocks if isinstance(block, Text))
    assert "In ct pixels were not compared" in table.caption and "by id and patient alone; pixels were not compared" in said


def test_pictures_of_what_the_firewall_found_and_of_the_nearest() -> None:
    near = {"query_id": "v-a-0", "pool_id": "v-b-1", "how": "nearest", "score": 0.71}
    gone = {"query_id": "v-a-0", "pool_id": "v-not-pictured", "how": "slice", "score": 0.95}
    counts = {"queries": 1, "queries_found": 0, "pool": 2, "pool_excluded": 0, "how": {}, "policy": "report"}
    leak = Leaks(**counts, same=0.88, pairs=[gone], nearest=[near])
    planes = {name: np.zeros((8, 8), np.uint8) for name in ("v-a-0", "v-b-1")}
    samples = pd.DataFrame(
        {"sample_id": ["v-a-0"], "volume_id": ["v-a"], "subject_id": ["p"], "split": ["test"], "kind": ["volume"]}
    )
    section = leakage(Evidence(title="t", samples={"ct": samples}, leaks={"ct/leakage": leak}, planes=planes))
    figures = [block for block in section.blocks if isinstance(block, Figure)]
    assert [figure.name for figure in figures] == ["leakage-nearest"]
    assert str(figures[0].body).count("<img") == 2 and "similarity 0.71" in str(figures[0].body) and "0.88" in figures[0].caption


def test_the_headline_is_dice_or_auc_over_classes() -> None:
    table = pd.DataFrame({"metric": ["accuracy", "auc", "auc", "auc"], "class": ["all", "liver", "lung", "macro"]})
    assert headline(table) == ("auc", "macro")
    assert headline(pd.DataFrame({"metric": ["auc", "brier"], "class": ["covid", "all"]})) == ("auc", "covid")
    assert headline(pd.DataFrame({"metric": ["dice", "iou"], "class": ["organ", "organ"]})) == ("dice", "organ")
    assert headline(pd.DataFrame({"metric": ["f1", "f1"], "class": ["covid", "macro"]})) == ("f1", "covid")


def test_the_page_names_the_commands_days_and_energy_of_its_receipts() -> None:
    cost = {"wall_s": 10.0, "threads": 2}
    receipts = {
        "ingest/ct": receipt(**cost, command="snakemake --cores 2 pretrain_ct", date="2026-01-30", energy_j={"cpu0": 3600.0}),
        "prepare/ct": receipt(**cost, command="snakemake --cores 4 report", date="2026-02-01", energy_j={"cpu0": 1800.0}),
        "reduce/ct/hash": receipt(**cost, command=None, energy_j={}),
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
    silent = compute(Evidence(title="t", receipts={"ingest/ct": receipt(**cost)}))
    assert "no counter was readable" in " ".join(str(block.html) for block in silent.blocks if isinstance(block, Text))


def test_provenance_prints_what_it_does_not_know_as_not_given() -> None:
    receipts = {
        "ingest/ct": receipt(code="c0de"),
        "pretrain/ct/a-all-seed0": receipt(code="aaaa"),
        "pretrain/ct/a-all-seed1": receipt(code="bbbb"),
    }
    section = provenance(Evidence(title="t", receipts=receipts))
    told = " ".join(str(block.html) for block in section.blocks if isinstance(block, Text))
    assert "snakemake" not in told and "repeats the study is not given" in told
    origin = next(block for block in section.blocks if isinstance(block, Table) and block.name == "origin").rows
    values = dict(zip(origin["what"], origin["value"], strict=True))
    assert values["Code of pretrain (hash)"] == "aaaa, bbbb" and values["Code of ingest (hash)"] == "c0de"
    assert sum(value == "not given" for value in values.values()) == 3


def test_provenance_names_every_commit_lock_and_package_that_jobs_ran_with() -> None:
    clean = {"commit": "a" * 40, "dirty": False, "lock_sha256": "1" * 64, "lock_differs": {}}
    changed = clean | {"dirty": True, "lock_differs": {"torch": "2.14.0"}}
    told = {}
    for name, origins in {"one": [clean, clean], "several": [clean, changed, None]}.items():
        receipts = {f"ingest/{place}": receipt(origin=origin) for place, origin in enumerate(origins)}
        section = provenance(Evidence(title="t", receipts=receipts))
        rows = next(block for block in section.blocks if isinstance(block, Table) and block.name == "origin").rows
        told[name] = list(rows["value"])[:3]
    assert told["one"] == ["a" * 40 + " (no file differed)", "1" * 64, "none"]
    commits, lock, differing = told["several"]
    assert commits.count("a" * 40) == 2 and "files differed" in commits and "not given: 1 job" in commits
    assert lock == f"{'1' * 64}: 2 jobs; not given: 1 job" and differing == "torch 2.14.0"


def test_provenance_says_which_jobs_and_fits_were_restored() -> None:
    restored = {"date": "2026-03-01", "wall_s": 0.2}
    receipts = {
        "ingest/ct": receipt(),
        "pretrain/ct/a-all-seed0": receipt(restored=restored),
        "finetune/organs": receipt(fits=12, restored_fits=9),
    }
    section = provenance(Evidence(title="t", receipts=receipts))
    assert "1 of 3 jobs were restored: pretrain/ct/a-all-seed0 (2026-03-01); " in sentences(section)
    assert "finetune/organs: 9 of 12 fits were restored. Their results come from earlier jobs" in sentences(section)
    assert section.facts["restored_fits"] == {"finetune/organs": {"restored": 9, "fits": 12}}
    assert "restored" not in sentences(provenance(Evidence(title="t", receipts={"ingest/ct": receipt(fits=12, restored_fits=0)})))


def test_fits_of_folds_have_a_table_by_fold() -> None:
    fits = pd.DataFrame(
        [
            {"fit_id": f"{arm}-full-1-s0", "init": arm, "mode": "full", "fraction": 1.0, "seed": 0, "fold": fold}
            | {"num_train": 40 - fold, "num_val": 5, "num_test": 20 + fold, "num_train_units": 40, "num_units": 40}
            for arm in ("scratch-resnet18", "imagenet")
            for fold in range(3)
        ]
    )
    more = {"n": 63, "unit": "patient", "num_seeds": 1, "seed_sd": 0.0, "method": "bca", "note": "", "low": 0.1, "high": 0.9}
    scores = pd.DataFrame([SCORED | more | {"metric": "dice"}])
    for table, rows in ((fits, [20, 21, 22]), (fits.drop(columns="fold"), None)):
        blocks = results(Evidence(title="t", fits={"x": table}, scores={"x": scores})).blocks
        found = [block for block in blocks if isinstance(block, Table) and block.name == "folds-x"]
        assert [list(block.rows["num_test"]) for block in found] == ([rows] if rows else [])
        assert all(set(block.rows["num_fits"]) == {2} and "3-fold" in block.caption for block in found)


def test_the_notes_of_prepare_stand_below_the_parts() -> None:
    whole = {"source": "ct", "volumes": 4, "samples": 4, "units": {}, "splits": {}, "subjects_in_two_splits": 0}
    note = "The test part has 1 patient of 4."
    evidence = Evidence(
        title="t",
        series={"ct": pd.DataFrame({"modality": ["CT"]})},
        fingerprint={"ct": Fingerprint(**whole, modalities={}, labels={}, cache={}, notes=[note])},
    )
    assert f"Source ct: {note}" in sentences(data(evidence))


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


def test_predictions_of_hidden_patches_are_shown_over_the_epochs() -> None:
    curve = pd.DataFrame({"epoch": range(9), "step": range(9), "loss": 1.0})
    curves = {"pool/spark-all-seed0": curve, "pool/spark-all-seed1": curve}
    pictures = {run: {1: png_of(4), 5: png_of(5), 9: png_of(6)} for run in curves}
    section = pretraining(Evidence(title="t", curves=curves, pictures=pictures))
    (figure,) = (block for block in section.blocks if isinstance(block, Figure) and block.name.startswith("pictures"))
    assert "after epochs 1, 5 and 9" in figure.caption and figure.rows["epoch"].tolist() == [1, 5, 9]
    assert re.findall(r'<p class="panel">Epoch (\d)</p><img', str(figure.body)) == ["1", "5", "9"]
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


def test_of_many_classes_the_curves_of_the_hardest_are_drawn_each_in_a_look_of_its_own() -> None:
    names = [f"class {n:02d}" for n in range(30)]
    rows = [
        {"task": "t", "init": "simclr-all", "mode": "full", "fraction": 1.0, "curve": curve, "class": name, "x": x,
         "y": x ** ((place * 7 % 30 + 1) / 31), "low": np.nan, "high": np.nan}
        for place, name in enumerate(names) for curve in ("roc", "precision_recall") for x in (0.0, 0.25, 0.5, 1.0)
    ]  # fmt: skip
    mean = [row | {"class": "macro"} for row in rows[:8]]
    section = operating_points(dataclasses.replace(Evidence(title="t"), operating={"t": pd.DataFrame(mean + rows)}))
    figure = next(block for block in section.blocks if isinstance(block, Figure) and block.name == "roc-t-classes")
    hardest = sorted(
        name for place, name in enumerate(names) if place * 7 % 30 + 1 > 18
    )  # the higher the power, the lower the curve
    assert [label for _, label in figure.legend] == hardest and set(figure.rows["class"]) == set(hardest)
    assert len({tone for tone, _ in figure.legend}) == 12
    assert "12 of 30 classes, those with the smallest area" in figure.caption


def test_predictions_of_all_test_cases_together_are_named_transductive_and_never_come_first() -> None:
    more = {"n": 9, "unit": "image", "num_seeds": 1, "seed_sd": 0.0, "method": "bca", "note": None, "low": 0.1, "high": 0.9}
    rows = [SCORED | more | {"metric": "auc", "class": "macro", "mode": mode} for mode in ("aligned", "linear", "nearest_mean")]
    scores = pd.DataFrame(rows)
    assert ordered_modes(scores["mode"]) == ["linear", "nearest_mean", "aligned"]
    blocks = results(Evidence(title="t", scores={"x": scores})).blocks
    tables = [block for block in blocks if isinstance(block, Table)]
    assert "transductive class means" in tables[2].caption and "nearest class mean" in tables[1].caption
    assert list(tables[3].shown["Mode"]) == ["transductive class means", "linear probe", "nearest class mean"]
    (note,) = [block for block in blocks if isinstance(block, Text)]
    assert str(note.html) == (
        "Task x: Transductive class means predict all test cases together: the prediction of one depends on which others are "
        "tested. The nearest class mean predicts each by itself, from the same features and labels."
    )
    without = results(Evidence(title="t", scores={"x": scores[scores["mode"] != "aligned"]})).blocks
    assert not [block for block in without if isinstance(block, Text)]
