"""The best rows of a query, by (score descending, row ascending), from rows that come in pieces.

Q queries, N rows of the gallery, n rows of a piece, D dimensions, K neighbors
"""

import numpy as np

from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.program.extras import faiss

QUERIES, ROWS = 1024, 8192
"""Of one product. Its shape is always the same, and with it the last bits of the scores."""
SPARE = 16
"""Rows that FAISS is asked for beyond those that are wanted: it keeps any of the rows that are tied with the last one."""


class Best:
    """The best rows of one query seen so far, by (score descending, row ascending)."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.floor = np.float32(-np.inf)
        self.scores = np.empty(0, dtype=np.float32)
        self.rows = np.empty(0, dtype=np.int64)

    def offer(self, scores: np.ndarray, rows: np.ndarray) -> None:
        if len(self.scores) == 0:  # a few rows tell how good the others must be
            few = 4 * self.count
            self._offer(scores[:few], rows[:few])
            scores, rows = scores[few:], rows[few:]
        self._offer(scores, rows)

    def _offer(self, scores: np.ndarray, rows: np.ndarray) -> None:
        better = np.flatnonzero(scores >= self.floor)
        self.scores = np.concatenate([self.scores, scores[better]])
        self.rows = np.concatenate([self.rows, rows[better]])
        if len(self.scores) > 2 * self.count:
            self.floor = np.partition(self.scores, -self.count)[-self.count]
            kept = self.scores >= self.floor
            self.scores, self.rows = self.scores[kept], self.rows[kept]
        if len(self.scores) > 2 * self.count:  # many ties
            self.scores, self.rows = self.sorted()

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows, best first, `(<= K,)` each."""
        best = np.lexsort((self.rows, -self.scores))[: self.count]
        return self.scores[best], self.rows[best]


def merge(parts: list[tuple[np.ndarray, np.ndarray]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The best of all ranks, padded to `(K,)` with row -1."""
    scores, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    best = np.lexsort((rows, -scores))[:count]
    missing = count - len(best)
    return np.pad(scores[best], (0, missing), constant_values=-np.inf), np.pad(rows[best], (0, missing), constant_values=-1)


def nearest(
    queries: np.ndarray, gallery: GalleryRows, count: int, leave_out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The best rows of many queries: for graphs and expansion, where nothing is judged. FAISS finds them in single precision.

    Args:
        queries: `(Q, D)`; blocks of them are multiplied with blocks of rows, in the precision of the queries.
        leave_out: `(Q,)` a row that is no neighbor of the query, -1 for none.

    Returns:
        Rows and scores `(Q, K)`; row -1 beyond the size of the gallery.
    """
    queries = gallery.asked(queries)
    own = np.full(len(queries), -1) if leave_out is None else leave_out
    blocks = [slice(start, start + QUERIES) for start in range(0, len(queries), QUERIES)]
    found = [_nearest(queries[block], gallery, count, own[block]) for block in blocks]
    rows, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    return rows, scores


def _nearest(queries: np.ndarray, gallery: GalleryRows, count: int, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if queries.dtype != np.float32:
        return _by_product(queries, gallery, count, own)
    rows, scores = _by_faiss(queries, gallery, count + 1 + SPARE)
    cut = scores.min(axis=1)  # rows as good as this may be missing
    scores[rows == own[:, None]] = -np.inf
    order = np.lexsort((rows, -scores))[:, :count]
    rows, scores = (np.take_along_axis(found, order, axis=1) for found in (rows, scores))
    rows[scores == -np.inf] = -1
    torn = np.flatnonzero((scores[:, -1] <= cut) & (cut > -np.inf))
    if len(torn):
        rows[torn], scores[torn] = _by_product(queries[torn], gallery, count, own[torn])
    return rows, scores


def _padded(queries: np.ndarray) -> np.ndarray:
    padded = np.zeros((QUERIES, queries.shape[1]), queries.dtype)
    padded[: len(queries)] = queries
    return padded


def _by_faiss(queries: np.ndarray, gallery: GalleryRows, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The best rows and their scores `(Q, K)`, in any order; of rows tied with the last one, any."""
    padded, buffer = _padded(queries), np.empty((ROWS, queries.shape[1]), np.float32)
    best = faiss.ResultHeap(QUERIES, count, keep_max=True)
    for first in range(0, len(gallery), ROWS):
        inside = np.flatnonzero(gallery.group[first : first + ROWS] >= 0)
        block = gallery.block(first, buffer)
        block = block[: len(inside)] if len(inside) and inside[-1] == len(inside) - 1 else block[inside]
        if len(inside):
            scores, near = faiss.knn(padded, block, min(count, len(inside)), metric=faiss.METRIC_INNER_PRODUCT)
            best.add_result(scores, first + inside[near])
    rows = best.I[: len(queries)].copy()
    return rows, np.where(rows < 0, -np.inf, best.D[: len(queries)]).astype(np.float32)


def _by_product(queries: np.ndarray, gallery: GalleryRows, count: int, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, scores = np.full((len(queries), count), -1), np.full((len(queries), count), -np.inf, queries.dtype)
    padded = _padded(queries)
    buffer = np.empty((ROWS, queries.shape[1]), queries.dtype)
    for first in range(0, len(gallery), ROWS):
        group = gallery.group[first : first + ROWS]
        piece = (padded @ gallery.block(first, buffer).T)[: len(queries), : len(group)]  # (Q, n)
        piece[:, group < 0] = -np.inf
        here = np.flatnonzero((own >= first) & (own < first + len(group)))
        piece[here, own[here] - first] = -np.inf
        rows, scores = _better(rows, scores, piece, first)
    return rows, scores


def _better(rows: np.ndarray, scores: np.ndarray, piece: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """The best of those found so far `(Q, K)` and of the scores `(Q, n)` of the rows from `first` on."""
    floor = scores.min(axis=1, initial=np.inf)
    if piece.shape[1] > scores.shape[1]:
        floor = np.maximum(floor, np.partition(piece, -scores.shape[1], axis=1)[:, -scores.shape[1]])
    query, column = np.nonzero((piece >= floor[:, None]) & (piece > -np.inf))
    known, place = np.nonzero(rows >= 0)
    query = np.concatenate([known, query])
    row = np.concatenate([rows[known, place], column + first])
    score = np.concatenate([scores[known, place], piece[query[len(known) :], column]])
    order = np.lexsort((row, -score, query))
    query, row, score = query[order], row[order], score[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    kept = rank < scores.shape[1]
    rows, scores = np.full_like(rows, -1), np.full_like(scores, -np.inf)
    rows[query[kept], rank[kept]] = row[kept]
    scores[query[kept], rank[kept]] = score[kept]
    return rows, scores
