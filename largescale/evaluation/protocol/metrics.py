"""Ranks of positives become scores: average precision, recall and precision at k, the mean precision-recall curve.

A rank is zero-based and counts the rows that are neither junk nor excluded. The rule is part of a metric's name:
`map_trapezoid` (Oxford, Paris, revisited, Holidays: never above `map_rectangle`), `map_rectangle` (mean of the precisions at
the positives, over the whole ranking), `map_at_r` (rectangles, first R places, R the number of positives), `map_at_k` (of Google
Landmarks and ILIAS: rectangles, first k places, over k or the number of positives if that is less), `recall_at_k` (is a
positive among the first k?), `precision_at_k` (positives among the first k, over k), `precision_at_k_cut` (k cut to the place
of the last positive: revisitop's "mP@k", never below `precision_at_k`), `ns` (positives among the first 4: UKBench's N-S).
Queries without a positive score NaN and are in no mean.

Q queries, N rows of the gallery, P positives that were found, of all queries
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from largescale.evaluation.protocol.protocols import Protocol
from largescale.program.plugins import imported
from largescale.settings import UserError


def average_precision(ranks: np.ndarray, positives: int) -> float:
    """Trapezoidal average precision of one query, as the Oxford benchmark defines it.

    Args:
        ranks: `(found,)` zero-based ranks of the positives that were found, in increasing order.
        positives: how many there are; those that are not in `ranks` were not found.

    Returns:
        In [0, 1], or NaN where there is nothing to find.
    """
    ranks = np.asarray(ranks)
    return float(_trapezoids(np.arange(len(ranks)), ranks).sum() / positives) if positives else float("nan")


def _trapezoids(place: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Mean of the precision just before and at the positive number `place` (zero-based), which has this rank."""
    before = np.where(rank == 0, 1.0, place / np.maximum(rank, 1))
    return (before + (place + 1) / (rank + 1)) / 2


@dataclass(frozen=True)
class Ranked:
    """Ranks of the positives of many queries: those of query q are `rank[start[q]:start[q + 1]]`, increasing."""

    start: np.ndarray
    rank: np.ndarray
    positives: np.ndarray
    """`(Q,)` how many there are; a ranking that was cut short may have found fewer."""

    @property
    def query(self) -> np.ndarray:
        """`(P,)` the query of each rank."""
        return np.repeat(np.arange(len(self.positives)), np.diff(self.start))

    @property
    def place(self) -> np.ndarray:
        """`(P,)` 0 for the first positive of a query, 1 for its second, ..."""
        return np.arange(len(self.rank)) - self.start[self.query]

    @property
    def first(self) -> np.ndarray:
        """`(Q,)` rank of the first positive, -1 where none was found."""
        found = np.diff(self.start) > 0
        return np.where(found, np.append(self.rank, -1)[np.where(found, self.start[:-1], -1)], -1)

    def mean_of(self, terms: np.ndarray) -> np.ndarray:
        """`(Q,)` sum of a query's terms `(P,)` over its number of positives; NaN where there is none."""
        sums = np.bincount(self.query, weights=terms, minlength=len(self.positives))
        return np.divide(sums, self.positives, out=np.full(len(sums), np.nan), where=self.positives > 0)

    def hits(self, k: int | np.ndarray) -> np.ndarray:
        """`(Q,)` positives among the first k rows; k may differ between queries."""
        within = self.rank < np.broadcast_to(k, len(self.positives))[self.query]
        return np.bincount(self.query[within], minlength=len(self.positives))


def _precision_cut(ranked: Ranked, k: int) -> np.ndarray:
    places = np.zeros(len(ranked.positives), dtype=np.int64)
    np.maximum.at(places, ranked.query, ranked.rank + 1)
    places = places.clip(1, k)
    return ranked.hits(places) / places


_BY_NAME: Mapping[str, Callable[[Ranked], np.ndarray]] = {
    "map_trapezoid": lambda ranked: ranked.mean_of(_trapezoids(ranked.place, ranked.rank)),
    "map_rectangle": lambda ranked: ranked.mean_of((ranked.place + 1) / (ranked.rank + 1)),
    "map_at_r": lambda ranked: ranked.mean_of(
        (ranked.place + 1) / (ranked.rank + 1) * (ranked.rank < ranked.positives[ranked.query])
    ),
    "ns": lambda ranked: np.where(ranked.positives > 0, ranked.hits(4), np.nan),
}


def _map_at(ranked: Ranked, k: int) -> np.ndarray:
    """Over the positives that can be among the first k."""
    precision = (ranked.place + 1) / (ranked.rank + 1) * (ranked.rank < k)
    sums = np.bincount(ranked.query, weights=precision, minlength=len(ranked.positives))
    return sums / np.clip(ranked.positives, 1, k)


_AT_K: Mapping[str, Callable[[Ranked, int], np.ndarray]] = {
    "recall": lambda ranked, k: (ranked.hits(k) > 0).astype(float),
    "precision": lambda ranked, k: ranked.hits(k) / k,
    "precision_cut": _precision_cut,
    "map": _map_at,
}
_CUT_AT = re.compile(r"(?P<kind>recall|precision|map)_at_(?P<k>[1-9]\d*)(?P<cut>_cut)?")
KNOWN = (*_BY_NAME, "recall_at_K", "precision_at_K", "precision_at_K_cut", "map_at_K")
"""Names of metrics, with a number in place of K."""


Metric = Callable[[Ranked], np.ndarray]
MARK = "__largescale_metric__"


def metric(function: Metric) -> Metric:
    """Mark a function that gives a number in [0, 1] for each query, `(Q,)`, as a metric, to be named by its import path."""
    setattr(function, MARK, True)
    return function


def metric_of(name: str) -> Metric:
    """The metric of that name, or of that import path.

    Raises:
        UserError: there is no such metric or function, or it is not marked as a metric.
    """
    if ":" in name or "." in name:
        return _own(name)
    if name in _BY_NAME:
        return _BY_NAME[name]
    parts = _CUT_AT.fullmatch(name)
    at_k = parts and _AT_K.get(parts["kind"] + (parts["cut"] or ""))
    if not parts or not at_k:
        raise UserError(f"metrics={name}: there is no such metric; known are {', '.join(KNOWN)}, and package.module:function")
    k = int(parts["k"])
    return lambda ranked: at_k(ranked, k)


def _own(path: str) -> Metric:
    found = imported(path, "metrics=")
    if not getattr(found, MARK, False):
        raise UserError(f"metrics={path}: the function is not marked as a metric; write @largescale.evaluation.metric above it")
    return found


def measure(ranked: Ranked, metric: str) -> np.ndarray:
    """`(Q,)` one metric of every query, by its name or import path; NaN for queries without a positive."""
    return np.where(ranked.positives > 0, metric_of(metric)(ranked), np.nan)


def precision_at_recall(ranked: Ranked, recall: np.ndarray) -> np.ndarray:
    """Precision `(Q, levels)` of every query at each level of recall in (0, 1]; NaN for queries without a positive.

    A query's precision at recall r is that at its positive number ceil(r R), and 0 where that one was not found.
    """
    wanted = np.ceil(np.outer(ranked.positives, recall) - 1e-9).astype(int).clip(1) - 1  # (Q, levels)
    found = wanted < np.diff(ranked.start)[:, None]
    rank = np.append(ranked.rank, 0)[np.where(found, ranked.start[:-1, None] + wanted, -1)]
    precision = np.where(found, (wanted + 1) / (rank + 1), 0.0)
    return np.where(ranked.positives[:, None] > 0, precision, np.nan)


@dataclass(frozen=True)
class Scores:
    """Of every query, and their means over the queries that have a positive."""

    per_query: Mapping[str, np.ndarray]
    """`(Q,)` by the name of the metric."""
    mean: Mapping[str, float]


def scores(ranked: Ranked, metrics: Sequence[str]) -> Scores:
    per_query = {name: measure(ranked, name) for name in metrics}
    asked = ranked.positives > 0
    return Scores(per_query, {name: float(x[asked].mean()) if asked.any() else float("nan") for name, x in per_query.items()})


def evaluate_rankings(ranks: np.ndarray, ground_truth: Sequence[Mapping[str, Sequence[int]]], protocol: Protocol) -> Scores:
    """Score complete rankings that somebody else has made; `count_average_precision` needs no ranking.

    Args:
        ranks: `(N, Q)` row numbers of the gallery, best first, one column per query; may be cut short.
        ground_truth: per query its lists of row numbers, by the names that the protocol uses (`ok`, `easy`, `junk`, ...).
            A row named twice counts once; one that is both positive and junk is positive; one that is not in `ranks`
            was not found.
        protocol: which lists are positive, which junk, and which metrics are computed.
    """
    found, positives = [], []
    for column, lists in zip(np.asarray(ranks).T, ground_truth, strict=True):
        positive, junk = (
            np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(np.asarray(lists.get(name, []), int) for name in names)]))
            for names in (protocol.positive, protocol.junk)
        )
        right = np.isin(column, positive)
        skipped = np.cumsum(np.isin(column, junk) & ~right)
        places = np.flatnonzero(right)
        found.append(places - skipped[places])
        positives.append(len(positive))
    start = np.cumsum([0, *map(len, found)])
    rank = np.concatenate([np.zeros(0, dtype=np.int64), *found])
    return scores(Ranked(start, rank, np.array(positives, dtype=np.int64)), protocol.metrics)
