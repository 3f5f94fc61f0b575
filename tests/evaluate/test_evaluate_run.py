"""The evaluate stage: its tables, what it refuses, and that equal predictions give equal bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_predictions import fits_of, in_folds, predictions
from sklearn.metrics import roc_auc_score

from medssl.artefacts.names import asked_pairs
from medssl.core import job as jobs
from medssl.core import plugins, tables
from medssl.core.errors import CorruptArtefactError, StudyError
from medssl.core.job import Spec
from medssl.evaluate.comparisons import networks_of, pairs_of
from medssl.evaluate.masks import mask_path
from medssl.evaluate.options import EvaluateOptions, EvaluationOptions
from medssl.evaluate.run import run


def finetuned(root: Path, table: pd.DataFrame, *files: Path, fits: pd.DataFrame | None = None) -> Path:
    """Predictions and fits as finetune leaves them, with their receipt."""
    folder = root / "5_finetune" / "task"
    with jobs.job(Spec("finetune", "task", "s", str(root), 0, "c", {}, {}, str(folder))) as job:
        tables.write_parquet(job.path("predictions.parquet"), table)
        tables.write_tsv(job.path("fits.tsv"), fits_of(table) if fits is None else fits)
        job.wrote(job.path("predictions.parquet"), job.path("fits.tsv"), *files)
        job.write_receipt()
    return folder / "predictions.parquet"


def evaluated(
    root: Path, path: Path, *, task: str = "classification", of_task: dict[str, Any] | None = None, **chosen: Any
) -> Path:
    given = {"bootstrap": 200, "task": task, "whole": ["all"]} | chosen | (of_task or {})
    options = EvaluationOptions(**given).model_dump(mode="json")
    inputs = {"predictions": str(path), "fits": str(path.parent / "fits.tsv"), "masks": str(path.parent / "masks")}
    out = root / "6_evaluate" / "task"
    with jobs.job(Spec("evaluate", "task", "s", str(root), 0, "c", options, inputs, str(out))) as job:
        run(job)
    return out


def scores(out: Path) -> pd.DataFrame:
    return tables.read_tsv(out / "scores.tsv", text=("class",))


def test_every_score_has_an_interval_n_unit_seeds_and_method(tmp_path: Path) -> None:
    out = evaluated(tmp_path, finetuned(tmp_path, predictions(num_cases=60, modes=("full",))))
    table = scores(out)
    contract = [
        "init",
        "mode",
        "fraction",
        "metric",
        "class",
        "estimate",
        "low",
        "high",
        "n",
        "unit",
        "num_seeds",
        "seed_sd",
        "method",
    ]
    assert set(contract) <= set(table.columns)
    assert set(table["init"]) == {"scratch-resnet18", "simclr-all", "simclr-hash"}
    assert table[["estimate", "low", "high", "seed_sd"]].notna().all().all()
    assert ((table["low"] <= table["estimate"]) & (table["estimate"] <= table["high"])).mean() > 0.99
    assert set(table["n"]) == {60}
    assert set(table["unit"]) == {"image"}
    assert set(table["metric"]) == {p.name for p in plugins.all_of("metric") if p.constant("PREDICTS") == "classes"}


def test_the_estimate_is_the_mean_over_seeds_of_scikit_learns(tmp_path: Path) -> None:
    made = predictions(num_cases=60, fractions=(1.0,), modes=("full",))
    table = scores(evaluated(tmp_path, finetuned(tmp_path, made)))
    row = table[(table["init"] == "scratch-resnet18") & (table["metric"] == "auc") & (table["class"] == "macro")].iloc[0]
    columns = ["prob_kidney", "prob_liver", "prob_spleen"]
    by_seed = [
        roc_auc_score(part["target"], part[columns], multi_class="ovr", labels=["kidney", "liver", "spleen"])
        for _, part in made[made["init"] == "scratch-resnet18"].groupby("seed")
    ]
    assert row["estimate"] == pytest.approx(np.mean(by_seed), abs=1e-9)
    assert row["seed_sd"] == pytest.approx(np.std(by_seed, ddof=1), abs=1e-9)


def test_no_interval_holds_values_that_its_metric_cannot_have(tmp_path: Path) -> None:
    """Of three seeds one fails: intervals over seeds would reach beyond an AUC of 1."""
    parts = [
        predictions(num_cases=60, fractions=(1.0,), modes=("full",), seeds=(seed,), arms={"scratch-resnet18": strength})
        for seed, strength in enumerate((9.0, 0.1, 9.0))
    ]
    table = scores(evaluated(tmp_path, finetuned(tmp_path, pd.concat(parts, ignore_index=True))))
    for row in table.to_dict("records"):
        least, most = plugins.find("metric", row["metric"]).constant("LIMITS")
        assert row["low"] >= least and (most is None or row["high"] <= most), row
    cut = table[table["note"].str.contains("interval cut at 1")]
    assert "auc" in set(cut["metric"]) and (cut["high"] == 1).all()


def test_comparisons_are_paired_and_corrected_over_arms(tmp_path: Path) -> None:
    out = evaluated(tmp_path, finetuned(tmp_path, predictions(num_cases=90, classes=("no", "yes"))), positive="yes")
    table = tables.read_tsv(out / "comparisons.tsv", text=("class",))
    assert set(zip(table["a"], table["b"], strict=True)) == {
        ("simclr-all", "scratch-resnet18"),
        ("simclr-hash", "scratch-resnet18"),
        ("simclr-hash", "simclr-all"),
    }
    assert {m.split(" ")[0] for m in table["method"]} == {"bootstrap", "delong", "wilcoxon"}
    known = table[table["p"].notna()]
    assert (known["p_holm"] >= known["p"] - 1e-15).all()
    two = known[
        (known["b"] == "scratch-resnet18")
        & (known["metric"] == "accuracy")
        & (known["mode"] == "full")
        & (known["fraction"] == 1)
    ]
    small, large = sorted(two["p"])
    assert sorted(two["p_holm"]) == pytest.approx(sorted([min(1, 2 * small), max(2 * small, large)]))
    point = scores(out).set_index(["init", "mode", "fraction", "metric", "class"])["estimate"]
    for row in table[table["method"].str.startswith("bootstrap")].to_dict("records"):
        key = (row["mode"], row["fraction"], row["metric"], row["class"])
        assert row["difference"] == pytest.approx(point[row["a"], *key] - point[row["b"], *key], abs=1e-12)


def test_holm_over_the_whole_task_is_stricter(tmp_path: Path) -> None:
    path = finetuned(tmp_path, predictions(num_cases=30, modes=("full",), seeds=(0,)))
    arms = tables.read_tsv(evaluated(tmp_path, path) / "comparisons.tsv")
    task = tables.read_tsv(evaluated(tmp_path, path, holm_over="task") / "comparisons.tsv")
    assert (task["p_holm"].dropna() >= arms["p_holm"].dropna() - 1e-15).all()
    assert task["p_holm"].sum() > arms["p_holm"].sum()
    assert arms["p_holm_task"].equals(task["p_holm_task"]), "whatever the family of p_holm"
    for with_scratch in (True, False):
        part = task[(task["b"] == "scratch-resnet18") == with_scratch]
        one = part[(part["metric"] == "accuracy") & part["method"].str.startswith("bootstrap")].sort_values("p")
        steps = [(len(one) - place) * p for place, p in enumerate(one["p"])]
        assert len(one) == len(task["fraction"].unique()) * (1 + with_scratch)
        assert one["p_holm_task"].tolist() == pytest.approx(np.minimum(1, np.maximum.accumulate(steps)))


def test_equal_predictions_give_equal_bytes(tmp_path: Path) -> None:
    table = predictions(num_cases=40, fractions=(1.0,), modes=("full",), seeds=(0, 1))
    first = evaluated(tmp_path / "a", finetuned(tmp_path / "a", table))
    second = evaluated(tmp_path / "b", finetuned(tmp_path / "b", table.sample(frac=1, random_state=0)))
    for name in ("scores.tsv", "comparisons.tsv", "calibration.tsv", "confusion.tsv", "cases.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_patients_are_resampled_not_images(tmp_path: Path) -> None:
    """Ten equal images of each patient hold no more evidence than one."""
    base = predictions(num_cases=60, fractions=(1.0,), modes=("full",))
    many = pd.concat([base.assign(case_id=base["case_id"] + f"-{i}", unit="patient") for i in range(10)])
    one, ten = (scores(evaluated(tmp_path / n, finetuned(tmp_path / n, t))) for n, t in (("one", base), ("ten", many)))
    assert set(ten["n"]) == {60}
    assert set(ten["num_cases"]) == {600}
    pick = (one["metric"] == "accuracy").to_numpy()
    assert np.allclose(one.loc[pick, ["low", "high"]], ten.loc[pick, ["low", "high"]], atol=1e-9)


def test_the_positive_class_is_the_one_asked_for_or_the_rarer(tmp_path: Path) -> None:
    table = predictions(num_cases=40, classes=("covid", "other"), fractions=(1.0,), modes=("full",))
    table = table[(table["target"] != "covid") | ~table["case_id"].isin(sorted(table["case_id"])[:20])]
    path = finetuned(tmp_path, table)
    assert set(scores(evaluated(tmp_path, path)).query("metric == 'auc'")["class"]) == {"covid"}
    assert set(scores(evaluated(tmp_path, path, positive="other")).query("metric == 'auc'")["class"]) == {"other"}
    with pytest.raises(StudyError, match="Did you mean 'covid'"):
        evaluated(tmp_path, path, positive="covidd")


def test_a_positive_class_of_another_task_is_left_to_that_task(tmp_path: Path) -> None:
    for classes in (("no", "yes"), ("kidney", "liver", "spleen")):
        root = tmp_path / classes[0]
        path = finetuned(root, predictions(num_cases=40, classes=classes, fractions=(1.0,), modes=("full",)))
        there = evaluated(root, path, positive="covid", of_task={"sole": False}) / "scores.tsv"
        asked = there.read_bytes()
        assert (evaluated(root, path) / "scores.tsv").read_bytes() == asked


def test_subgroups_are_scored_apart(tmp_path: Path) -> None:
    table = predictions(num_cases=80, fractions=(1.0,), modes=("full",))
    table["group_scanner"] = [("a" if int(c.split("-")[1], 16) % 2 else None) for c in table["case_id"]]
    out = evaluated(tmp_path, finetuned(tmp_path, table))
    found = tables.read_tsv(out / "subgroups.tsv", text=("value", "class"))
    assert found["n"].isin([40]).all()
    assert found["group"].eq("scanner").all()


def test_several_labels_a_case_are_scored(tmp_path: Path) -> None:
    table = predictions(num_cases=60, fractions=(1.0,), modes=("full",))
    extra = table["case_id"].isin(sorted(set(table["case_id"]))[:10])
    table.loc[extra, "target"] = "kidney|liver"
    found = scores(evaluated(tmp_path, finetuned(tmp_path, table)))
    assert set(found.query("metric == 'auc'")["class"]) == {"kidney", "liver", "macro", "spleen"}


def test_a_task_of_several_labels_may_have_test_cases_of_one_each(tmp_path: Path) -> None:
    """Its probabilities need not sum to 1, whatever the labels of the test cases happen to be."""
    table = predictions(num_cases=40, fractions=(1.0,), modes=("full",))
    path = finetuned(tmp_path, table.assign(prob_liver=0.9 * table["prob_liver"]))
    found = scores(evaluated(tmp_path, path, of_task={"multilabel": True}))
    assert set(found.query("metric == 'auc'")["class"]) == {"kidney", "liver", "macro", "spleen"}
    with pytest.raises(CorruptArtefactError, match="do not sum to 1"):
        evaluated(tmp_path, path, of_task={"multilabel": False})


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda t: t.drop(columns="unit_id"), "no column 'unit_id'"),
        (lambda t: t.assign(split="val"), "no case of split 'test'"),
        (lambda t: t.iloc[1:], "not tested on the same cases"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "in two rows"),
        (lambda t: t.assign(prob_liver=np.nan), "missing"),
        (lambda t: t.assign(prob_liver=t["prob_liver"] + 0.5), "do not sum to 1"),
        (lambda t: t.assign(target="lung"), "every class needs its column"),
    ],
)
def test_broken_predictions_are_refused(tmp_path: Path, harm: Any, sentence: str) -> None:
    path = finetuned(tmp_path, harm(predictions(num_cases=12, fractions=(1.0,), modes=("full",))))
    with pytest.raises(CorruptArtefactError, match=sentence):
        evaluated(tmp_path, path)


def test_fits_without_predictions_are_refused(tmp_path: Path) -> None:
    table = predictions(num_cases=12, fractions=(1.0,), modes=("full",))
    path = finetuned(tmp_path, table, fits=fits_of(table).iloc[1:])
    with pytest.raises(CorruptArtefactError, match="same run"):
        evaluated(tmp_path, path)


def test_changed_predictions_are_refused(tmp_path: Path) -> None:
    path = finetuned(tmp_path, predictions(num_cases=12))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptArtefactError, match="finetune"):
        evaluated(tmp_path, path)


def test_a_few_metrics_with_options_can_be_chosen(tmp_path: Path) -> None:
    chosen = ["auc", {"sensitivity_at_specificity": {"specificity": 0.8}}]
    found = scores(evaluated(tmp_path, finetuned(tmp_path, predictions(num_cases=30, fractions=(1.0,))), metrics=chosen))
    assert set(found["metric"]) == {"auc", "sensitivity_at_specificity"}
    assert dict(zip(found["metric"], found["options"], strict=True)) == {
        "auc": "{}",
        "sensitivity_at_specificity": '{"specificity":0.8}',
    }


def test_one_arm_alone_is_scored_and_not_compared(tmp_path: Path) -> None:
    out = evaluated(tmp_path, finetuned(tmp_path, predictions(num_cases=30, arms={"scratch-resnet18": 1.0})))
    assert len(scores(out))
    assert tables.read_tsv(out / "comparisons.tsv").empty


@pytest.mark.parametrize("suffix", [".npy", ".nii.gz"])
def test_segmentation_is_scored_from_masks_on_disk(tmp_path: Path, suffix: str) -> None:
    import nibabel

    masks = tmp_path / "5_finetune" / "task" / "masks"
    masks.mkdir(parents=True)
    rows, files = [], []
    for arm, shift in {"scratch-resnet18": 2, "simclr-hash-seed0": 1}.items():
        for case in range(6):
            target, prediction = np.zeros((16, 16, 8), np.uint8), np.zeros((16, 16, 8), np.uint8)
            target[4:12, 4:12, 2:6] = 1
            prediction[4 + shift : 12 + shift, 4:12, 2:6] = 1
            if case == 5:
                target[:], prediction[:] = 0, 0
            names = []
            for what, mask in (("target", target), ("prediction", prediction)):
                name = f"masks/{what}-{arm}-{case}{suffix}"
                path = masks.parent / name
                if suffix == ".npy":
                    np.save(path, mask)
                else:
                    nibabel.save(nibabel.Nifti1Image(mask, np.diag([2.0, 1.0, 1.0, 1.0])), path)
                names.append(name)
                files.append(path)
            row = {
                "fit_id": f"{arm}-full-1-s0",
                "init": arm,
                "mode": "full",
                "fraction": 1.0,
                "seed": 0,
                "split": "test",
                "unit": "patient",
            }
            row |= {"case_id": f"v-{case}", "unit_id": f"p-{case}", "target": names[0], "prediction": names[1]}
            rows.append(row | {"classes": json.dumps({"1": "organ"}), "spacing_mm": "[2.0, 1.0, 1.0]"})
    table = pd.DataFrame(rows)
    table.loc[table["init"] != "scratch-resnet18", "target"] = table.loc[table["init"] == "scratch-resnet18", "target"].to_list()
    table["group_site"] = [("north" if case in ("v-0", "v-5") else None) for case in table["case_id"]]
    out = evaluated(tmp_path, finetuned(tmp_path, table, *files), task="segmentation")
    found = scores(out).set_index(["init", "metric"])
    assert found.loc[("scratch-resnet18", "dice"), "estimate"] == pytest.approx(0.75)
    assert found.loc[("simclr-hash", "dice"), "estimate"] == pytest.approx(0.875)
    assert found.loc[("simclr-hash", "hd95"), "estimate"] == pytest.approx(2.0)
    assert set(tables.read_tsv(out / "empty.tsv")["both_empty"]) == {1}
    difference = tables.read_tsv(out / "comparisons.tsv", text=("class",)).query("metric == 'dice'")
    assert set(difference["method"].str.split(" ").str[0]) == {"bootstrap", "wilcoxon"}
    assert difference["difference"].to_numpy() == pytest.approx(0.125)
    assert set(difference["n"]) == set(found["n"]) == {5}, "the case without an organ has no score"
    assert difference["note"].str.contains("left out: 1 of 6 cases").all()
    within = tables.read_tsv(out / "subgroups.tsv", text=("value", "class")).query(
        "metric == 'dice' and init == 'scratch-resnet18'"
    )
    assert dict(zip(within["value"].fillna("n/a"), within["n"], strict=True)) == {"n/a": 4, "north": 1}
    assert within["estimate"].to_numpy() == pytest.approx(0.75)


def test_pairs_are_read_from_the_names_of_arms() -> None:
    arms = ["scratch-resnet18", "simclr-all", "simclr-hash"]
    assert pairs_of(arms, whole=["all"]) == [
        ("simclr-all", "scratch-resnet18"),
        ("simclr-hash", "scratch-resnet18"),
        ("simclr-hash", "simclr-all"),
    ]
    assert pairs_of(arms) == [("simclr-all", "scratch-resnet18"), ("simclr-hash", "scratch-resnet18")]
    assert pairs_of(["simclr-hash"]) == []
    arms = ["simclr-hash", "simclr-random_n", "moco-hash"]
    assert pairs_of(arms, {"hash": ["every_n", "random_n"]}) == [("simclr-hash", "simclr-random_n")]


def test_pairs_that_are_asked_for_are_of_one_reduction_and_a_family_of_their_own(tmp_path: Path) -> None:
    arms = ["joint-all", "joint-hash", "slices-all", "slices-hash", "scratch-resnet18", "imagenet"]
    assert asked_pairs(arms, [("joint", "slices"), ("joint", "imagenet"), ("absent", "slices")]) == [
        ("joint-all", "slices-all"), ("joint-hash", "slices-hash"), ("joint-all", "imagenet"), ("joint-hash", "imagenet"),
    ]  # fmt: skip
    strengths = {"scratch-resnet18": 0.8, "simclr-all-seed0": 1.4, "moco-all-seed0": 1.2, "byol-all-seed0": 1.1}
    path = finetuned(tmp_path, predictions(num_cases=60, modes=("full",), fractions=(1.0,), arms=strengths))
    alone = tables.read_tsv(evaluated(tmp_path, path) / "comparisons.tsv", text=("class",))
    table = tables.read_tsv(
        evaluated(tmp_path, path, compare=[("simclr", "moco"), ("simclr", "byol")]) / "comparisons.tsv", text=("class",)
    )
    asked = table[table["b"] != "scratch-resnet18"]
    assert set(zip(asked["a"], asked["b"], strict=True)) == {("simclr-all", "moco-all"), ("simclr-all", "byol-all")}
    both = asked[(asked["metric"] == "accuracy") & asked["p"].notna()].sort_values("p")
    small, large = both["p"]
    assert both["p_holm"].tolist() == pytest.approx([min(1, 2 * small), min(1, max(2 * small, large))])
    pd.testing.assert_frame_equal(table[table["b"] == "scratch-resnet18"].reset_index(drop=True), alone)


def test_an_arm_is_compared_with_the_scratch_of_its_own_network() -> None:
    arms = ["mae-all", "scratch-unet", "scratch-vit_3d", "simclr-all"]
    networks = {"mae-all": ("vit_3d", 9), "scratch-vit_3d": ("vit_3d", 9), "simclr-all": ("unet", 5), "scratch-unet": ("unet", 5)}
    assert pairs_of(arms, None, networks) == [("mae-all", "scratch-vit_3d"), ("simclr-all", "scratch-unet")]
    fits = pd.DataFrame(
        [
            {"init": init, "backbone": backbone, "parameters": parameters}
            for init, (backbone, parameters) in {**networks, "simclr-all-seed1": ("unet", 5)}.items()
        ]
    )
    assert networks_of(fits) == networks


def test_scratches_are_not_compared_with_each_other() -> None:
    assert pairs_of(["scratch-resnet18", "scratch-unet"]) == []


FOLDS = {"num_cases": 60, "cases_per_unit": 2, "fractions": (1.0,), "modes": ("full",)}


def test_predictions_of_folds_are_pooled_into_the_tables_of_one_test_part(tmp_path: Path) -> None:
    """Each case is tested once, so the pooled cases are a test part as any other, and units are still patients."""
    whole = predictions(**FOLDS)
    folded = in_folds(whole, 5)
    assert len(fits_of(folded)) == 5 * len(fits_of(whole))
    once, pooled = (evaluated(tmp_path / n, finetuned(tmp_path / n, t)) for n, t in (("one", whole), ("five", folded)))
    for name in ("scores.tsv", "comparisons.tsv", "calibration.tsv", "confusion.tsv", "cases.parquet"):
        assert (once / name).read_bytes() == (pooled / name).read_bytes(), name
    assert set(scores(pooled)["n"]) == {30}
    assert json.loads((pooled / "receipt.json").read_text())["counts"] == {"fits": 9, "cases": 60, "units": 30, "folds": 5}
    assert "folds" not in json.loads((once / "receipt.json").read_text())["counts"]


def test_a_fold_that_was_fitted_and_not_tested_is_refused(tmp_path: Path) -> None:
    folded = in_folds(predictions(**FOLDS), 5)
    path = finetuned(tmp_path, folded[folded["fold"] != 3], fits=fits_of(folded))
    with pytest.raises(CorruptArtefactError, match=r"lists 45 fits and predictions\.parquet 36"):
        evaluated(tmp_path, path)


def test_a_case_that_two_folds_test_is_refused(tmp_path: Path) -> None:
    folded = in_folds(predictions(**FOLDS), 5)
    twice = folded[folded["case_id"] == folded["case_id"].iloc[0]].assign(fold=4)
    with pytest.raises(CorruptArtefactError, match="not tested on the same cases"):
        evaluated(tmp_path, finetuned(tmp_path, pd.concat([folded, twice])))


def test_a_mask_outside_the_folder_of_masks_is_refused(tmp_path: Path) -> None:
    for name in ("target.npy", "../masks/target.npy", "other/target.npy"):
        with pytest.raises(CorruptArtefactError, match="masks/"):
            mask_path(tmp_path / "masks", name)
    assert mask_path(tmp_path / "masks", "masks/a/target.npy") == tmp_path / "masks/a/target.npy"


def test_what_is_made_beside_the_scores_needs_no_metric_to_be_named(tmp_path: Path) -> None:
    """The Brier score of cases, DeLong's test and the calibration curve are there whatever scores a study asks for."""
    path = finetuned(tmp_path, predictions(num_cases=40, classes=("no", "yes"), fractions=(1.0,), modes=("full",)))
    out = evaluated(tmp_path, path, metrics=["accuracy"])
    compared = tables.read_tsv(out / "comparisons.tsv", text=("class",))
    assert dict(zip(compared["metric"], compared["better"], strict=True)) == {
        "accuracy": "higher", "auc": "higher", "brier": "lower"
    }  # fmt: skip
    assert set(scores(out)["metric"]) == {"accuracy"}
    assert "brier" in tables.read_parquet(out / "cases.parquet")
    loaded = {plugin.name for plugin in EvaluateOptions(metrics=["accuracy"]).plugins()}
    assert {"accuracy", "auc", "brier", "calibration_error"} <= loaded and "f1" not in loaded


def test_settings_refuse_unknown_metrics_and_options() -> None:
    with pytest.raises(ValueError, match="Did you mean"):
        EvaluateOptions(metrics=["aucc"])
    with pytest.raises(ValueError, match="no option"):
        EvaluateOptions(metrics=[{"nsd": {"tolerance": 1.0}}])
