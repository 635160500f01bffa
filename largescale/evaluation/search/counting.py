"""Exact ranks by counting, in two streamed passes over descriptors: nothing is ever sorted as a whole.

To score a query one must know how many rows stand before each row that its ground truth judges. The first pass reads the
scores of those rows; the second counts, chunk by chunk, the other rows above them. Counts are integers and the ranks of
a world add them. Scores are float32. Among equal ones a wrong row stands before a judged one, so that a network that tells
nothing apart scores no better than chance; rows that are shown stand in the order of (score descending, row ascending).

A product of another shape or on more threads gives other last bits. So every product has the same shape, `BLOCK` rows
padded with zeros, on a grid of row numbers, on one BLAS thread (several run side by side): a score has the same bits
in both passes, in any world, and for any cut of the rows into files.

Most rows are counted by a histogram of fine bins; only those in the same bin as a judged row are compared with it.

Q queries, N rows of the gallery, D dimensions, n rows of a chunk, M judged rows of all queries, G groups, K neighbors
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import local
from typing import Any, NamedTuple, Protocol

import numpy as np

from largescale.cpu import one_thread
from largescale.evaluation.protocol.relevance import GalleryRows, Judged
from largescale.evaluation.search.neighbors import Best, merge

BLOCK = 1024
CHUNK = 16 * BLOCK
CACHE_BYTES = 128 * 2**20
BINS = 2**14
EDGES = np.linspace(-1, 1, 257)
"""Of the histogram that is reported: each of its bins holds `BINS / 256` fine ones."""


@dataclass(frozen=True)
class Counted:
    """What two passes found."""

    score: np.ndarray
    """`(M,)` of each judged row: by it they are ranked."""
    before: np.ndarray
    """`(M, G)` int64: rows of each group, judged ones excepted, that stand before it."""
    histogram: np.ndarray
    """`(G, len(EDGES) - 1)` int64: scores of the rows that are not judged, over all queries; the outer bins are open."""
    top_row: np.ndarray
    """`(Q, K)` the best rows, judged or not; -1 beyond the size of the gallery."""
    top_score: np.ndarray
    """`(Q, K)` float32"""
    shown: np.ndarray
    """`(M,)` similarity of each judged row."""
    inliers: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    """`(Q, V)` features of the first of the best rows that agree with the query's; nothing where none were compared."""


class RowScores(Protocol):
    """Scores of the gallery's rows, a chunk `(n, Q)` at a time; rows with higher ones come first."""

    dtype: np.dtype[Any]

    def look(self, first: int) -> np.ndarray:
        """Those of the chunk that begins at row `first`, which will be taken later."""
        ...

    def start(self, first: int) -> None:
        """It will be taken soon."""
        ...

    def take(self, first: int) -> np.ndarray: ...


class RankExchange(NamedTuple):
    """What ranks tell each other: sums of arrays, and lists of what each has. Every rank must call them alike."""

    rank: int
    size: int
    add: Callable[[np.ndarray], np.ndarray]
    gather: Callable[[Any], list[Any]]


ALONE = RankExchange(0, 1, lambda array: array, lambda value: [value])


def count(
    queries: np.ndarray,
    gallery: GalleryRows,
    judged: Judged,
    neighbors: int = 20,
    exchange: RankExchange = ALONE,
    workers: int = 1,
    progress: Callable[[int], object] = lambda rows: None,
) -> Counted:
    """Count the rows before each judged row, and keep the best `neighbors` of each query.

    Args:
        queries: `(Q, D)` float32, descriptors as the gallery's, the same on every rank.
        workers: threads of this rank.
        progress: called with the number of rows done, on the way.

    Returns:
        The same on every rank, bit for bit, for every number of ranks and workers.
    """
    # counting needs the interpreter most of the time, products hardly ever: each fills what the other leaves of the cores
    with one_thread(), ThreadPoolExecutor(workers) as multiplying, ThreadPoolExecutor(workers) as counting:
        scorer = Scorer(queries, gallery, multiplying)
        return count_by(scorer, gallery, judged, neighbors, exchange, counting, progress)


def count_scores(
    scores: np.ndarray,
    gallery: GalleryRows,
    judged: Judged,
    neighbors: int,
    exchange: RankExchange = ALONE,
    workers: int = 1,
    progress: Callable[[int], object] = lambda rows: None,
) -> Counted:
    """As `count`, from scores `(Q, N)` that are there already, the same on every rank: those of a re-ranking."""
    with ThreadPoolExecutor(workers) as pool:
        return count_by(_Given(scores), gallery, judged, neighbors, exchange, pool, progress)


def similarities(queries: np.ndarray, gallery: GalleryRows, workers: int = 1) -> np.ndarray:
    """`(Q, N)` scores, with the bits that `count` has."""
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        scorer = Scorer(queries, gallery, pool)
        return np.concatenate([scorer.take(first) for first in range(0, len(gallery), CHUNK)]).T


def count_by(
    scorer: RowScores,
    gallery: GalleryRows,
    judged: Judged,
    neighbors: int,
    exchange: RankExchange,
    pool: ThreadPoolExecutor,
    progress: Callable[[int], object],
) -> Counted:
    """As `count`, in the order of given scores."""
    mine, queries = own_chunks(gallery, exchange), len(judged.start) - 1
    score = exchange.add(_judged_scores(scorer, judged, mine))
    counter = _Counter(judged, score, gallery.groups, neighbors)
    pieces = np.array_split(np.arange(queries), pool._max_workers)
    for group, rows, scores in _by_group(scorer, gallery.group, mine, progress):
        list(pool.map(partial(counter.add, group, rows, scores), pieces))
    parts = exchange.gather(counter.best())
    best = [merge([part[q] for part in parts], neighbors) for q in range(queries)]
    top_score, top_row = (np.stack(column) for column in zip(*best, strict=True))
    return Counted(score, exchange.add(counter.before()), exchange.add(counter.histogram()), top_row, top_score, score)


def own_chunks(gallery: GalleryRows, exchange: RankExchange) -> range:
    """The first rows of the chunks that a rank counts."""
    chunks = range(0, len(gallery), CHUNK)
    first, last = (-(-len(chunks) * rank // exchange.size) for rank in (exchange.rank, exchange.rank + 1))
    return chunks[first:last]


class _Buffer(local):
    """One block of rows per thread."""

    def __init__(self, dim: int) -> None:
        self.rows = np.empty((BLOCK, dim), dtype=np.float32)


class _Product(NamedTuple):
    """Scores of a chunk that threads are computing."""

    scores: np.ndarray
    blocks: list[Future[None]]

    def finished(self) -> np.ndarray:
        for block in self.blocks:
            block.result()
        return self.scores


class Scorer:
    """Scores of a chunk, all products of one shape; those of the first pass are kept for the second, up to a bound."""

    dtype = np.dtype(np.float32)

    def __init__(self, queries: np.ndarray, gallery: GalleryRows, pool: ThreadPoolExecutor) -> None:
        self.queries = np.ascontiguousarray(gallery.asked(queries.astype(np.float32, copy=False)).T)  # (D, Q)
        self.gallery = gallery
        self.pool = pool
        self.buffer = _Buffer(len(self.queries))
        self.begun: dict[int, _Product] = {}

    def look(self, first: int) -> np.ndarray:
        """`(n, Q)` scores of the chunk that begins at row `first`."""
        product = self._begin(first)
        if (len(self.begun) + 1) * product.scores.nbytes <= CACHE_BYTES:
            self.begun[first] = product
        return product.finished()

    def start(self, first: int) -> None:
        """Let the threads work on a chunk that will be taken soon."""
        if first not in self.begun:
            self.begun[first] = self._begin(first)

    def take(self, first: int) -> np.ndarray:
        self.start(first)
        return self.begun.pop(first).finished()

    def _begin(self, first: int) -> _Product:
        rows = min(CHUNK, len(self.gallery) - first)
        starts = range(0, rows, BLOCK)
        scores = np.empty((len(starts) * BLOCK, self.queries.shape[1]), dtype=np.float32)

        def block(start: int) -> None:
            rows = self.gallery.block(first + start, self.buffer.rows)
            np.matmul(rows, self.queries, out=scores[start : start + BLOCK])

        return _Product(scores[:rows], [self.pool.submit(block, start) for start in starts])


class _Given:
    """Scores that somebody else has computed."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores, self.dtype = scores.T, scores.dtype  # (N, Q)

    def look(self, first: int) -> np.ndarray:
        return self.scores[first : first + CHUNK]

    take = look

    def start(self, first: int) -> None: ...


def _judged_scores(scorer: RowScores, judged: Judged, chunks: range) -> np.ndarray:
    """`(M,)` scores of the judged rows in these chunks, 0 for the others."""
    score = np.zeros(len(judged.row), dtype=scorer.dtype)
    query, chunk = judged.query, judged.row // CHUNK * CHUNK
    for first in np.intersect1d(chunk, chunks):
        here = np.flatnonzero(chunk == first)
        score[here] = scorer.look(int(first))[judged.row[here] - first, query[here]]
    return score


def _by_group(
    scorer: RowScores, group: np.ndarray, chunks: range, progress: Callable[[int], object]
) -> Iterator[tuple[int, np.ndarray, list[np.ndarray]]]:
    """(group, its rows, their scores in pieces `(n_i, Q)`), about a chunk at a time: groups may be mixed in any way."""
    rows: dict[int, list[np.ndarray]] = defaultdict(list)
    scores: dict[int, list[np.ndarray]] = defaultdict(list)
    for first in chunks:
        for soon in (first, first + CHUNK):
            if soon in chunks:
                scorer.start(soon)
        chunk, of_row = scorer.take(first), group[first : first + CHUNK]
        for g in np.unique(of_row[of_row >= 0]).tolist():
            here = np.flatnonzero(of_row == g)
            rows[g].append(first + here)
            scores[g].append(chunk if len(here) == len(chunk) else chunk.take(here, axis=0))
            if sum(map(len, rows[g])) >= CHUNK:
                yield g, np.concatenate(rows.pop(g)), scores.pop(g)
        progress(len(chunk))
    for g in rows:
        yield g, np.concatenate(rows[g]), scores[g]


def _bin(scores: np.ndarray) -> np.ndarray:
    """Number of the fine bin of each score. Never decreases with the score, which is all that the counting needs."""
    place = scores * np.float32(BINS / 2)
    place += np.float32(BINS / 2)
    return place.clip(0, BINS - 1, out=place).astype(np.intp)


class _Counter:
    """Adds up, over chunks, the rows that stand before each judged row. What it holds of a query one thread writes."""

    def __init__(self, judged: Judged, score: np.ndarray, groups: int, neighbors: int) -> None:
        self.judged = judged
        self.queries = len(judged.start) - 1
        # within a query by rising score: numpy searches sorted needles faster
        self.order = np.lexsort((score, judged.query))
        self.score, self.row = score[self.order], judged.row[self.order]
        self.counts = np.zeros((groups, len(score)), dtype=np.int64)
        self.histograms = np.zeros((self.queries, groups, len(EDGES) - 1), dtype=np.int64)
        self.tops = [Best(neighbors) for _ in range(self.queries)]
        self.bin = _bin(self.score)
        self.named = np.zeros((self.queries, BINS), dtype=bool)
        self.named[judged.query, self.bin] = True

    def before(self) -> np.ndarray:
        before = np.empty_like(self.counts.T)
        before[self.order] = self.counts.T
        return before

    def histogram(self) -> np.ndarray:
        return self.histograms.sum(0)

    def best(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [top.sorted() for top in self.tops]

    def add(self, group: int, rows: np.ndarray, scores: list[np.ndarray], queries: np.ndarray) -> None:
        """Count some rows `(n,)` of one group, in rising order, for some of the queries."""
        if len(queries):
            columns = np.concatenate([part[:, queries[0] : queries[-1] + 1].T for part in scores], axis=1)
            for q, of_query in zip(queries, columns, strict=True):
                self._count(q, group, rows, of_query)
                self.tops[q].offer(of_query, rows)

    def _count(self, q: int, group: int, rows: np.ndarray, scores: np.ndarray) -> None:
        mine = slice(self.judged.start[q], self.judged.start[q + 1])
        bins = _bin(scores)
        judged = np.searchsorted(rows, self.judged.row[mine])
        judged = judged[rows.take(judged, mode="clip") == self.judged.row[mine]]
        histogram = np.bincount(bins, minlength=BINS)
        np.subtract.at(histogram, bins[judged], 1)
        self.histograms[q, group] += histogram.reshape(len(EDGES) - 1, -1).sum(1)
        histogram[self.bin[mine]] = 0
        up_to = histogram.cumsum()
        close = self.named[q].take(bins)
        close[judged] = False
        close = np.flatnonzero(close)
        self.counts[group, mine] += up_to[-1] - up_to[self.bin[mine]] + self._compare(mine, scores[close])

    def _compare(self, mine: slice, scores: np.ndarray) -> np.ndarray:
        """How many of these rows stand before each judged row of a query: those with its score do too."""
        return len(scores) - np.searchsorted(np.sort(scores), self.score[mine], "left")
