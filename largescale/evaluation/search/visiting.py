"""Two-stage search as an evaluation counts it: rows are filed under their nearest anchor, and a query visits its nearest lists.

What is in the lists that it visits is ranked by similarity; the other lists follow in the order of their anchors, each ranked
by similarity. A row's place becomes one number: the lists that come before its own, and within them its similarity.

Q queries, N rows of the gallery, n rows of a chunk, C anchors, D dimensions
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from largescale.evaluation.descriptors.derived import one_thread
from largescale.evaluation.protocol.relevance import GalleryRows, Judged
from largescale.evaluation.search.counting import Counted, RankExchange, Scorer, count, count_by
from largescale.models.metric import COSINE, Space
from largescale.settings import UserError


class Visits:
    """Scores of a chunk, as `Scorer` gives them, higher the earlier a row comes."""

    dtype = np.dtype(np.float64)

    def __init__(
        self, queries: np.ndarray, gallery: GalleryRows, anchors: np.ndarray, probes: int, pool: ThreadPoolExecutor
    ) -> None:
        """
        Args:
            queries: `(Q, D)`.
            anchors: `(C, D)`, see `checked_anchors`.
            probes: how many lists a query visits.
        """
        self.rows, self.anchors = Scorer(queries, gallery, pool), Scorer(anchors, gallery, pool)
        near = np.argsort(-gallery.similarity(queries[:, None], anchors[None]), axis=1, kind="stable")
        place = np.empty_like(near)
        np.put_along_axis(place, near, np.arange(near.shape[1])[None], axis=1)
        self.before = (place - probes + 1).clip(0)
        """`(Q, C)` groups of lists that come before each; those that are visited are one."""
        self.scale = 2.0 ** -np.ceil(np.log2(anchors.shape[0] + 1))

    def look(self, first: int) -> np.ndarray:
        return self._placed(self.rows.look(first), self.anchors.look(first))

    def start(self, first: int) -> None:
        self.rows.start(first)
        self.anchors.start(first)

    def take(self, first: int) -> np.ndarray:
        return self._placed(self.rows.take(first), self.anchors.take(first))

    def _placed(self, similarity: np.ndarray, to_anchors: np.ndarray) -> np.ndarray:
        """`(n, Q)` and `(n, C)` -> `(n, Q)`."""
        between = similarity / (1 + np.abs(similarity, dtype=np.float64))  # in (-1, 1), in the same order
        return (0.5 + 0.5 * between - self.before[:, to_anchors.argmax(1)].T) * self.scale

    def similarities(self, scores: np.ndarray) -> np.ndarray:
        """Of rows whose scores are given."""
        with np.errstate(invalid="ignore"):  # of places where there is no row
            between = 2 * (scores / self.scale % 1) - 1
            return np.where(np.isfinite(scores), between / (1 - np.abs(between)), scores).astype(np.float32)


def count_visited(
    queries: np.ndarray,
    gallery: GalleryRows,
    judged: Judged,
    anchors: np.ndarray,
    probes: int,
    neighbors: int,
    exchange: RankExchange,
    workers: int,
    progress: Callable[[int], object] = lambda rows: None,
) -> Counted:
    """As `count`, in the order of a two-stage search; the histogram is that of the similarities."""
    with one_thread(), ThreadPoolExecutor(workers) as multiplying, ThreadPoolExecutor(workers) as counting:
        visits = Visits(queries, gallery, anchors, probes, multiplying)
        counted = count_by(visits, gallery, judged, neighbors, exchange, counting, progress)
    plain = count(queries, gallery, judged, 1, exchange, workers)
    top_score, shown = (visits.similarities(scores) for scores in (counted.top_score, counted.score))
    return replace(counted, histogram=plain.histogram, top_score=top_score, shown=shown)


def checked_anchors(anchors: np.ndarray, dim: int, space: Space) -> np.ndarray:
    """`(C, D)` float32, as descriptors are compared: scaled to unit length for the cosine, else as they are.

    Raises:
        UserError: anchors of another dimension, not finite, or without a direction that the cosine needs.
    """
    if anchors.ndim != 2 or anchors.shape[1] != dim:
        raise UserError(f"expected anchors (C, {dim}) as the descriptors have, found {anchors.shape}: are they of this network?")
    norms = np.linalg.norm(anchors, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (space != COSINE or norms.all())):
        raise UserError("an anchor is zero or not finite: it has no direction to compare with")
    return np.ascontiguousarray(anchors / norms if space == COSINE else anchors, dtype=np.float32)
