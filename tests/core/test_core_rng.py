"""Random numbers are functions of names."""

from __future__ import annotations

import numpy as np
from scipy import stats

from medssl.core.rng import ids_to_keys, key, rng, uniforms


def test_the_same_names_give_the_same_stream_and_others_do_not() -> None:
    assert rng(1, "split", "p-1").random() == rng(1, "split", "p-1").random()
    others = {rng(1, "split", "p-2").random(), rng(2, "split", "p-1").random(), rng(1, "order", "p-1").random()}
    assert rng(1, "split", "p-1").random() not in others
    assert key(0, "ab", "c") != key(0, "a", "bc")


def test_a_samples_draws_do_not_depend_on_its_batch() -> None:
    keys = ids_to_keys([f"v-1-{i:04d}" for i in range(100)])
    whole = uniforms(key(3, "views", 7), keys, 12)
    assert np.array_equal(whole[40:60], uniforms(key(3, "views", 7), keys[40:60], 12))
    assert np.array_equal(whole[:, :5], uniforms(key(3, "views", 7), keys, 5))


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = uniforms(key(0, "views", 0), ids_to_keys([str(i) for i in range(20_000)]), 4)
    assert draws.min() >= 0 and draws.max() < 1
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    correlation = np.corrcoef(draws.T) - np.eye(4)
    assert abs(correlation).max() < 0.03
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 0.03
