"""A task of numbers runs from its labels to the page: units on axes and scores, and no class where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from finetuning import finetune, finetune_spec, write_discs, write_encoder
from test_report_page import Page

from medssl.core.files import read_json, write_json
from medssl.core.job import Spec, job
from medssl.evaluate.options import EvaluationOptions
from medssl.evaluate.risks import kaplan_meier
from medssl.evaluate.run import run as evaluate
from medssl.report.evidence import Evidence
from medssl.report.number_labels import NUMBER, OF_SCORES, number_sources, with_numbers_in_words
from medssl.report.options import PageOptions
from medssl.report.run import run as report
from medssl.report.section import Figure
from medssl.report.sections.survival_curves import survival_curves
from medssl.report.shown_study import ShownStudy

SECTIONS = ["results", "predicted_values", "survival_curves", "failures", "methods"]


def page_of(root: Path, task: str, options: dict[str, Any], **settings: Any) -> Path:
    """The page of a study of one task on spheres, from an encoder and from scratch."""
    source = write_discs(root, {"train": 30, "val": 15, "test": 30}, followed=task == "survival")
    encoder = write_encoder(root / "4_pretrain" / "ct" / "one-all-seed0")
    whole = {"task": task, "options": options, "fractions": [0.5, 1.0], "modes": ["linear"], "seeds": [0], **settings}
    made = finetune(finetune_spec(source, encoder, **whole))
    files = {"predictions": "predictions.parquet", "fits": "fits.tsv", "masks": "masks"}
    inputs: dict[str, Any] = {name: str(made / file) for name, file in files.items()}
    chosen = EvaluationOptions(bootstrap=100, task=task, whole=["all"]).model_dump(mode="json")
    with job(Spec("evaluate", "organs", "study", str(root), 0, "0", chosen, inputs, str(root / "6_evaluate" / "organs"))) as work:
        evaluate(work)
    study = {"study": "spheres", "finetune": {"organs": {"source": "discs", "task": task, "options": options}}}
    tables = {"scores": "scores.tsv", "comparisons": "comparisons.tsv", "cases": "cases.parquet"}
    shown: dict[str, Any] = {name: [str(root / "6_evaluate" / "organs" / file)] for name, file in tables.items()}
    shown |= {"fits": [inputs["fits"]], "samples": [str(source / "samples.parquet")], "volumes": [str(source / "volumes.tsv")]}
    shown |= {"labels": [str(root / "1_ingest" / "discs" / "labels" / "labels.parquet")]}
    for receipt in root.rglob("receipt.json"):  # those of prepared sources and encoders say the least
        write_json(receipt, {"name": "", "spec": "", "code": "", "seed": 0, "inputs": {}, "environment": {}} | read_json(receipt))
    chosen = PageOptions(study=study, sections=SECTIONS).model_dump(mode="json")
    with job(Spec("report", "study", "study", str(root), 0, "0", chosen, shown, str(root / "7_report" / "study"))) as work:
        report(work)
    return root / "7_report" / "study"


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(tmp_path_factory.mktemp("regression") / "study", "regression", {"measured_in": "mm"})


def test_a_regression_runs_to_its_page_with_the_unit_of_its_labels(regression: Path) -> None:
    words = " ".join(Page((regression / "report.html").read_text(encoding="utf-8")).words)
    assert "Mean absolute error (mm)" in words and "Predicted (mm)" in words and "True, mean of the bin (mm)" in words
    assert "R²" in words and "R² (mm)" not in words and "Concordance correlation" in words
    assert (regression / "figures" / "agreement-organs.svg").is_file()
    (lines,) = (regression / "tables").glob("agreement-line-*.tsv")
    assert len(lines.read_text().splitlines()) == 3
    assert "Mean absolute error (mm)" in (regression / "model_card.md").read_text(encoding="utf-8")


def test_values_are_not_classes_of_a_page(regression: Path) -> None:
    methods = str(read_json(regression / "report.json")["sections"]["methods"])
    assert "drawn by image" in methods and "and class" not in methods


def test_a_survival_analysis_runs_to_its_page(tmp_path: Path) -> None:
    folder = page_of(tmp_path / "study", "survival", {"measured_in": "days"})
    words = " ".join(Page((folder / "report.html").read_text(encoding="utf-8")).words)
    assert "C-index" in words and "Time-dependent AUC (t = median)" in words and "Time (days)" in words
    assert "drawn by image and event" in words and "low risk" in words
    curves = (folder / "figures" / "survival-organs.svg").read_text(encoding="utf-8")
    assert curves.count("<svg ") == 3, "one chart per arm"
    assert (folder / "tables" / "survival-groups-organs.tsv").is_file()


@pytest.mark.parametrize(
    ("fits", "words"),
    [(pd.DataFrame({"fold": [0, 1]}), "(rank within its fold, mean over fits)"), (pd.DataFrame(), "(mean rank over fits)")],
)
def test_thirds_of_a_cross_validation_are_named_by_ranks_within_folds(fits: pd.DataFrame, words: str) -> None:
    curve = kaplan_meier(np.array([1.0, 2, 3]), np.array([True, False, True]), 0.95)
    place = {
        "init": "scratch-resnet18",
        "mode": "full",
        "fraction": 1.0,
        "num_cases": 3,
        "num_events": 2,
        "p": 0.5,
        "num_fits": 1,
    }
    groups = pd.concat([curve.assign(group=name, **place) for name in ("low", "middle", "high")], ignore_index=True)
    blocks = survival_curves(Evidence(title="t", risk_groups={"death": groups}, fits={"death": fits})).blocks
    (figure,) = (block for block in blocks if isinstance(block, Figure))
    assert f"by third of the predicted risk {words}" in figure.caption


@pytest.mark.parametrize(("task", "words"), [("regression", [NUMBER, NUMBER, None]), ("classification", ["61", "62", None])])
def test_a_page_counts_cases_with_a_number_and_names_no_number_a_class(task: str, words: list[str | None]) -> None:
    samples = pd.DataFrame({"sample_id": ["a", "b", "c"], "label": pd.Series(["61", "62", None], dtype=object)})
    study = ShownStudy.model_validate({"finetune": {"one": {"source": "ct", "task": task}}})
    changed = with_numbers_in_words({"samples": {"ct": samples}, **{kind: {} for kind in OF_SCORES}}, study)
    assert changed["samples"]["ct"]["label"].tolist() == words


@pytest.mark.parametrize(("tasks", "found"), [(["regression"], {"ct"}), (["regression", "classification"], set()), ([], set())])
def test_labels_are_numbers_if_every_task_of_their_source_reads_them_so(tasks: list[str], found: set[str]) -> None:
    study = {"finetune": {f"task{n}": {"task": task, "source": "ct"} for n, task in enumerate(tasks)}}
    assert number_sources(ShownStudy.model_validate(study)) == found
