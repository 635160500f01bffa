"""Intervals: against closed forms, and what clusters do to them."""

import itertools

import numpy as np
import pytest

from largescale.evaluation.scoring.statistics import _sign_flip, bootstrap, compare, holm


@pytest.mark.slow
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
    monkeypatch.setattr("largescale.evaluation.scoring.statistics._DRAWS", 150 * 7)
    np.testing.assert_allclose(bootstrap(values, clusters, repeats=2000), whole, rtol=1e-12)


def _by_hand(differences: np.ndarray, clusters: np.ndarray) -> float:
    """Every way of giving each cluster a sign."""
    names = sorted(set(clusters.tolist()))
    means = []
    for signs in itertools.product((-1, 1), repeat=len(names)):
        flip = dict(zip(names, signs, strict=True))
        means.append(np.mean([d * flip[c] for d, c in zip(differences.tolist(), clusters.tolist(), strict=True)]))
    return float(np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12))


@pytest.mark.parametrize("seed", range(5))
def test_sign_flips_of_few_clusters_are_exact(seed: int) -> None:
    random = np.random.default_rng(seed)
    clusters, a = random.integers(6, size=20), random.random(20)
    b = a + random.normal(0.05, 0.1, 20)
    found = compare(a, b, clusters)
    assert found.p == pytest.approx(_by_hand(b - a, clusters), abs=1e-12)
    assert found.difference == pytest.approx((b - a).mean())
    assert found.low <= found.difference <= found.high


@pytest.mark.slow
def test_random_sign_flips_agree_with_the_t_test() -> None:
    from scipy.stats import ttest_rel  # seconds

    random = np.random.default_rng(0)
    a = random.random(80)
    for gain in (0.0, 0.02, 0.04):
        b = a + random.normal(gain, 0.1, 80)
        assert compare(a, b, np.arange(80)).p == pytest.approx(ttest_rel(a, b).pvalue, abs=0.015)


@pytest.mark.slow
def test_chance_alone_is_rejected_at_its_level() -> None:
    from scipy.stats import ttest_rel  # seconds

    """Of 400 comparisons of equals, about 5 % are below 0.05; with queries taken for independent it would be far more."""
    random = np.random.default_rng(1)
    clusters, rejected, naive = np.repeat(np.arange(12), 5), 0, 0
    for _ in range(400):
        differences = np.repeat(random.normal(0, 1, 12), 5) + random.normal(0, 0.3, 60)
        rejected += _sign_flip(differences, clusters, 0) < 0.05
        naive += ttest_rel(differences, np.zeros(60)).pvalue < 0.05
    assert 8 <= rejected <= 34
    assert naive > 80


def test_wins_losses_ties_and_equal_systems() -> None:
    a = np.array([0.5, 0.5, 0.5, 0.5])
    found = compare(a, np.array([0.6, 0.7, 0.4, 0.5]), np.arange(4))
    assert (found.wins, found.losses, found.ties) == (2, 1, 1)
    same = compare(a, a, np.arange(4))
    assert (same.difference, same.low, same.high, same.p, same.ties) == (0, 0, 0, 1, 4)


def test_swapping_the_systems_changes_the_sign_only() -> None:
    random = np.random.default_rng(2)
    a, b, clusters = random.random(30), random.random(30), np.arange(30) // 3
    one, other = compare(a, b, clusters), compare(b, a, clusters)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert (one.p, one.wins) == (other.p, other.losses)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
