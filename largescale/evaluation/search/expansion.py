"""Descriptors that learn from their neighbors: query expansion (AQE, Chum 2007; αQE, Radenović 2018) and database-side
augmentation (DBA, Arandjelović & Zisserman 2012).

Q queries, N rows, D dimensions, K neighbors
"""

import numpy as np

from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.evaluation.search.neighbors import nearest
from largescale.models.metric import COSINE

AT_ONCE = 64


def expand_queries(queries: np.ndarray, database: np.ndarray, neighbors: int, alpha: float = 0.0) -> np.ndarray:
    """Each query with its most similar rows added, as dirtorch does.

    Args:
        queries: `(Q, D)` unit rows.
        database: `(N, D)` unit rows.
        alpha: a neighbor weighs its similarity to this power, the query itself 1. 0: average expansion.

    Returns:
        `(Q, D)` unit rows. Similarities below 0 weigh as much as 0.
    """
    gallery = GalleryRows.of(database)
    return combine(queries, gallery, nearest(queries, gallery, neighbors)[0], alpha)


def augment_database(database: np.ndarray, neighbors: int, alpha: float = 0.0) -> np.ndarray:
    """Each row `(N, D)` with its most similar others added; as `expand_queries`, but a row is no neighbor of itself."""
    gallery = GalleryRows.of(database)
    return combine(database, gallery, nearest(database, gallery, neighbors, np.arange(len(database)))[0], alpha)


def combine(rows: np.ndarray, gallery: GalleryRows, near: np.ndarray, alpha: float) -> np.ndarray:
    """`(Q, D)`: the mean of each row and its neighbors, weighted; unit rows where they are compared by the cosine.

    Weights are computed anew, in double precision, so that they do not depend on how the neighbors were found.

    Args:
        near: `(Q, K)` row numbers in the gallery; -1 for none.
    """
    if not near.shape[1]:
        return rows
    out = np.empty_like(rows)
    for start in range(0, len(rows), AT_ONCE):
        block, numbers = rows[start : start + AT_ONCE].astype(np.float64), near[start : start + AT_ONCE]
        found = gallery.take(numbers.clip(0).ravel()).astype(np.float64).reshape(*numbers.shape, -1)  # (q, K, D)
        similarity = gallery.similarity(block[:, None], found).clip(0)
        weights = np.where(numbers >= 0, similarity**alpha, 0)
        total = block + np.einsum("qk,qkd->qd", weights, found)
        by_cosine = gallery.space == COSINE
        length = np.linalg.norm(total, axis=1, keepdims=True) if by_cosine else 1 + weights.sum(1, keepdims=True)
        out[start : start + AT_ONCE] = total / length
    return out


def without(near: np.ndarray, own: np.ndarray, count: int) -> np.ndarray:
    """The first `count` of the neighbors `(Q, K)` that are not the query's own image `(Q,)`; -1 for none."""
    order = np.argsort(near == own[:, None], axis=1, kind="stable")
    near = np.where(near == own[:, None], -1, near)
    return np.take_along_axis(near, order, axis=1)[:, :count]
