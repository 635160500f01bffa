"""How far a mean over few, related queries may be trusted. C clusters, B repeats, V columns of values."""

import numpy as np

REPEATS = 10_000
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
