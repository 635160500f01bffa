"""How far a mean over few, related queries may be trusted. C clusters, B repeats, V columns of values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REPEATS = 10_000
FLIPS = 100_000
LEVEL = 0.95
SEED = 0
_DRAWS = 4_000_000


def bootstrap(
    values: np.ndarray, clusters: np.ndarray, repeats: int = REPEATS, seed: int = SEED
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap intervals (95 %) of means over queries, resampling whole clusters.

    Queries of one landmark share most of their positives: resampling queries would give intervals half as wide as they are.

    Args:
        values: `(queries, V)` metrics; all columns are resampled together.
        clusters: `(queries,)` landmark or label of each query.

    Returns:
        Lower and upper ends, `(V,)` each.
    """
    names, cluster = np.unique(clusters, return_inverse=True)
    count = len(names)
    size = np.bincount(cluster, minlength=count).astype(float)  # (C,)
    total = np.zeros((count, values.shape[1]))
    np.add.at(total, cluster, values)  # (C, V)
    random, means = np.random.default_rng(seed), []
    step = max(1, _DRAWS // count)
    for start in range(0, repeats, step):
        rows = min(step, repeats - start)
        drawn = random.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)  # how often each is drawn
        means.append((times @ total) / (times @ size)[:, None])  # (rows, V)
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


@dataclass(frozen=True)
class Comparison:
    """What B gains over A on the same queries. Fractions, not percent."""

    difference: float
    """Mean over queries of B - A."""
    low: float
    high: float
    """The ends of its 95 % percentile-bootstrap interval, clustered."""
    p: float
    """Two-sided, of the sign-flip test: how often chance alone gives a mean as far from zero."""
    wins: int
    """Queries on which B is better."""
    losses: int
    ties: int


def compare(a: np.ndarray, b: np.ndarray, clusters: np.ndarray, seed: int = SEED) -> Comparison:
    """Two systems on the same queries, pair by pair: far more telling than the intervals of each.

    Were they equally good, the difference of a cluster would have either sign with equal chance; whole clusters are flipped,
    as they are drawn for the interval (randomization test, Smucker et al. 2007). All flips are tried where there are at most
    `FLIPS`, else that many random ones, the observed one included.

    Args:
        a, b: `(queries,)` one metric.
        clusters: `(queries,)` landmark or label of each query.
    """
    differences = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    low, high = bootstrap(differences[:, None], clusters, seed=seed)
    signs = np.sign(differences)
    return Comparison(
        difference=float(differences.mean()),
        low=float(low[0]),
        high=float(high[0]),
        p=_sign_flip(differences, clusters, seed),
        wins=int((signs > 0).sum()),
        losses=int((signs < 0).sum()),
        ties=int((signs == 0).sum()),
    )


def _sign_flip(differences: np.ndarray, clusters: np.ndarray, seed: int) -> float:
    _, cluster = np.unique(clusters, return_inverse=True)
    total = np.bincount(cluster, weights=differences)  # (C,)
    total = total[total != 0]  # flipping nothing changes nothing
    count = len(total)
    exact = 2**count <= FLIPS
    flips, extreme = 2**count if exact else FLIPS, 0
    least = abs(total.sum()) - 1e-12 * np.abs(total).sum()  # sums in another order are equal to rounding
    random, step = np.random.default_rng(seed), max(1, _DRAWS // max(count, 1))
    for start in range(0, flips, step):
        rows = np.arange(start, min(start + step, flips))
        signs = (rows[:, None] >> np.arange(count)) & 1 if exact else random.integers(2, size=(len(rows), count), dtype=np.int8)
        extreme += int((np.abs((2 * signs - 1) @ total) >= least).sum())
    return extreme / flips if exact else (extreme + 1) / (flips + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted values of several tests: each below the level rejects with the chance of any error below the level (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(np.asarray(p, dtype=float)[order] * np.arange(len(order), 0, -1)).clip(max=1)
    back = np.empty_like(adjusted)
    back[order] = adjusted
    return back.tolist()
