"""The evaluate stage: predictions of the test split in; scores with intervals, paired comparisons and a case table out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.core import plugins, tables
from medssl.core.errors import CorruptArtefactError
from medssl.core.files import canonical_json
from medssl.core.job import Job
from medssl.evaluate import classification, comparisons, segmentation
from medssl.evaluate.intervals import unit_weights
from medssl.evaluate.masks import classes_of_masks, spacing_of
from medssl.evaluate.metrics.brier import brier_of_cases
from medssl.evaluate.overlays import fullest_plane, pictured
from medssl.evaluate.predictions import Tested, only_test, probabilities_of, truth_of
from medssl.evaluate.sample import ALL, Floats, Truth, apart, by_unit
from medssl.evaluate.subgroups import in_group, restrict, subgroups_of

Metrics = dict[str, Callable[..., Any]]
MAX_MASK_VOXELS = 2**31


def run(job: Job) -> None:
    """Score every fit of a task on its test cases and write the tables of docs/evaluate.md."""
    settings = job.spec.settings
    predictions_path = job.read(job.spec.inputs["predictions"])
    test = only_test(tables.read_parquet(predictions_path))
    networks: dict[str, comparisons.Network] = {}
    if "fits" in job.spec.inputs:
        fits = tables.read_tsv(job.read(job.spec.inputs["fits"]), text=("fit_id", "init", "mode"))
        _check_fits(test, fits)
        networks = comparisons.networks_of(fits)
    metrics = _metrics(settings["task"], settings.get("metrics"))
    if settings["task"] == "segmentation":
        results = _segmentation(job, test, metrics, networks, predictions_path)
    else:
        results = _classification(job, test, metrics, networks)
    options = _options(metrics, settings.get("metrics"))
    for table in ("scores", "comparisons", "subgroups"):
        rows = results[table]
        results[table] = rows.assign(options=rows["metric"].map(options).fillna("{}")) if len(rows) else rows.assign(options=[])
    small = ("scores", "comparisons", "subgroups", "calibration", "confusion", "empty")
    for name in (name for name in small if name in results and (len(results[name]) or name in ("scores", "comparisons"))):
        tables.write_tsv(job.path(f"{name}.tsv"), results[name])
        job.wrote(job.path(f"{name}.tsv"))
    for name in (name for name in ("cases", "overlays") if name in results and len(results[name])):
        tables.write_parquet(job.path(f"{name}.parquet"), results[name])
        job.wrote(job.path(f"{name}.parquet"))
    job.notes["counts"] = {"fits": len(test.fits), "cases": len(test.cases), "units": len(test.units)}
    job.write_receipt()


def _classification(
    job: Job, test: Tested, metrics: Metrics, networks: dict[str, comparisons.Network]
) -> dict[str, pd.DataFrame]:
    settings = job.spec.settings
    wanted = settings.get("positive")
    truth = truth_of(test, wanted, settings.get("multilabel"), sole=settings.get("sole", True))
    if wanted is not None and wanted not in truth.classes:
        job.log("evaluate.positive is no class of this task: it is left to the tasks that have it")
    probabilities = {fit: probabilities_of(part, truth) for fit, part in test.rows.items()}
    scores = _score(job, test, truth, probabilities, metrics, "")
    briers = {fit: by_unit(brier_of_cases(truth, values), test.unit, len(test.units)) for fit, values in probabilities.items()}

    def unit_differences(a: list[str], b: list[str]) -> dict[comparisons.Key, Floats]:
        mean_a, mean_b = (np.mean([briers[fit] for fit in fits], axis=0) for fits in (a, b))
        return {("brier", ALL): apart(mean_a, mean_b)}

    positives = {}
    if truth.positive is not None and truth.present[truth.positive] and len(test.units) == len(test.cases):
        of_positive = {fit: values[:, truth.positive] for fit, values in probabilities.items()}
        positives[truth.classes[truth.positive]] = (truth.targets[:, truth.positive], of_positive)
    cases = classification.case_table(test, probabilities, truth)
    bins = next((c["options"]["bins"] for c in settings.get("metrics") or [] if c["name"] == "calibration_error"), 15)
    return {
        "scores": comparisons.score_rows(test, scores, settings["confidence"], _better(metrics)),
        "comparisons": _compare(
            settings, metrics, networks, test, functools.partial(comparisons.compared_scores, scores), unit_differences, positives
        ),
        "calibration": classification.calibration_table(test, probabilities, truth, bins),
        "confusion": classification.confusion_table(cases, truth),
        "subgroups": _subgroups(job, test, truth, probabilities, metrics),
        "cases": cases,
    }


def _score(
    job: Job, test: Tested, truth: Truth, probabilities: dict[str, Floats], metrics: Metrics, what: str
) -> comparisons.Scores:
    num_bootstrap = job.spec.settings["bootstrap"]
    weights = unit_weights(job.spec.seed, job.spec.name, len(test.units), num_bootstrap)
    scores: comparisons.Scores = {}
    with job.progress(what, len(test.fits), "fits") as bar:
        for fit in test.fits["fit_id"]:
            scores[fit] = classification.score_fit(truth, probabilities[fit], metrics, weights, test.unit, num_bootstrap)
            bar.advance()
    return scores


def _subgroups(job: Job, test: Tested, truth: Truth, probabilities: dict[str, Floats], metrics: Metrics) -> pd.DataFrame:
    found: list[pd.DataFrame] = []
    for column, value, inside in subgroups_of(test):
        part, part_truth = restrict(test, inside), replace(truth, targets=truth.targets[inside])
        within = {fit: values[inside] for fit, values in probabilities.items()}
        scores = _score(job, part, part_truth, within, metrics, f"{column} {len(found) + 1}")
        rows = comparisons.score_rows(part, scores, job.spec.settings["confidence"], _better(metrics))
        found.append(in_group(rows, column, value))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _segmentation_subgroups(job: Job, test: Tested, of_cases: segmentation.CaseScores, metrics: Metrics) -> pd.DataFrame:
    found: list[pd.DataFrame] = []
    for column, value, inside in subgroups_of(test):
        part = restrict(test, inside)
        weights = unit_weights(job.spec.seed, job.spec.name, len(part.units), job.spec.settings["bootstrap"])
        rows = _case_rows(part, of_cases.within(inside, weights, part.unit), job.spec.settings["confidence"], metrics)
        found.append(in_group(rows, column, value))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _segmentation(
    job: Job, test: Tested, metrics: Metrics, networks: dict[str, comparisons.Network], predictions_path: Path
) -> dict[str, pd.DataFrame]:
    settings = job.spec.settings
    first = next(iter(test.rows.values()))
    classes = classes_of_masks(first, settings.get("classes"))
    num_bootstrap = settings["bootstrap"]
    weights = unit_weights(job.spec.seed, job.spec.name, len(test.units), num_bootstrap)
    scored: dict[str, list[dict[str, Any]]] = {fit: [] for fit in test.rows}
    folder = predictions_path.parent
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
    of_cases = segmentation.CaseScores(segmentation.case_scores(per_fit, list(metrics)), weights, test.unit, num_bootstrap)
    cases = pd.concat([rows.assign(fit_id=fit) for fit, rows in per_fit.items()], ignore_index=True)
    fits = test.fits[["fit_id", "init", "arm", "mode", "fraction", "seed", "pretrain_seed"]]
    cases = fits.merge(cases, on="fit_id", how="right")
    return {
        "scores": _case_rows(test, of_cases, settings["confidence"], metrics),
        "comparisons": _compare(settings, metrics, networks, test, of_cases.compared, of_cases.unit_differences, {}),
        "subgroups": _segmentation_subgroups(job, test, of_cases, metrics),
        "empty": segmentation.empty_counts(cases),
        "overlays": _overlays(job, folder, test, pictured(cases)),
        "cases": cases,
    }


def _case_rows(test: Tested, of_cases: segmentation.CaseScores, confidence: float, metrics: Metrics) -> pd.DataFrame:
    """Score rows; means over classes are over the same classes in every arm of one mode and share of labels."""
    alike = [list(part["fit_id"]) for _, part in test.fits.groupby(["mode", "fraction"], sort=True)]
    group = {fit: fits for fits in alike for fit in fits}
    scores = of_cases.scores(alike)

    def left_out(fits: list[str]) -> dict[comparisons.Key, str]:
        return of_cases.left_out(fits, group[fits[0]])

    return comparisons.score_rows(test, scores, confidence, _better(metrics), left_out)


def _overlays(job: Job, folder: Path, test: Tested, chosen: pd.DataFrame) -> pd.DataFrame:
    """The chosen cases with the plane that shows most of them, on the RAS+ grid of ingest's volume."""
    made = []
    for row in chosen.to_dict("records"):
        part = test.rows[row["fit_id"]].set_index("case_id").loc[row["case_id"]]
        prediction, spacing = _mask(job, folder, part["prediction"], canonical=True)
        target, _ = _mask(job, folder, part["target"], canonical=True)
        plane = fullest_plane(prediction, target, spacing or (1.0,) * target.ndim)
        made.append({str(name): value for name, value in row.items()} | plane)
    return pd.DataFrame(made)


def _compare(
    settings: dict[str, Any],
    metrics: Metrics,
    networks: dict[str, comparisons.Network],
    test: Tested,
    compared: Callable[[list[str], list[str]], dict[comparisons.Key, comparisons.Compared]],
    unit_differences: Callable[[list[str], list[str]], dict[comparisons.Key, Floats]],
    positives: dict[str, tuple[np.ndarray, dict[str, Floats]]],
) -> pd.DataFrame:
    return comparisons.comparison_rows(
        test,
        compared,
        unit_differences,
        positives,
        confidence=settings["confidence"],
        holm_over=settings.get("holm_over", "arms"),
        better={"brier": "lower"} | _better(metrics),
        controls=settings.get("controls"),
        networks=networks,
        asked=settings.get("compare", ()),
    )


def _metrics(task: str, chosen: list[dict[str, Any]] | None) -> Metrics:
    """The metrics of the study file with their options, or all of the folder; those of the other task are left out."""
    wanted = {c["name"]: c["options"] for c in chosen} if chosen else {name: {} for name in plugins.names("metric")}
    found: Metrics = {}
    for name, options in wanted.items():
        function = plugins.find("metric", name).load()
        if plugins.find("metric", name).constant("TASK") == task:
            found[name] = functools.partial(function, **options)
    return found


def _options(metrics: Metrics, chosen: list[dict[str, Any]] | None) -> dict[str, str]:
    """By metric, its options as JSON: NSD without its tolerance is no number."""
    given = {c["name"]: c["options"] for c in chosen or []}
    return {name: canonical_json(plugins.find("metric", name).check(given.get(name, {}))) for name in metrics}


def _better(metrics: Metrics) -> dict[str, str]:
    return {name: plugins.find("metric", name).constant("BETTER") for name in metrics}


def _check_fits(test: Tested, fits: pd.DataFrame) -> None:
    """Every fit that was made was tested, and the other way round."""
    made, tested = set(fits["fit_id"].astype(str)), set(test.fits["fit_id"].astype(str))
    if made != tested:
        raise CorruptArtefactError(
            f"fits.tsv lists {len(made)} fits and predictions.parquet {len(tested)}; {len(made ^ tested)} are in one only. "
            "Both must come from the same run: run finetune again."
        )


def _mask(job: Job, folder: Path, name: str, *, canonical: bool = False) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """A mask of whole numbers and its voxel size, if its file says it; name is relative to the predictions.

    With `canonical`, a NIfTI is turned to the closest RAS+ (flips and permutation only), as ingest stores volumes.
    """
    path = job.read(folder / name)
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
            raise CorruptArtefactError(f"{path.name} holds values that are no whole numbers: a mask has class indices only.")
        mask = np.asarray(mask, dtype=np.int64)
    return np.asarray(mask), spacing
