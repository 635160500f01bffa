"""Intervals: against closed forms, and what clusters do to them."""

import numpy as np
import pytest

from largescale.evaluation.statistics import bootstrap


def test_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.2, (400, 1))
    low, high = bootstrap(values, np.arange(400))
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose([low[0], high[0]], values.mean() + np.array([-half, half]), atol=0.15 * half)


def test_equal_queries_of_a_landmark_are_one_observation() -> None:
    """Five copies of each of 20 values: as wide as 20 values alone, not as narrow as 100."""
    values = np.random.default_rng(1).random((20, 1))
    clustered = bootstrap(np.repeat(values, 5, axis=0), np.repeat(np.arange(20), 5))
    np.testing.assert_allclose(clustered, bootstrap(values, np.arange(20)))
    low, high = bootstrap(np.repeat(values, 5, axis=0), np.arange(100))
    assert high - low < 0.6 * (clustered[1] - clustered[0])


def test_clusters_of_different_size_keep_the_mean_over_queries() -> None:
    values = np.concatenate([np.zeros((90, 1)), np.ones((10, 1))])
    low, high = bootstrap(values, np.repeat([0, 1], [90, 10]))
    assert (low[0], high[0]) == (0, 1)  # either cluster may be drawn twice


def test_the_same_draws_for_every_metric_and_run() -> None:
    values = np.random.default_rng(2).random((30, 1))
    low, high = bootstrap(np.hstack([values, values * 2]), np.arange(30))
    assert (low[1], high[1]) == pytest.approx((2 * low[0], 2 * high[0]))
    np.testing.assert_array_equal(bootstrap(values, np.arange(30)), bootstrap(values, np.arange(30)))


def test_many_clusters_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values, clusters = np.random.default_rng(3).random((300, 2)), np.arange(300) // 2
    whole = bootstrap(values, clusters, repeats=2000)
    monkeypatch.setattr("largescale.evaluation.statistics._DRAWS", 150 * 7)
    np.testing.assert_allclose(bootstrap(values, clusters, repeats=2000), whole, rtol=1e-12)
