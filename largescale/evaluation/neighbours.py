"""The best rows of a query, by (score descending, row ascending), from rows that come in pieces. K neighbours"""

import numpy as np


class Best:
    """The best rows of one query seen so far, by (score descending, row ascending)."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.floor = np.float32(-np.inf)
        self.scores = np.empty(0, dtype=np.float32)
        self.rows = np.empty(0, dtype=np.int64)

    def offer(self, scores: np.ndarray, rows: np.ndarray) -> None:
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
