"""Rows for tests of the index: unit rows that gather, and what a search of them must find."""

import numpy as np
from numpy.random import default_rng

DIM = 24


def unit_rows(count: int, seed: int = 0, dim: int = DIM, groups: int = 30) -> np.ndarray:
    """`(count, dim)` float32 unit rows around some centers."""
    draw = default_rng([seed, 7])
    centers = default_rng(5).normal(size=(groups, dim))
    rows = centers[draw.integers(groups, size=count)] + 0.5 * draw.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def keys(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{i:05d}" for i in range(count)]


def truth(queries: np.ndarray, rows: np.ndarray, count: int, metric: str = "cosine") -> np.ndarray:
    """`(Q, count)` by sorting all scores, of equal ones the first row."""
    q, x = queries.astype(np.float64), rows.astype(np.float64)
    scores = q @ x.T if metric == "cosine" else -np.square(q[:, None] - x[None]).sum(2)
    return np.argsort(-np.round(scores, 12), axis=1, kind="stable")[:, :count]
