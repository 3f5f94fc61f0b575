"""The evaluate stage: predictions of the test split in; scores with intervals, paired comparisons and a case table out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.artefacts import scores as artefacts
from medssl.artefacts.fits import FITS
from medssl.artefacts.predictions import PREDICTIONS
from medssl.artefacts.schema import Table
from medssl.core import plugins
from medssl.core.errors import CorruptArtefactError
from medssl.core.job import Job
from medssl.evaluate import comparisons, falls, segmentation
from medssl.evaluate.calibration import calibration_table
from medssl.evaluate.classification import Probabilities, confusion_table
from medssl.evaluate.intervals import unit_weights
from medssl.evaluate.masks import classes_of_masks, mask_path, spacing_of
from medssl.evaluate.numbers import Values, agreement_table
from medssl.evaluate.operating import operating_table
from medssl.evaluate.options import EvaluationOptions
from medssl.evaluate.overlays import fullest_plane, pictured
from medssl.evaluate.predictions import Tested, only_test, probabilities_of, truth_of
from medssl.evaluate.risks import Risks, curves_table
from medssl.evaluate.sample import ALL, Floats, by_unit, rounded_difference
from medssl.evaluate.sampled import Sampled, case_table, scores_of_cases, scores_of_fit
from medssl.evaluate.scorers import Scorers
from medssl.evaluate.subgroups import in_group, restrict, subgroups_of

Positives = dict[str, tuple[np.ndarray, dict[str, Floats]]]
MAX_MASK_VOXELS = 2**31
TABLES = (
    artefacts.SCORES,
    artefacts.COMPARISONS,
    artefacts.FALLS,
    artefacts.FALL_COMPARISONS,
    artefacts.SUBGROUPS,
    artefacts.CALIBRATION,
    artefacts.AGREEMENT,
    artefacts.RISK_GROUPS,
    artefacts.OPERATING,
    artefacts.CONFUSION,
    artefacts.EMPTY,
    artefacts.CASES,
    artefacts.OVERLAYS,
)
ALWAYS = (artefacts.SCORES, artefacts.COMPARISONS)
"""Tables that are written even without rows."""


@dataclass(frozen=True)
class Evaluation:
    """What all steps of one evaluation share."""

    job: Job
    options: EvaluationOptions
    scorers: Scorers
    test: Tested
    networks: dict[str, comparisons.Network]

    def weights(self, num_units: int) -> Floats:
        """Weights `(1 + b + j, u)` of the units; the same for every fit."""
        return unit_weights(self.job.spec.seed, self.job.spec.name, num_units, self.options.bootstrap)

    def pairs(self, arms: list[str]) -> list[tuple[str, str, str]]:
        """The pairs of arms that are compared, see `comparisons.families`."""
        options = self.options
        return comparisons.families(arms, options.controls, self.networks, options.whole, options.compare)


def run(job: Job) -> None:
    """Score every fit of a task on its test cases and write the tables of docs/explanation/evaluate.md."""
    options, inputs = job.options(EvaluationOptions), job.spec.inputs
    predictions = PREDICTIONS.read(job.read(inputs["predictions"]))
    test = only_test(predictions)
    fits = FITS.read(job.read(inputs["fits"]))
    _check_fits(predictions[predictions["split"] == "test"], fits)
    predicts = plugins.find("task", options.task).constant("PREDICTS")
    scorers = Scorers.of(predicts, options.metrics)
    task = Evaluation(job, options, scorers, test, comparisons.networks_of(fits))
    results = _EVALUATIONS[predicts](task)
    for table in TABLES:
        rows = results.get(table.file.partition(".")[0], pd.DataFrame())
        if len(rows) or table in ALWAYS:
            _write(job, table, rows, scorers)
    counts = {"fits": len(test.fits), "cases": len(test.cases), "units": len(test.units)}
    job.notes["counts"] = counts | ({"folds": int(fits["fold"].nunique())} if "fold" in fits else {})
    job.write_receipt()


def _write(job: Job, table: Table, rows: pd.DataFrame, scorers: Scorers) -> None:
    if artefacts.OPTIONS in table.columns and len(rows):
        rows = rows.assign(
            options=pd.Series([scorers.known[metric] for metric in rows["metric"]], index=rows.index, dtype=object)
        )
    path = job.path(table.file)
    table.write(path, rows if len(rows) else table.empty())
    job.wrote(path)


def _check_fits(tested: pd.DataFrame, fits: pd.DataFrame) -> None:
    """Check that every fit was tested, with cross-validation in every fold, and that every tested fit is known."""
    columns = ["fit_id", *(["fold"] if "fold" in fits or "fold" in tested else [])]
    made, found = ({tuple(map(str, row)) for row in _keys(table, columns)} for table in (fits, tested))
    if made != found:
        raise CorruptArtefactError(
            f"fits.tsv lists {len(made)} fits and predictions.parquet {len(found)}; {len(made ^ found)} are in one only. "
            "Both must come from the same run: run finetune again."
        )


def _keys(table: pd.DataFrame, columns: list[str]) -> list[tuple[Any, ...]]:
    rows = table.reindex(columns=columns)
    if "fold" in columns:
        rows["fold"] = rows["fold"].astype("Int64")
    return list(rows.drop_duplicates().itertuples(index=False, name=None))


# Tasks that predict something for single cases: classes or numbers


def _classification(task: Evaluation) -> dict[str, pd.DataFrame]:
    options, test, scorers = task.options, task.test, task.scorers
    truth = truth_of(test, options.positive, options.multilabel, sole=options.sole)
    if options.positive is not None and options.positive not in truth.classes:
        task.job.log("evaluate.positive is not a class of this task: it is left to the tasks that have it")
    probabilities = {fit: probabilities_of(part, truth) for fit, part in test.rows.items()}
    positives = {}
    if truth.positive is not None and truth.present[truth.positive] and len(test.units) == len(test.cases):
        of_positive = {fit: values[:, truth.positive] for fit, values in probabilities.items()}
        positives[truth.classes[truth.positive]] = (truth.targets[:, truth.positive], of_positive)
    found = _single_cases(task, Probabilities(truth, probabilities), positives)
    found |= {
        "confusion": confusion_table(found["cases"], truth),
        "operating": operating_table(
            test, probabilities, truth, task.weights(len(test.units)), options.bootstrap, options.confidence
        ),
    }
    bins = scorers.calibration_bins
    return found | ({} if bins is None else {"calibration": calibration_table(test, probabilities, truth, bins)})


def _regression(task: Evaluation) -> dict[str, pd.DataFrame]:
    values = Values.of(task.test)
    return _single_cases(task, values, {}) | {"agreement": agreement_table(task.test, values)}


def _survival(task: Evaluation) -> dict[str, pd.DataFrame]:
    risks = Risks.of(task.test)
    return _single_cases(task, risks, {}) | {"risk_groups": curves_table(task.test, risks, task.options.confidence)}


def _single_cases(task: Evaluation, sampled: Sampled, positives: Positives) -> dict[str, pd.DataFrame]:
    """Scores, comparisons, falls, subgroups and cases. `positives`: see `comparisons.comparison_rows`."""
    test, scorers = task.test, task.scorers
    scores = _score(task, test, sampled, "")
    of_cases = {fit: scores_of_cases(sampled, fit, scorers.of_cases) for fit in test.rows}
    of_units = {
        fit: {name: by_unit(values, test.unit, len(test.units)) for name, values in found.items()}
        for fit, found in of_cases.items()
    }

    def unit_differences(a: list[str], b: list[str]) -> dict[comparisons.Key, Floats]:
        found = {}
        for name in scorers.of_cases:
            mean_a, mean_b = (np.mean([of_units[fit][name] for fit in fits], axis=0) for fits in (a, b))
            found[name, ALL] = rounded_difference(mean_a, mean_b)
        return found

    compared = functools.partial(comparisons.compared_scores, scores)
    return {
        "scores": _score_rows(task, test, scores),
        "comparisons": _compare(task, compared, unit_differences, positives),
        **_falls(task, functools.partial(comparisons.contrasted_scores, scores)),
        "subgroups": _subgroups(task, sampled),
        "cases": case_table(test, sampled.columns, of_cases),
    }


def _score(task: Evaluation, test: Tested, sampled: Sampled, what: str) -> comparisons.Scores:
    weights, num_bootstrap = task.weights(len(test.units)), task.options.bootstrap
    metrics, over_classes = task.scorers.functions, task.scorers.over_classes
    scores: comparisons.Scores = {}
    with task.job.progress(what, len(test.fits), "fits") as bar:
        for fit in test.fits["fit_id"]:
            scores[fit] = scores_of_fit(sampled, fit, metrics, weights, test.unit, num_bootstrap, over_classes)
            bar.advance()
    return scores


def _score_rows(
    task: Evaluation, test: Tested, scores: comparisons.Scores, left_out: comparisons.LeftOut = lambda fits: {}
) -> pd.DataFrame:
    options, scorers = task.options, task.scorers
    return comparisons.score_rows(
        test, scores, options.confidence, scorers.better, scorers.limits, left_out, seeds_beside=options.seeds_beside
    )


def _subgroups(task: Evaluation, sampled: Sampled) -> pd.DataFrame:
    found: list[pd.DataFrame] = []
    for column, value, inside in subgroups_of(task.test):
        part = restrict(task.test, inside)
        scores = _score(task, part, sampled.within(inside), f"{column} {len(found) + 1}")
        found.append(in_group(_score_rows(task, part, scores), column, value))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


# Tasks that predict masks


def _segmentation(task: Evaluation) -> dict[str, pd.DataFrame]:
    job, options, test, metrics = task.job, task.options, task.test, task.scorers.functions
    first = next(iter(test.rows.values()))
    classes = classes_of_masks(first, options.classes)
    folder = Path(job.spec.inputs["masks"])
    scored: dict[str, list[dict[str, Any]]] = {fit: [] for fit in test.rows}
    with job.progress("", len(test.fits) * len(test.cases), "masks") as bar:
        for place in range(len(test.cases)):
            target, spacing = _mask(job, folder, first["target"][place])
            for fit, part in test.rows.items():
                case = part.iloc[place]
                prediction, own_spacing = _mask(job, folder, case["prediction"])
                spacing_mm = spacing_of(case.get("spacing_mm"), spacing or own_spacing, target.ndim)
                rows = segmentation.score_case(prediction, target, classes, spacing_mm, metrics)
                scored[fit] += [{"case_id": case["case_id"], "unit_id": case["unit_id"], **row} for row in rows]
                bar.advance()
    per_fit = {fit: pd.DataFrame(rows) for fit, rows in scored.items()}
    values = segmentation.case_scores(per_fit, list(metrics))
    of_cases = segmentation.CaseScores(values, task.weights(len(test.units)), test.unit, options.bootstrap)
    cases = pd.concat([rows.assign(fit_id=fit) for fit, rows in per_fit.items()], ignore_index=True)
    fits = test.fits[["fit_id", "init", "arm", "mode", "fraction", "seed", "pretrain_seed"]]
    cases = fits.merge(cases, on="fit_id", how="right")
    return {
        "scores": _case_rows(task, test, of_cases),
        "comparisons": _compare(task, of_cases.compared, of_cases.unit_differences, {}),
        **_falls(task, of_cases.contrast),
        "subgroups": _segmentation_subgroups(task, of_cases),
        "empty": segmentation.empty_counts(cases),
        "overlays": _overlays(job, folder, test, pictured(cases, task.scorers.ranking), classes),
        "cases": cases,
    }


def _segmentation_subgroups(task: Evaluation, of_cases: segmentation.CaseScores) -> pd.DataFrame:
    found: list[pd.DataFrame] = []
    for column, value, inside in subgroups_of(task.test):
        part = restrict(task.test, inside)
        rows = _case_rows(task, part, of_cases.within(inside, task.weights(len(part.units)), part.unit))
        found.append(in_group(rows, column, value))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _case_rows(task: Evaluation, test: Tested, of_cases: segmentation.CaseScores) -> pd.DataFrame:
    """Score rows; means over classes use the same classes in every arm of one mode and share of labels."""
    alike = [list(part["fit_id"]) for _, part in test.fits.groupby(["mode", "fraction"], sort=True)]
    group = {fit: fits for fits in alike for fit in fits}
    scores = of_cases.scores(alike)

    def left_out(fits: list[str]) -> dict[comparisons.Key, str]:
        return of_cases.left_out(fits, group[fits[0]])

    return _score_rows(task, test, scores, left_out)


def _overlays(job: Job, folder: Path, test: Tested, chosen: pd.DataFrame, classes: dict[int, str]) -> pd.DataFrame:
    """The chosen cases with the plane that shows most of them, on the RAS+ grid of ingest's volume."""
    made, named = [], {str(value): name for value, name in classes.items()}
    for row in chosen.to_dict("records"):
        part = test.rows[row["fit_id"]].set_index("case_id").loc[row["case_id"]]
        prediction, spacing = _mask(job, folder, part["prediction"], canonical=True)
        target, _ = _mask(job, folder, part["target"], canonical=True)
        plane = fullest_plane(prediction, target, spacing or (1.0,) * target.ndim)
        made.append({str(name): value for name, value in row.items()} | plane | {"classes": named})
    return pd.DataFrame(made)


def _mask(job: Job, folder: Path, name: str, *, canonical: bool = False) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """A mask of whole numbers and its voxel size, if its file has one; name is relative to the predictions.

    With `canonical`, a NIfTI is reoriented to the closest RAS+ (flips and permutation only), as ingest stores volumes.
    """
    path = job.read(mask_path(folder, name))
    if path.name.endswith((".nii", ".nii.gz")):
        import nibabel

        image: Any = nibabel.load(path)
        image = nibabel.as_closest_canonical(image) if canonical else image
        spacing = tuple(float(value) for value in image.header.get_zooms()[:3])
        if np.prod(image.shape) > MAX_MASK_VOXELS:
            raise CorruptArtefactError(f"{path.name} declares {image.shape} voxels, more than a mask may have.")
        mask = np.asanyarray(image.dataobj)
    else:
        mask, spacing = np.load(path, mmap_mode="r", allow_pickle=False), None
    if mask.dtype.kind not in "biu":
        if not np.array_equal(mask, np.round(mask)):
            raise CorruptArtefactError(f"{path.name} holds values that are not whole numbers: a mask has class indices only.")
        mask = np.asarray(mask, dtype=np.int64)
    return np.asarray(mask), spacing


_EVALUATIONS: dict[str, Callable[[Evaluation], dict[str, pd.DataFrame]]] = {
    "classes": _classification,
    "values": _regression,
    "risks": _survival,
    "masks": _segmentation,
}
"""By the kind of a task's predictions."""


def _compare(
    task: Evaluation,
    compared: Callable[[list[str], list[str]], dict[comparisons.Key, comparisons.Compared]],
    unit_differences: Callable[[list[str], list[str]], dict[comparisons.Key, Floats]],
    positives: Positives,
) -> pd.DataFrame:
    options, scorers = task.options, task.scorers
    return comparisons.comparison_rows(
        task.test,
        compared,
        unit_differences,
        positives,
        confidence=options.confidence,
        holm_over=options.holm_over,
        better=scorers.better,
        areas=scorers.areas,
        pairs=task.pairs,
        seeds_beside=options.seeds_beside,
    )


def _falls(task: Evaluation, contrast: falls.Contrast) -> dict[str, pd.DataFrame]:
    options = task.options
    of_task = falls.Falls(task.test, contrast, options.confidence, task.scorers.better, options.seeds_beside)
    return {"falls": of_task.rows(), "fall_comparisons": of_task.comparison_rows(task.pairs, options.holm_over)}
