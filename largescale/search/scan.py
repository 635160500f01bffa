"""The neighbors of some queries among the mapped rows of a segment, without an index to load.

Few queries are compared one by one, by FAISS's kernels; many by products of matrices.

Q queries, n rows, D dimensions, K neighbors.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from largescale.mining.search.select import score_pairs
from largescale.program.extras import faiss
from largescale.search.manifest import Metric

FEW = 20
"""Fewer queries than these are compared one by one."""
NARROW = 0.25
"""A filter that leaves a smaller share of the rows is worth comparing one by one too: the other rows are not even read."""
TILE = 2**20
"""Scores that are computed at once."""


class Near(NamedTuple):
    """Rows that are near queries, nearest first, with scores that may be off in the last bits."""

    rows: np.ndarray
    """`(Q, K)` int64, -1 for none."""
    scores: np.ndarray
    """`(Q, K)` float32: inner products, or distances squared, below zero."""


def scan(
    queries: np.ndarray,
    rows: np.ndarray,
    count: int,
    metric: Metric,
    allowed: np.ndarray | None,
    pool: ThreadPoolExecutor,
    threads: int,
) -> list[Near]:
    """The nearest `count` of each part of the rows `(n, D)`; together they hold the nearest of all.

    Args:
        allowed: `(n,)` whether a row counts; None: all do.
    """
    if len(queries) >= FEW and (allowed is None or allowed.mean() >= NARROW):
        return [_product(queries, rows, count, metric, allowed)]
    parts = threads if len(queries) < threads else 1
    edges = np.linspace(0, len(rows), parts + 1).astype(np.int64) // 8 * 8  # the bits of a selector begin at whole bytes
    edges[-1] = len(rows)
    starts = [(int(a), int(b)) for a, b in pairwise(edges) if b > a]

    def part(bounds: tuple[int, int]) -> Near:
        first, last = bounds
        some = None if allowed is None else allowed[first:last]
        near = _scan(queries, rows[first:last], min(count, last - first), metric, some)
        return Near(np.where(near.rows < 0, -1, near.rows + first), near.scores)

    return list(pool.map(part, starts))


def _product(queries: np.ndarray, rows: np.ndarray, count: int, metric: Metric, allowed: np.ndarray | None) -> Near:
    """A tile of rows after the other; a score counts where it exceeds the least of the best so far."""
    count = min(count, len(rows))
    scores, found = np.full((len(queries), count), -np.inf, np.float32), np.full((len(queries), count), -1)
    tile = max(1, TILE // len(queries))
    squares = np.square(queries).sum(1)[:, None] if metric == "l2" else None
    for start in range(0, len(rows), tile):
        some = rows[start : start + tile]
        products = queries @ some.T  # (Q, t)
        if squares is not None:
            products = 2 * products - squares - np.square(some).sum(1)
        if allowed is not None:
            products[:, ~allowed[start : start + tile]] = -np.inf
        better = products > scores.min(axis=1, initial=np.inf)[:, None]
        for query in np.flatnonzero(better.any(axis=1)):
            new = np.flatnonzero(better[query])
            both = np.concatenate([scores[query], products[query, new]])
            best = np.argpartition(-both, count - 1)[:count]
            scores[query], found[query] = both[best], np.concatenate([found[query], new + start])[best]
    order = np.argsort(-scores, axis=1, kind="stable")
    return Near(np.take_along_axis(found, order, axis=1), np.take_along_axis(scores, order, axis=1))


def _scan(queries: np.ndarray, rows: np.ndarray, count: int, metric: Metric, allowed: np.ndarray | None) -> Near:
    scores, found = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
    pointers = [faiss.swig_ptr(x) for x in (queries, rows)]
    shape = (queries.shape[1], len(queries), len(rows), count)
    outputs = (faiss.swig_ptr(scores), faiss.swig_ptr(found))
    bits = None if allowed is None else np.packbits(allowed, bitorder="little")
    selector = None if bits is None else faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))  # type: ignore[arg-type]
    if metric == "cosine":
        faiss.knn_inner_product(*pointers, *shape, *outputs, selector)  # type: ignore[call-arg]
    else:
        faiss.knn_L2sqr(*pointers, *shape, *outputs, None, selector)  # type: ignore[call-arg]
        np.negative(scores, out=scores)
    return Near(found, scores)


def exact_scores(queries: np.ndarray, query: np.ndarray, rows: np.ndarray, metric: Metric) -> np.ndarray:
    """`(M,)` float64 scores of pairs, in the one canonical way: the bits depend on the two rows alone.

    Args:
        queries: `(Q, D)`; `query` `(M,)` says which belongs to each of the `rows` `(M, D)`.
    """
    left, right, i = torch.from_numpy(queries), torch.from_numpy(rows), torch.from_numpy(query)
    own = torch.arange(len(rows))
    scores = score_pairs(left, right, i, own)
    if metric == "l2":
        norms = score_pairs(left, left, torch.arange(len(left)), torch.arange(len(left)))
        scores = 2 * scores - norms[i] - score_pairs(right, right, own, own)
    return scores.numpy()


def slack(queries: np.ndarray, largest: float, metric: Metric) -> np.ndarray:
    """`(Q,)` by how much the scores of a scan may be off (see `mining.search.precision`)."""
    norms = np.linalg.norm(queries, axis=1).astype(np.float64)
    products = queries.shape[1] * float(np.finfo(np.float32).eps) * 1.01
    return products * norms * largest if metric == "cosine" else products * (norms + largest) ** 2


def merged(parts: Sequence[Near], starts: Sequence[int]) -> Near:
    """Candidates of several parts side by side, their rows counted from the first row of all."""
    rows = [np.where(part.rows < 0, -1, part.rows + start) for part, start in zip(parts, starts, strict=True)]
    return Near(np.concatenate(rows, axis=1), np.concatenate([part.scores for part in parts], axis=1))
