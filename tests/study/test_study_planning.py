"""A plan is right where costs are straight lines, and says so where it cannot know."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.artefacts.names import Arm, Run, Start
from medssl.core import plugins
from medssl.finetune.options import FinetuneOptions
from medssl.finetune.plan import plan
from medssl.finetune.recipe import Recipe
from medssl.finetune.starting import draws_of_scratch
from medssl.finetune.subsets import shares_of
from medssl.pretrain.options import PretrainOptions
from medssl.study.planning import Cost, Measured, grown, images_of_fits, largest_batch, num_started, peak_at, steps, table


def line(size: float) -> Measured:
    """A job that takes 3 s and 200 MB to start, and 2 s, 10 MB and 5 MB of disk for each unit."""
    return Measured(size, 3 + 2 * size, 200 + 10 * size, 5 * size)


@pytest.mark.parametrize("size", [3, 10, 1000])
def test_costs_on_a_line_are_met(size: float) -> None:
    found = grown(line(1), line(3), size)
    assert vars(found) == pytest.approx(vars(line(size)))


def test_a_source_of_one_file_is_taken_as_it_was() -> None:
    assert vars(grown(line(5), line(5), 5)) == vars(line(5))


def test_noise_between_the_probes_never_makes_a_larger_job_cheaper() -> None:
    small, large = Measured(1, 9.0, 300, 5), Measured(3, 8.0, 299, 15)
    found = grown(small, large, 100)
    assert found.wall_s == 8.0 and found.peak_mb == 299 and found.disk_mb == 500


def test_steps_are_those_of_the_loop() -> None:
    assert steps(PretrainOptions(epochs=10, batch_size=64), 640) == 100
    assert steps(PretrainOptions(epochs=10, batch_size=64), 40) == 10  # fewer samples than a batch: one step an epoch
    assert steps(PretrainOptions(epochs=10, batch_size=64, max_steps=7), 640) == 7


def test_the_largest_batch_leaves_a_tenth_free() -> None:
    batches, peaks_mb = (16, 32), (1000 + 16 * 50, 1000 + 32 * 50)  # 1000 MB and 50 MB a sample
    assert peak_at(64, batches, peaks_mb) == 1000 + 64 * 50
    assert str(largest_batch(batches, peaks_mb, room_mb=(1000 + 128 * 50) / 0.9 + 1)) == "128"
    assert str(largest_batch(batches, peaks_mb, room_mb=(1000 + 128 * 50) / 0.9 - 1)) == "64"
    assert str(largest_batch(batches, peaks_mb, room_mb=900)) == "0"
    assert str(largest_batch(batches, (500, 500), room_mb=1e9)) == "32 or more"


NOISE_MB = 4.4
"""How far apart the peaks of equal processes lay."""


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 64), st.floats(0, 50), st.tuples(*[st.floats(0, NOISE_MB)] * 4))
def test_equal_runs_get_equal_advice_within_a_factor_of_two(batch: int, per_sample_mb: float, noise: tuple[float, ...]) -> None:
    """Two measurements of one truth, each peak with the noise that was measured."""
    batches = (batch, 2 * batch)
    truth = [600 + per_sample_mb * tried for tried in batches]
    one, other = ([peak + more for peak, more in zip(truth, pair, strict=True)] for pair in (noise[:2], noise[2:]))
    first, second = (largest_batch(batches, peaks, room_mb=16_000) for peaks in (one, other))
    assert first.or_more or second.or_more or 0.5 <= first.size / second.size <= 2


def test_where_only_one_batch_could_be_tried_memory_is_in_proportion() -> None:
    assert peak_at(8, (2, 2), (500, 500)) == 2000 and peak_at(1, (2, 2), (500, 500)) == 500
    assert str(largest_batch((2, 2), (500, 500), room_mb=1e9)) == "2 or more"  # no promise beyond


@pytest.mark.parametrize("options", [{}, {"pair_seeds": True}, {"scratch": False}, {"weights": {}}, {"seeds": [0]}])
@pytest.mark.parametrize("num_folds", [1, 5])
@pytest.mark.parametrize("num_networks", [1, 2])
def test_fits_of_a_task_are_those_that_its_job_plans(options: dict[str, Any], num_folds: int, num_networks: int) -> None:
    given: dict[str, Any] = {"modes": ["linear", "full"], "fractions": [0.1, 1.0], "counts": [5], "weights": {"x": "y"}}
    task = FinetuneOptions(source="a", **{**given, "seeds": [0, 1, 2], **options})
    runs = [Run("simclr", "all", seed) for seed in (0, 1, 2)]
    starts = [run.start for run in runs] + [Start.given(name) for name in task.weights]
    draws = draws_of_scratch(starts, task.seeds) if task.scratch else []
    starts += [Start(Arm.of_scratch(name), draw) for name in ["resnet18", "vit"][:num_networks] for draw in draws]
    shares = shares_of(task.fractions, task.counts, 100)
    fits = plan(starts, task.modes, shares, task.seeds, range(num_folds), pair_seeds=task.pair_seeds)
    started = num_started(task, runs, num_networks=num_networks, num_folds=num_folds)
    assert started * len(task.modes) * len(shares) == len(fits)


def images(**given: Any) -> float:
    """Of a fit on 100 labelled images, with 10 for validation and 20 for test."""
    task = FinetuneOptions(source="a", **{"fractions": [1.0], "batch_size": 8, "evaluations": 4, **given})
    return images_of_fits(task, plugins.find("task", task.task).constant("PROBES", default=[]), 100, 10, 20)


def test_a_fit_takes_its_batches_the_evaluations_and_the_test_part() -> None:
    assert images(modes=["full"], max_steps=50) == 50 * 8 + 4 * 10 + 20
    assert images(modes=["full"], max_steps=3) == 3 * 8 + 3 * 10 + 20  # no more evaluations than steps
    assert images(modes=["full"], max_steps=50, batch_size=512) == 50 * 100 + 4 * 10 + 20


def test_epochs_on_fewer_labels_are_fewer_steps() -> None:
    whole, part = 13 * 8 + 2 * 10 + 20, 3 * 8 + 2 * 10 + 20  # 100 and 20 images in batches of 8
    assert images(modes=["full"], epochs=1, evaluations=2, fractions=[1.0, 0.2]) == whole + part
    assert images(modes=["full"], epochs=1, evaluations=2, fractions=[], counts=[3]) == whole  # patients may hold all of them


def test_a_probe_takes_each_image_once_whatever_the_steps() -> None:
    assert images(modes=["linear", "knn"], max_steps=50, lr=[0.1, 0.01]) == 2 * (100 + 10 + 20)
    assert images(modes=["linear", "full"], max_steps=50) == 130 + images(modes=["full"], max_steps=50)


def test_each_rate_and_each_round_of_self_training_is_a_training() -> None:
    once = 50 * 8 + 4 * 10
    assert images(modes=["full"], max_steps=50, lr=[0.1, 0.01]) == 2 * once + 20
    assert images(modes=["full"], max_steps=50, options={"self_training_rounds": 2}) == 3 * once + 20


@pytest.mark.parametrize("name", plugins.names("task"))
def test_the_probes_of_a_task_are_its_modes_without_steps(name: str) -> None:
    plugin, recipe, data = plugins.find("task", name), Recipe(max_steps=7), MagicMock()
    task = plugin.load()()
    probes = plugin.constant("PROBES", default=[])
    assert set(probes) <= set(plugin.constant("FROZEN_MODES"))
    for mode in plugin.constant("MODES"):
        assert (task.num_steps(data, mode, np.arange(3), recipe) is None) == (mode in probes)


def test_too_little_room_is_reported() -> None:
    costs = [Cost("ingest", "ct", 0.5, 0.5, 100, 900), Cost("pretrain", "ct/a", 2, 4, 100, 100, 5000)]
    text = table(costs, free_mb=1040, num_jobs=9)
    assert "too little" in text and "2.500" in text and "4.500" in text and "1000.0" in text
    assert "too little" not in table(costs, free_mb=1060, num_jobs=9)


def test_what_is_not_planned_is_marked_and_not_zero() -> None:
    costs = [Cost("finetune", "t", 1, 1, 100, None), Cost("evaluate", "t", None, None, None, None)]
    lines = table(costs, free_mb=10, num_jobs=2).splitlines()
    assert "unknown" in lines[1] and "not planned" in lines[2] and "0.0" not in lines[2]
