"""What arms lose with fewer labels: estimates, intervals and corrections equal slow references on the same draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_predictions import predictions
from test_evaluate_run import evaluated, finetuned, scores
from test_evaluate_segmentation import of_cases

from medssl.core import tables
from medssl.core.rng import rng
from medssl.evaluate import predictions as checked
from medssl.evaluate.comparisons import families
from medssl.evaluate.falls import Falls
from medssl.evaluate.intervals import Replicates, interval, mean_of, unit_weights
from medssl.evaluate.seeds import spread_of
from medssl.evaluate.signed_ranks import holm

RUNS = {f"{name}-all-seed{seed}": strength for name, strength in {"spark": 1.6, "simclr": 1.3}.items() for seed in (0, 1, 2)}
ARMS = {"scratch-resnet18": 0.8} | RUNS


def paired_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Run s fine-tuned with seed s alone, as `finetune.pair_seeds` has it."""
    start = table["init"].str.extract(r"seed(\d+)$")[0]
    return table[start.isna() | (start == table["seed"].astype(str))]


def read(out: Path, name: str) -> pd.DataFrame:
    return tables.read_tsv(out / f"{name}.tsv", text=("class",))


def by_hand(table: pd.DataFrame, arm: str, share: float, weights: np.ndarray, num_bootstrap: int) -> dict[int, Replicates]:
    """Accuracy of each seed under each draw, draw by draw and case by case."""
    found = {}
    rows = table[table["init"].str.startswith(arm) & (table["fraction"] == share) & (table["mode"] == "full")]
    for seed, part in rows.groupby("seed"):
        part = part.sort_values("case_id")
        names = [name for name in part if name.startswith("prob_")]
        right = part[names].idxmax(axis=1).str.removeprefix("prob_") == part["target"]
        values = [sum(w * r for w, r in zip(row, right, strict=True)) / sum(row) for row in weights.tolist()]
        found[int(seed)] = Replicates.of(np.array(values), num_bootstrap, len(part))
    return found


def test_falls_and_their_differences_equal_a_slow_reference(tmp_path: Path) -> None:
    table = paired_seeds(predictions(num_cases=50, classes=("no", "yes"), fractions=(0.1, 0.5, 1.0), arms=ARMS))
    out = evaluated(tmp_path, finetuned(tmp_path, table), metrics=["accuracy", "brier"], compare=[("spark", "simclr")])
    weights = unit_weights(0, "task", 50, 200)
    lost = {}
    for arm in ("scratch", "spark", "simclr"):
        most, fewest = (by_hand(table, arm, share, weights, 200) for share in (1.0, 0.1))
        lost[arm] = {seed: most[seed] - fewest[seed] for seed in most}
    falls = read(out, "falls").query("metric == 'accuracy' and mode == 'full'").set_index("init")
    assert set(falls["seeds_in_interval"]) == set(falls["num_seeds"]) == {3}
    assert set(zip(falls["fraction_most"], falls["fraction_fewest"], strict=True)) == {(1.0, 0.1)}
    for arm, name in {"scratch": "scratch-resnet18", "spark": "spark-all", "simclr": "simclr-all"}.items():
        seeds = list(lost[arm].values())
        expected = interval(mean_of(seeds), 0.95, spread_of(seeds))
        row = falls.loc[name]
        assert row["fall"] == pytest.approx(expected.estimate, abs=1e-12)
        assert row["fall"] == pytest.approx(row["score_most"] - row["score_fewest"], abs=1e-12)
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert row["seed_sd"] == pytest.approx(np.std([one.value for one in seeds], ddof=1), abs=1e-12)
    compared = read(out, "fall_comparisons").query("metric == 'accuracy' and mode == 'full'").set_index(["a", "b"])
    assert set(compared.index) == {("spark-all", "scratch-resnet18"), ("simclr-all", "scratch-resnet18"),
                                   ("spark-all", "simclr-all")}  # fmt: skip
    for a, b in (("spark", "simclr"), ("spark", "scratch")):
        apart = [lost[a][seed] - lost[b][seed] for seed in lost[a]]
        expected = interval(mean_of(apart), 0.95, spread_of(apart))
        row = compared.loc[f"{a}-all", "scratch-resnet18" if b == "scratch" else f"{b}-all"]
        numbers = (expected.estimate, expected.low, expected.high, expected.p)
        assert tuple(row[["difference", "low", "high", "p"]]) == pytest.approx(numbers, abs=1e-6)
    with_scratch = compared.loc[[("spark-all", "scratch-resnet18"), ("simclr-all", "scratch-resnet18")]]
    assert with_scratch["p_holm"].to_numpy() == pytest.approx(holm(with_scratch["p"].to_numpy()), abs=1e-12)
    assert compared.loc[("spark-all", "simclr-all"), "p_holm"] == compared.loc[("spark-all", "simclr-all"), "p"]


def test_a_fall_is_that_of_the_two_rows_of_scores_and_is_a_loss_whichever_values_are_better(tmp_path: Path) -> None:
    table = predictions(num_cases=60, fractions=(0.05, 1.0), modes=("full",), arms={"scratch-resnet18": 1.2})
    out = evaluated(tmp_path, finetuned(tmp_path, table))
    point = scores(out).set_index(["metric", "class", "fraction"])["estimate"]
    falls = read(out, "falls")
    assert len(falls) == len(point) / 2
    for row in falls.to_dict("records"):
        most, fewest = (point[row["metric"], row["class"], share] for share in (1.0, 0.05))
        assert row["fall"] == pytest.approx((most - fewest) * (1 if row["better"] == "higher" else -1), abs=1e-12)
    lost = falls[falls["class"].isin(["macro", "all"])].set_index("metric")["fall"]
    assert lost["auc"] > 0 and lost["brier"] > 0, "less signal with fewer labels"


def test_arms_that_lose_alike_case_by_case_do_not_differ(tmp_path: Path) -> None:
    """The draws of cases are the same for both: each fall has an interval, their difference none to speak of."""
    one = predictions(num_cases=40, fractions=(0.1, 1.0), modes=("full",), arms={"simclr-all-seed0": 1.0})
    twin = one.assign(**{name: one[name].str.replace("simclr", "moco") for name in ("init", "fit_id")})
    path = finetuned(tmp_path, pd.concat([one, twin]))
    out = evaluated(tmp_path, path, compare=[("simclr", "moco")], metrics=["accuracy", "auc"])
    compared = read(out, "fall_comparisons")
    assert (compared["difference"] == 0).all() and (compared["p"] == 1).all()
    assert (read(out, "falls")["high"] - read(out, "falls")["low"] > 0.01).all()


def test_one_share_of_labels_has_no_table_of_falls(tmp_path: Path) -> None:
    out = evaluated(tmp_path, finetuned(tmp_path, predictions(num_cases=30, fractions=(1.0,), modes=("full",))))
    assert not (out / "falls.tsv").exists() and not (out / "fall_comparisons.tsv").exists()


@pytest.mark.parametrize("holm_over", ["arms", "task"])
def test_the_correction_runs_within_a_mode_or_over_the_task(tmp_path: Path, holm_over: str) -> None:
    path = finetuned(tmp_path, predictions(num_cases=40, seeds=(0,), arms=ARMS | {"byol-all-seed0": 1.0}))
    table = read(evaluated(tmp_path, path, holm_over=holm_over, metrics=["accuracy"]), "fall_comparisons")
    for _, part in table.groupby("mode") if holm_over == "arms" else [("", table)]:
        assert part["p_holm"].to_numpy() == pytest.approx(holm(part["p"].to_numpy()), abs=1e-12)


def fits_of_shares(arms: dict[str, list[int]]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {"fit_id": f"{arm}-{share}-{seed}", "arm": arm, "mode": "full", "fraction": share, "seed": seed, "pretrain_seed": None}
        for arm, seeds in arms.items()
        for share in (0.1, 1.0)
        for seed in seeds
    ]
    return pd.DataFrame(rows).astype({"pretrain_seed": "Int64"})


def test_falls_of_masks_rest_on_the_cases_that_every_fit_has() -> None:
    """A case that is undefined in one fit of one share is left out of all four means, and the note says so."""
    fits = fits_of_shares({"simclr-all": [0, 1, 2], "scratch-unet": [0, 1, 2]})
    random, n = rng(0, "masks"), 30
    values = {fit: random.random(n) for fit in fits["fit_id"]}
    values["simclr-all-1.0-2"][:4] = np.nan
    values["scratch-unet-0.1-0"][2:7] = np.nan
    made = of_cases({fit: {("hd95", "organ"): row.tolist()} for fit, row in values.items()})
    test = checked.Tested(fits, pd.DataFrame({"case_id": range(n)}), {}, np.arange(n), [str(u) for u in range(n)], "patient")
    of_task = Falls(test, made.contrast, 0.95, {"hd95": "lower"})
    (row,) = of_task.comparison_rows(families, "arms").to_dict("records")
    mean = {fit: row_[7:].mean() for fit, row_ in values.items()}

    def fall(arm: str) -> float:
        return float(np.mean([mean[f"{arm}-0.1-{s}"] - mean[f"{arm}-1.0-{s}"] for s in range(3)]))

    assert row["difference"] == pytest.approx(fall("simclr-all") - fall("scratch-unet"), abs=1e-12)
    assert (row["n"], row["seeds_in_interval"]) == (23, 3)
    assert "left out: 7 of 30 cases, undefined in a fit" in row["note"]
    own = of_task.rows().set_index("init")
    assert own.loc["simclr-all", "n"] == 26 and own.loc["scratch-unet", "n"] == 25
    assert own.loc["simclr-all", "fall"] == pytest.approx(
        np.mean([values[f"simclr-all-0.1-{s}"][4:].mean() - values[f"simclr-all-1.0-{s}"][4:].mean() for s in range(3)])
    )


def test_an_arm_without_fits_at_one_end_has_no_fall() -> None:
    fits = fits_of_shares({"a": [0], "scratch-unet": [0]})
    fits = fits[(fits["arm"] != "a") | (fits["fraction"] == 1.0)]
    made = of_cases({fit: {("dice", "organ"): rng(0, fit).random(20).tolist()} for fit in fits["fit_id"]})
    test = checked.Tested(fits, pd.DataFrame({"case_id": range(20)}), {}, np.arange(20), [str(u) for u in range(20)], "patient")
    of_task = Falls(test, made.contrast, 0.95, {"dice": "higher"})
    assert of_task.rows()["init"].tolist() == ["scratch-unet"]
    assert of_task.comparison_rows(families, "arms").empty


# ---- seeds in additional columns


def test_the_spread_over_seeds_is_in_the_rows_of_three_and_beside_where_it_is_asked_for(tmp_path: Path) -> None:
    table = paired_seeds(predictions(num_cases=60, classes=("no", "yes"), fractions=(1.0,), modes=("full",), arms=ARMS))
    table = table[~table["init"].isin(["simclr-all-seed2"])]
    path = finetuned(tmp_path, table)
    inside, beside = ({n: read(evaluated(tmp_path, path, seeds=seeds), n) for n in ("scores", "comparisons")}
                      for seeds in ("interval", "beside"))  # fmt: skip
    same = inside["scores"]["init"] == "simclr-all"
    assert set(inside["scores"].loc[same, "seeds_in_interval"]) == {0}
    assert set(inside["scores"].loc[~same, "seeds_in_interval"]) == {3}
    pd.testing.assert_frame_equal(inside["scores"][same], beside["scores"][same])
    assert (beside["scores"]["seeds_in_interval"] == 0).all() and (beside["comparisons"]["seeds_in_interval"] == 0).all()
    assert not beside["comparisons"]["note"].fillna("").str.contains("seeds").any()
    compared = inside["comparisons"]
    drawn = compared["method"].str.startswith("bootstrap")
    assert set(compared.loc[drawn & (compared["a"] == "spark-all"), "seeds_in_interval"]) == {3}
    one_sided = compared.loc[drawn & (compared["a"] == "simclr-all") & (compared["seeds_in_interval"] == 3), "note"]
    assert len(one_sided) and one_sided.str.contains("without the spread over seeds of simclr-all: fewer than 3").all()
    assert compared.loc[~drawn, "note"].str.contains("of these seeds alone").all()
    assert (compared.loc[~drawn, "seeds_in_interval"] == 0).all()
