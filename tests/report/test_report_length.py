"""Whether fits were long enough: the change of the validation score at their end, with its interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_rows import sentences
from scipy import stats

from medssl.report.evidence import Evidence
from medssl.report.section import Figure, Table
from medssl.report.sections.length_of_fits import EARLY, ONE, OPEN, RISING, STOPPED, UNKNOWN, length_of_fits


def evidence(changes: list[float], *, folds: bool = False) -> Evidence:
    """Fits of 400 steps, scored every 50, that change by so much from step 300 to the end."""
    fits, curves = [], []
    for number, change in enumerate(changes):
        names = {"fit_id": "a" if folds else f"a-{number}"} | ({"fold": number} if folds else {})
        fits.append(names | {"init": "scratch-resnet18", "mode": "full", "fraction": 1.0, "seed": number, "steps": 400})
        scores = [0.1, 0.3, 0.5, 0.6, 0.7, 0.7 + number / 100, 0.9, 0.7 + number / 100 + change]
        curves += [names | {"step": 50 * (n + 1), "loss": 1.0, "val_score": score} for n, score in enumerate(scores)]
    return Evidence("t", fits={"heart": pd.DataFrame(fits)}, fit_curves={"heart": pd.DataFrame(curves)})


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ([0.05, 0.06, 0.055], RISING),
        ([0.001, 0.002, 0.0015], STOPPED),
        ([-0.2, -0.21, -0.19], STOPPED),
        ([0.3, -0.3, 0.05], OPEN),
        ([0.4], ONE),
        ([float("nan"), float("nan")], UNKNOWN),
    ],
)
def test_the_page_says_whether_a_curve_had_stopped(changes: list[float], verdict: str) -> None:
    section = length_of_fits(evidence(changes))
    table = next(block for block in section.blocks if isinstance(block, Table))
    (row,) = table.rows.to_dict("records")
    assert row["verdict"] == verdict and row["fits"] == len(changes)
    assert ("Still rising: scratch-resnet18 (heart" in sentences(section)) == (verdict == RISING)
    if len(changes) > 1 and not np.isnan(changes[0]):
        low, high = stats.ttest_1samp(changes, 0).confidence_interval()
        assert (row["change"], row["low"], row["high"]) == pytest.approx((np.mean(changes), low, high))


def test_scores_of_the_last_quarter_alone_say_nothing_of_their_rise() -> None:
    whole = evidence([0.001, 0.002, 0.0015])
    late = {task: curve[curve["step"] == 400] for task, curve in whole.fit_curves.items()}
    table = next(b for b in length_of_fits(Evidence("t", fits=whole.fits, fit_curves=late)).blocks if isinstance(b, Table))
    assert table.rows["verdict"].tolist() == [EARLY] and table.rows["change"].isna().all()


@pytest.mark.parametrize(("scored", "since"), [([100, 200, 300, 400], 300), ([200, 400], 200), ([150, 250, 400], 250)])
def test_the_table_names_the_step_from_which_the_change_is(scored: list[int], since: int) -> None:
    whole = evidence([0.001, 0.002, 0.0015])
    few = {task: curve[curve["step"].isin(scored)] for task, curve in whole.fit_curves.items()}
    table = next(b for b in length_of_fits(Evidence("t", fits=whole.fits, fit_curves=few)).blocks if isinstance(b, Table))
    assert table.rows["since"].tolist() == [since] and table.shown["Steps"].tolist() == [f"{since} to 400"]


def test_folds_of_a_fit_are_fits_of_their_own_and_the_curve_is_their_mean() -> None:
    section = length_of_fits(evidence([0.05, 0.06, 0.055], folds=True))
    table, figure = section.blocks[1:]
    assert isinstance(table, Table) and table.rows["fits"].tolist() == [3]
    assert isinstance(figure, Figure) and figure.rows["val_score"].iloc[-1] == pytest.approx(0.71 + 0.055)


def test_the_page_says_how_many_channels_a_head_uses_and_when_a_bottleneck_has_closed() -> None:
    """Of the chosen step, not of the last; a mean over fits for each gated map."""
    whole = evidence([0.05, 0.06, 0.055])
    fits, curve = whole.fits["heart"].assign(best_step=350), whole.fit_curves["heart"]
    kept = {"a-0": [10, 61], "a-1": [12, 59], "a-2": [14, 60]}
    curve["kept"] = [kept[fit] if step == 350 else [0, 0] for fit, step in zip(curve["fit_id"], curve["step"], strict=True)]
    curve["channels"] = [[64, 512]] * len(curve)
    section = length_of_fits(Evidence("t", fits={"heart": fits}, fit_curves={"heart": curve}))
    assert "the head uses 72 of 576 channels (scratch-resnet18), in the mean over fits." in sentences(section)
    assert "has closed" not in sentences(section)
    (table,) = [b for b in section.blocks if isinstance(b, Table) and b.name == "channels-heart"]
    assert table.rows[["map", "open", "channels"]].to_numpy().tolist() == [[1, 12, 64], [2, 60, 512]]
    curve["kept"] = [[0, 3] if fit == "a-1" else both for fit, both in zip(curve["fit_id"], curve["kept"], strict=True)]
    closed = sentences(length_of_fits(Evidence("t", fits={"heart": fits}, fit_curves={"heart": curve})))
    assert "channels are open in a-1 (3 of 576): the bottleneck has closed. Lower finetune.heart.bottleneck.weight." in closed


def test_without_fits_in_steps_nothing_is_reported() -> None:
    assert not length_of_fits(Evidence("t")).answered
