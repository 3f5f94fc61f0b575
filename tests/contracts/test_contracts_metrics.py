"""What every metric of the folder keeps, picked up without being named: of classes or of masks, as its file says."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medssl.core import plugins
from medssl.core.plugins import Plugin
from medssl.core.rng import rng
from medssl.evaluate.numbers import Measured
from medssl.evaluate.risks import Followed
from medssl.evaluate.sample import ALL, MACRO, EachCase, Sample, Truth
from medssl.evaluate.surface import Pair, pair

METRICS = list(plugins.all_of("metric"))
OF_CLASSES, OF_MASKS, OF_VALUES, OF_RISKS = (
    [one for one in METRICS if one.constant("PREDICTS", default=None) == what] for what in ("classes", "masks", "values", "risks")
)
OF_NUMBERS = [(one.constant("PREDICTS"), one) for one in (*OF_VALUES, *OF_RISKS)]
SHAPES = {"two classes": (2, False), "four classes": (4, False), "labels beside one another": (3, True)}
NUM_CASES = 40

every = pytest.mark.parametrize("metric", METRICS, ids=lambda plugin: plugin.name)
of_classes = pytest.mark.parametrize("metric", OF_CLASSES, ids=lambda plugin: plugin.name)
of_numbers = pytest.mark.parametrize(("what", "metric"), OF_NUMBERS, ids=lambda one: one if isinstance(one, str) else one.name)
of_masks = pytest.mark.parametrize("metric", OF_MASKS, ids=lambda plugin: plugin.name)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def function_of(metric: Plugin, **options: Any) -> Any:
    return functools.partial(metric.load(), **metric.check(options))


def drawn(shape: str, seed: int, *, num_cases: int = NUM_CASES) -> tuple[Truth, np.ndarray]:
    """Targets that every class has and lacks, and probabilities that are right more often than not, with ties."""
    num_classes, multilabel = SHAPES[shape]
    random = rng(seed, "metrics", shape)
    if multilabel:
        targets = random.random((num_cases, num_classes)) < 0.4
        values = np.clip(0.3 + 0.4 * targets + random.normal(0, 0.25, targets.shape), 0, 1).round(2)
    else:
        targets = np.eye(num_classes, dtype=bool)[np.arange(num_cases) % num_classes]
        logits = 1.2 * targets + random.normal(size=targets.shape)
        values = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).round(2)
        values[:, -1] = 1 - values[:, :-1].sum(axis=1)
    assert targets.any(axis=0).all() and not targets.all(axis=0).any()
    classes = [f"class{index}" for index in range(num_classes)]
    return Truth(targets, classes, 1 if num_classes == 2 else None, multilabel), values


def best_of(metric: Plugin) -> float:
    return 1.0 if metric.constant("BETTER") == "higher" else 0.0


@every
def test_a_metric_says_of_itself_what_others_must_know(metric: Plugin) -> None:
    assert metric.constant("PREDICTS") in {task.constant("PREDICTS") for task in plugins.all_of("task")}
    assert metric.constant("BETTER") in ("higher", "lower")
    assert metric.constant("TITLE")
    assert metric.constant("PAIRED_TEST", default="delong") == "delong"


@every
def test_every_option_is_described_and_its_title_says_it(metric: Plugin) -> None:
    options = metric.check({})
    for name, field in metric.options.model_fields.items():
        assert field.description and field.description.endswith("."), f"{name} has no sentence in `Options:` of the docstring"
    title = metric.constant("FULL_TITLE", default="")
    assert set(re.findall(r"{(\w+)", title)) == set(options), "a score means nothing without its options"
    assert title.format(**options) != title or not options
    metric.constant("IN_WORDS", default="").format(**options)
    bins = metric.constant("CALIBRATION_BINS", default=None)
    assert bins is None or isinstance(options[bins], int)


def test_some_metric_of_what_tasks_predict_may_stand_for_a_task() -> None:
    for metrics in (OF_CLASSES, OF_MASKS, OF_VALUES, OF_RISKS):
        assert any(metric.constant("HEADLINE", default=None) for metric in metrics)
    places = [metric.constant("HEADLINE", default=None) for metric in METRICS]
    known = [place for place in places if place is not None]
    assert len(known) == len(set(known)), "two metrics on one place"


# Metrics of classes


@of_classes
@every_shape
def test_perfect_predictions_have_the_best_value_and_others_no_better_one(metric: Plugin, shape: str) -> None:
    function, best = function_of(metric), best_of(metric)
    for seed in range(5):
        truth, values = drawn(shape, seed)
        right = function(Sample(truth, truth.targets.astype(float), np.ones((1, NUM_CASES))))
        assert {name: row[0] for name, row in right.items()} == pytest.approx(dict.fromkeys(right, best))
        for name, row in function(Sample(truth, values, np.ones((1, NUM_CASES)))).items():
            assert (row[0] < best) if best else (row[0] > best), (name, row)


@of_classes
@every_shape
def test_the_order_of_cases_does_not_matter(metric: Plugin, shape: str) -> None:
    truth, values = drawn(shape, 1)
    weights = rng(1, "weights").integers(0, 4, size=(3, NUM_CASES)).astype(float)
    order = rng(1, "order").permutation(NUM_CASES)
    turned = Truth(truth.targets[order], truth.classes, truth.positive, truth.multilabel)
    found, again = (
        function_of(metric)(sample)
        for sample in (Sample(truth, values, weights), Sample(turned, values[order], weights[:, order]))
    )
    assert found.keys() == again.keys()
    for name in found:
        assert found[name] == pytest.approx(again[name], abs=1e-12, nan_ok=True), name


def within_limits(metric: Plugin, value: float) -> bool:
    """Whether the metric says that it can have this value."""
    least, most = metric.constant("LIMITS")
    return (least is None or value >= least - 1e-12) and (most is None or value <= most + 1e-12)


@of_classes
@every_shape
def test_a_weight_is_a_case_so_often(metric: Plugin, shape: str) -> None:
    """What a bootstrap draw is: case 3 twice, case 5 not at all."""
    truth, values = drawn(shape, 2)
    counts = rng(2, "counts").multinomial(NUM_CASES, np.full(NUM_CASES, 1 / NUM_CASES), size=4)
    weighted = function_of(metric)(Sample(truth, values, counts.astype(float)))
    for row, count in enumerate(counts):
        places = np.repeat(np.arange(NUM_CASES), count)
        repeated = Truth(truth.targets[places], truth.classes, truth.positive, truth.multilabel)
        plain = function_of(metric)(Sample(repeated, values[places], np.ones((1, len(places)))))
        for name in plain.keys() & weighted.keys():
            assert plain[name][0] == pytest.approx(weighted[name][row], abs=1e-12, nan_ok=True), name


@of_classes
@every_shape
def test_every_value_lies_within_its_bounds_and_bears_the_name_of_a_class_or_of_all(metric: Plugin, shape: str) -> None:
    for seed in range(5):
        truth, values = drawn(shape, seed, num_cases=12)
        for probabilities in (values, 1 - truth.targets.astype(float), np.full(values.shape, 1 / values.shape[1])):
            found = function_of(metric)(Sample(truth, probabilities, np.ones((1, 12))))
            assert set(found) <= {*truth.classes, MACRO, ALL} and found
            assert MACRO not in found or len(found) > 1
            for name, row in found.items():
                assert row.shape == (1,)
                assert row[0] >= 0, name
                assert metric.constant("BETTER") == "lower" or row[0] <= 1, name
                assert within_limits(metric, row[0]), name


@of_classes
@every_shape
def test_of_no_case_there_is_no_value(metric: Plugin, shape: str) -> None:
    """A resample that draws none of the cases that a score rests on is undefined, and not 0."""
    truth, values = drawn(shape, 3)
    with np.errstate(all="raise"):
        found = function_of(metric)(Sample(truth, values, np.zeros((2, NUM_CASES))))
    assert all(np.isnan(row).all() for row in found.values())


@pytest.mark.parametrize(
    "metric", [one for one in OF_CLASSES if one.constant("RANKS_CASES", default=False)], ids=lambda p: p.name
)
@every_shape
def test_a_metric_that_ranks_cases_is_the_mean_of_what_it_gives_each(metric: Plugin, shape: str) -> None:
    truth, values = drawn(shape, 4)
    each = function_of(metric)(EachCase(truth, values))[ALL]
    assert each.shape == (NUM_CASES,)
    whole = function_of(metric)(Sample(truth, values, np.ones((1, NUM_CASES))))[ALL]
    assert each.mean() == pytest.approx(whole[0])
    alone = [
        function_of(metric)(
            Sample(Truth(truth.targets[[n]], truth.classes, truth.positive, truth.multilabel), values[[n]], np.ones((1, 1)))
        )[ALL][0]
        for n in range(5)
    ]
    assert each[:5] == pytest.approx(alone)


# Metrics of numbers


def numbers(
    what: str, places: np.ndarray, weights: np.ndarray, *, seed: int = 0, perfect: bool = False, constant: bool = False
) -> Any:
    """The cases `places` of a drawn set with ties: values that are off by some noise, or all right."""
    random = rng(seed, "numbers", what)
    if what == "risks":
        times, events = (1 + 4 * random.exponential(size=NUM_CASES)).round(0), random.random(NUM_CASES) < 0.6
        risks = -times - (~events * 0.5) if perfect else (-times + random.normal(0, 4, NUM_CASES)).round(0)
        return Followed(times[places], events[places], risks[places], weights, 4.0)
    targets = random.normal(60, 10, NUM_CASES).round(0)
    noisy = (targets + random.normal(0, 6, NUM_CASES)).round(0)
    said = targets if perfect else noisy
    return Measured(targets[places], said[places], weights)


EVERY_CASE = np.arange(NUM_CASES)
ONES = np.ones((1, NUM_CASES))


@of_numbers
def test_perfect_numbers_have_the_best_value_and_others_a_worse_one(what: str, metric: Plugin) -> None:
    function, best = function_of(metric), best_of(metric)
    for seed in range(5):
        right = function(numbers(what, EVERY_CASE, ONES, seed=seed, perfect=True))
        assert {name: row[0] for name, row in right.items()} == pytest.approx(dict.fromkeys(right, best))
        for row in function(numbers(what, EVERY_CASE, ONES, seed=seed)).values():
            assert (row[0] < best) if best else (row[0] > best)
            assert within_limits(metric, row[0])
        assert best in metric.constant("LIMITS"), "the best value is a limit"


@of_numbers
def test_the_order_of_cases_with_numbers_does_not_matter(what: str, metric: Plugin) -> None:
    weights = rng(1, "weights").integers(0, 4, size=(3, NUM_CASES)).astype(float)
    order = rng(1, "order").permutation(NUM_CASES)
    found, again = (function_of(metric)(numbers(what, at, weights[:, at])) for at in (EVERY_CASE, order))
    assert found.keys() == again.keys()
    for name in found:
        assert found[name] == pytest.approx(again[name], abs=1e-9, nan_ok=True), name


@of_numbers
def test_a_weight_of_a_number_is_a_case_so_often(what: str, metric: Plugin) -> None:
    counts = rng(2, "counts").multinomial(NUM_CASES, np.full(NUM_CASES, 1 / NUM_CASES), size=4)
    weighted = function_of(metric)(numbers(what, EVERY_CASE, counts.astype(float)))
    for row, count in enumerate(counts):
        places = np.repeat(EVERY_CASE, count)
        plain = function_of(metric)(numbers(what, places, np.ones((1, len(places)))))
        for name in plain:
            assert plain[name][0] == pytest.approx(weighted[name][row], abs=1e-9, nan_ok=True), name


@of_numbers
def test_of_no_case_there_is_no_number(what: str, metric: Plugin) -> None:
    with np.errstate(all="raise"):
        found = function_of(metric)(numbers(what, EVERY_CASE, np.zeros((2, NUM_CASES))))
    assert all(np.isnan(row).all() for row in found.values())


# Metrics of masks


def blobs(seed: int, *, shape: tuple[int, int, int] = (14, 12, 10)) -> tuple[np.ndarray, np.ndarray]:
    """Two masks that overlap, neither empty nor equal."""
    noise, apart = (ndimage.gaussian_filter(rng(seed, "blob", name).normal(size=shape), 2.0) for name in ("both", "apart"))
    target, prediction = noise > 0.02, noise + 0.6 * apart > 0.02
    assert target.any() and (target & prediction).any() and (target ^ prediction).any()
    return prediction, target


@of_masks
def test_equal_masks_have_the_best_value_and_others_no_better_one(metric: Plugin) -> None:
    function, best = function_of(metric), best_of(metric)
    for seed in range(5):
        prediction, target = blobs(seed)
        assert function(pair(target, target, (1.0, 1.5, 3.0))) == best
        value = function(pair(prediction, target, (1.0, 1.5, 3.0)))
        assert value <= best if best else value >= best
        grown = function(pair(ndimage.binary_dilation(target), target, (3.0, 3.0, 3.0)))
        assert grown < best if best else grown > best, "3 mm too large on every side"


@of_masks
def test_it_does_not_matter_from_which_side_masks_are_seen(metric: Plugin) -> None:
    prediction, target = blobs(6)
    spacing_mm = (1.0, 1.5, 3.0)
    found = function_of(metric)(pair(prediction, target, spacing_mm))
    mirrored = [np.flip(mask, axis=(0, 2)) for mask in (prediction, target)]
    turned = [np.transpose(mask, (2, 0, 1)) for mask in (prediction, target)]
    assert function_of(metric)(pair(*mirrored, spacing_mm)) == pytest.approx(found)
    assert function_of(metric)(pair(*turned, (3.0, 1.0, 1.5))) == pytest.approx(found)


@of_masks
def test_background_around_masks_changes_nothing(metric: Plugin) -> None:
    prediction, target = blobs(7)
    padded = [np.pad(mask, 4) for mask in (prediction, target)]
    assert function_of(metric)(pair(*padded, (1.0, 1.5, 3.0))) == function_of(metric)(pair(prediction, target, (1.0, 1.5, 3.0)))


@of_masks
def test_of_two_empty_masks_there_is_no_value_and_no_metric_fails_on_one(metric: Plugin) -> None:
    empty, full = np.zeros((6, 6, 6), bool), np.zeros((6, 6, 6), bool)
    full[2:4, 2:4, 2:4] = True
    function = function_of(metric)
    assert math.isnan(function(pair(empty, empty, (1.0, 1.0, 1.0))))
    worst = [function(pair(one, other, (1.0, 1.0, 1.0))) for one, other in ((full, empty), (empty, full))]
    best = best_of(metric)
    assert all(math.isnan(value) or (value < best if best else value > best) for value in worst), "a miss is no success"


@of_masks
def test_every_value_of_masks_lies_within_its_bounds(metric: Plugin) -> None:
    for seed in range(5):
        masks: Pair = pair(*blobs(seed), (0.7, 0.7, 5.0))
        value = function_of(metric)(masks)
        assert isinstance(value, float) and value >= 0
        assert metric.constant("BETTER") == "lower" or value <= 1
        assert within_limits(metric, value)
