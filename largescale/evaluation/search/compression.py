"""Rankings by compressed descriptors, of which the first rows are scored again with the full ones.

Q queries, N rows of the gallery, n rows of a chunk, D dimensions, K rows that are scored again
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from largescale.cpu import one_thread
from largescale.evaluation.protocol.relevance import GalleryRows, Judged
from largescale.evaluation.search.counting import ALONE, Counted, RankExchange, Scorer, count, count_by

Compression = Literal["int8", "binary"]


@dataclass(frozen=True)
class CompressedRows(GalleryRows):
    """A gallery in a byte or a bit of each dimension.

    int8: each row by its largest value, rounded to 1/127 of it. binary: signs of what differs from the gallery's mean row. Rows
    are compressed block by block as they are read, so that the numbers are those of an index of that kind, and not its speed.
    """

    kind: Compression = "int8"

    @cached_property
    def center(self) -> np.ndarray:
        """`(D,)` what is taken from rows and queries."""
        return mean_row(self) if self.kind == "binary" else np.zeros(self.parts[0].shape[1], np.float32)

    def block(self, first: int, buffer: np.ndarray) -> np.ndarray:
        rows = super().block(first, buffer)
        return signs(rows - self.center) if self.kind == "binary" else rounded(rows)


class Compressed:
    """Counts by a compressed gallery; queries stay as they are (asymmetric comparison)."""

    def __init__(self, kind: Compression, gallery: GalleryRows) -> None:
        self.full, self.rows = gallery, CompressedRows(gallery.parts, gallery.group, gallery.space, kind)

    def count(
        self,
        queries: np.ndarray,
        judged: Judged,
        first: int,
        neighbors: int = 20,
        exchange: RankExchange = ALONE,
        workers: int = 1,
        progress: Callable[[int], object] = lambda rows: None,
    ) -> Counted:
        """As `count_by`, in the order of the compressed rows, of which the `first` lead in full order."""
        coarse = unit(queries - self.rows.center)
        if not first:
            return count(coarse, self.rows, judged, neighbors, exchange, workers, progress)
        nothing = Judged.of([{}] * len(queries), ["right"])
        best = count(coarse, self.rows, nothing, first, exchange, workers).top_row
        with one_thread(), ThreadPoolExecutor(workers) as multiplying, ThreadPoolExecutor(workers) as counting:
            scorers = Scorer(coarse, self.rows, multiplying), Scorer(queries, self.full, multiplying)
            return count_by(Rescored(*scorers, best), self.full, judged, neighbors, exchange, counting, progress)


class Rescored:
    """Scores of the best rows `(Q, K)` by their full score in [0, 1], of the others by their own below 0."""

    dtype = Scorer.dtype

    def __init__(self, coarse: Scorer, full: Scorer, best: np.ndarray) -> None:
        self.coarse, self.full, self.best = coarse, full, best

    def look(self, first: int) -> np.ndarray:
        return self._mixed(first, self.coarse.look(first), self.full.look(first))

    def start(self, first: int) -> None:
        self.coarse.start(first)
        self.full.start(first)

    def take(self, first: int) -> np.ndarray:
        return self._mixed(first, self.coarse.take(first), self.full.take(first))

    def _mixed(self, first: int, coarse: np.ndarray, full: np.ndarray) -> np.ndarray:
        """`(n, Q)`"""
        scores = 0.5 * coarse.clip(-1, 1) - 0.5
        query, place = np.nonzero((self.best >= first) & (self.best < first + len(coarse)))
        row = self.best[query, place] - first
        scores[row, query] = 0.5 + 0.5 * full[row, query].clip(-1, 1)
        return scores


def rounded(rows: np.ndarray) -> np.ndarray:
    """`(n, D)` -> unit rows that a byte of each dimension can hold."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return unit(np.rint(127 * np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)))


def signs(rows: np.ndarray) -> np.ndarray:
    """`(n, D)` -> unit rows that a bit of each dimension can hold."""
    return (np.where(rows >= 0, 1, -1) / np.sqrt(rows.shape[1])).astype(np.float32)


def mean_row(gallery: GalleryRows) -> np.ndarray:
    """`(D,)` over all rows that are searched, part after part."""
    total, start = np.zeros(gallery.parts[0].shape[1]), 0
    for part in gallery.parts:
        inside = gallery.group[start : start + len(part)] >= 0
        total += part[inside].sum(axis=0, dtype=np.float64)
        start += len(part)
    return (total / max(1, int((gallery.group >= 0).sum()))).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0).astype(np.float32)
