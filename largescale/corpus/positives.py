"""Which images may be the positive of a query: rules over the rows of `pairs.arrow` (LRML §4.1.1, eqs 4 to 6).

q queries that have a candidate, M candidates over all queries, Q queries of an epoch, C candidates of one of them at most.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from largescale.corpus.config import TuplePlanConfig
from largescale.corpus.manifest import Manifest
from largescale.settings import UserError

NEEDS: Mapping[str, tuple[str, ...]] = {"max_inliers": ("inliers",), "relaxed_inliers": ("overlap", "scale"), "descriptor": ()}
"""Columns of the pairs that a rule reads."""


class PositiveCandidates(NamedTuple):
    """Images that may be the positive, query after query; by inliers, the most first, where the rule asks for them."""

    queries: np.ndarray
    """`(q,)` image ids, increasing."""
    starts: np.ndarray
    """`(q,)` where the candidates of a query begin."""
    lengths: np.ndarray
    """`(q,)` how many they are, at least one."""
    positives: np.ndarray
    """`(M,)` image ids."""

    def padded(self, rows: np.ndarray) -> np.ndarray:
        """`(Q, C)` the candidates of some queries, -1 where there are fewer than C."""
        place = np.arange(self.lengths[rows].max(initial=0))
        inside = place < self.lengths[rows][:, None]
        return np.where(inside, self.positives[np.where(inside, self.starts[rows][:, None] + place, 0)], -1)


def find_candidates(manifest: Manifest, config: TuplePlanConfig) -> PositiveCandidates:
    """The pairs that a rule admits; a query without any is no query.

    Raises:
        UserError: the corpus has no pairs, or its pairs lack what the rule reads.
    """
    pairs = _columns(manifest, config)
    rows = np.arange(len(pairs["query"]))
    if config.nearest_cameras is not None:
        rows = _nearest(rows, pairs["query"], pairs["distance"], config.nearest_cameras)
    if config.positive == "relaxed_inliers":
        rows = rows[(pairs["overlap"][rows] > config.min_overlap) & (pairs["scale"][rows] < config.max_scale)]
    inliers = pairs["inliers"][rows] if config.positive == "max_inliers" else np.zeros(len(rows), np.int8)
    rows = rows[np.lexsort((-inliers, pairs["query"][rows]))]
    queries, starts, lengths = np.unique(pairs["query"][rows], return_index=True, return_counts=True)
    return PositiveCandidates(queries, starts, lengths, pairs["positive"][rows])


def _columns(manifest: Manifest, config: TuplePlanConfig) -> Mapping[str, np.ndarray]:
    needed = [*NEEDS[config.positive], *(["distance"] if config.nearest_cameras is not None else [])]
    missing = needed if manifest.pairs is None else [name for name in needed if name not in manifest.pairs]
    if manifest.pairs is None or missing:
        rule = f"tuples.positive={config.positive}" + (" with nearest_cameras" if config.nearest_cameras else "")
        what = "no pairs" if manifest.pairs is None else f"pairs without {' and '.join(missing)}"
        raise UserError(
            f"{manifest.storage.location} has {what}, which {rule} chooses the positive by; use tuples.positive=given, or a "
            "corpus whose source knows them (the embedded demo does)"
        )
    return manifest.pairs


def _nearest(rows: np.ndarray, queries: np.ndarray, distances: np.ndarray, count: int) -> np.ndarray:
    """The rows of the `count` least distances of each query."""
    rows = rows[np.lexsort((distances[rows], queries[rows]))]
    first = np.flatnonzero(np.diff(queries[rows], prepend=-1))
    place = np.arange(len(rows)) - np.repeat(first, np.diff(first, append=len(rows)))
    return rows[place < count]
