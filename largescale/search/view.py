"""An index at one moment, opened to be read: mapped segments, side by side. What others change meanwhile does not touch it.

Q queries, N rows of all segments, D dimensions, K neighbors. A row is known by its number: those of a segment follow those of
the segments before it.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from largescale.cpu import own_cores
from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.program.extras import faiss
from largescale.search.manifest import IndexManifest
from largescale.search.scan import Near, exact_scores, merged, scan, slack
from largescale.search.segment import SCHEMA, Segment, gathered, hashes_of
from largescale.settings import UserError

SPARE = 16
"""Rows that are looked at beyond those that are wanted: scores of a scan may be off in the last bits."""
DEEPER = 8
CANDIDATES = 4
"""Times the wanted rows that an approximate index is asked for; all of them are scored with their descriptors."""
NARROW = 100_000
"""Rows that a filter leaves, up to which they are scanned and the approximate index is not asked."""


@dataclass(frozen=True)
class IndexView:
    """
    Args:
        manifest: what it was read from.
    """

    folder: Path
    manifest: IndexManifest
    segments: tuple[Segment, ...]
    lists: tuple[Any, ...] = ()
    """The segments' parts of an approximate index."""

    @staticmethod
    def open(folder: Path) -> "IndexView":
        """
        Raises:
            UserError: no index, one of another version, or one with a file that is missing or was altered.
        """
        while True:
            manifest = IndexManifest.read(folder)
            try:
                segments = tuple(Segment.open(folder / "segments" / entry.name, entry) for entry in manifest.segments)
                return IndexView(folder, manifest, segments, opened_lists(segments, manifest.kind.search))
            except FileNotFoundError as error:
                if IndexManifest.read(folder) == manifest:  # else a writer has replaced the segment meanwhile
                    raise UserError(f"{error.filename} is missing: the index was altered; build it again") from None

    @cached_property
    def starts(self) -> np.ndarray:
        """`(segments + 1,)` number of each segment's first row."""
        return np.cumsum([0, *(segment.entry.rows for segment in self.segments)])

    @cached_property
    def live(self) -> np.ndarray:
        """`(N,)` whether a row is there."""
        return np.concatenate([np.empty(0, bool), *(segment.live for segment in self.segments)])

    @cached_property
    def gallery(self) -> GalleryRows:
        """The rows as the evaluation stage takes them."""
        return GalleryRows([segment.rows for segment in self.segments], np.where(self.live, 0, -1).astype(np.int8))

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(own_cores())

    def column(self, name: str) -> pa.ChunkedArray:
        """`(N,)` mapped."""
        empty = pa.chunked_array([], SCHEMA.field(name).type)
        return pa.chunked_array([chunk for s in self.segments for chunk in s.table[name].chunks], empty.type)

    def take(self, ids: np.ndarray) -> np.ndarray:
        """`(n,)` numbers of rows -> `(n, D)`."""
        out = np.empty((len(ids), self.manifest.dim), np.float32)
        place = np.searchsorted(self.starts, ids, "right") - 1
        for number in np.unique(place).tolist():
            here = place == number
            out[here] = self.segments[number].rows[ids[here] - self.starts[number]]
        return out

    def table(self, ids: np.ndarray, *names: str) -> pa.Table:
        """`(n,)` numbers of rows -> these columns of what is known of them."""
        return gathered(self.starts, ids, names, lambda number, rows: self.segments[number].take(rows, names))

    def find(self, keys: Sequence[str]) -> np.ndarray:
        """`(n,)` the row of each key, -1 where there is none."""
        wanted, hashes, found = pa.array(keys, pa.large_string()), hashes_of(keys), np.full(len(keys), -1)
        for segment, start in zip(self.segments, self.starts, strict=False):
            rows = segment.find(wanted, hashes)
            found = np.where(rows < 0, found, rows + start)
        return found

    def nearest(self, queries: np.ndarray, count: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The rows nearest to queries, by (score descending, row ascending).

        Args:
            queries: `(Q, D)` float32.
            allowed: `(N,)` the rows that count; None: all that are there.

        Returns:
            Numbers `(Q, K)`, -1 beyond the size of the index, and scores `(Q, K)` float64: inner products, or for the metric l2
            distances squared, below zero. Of an exact index both have the same bits for any cut into segments, number of threads
            and number of queries.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        eligible = self.live if allowed is None else allowed & self.live
        count = min(count, int(eligible.sum()))
        if self.manifest.kind.trained and (allowed is None or eligible.sum() > NARROW):
            return self._approximate(queries, count, eligible)
        return self.exact(queries, count, eligible, allowed is not None)

    def exact(self, queries: np.ndarray, count: int, eligible: np.ndarray, filtered: bool) -> tuple[np.ndarray, np.ndarray]:
        """As `nearest`, of any index; `filtered` says that many rows may not be eligible."""
        ids, scores = np.full((len(queries), count), -1), np.full((len(queries), count), -np.inf)
        left, depth = np.arange(len(queries)), count + SPARE
        while len(left) and count:
            near, floor = self._scanned(queries[left], depth, eligible, filtered)
            ids[left], scores[left] = self.ranked(queries[left], near.rows, count, eligible)
            done = scores[left, -1] > floor + self._slack(queries[left])
            left, depth = left[~done], DEEPER * depth
        return ids, scores

    def ranked(self, queries: np.ndarray, rows: np.ndarray, count: int, eligible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best `count` of the rows `(Q, C)` that each query is given, -1 for none, scored in the canonical way."""
        query, column = np.nonzero((rows >= 0) & eligible[rows])
        row = rows[query, column]
        score = exact_scores(queries, query, self.take(row), self.manifest.metric)
        order = np.lexsort((row, -score, query))
        query, row, score = query[order], row[order], score[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        kept = rank < count
        ids, scores = np.full((len(queries), count), -1), np.full((len(queries), count), -np.inf)
        ids[query[kept], rank[kept]], scores[query[kept], rank[kept]] = row[kept], score[kept]
        return ids, scores

    def _scanned(self, queries: np.ndarray, depth: int, eligible: np.ndarray, filtered: bool) -> tuple[Near, np.ndarray]:
        """Candidates, and `(Q,)` the score that no other row exceeds (but for rounding)."""
        parts, starts, floors = [], [], [np.full(len(queries), -np.inf)]
        for segment, start in zip(self.segments, self.starts, strict=False):
            some = eligible[start : start + segment.entry.rows]
            allowed = some if filtered or segment.entry.removed else None
            for near in scan(queries, segment.rows, depth, self.manifest.metric, allowed, self.pool, own_cores()):
                parts.append(near)
                starts.append(int(start))
                if near.rows.shape[1] == depth:
                    floors.append(np.where(near.rows[:, -1] < 0, -np.inf, near.scores[:, -1]))
        return merged(parts, starts), np.max(floors, axis=0)

    def _slack(self, queries: np.ndarray) -> np.ndarray:
        return slack(queries, max(segment.entry.largest for segment in self.segments), self.manifest.metric)

    def _approximate(self, queries: np.ndarray, count: int, eligible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As far as the index finds them; deeper while it finds too few that are eligible."""
        ids, scores = np.full((len(queries), count), -1), np.full((len(queries), count), -np.inf)
        left, depth = np.arange(len(queries)), CANDIDATES * count + SPARE
        while len(left) and count:
            parts = [Near(*index.search(queries[left], min(depth, index.ntotal))[::-1]) for index in self.lists]
            ids[left], scores[left] = self.ranked(queries[left], merged(parts, self.starts[:-1].tolist()).rows, count, eligible)
            left = left[ids[left, -1] < 0] if depth < len(self.live) else left[:0]
            depth *= DEEPER
        return ids, scores


def opened_lists(segments: Sequence[Segment], search: str) -> tuple[Any, ...]:
    """The segments' parts of an approximate index, searched as deep as these FAISS parameters say."""
    faiss.omp_set_num_threads(own_cores())
    lists = tuple(segment.read_lists() for segment in segments if segment.entry.lists)
    for index in lists if search else ():
        faiss.ParameterSpace().set_index_parameters(index, search)  # type: ignore[arg-type]
    return lists
