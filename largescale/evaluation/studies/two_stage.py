"""Two-stage search over class anchors (CAM, arXiv 2306.00630): a query visits its nearest anchors and compares only there.

The gallery is filed by the nearest anchor of each descriptor, never by its label: filing by label would make retrieval a
classification, above exhaustive search. Such a search is an inverted file whose centers were learned with labels, so it
stands beside exhaustive search and beside FAISS's inverted file, whose centers are k-means', at the same share of the gallery.

Q queries, N rows of the gallery, C centers, D dimensions
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from largescale.evaluation.protocol.metrics import evaluate_rankings
from largescale.evaluation.protocol.protocols import Protocol
from largescale.evaluation.report import charts
from largescale.evaluation.report.study import Cell, Study
from largescale.evaluation.search.visiting import checked_anchors
from largescale.evaluation.task import Task
from largescale.models.metric import COSINE, Space
from largescale.program.extras import faiss

BLOCK = 256
TIMED = 100
"""Neighbors that a timed search returns."""
Lists = Sequence[Mapping[str, Any]]
"""Per query `{list of the ground truth: (rows,)}`."""
Lifted = tuple[np.ndarray, np.ndarray]
"""Queries and rows whose products are similarities."""


@dataclass(frozen=True)
class SearchLine:
    """A way of searching, measured. Fractions, not percent."""

    method: str
    probes: int
    """Centers that a query visits."""
    scanned: float
    """Mean share of the gallery that a query is compared with."""
    reachable: float
    """Share of all positives that are filed under a visited center."""
    score: float
    """The protocol's main metric; positives that are not reachable are missing, which counts 0."""
    precision_at_20: float
    precision_at_100: float
    queries_per_second: float
    """Of FAISS with all its threads, for the first `TIMED` neighbors."""
    fullest: float
    """The largest list over the mean one."""


class Filed:
    """A gallery filed under centers: FAISS's inverted file, whatever its centers come from."""

    def __init__(self, centers: np.ndarray, rows: np.ndarray, space: Space = COSINE) -> None:
        """
        Args:
            centers: `(C, D)`.
            rows: `(N, D)` descriptors; unit rows where the cosine compares them.

        Raises:
            UserError: as `checked_anchors`.
        """
        self.centers = checked_anchors(centers, rows.shape[1], space)
        flat, metric = _faiss_kind(space)
        quantizer = flat(self.centers.shape[1])
        quantizer.add(self.centers)
        self.index = faiss.IndexIVFFlat(quantizer, centers.shape[1], len(centers), metric)
        self.index.train(rows[:1])  # the centers are there: nothing is learned
        self.index.add(rows)
        self.list = quantizer.search(rows, 1)[1][:, 0]  # (N,)
        self.size = np.bincount(self.list, minlength=len(centers))  # (C,)

    @staticmethod
    def by_k_means(count: int, rows: np.ndarray, space: Space = COSINE) -> "Filed":
        """FAISS's own: as many centers, found without labels."""
        count, spherical = min(count, len(rows)), space == COSINE
        kmeans = faiss.Kmeans(rows.shape[1], count, spherical=spherical, seed=0, min_points_per_centroid=1)
        kmeans.train(rows)
        assert kmeans.centroids is not None
        return Filed(kmeans.centroids, rows, space)

    def nearest(self, queries: np.ndarray) -> np.ndarray:
        """`(Q, C)` all centers, the nearest first."""
        return self.index.quantizer.search(queries, len(self.centers))[1]

    def scanned(self, queries: np.ndarray) -> np.ndarray:
        """`(C,)` mean share of the gallery that is compared with when 1, 2, … centers are visited."""
        return self.size[self.nearest(queries)].cumsum(axis=1).mean(axis=0) / len(self.list)


def _faiss_kind(space: Space) -> tuple[type[faiss.IndexFlat], int]:
    if space == COSINE:
        return faiss.IndexFlatIP, faiss.METRIC_INNER_PRODUCT
    return faiss.IndexFlatL2, faiss.METRIC_L2


def measure(
    queries: np.ndarray,
    rows: np.ndarray,
    anchors: np.ndarray,
    lists: Lists,
    protocol: Protocol,
    probes: Sequence[int],
    space: Space = COSINE,
) -> list[SearchLine]:
    """Exhaustive search; then for each number of anchors visited, theirs and FAISS's at the nearest share of the gallery.

    Args:
        queries, rows: `(Q, D)`, `(N, D)` float32, unit rows where the cosine compares them.
        anchors: `(C, D)`.
        lists: per query its rows of the ground truth, by the names that the protocol uses.
    """
    rules = replace(protocol, metrics=(protocol.main, "precision_at_20", "precision_at_100"))
    flat = _faiss_kind(space)[0](rows.shape[1])
    flat.add(rows)
    lifted = space.queries(torch.from_numpy(queries)).numpy(), space.items(torch.from_numpy(rows)).numpy()
    everything = _line("exhaustive", None, 0, 1.0, queries, lifted, lists, rules)
    found = [replace(everything, queries_per_second=_speed(lambda: flat.search(queries, TIMED), len(queries)))]
    anchored = Filed(anchors, rows, space)
    k_means = Filed.by_k_means(len(anchors), rows, space)
    of_anchors, of_k_means = anchored.scanned(queries), k_means.scanned(queries)
    for count in sorted({min(count, len(anchors)) for count in probes}):
        same = int(np.abs(of_k_means - of_anchors[count - 1]).argmin()) + 1
        found.append(_filed_line("anchors", anchored, count, of_anchors, queries, lifted, lists, rules))
        found.append(_filed_line(f"IVF{len(of_k_means)}", k_means, same, of_k_means, queries, lifted, lists, rules))
    return found


def measure_task(task: Task, anchors: np.ndarray, probes: Sequence[int]) -> Study:
    """By the first protocol of an evaluation, its distractors in the gallery; rows are held in memory."""
    queries = slice(0, len(task.truth.query))
    parts = [part for described in (task.gallery, *task.distractors) for part in described.parts]
    inside = np.delete(np.arange(sum(map(len, parts))), task.truth.left_out)
    rows = np.concatenate(parts)[inside].astype(np.float32, copy=False)
    judged, names = task.truth.judged(queries), task.truth.lists
    judged_rows = np.searchsorted(inside, judged.row)
    lists = [
        {name: judged_rows[start:stop][judged.list[start:stop] == code] for code, name in enumerate(names)}
        for start, stop in pairwise(judged.start)
    ]
    protocol, asked = task.protocols[0], task.rows(queries).astype(np.float32, copy=False)
    return study(measure(asked, rows, anchors, lists, protocol, probes, task.space), protocol.main)


def _filed_line(
    method: str,
    filed: Filed,
    probes: int,
    scanned: np.ndarray,
    queries: np.ndarray,
    lifted: Lifted,
    lists: Lists,
    rules: Protocol,
) -> SearchLine:
    line = _line(method, filed, probes, float(scanned[probes - 1]), queries, lifted, lists, rules)
    filed.index.nprobe = probes
    speed = _speed(lambda: filed.index.search(queries, TIMED), len(queries))
    return replace(line, queries_per_second=speed, fullest=float(filed.size.max() / filed.size.mean()))


def rank(scores: np.ndarray, near: np.ndarray | None = None, filed: Filed | None = None) -> np.ndarray:
    """`(most rows visited, Q)` the rows that each query visits, by (score descending, row ascending); then -1.

    Args:
        scores: `(Q, N)`.
        near: `(Q, probes)` the centers that each visits; None visits every row.
    """
    columns = list(_columns(scores, near, filed))
    ranks = np.full((max(map(len, columns)), len(columns)), -1, dtype=np.int64)
    for query, column in enumerate(columns):
        ranks[: len(column), query] = column
    return ranks


def _columns(scores: np.ndarray, near: np.ndarray | None, filed: Filed | None) -> Iterator[np.ndarray]:
    everything = np.arange(scores.shape[1])
    for query, of_query in enumerate(scores):
        visited = everything if near is None or filed is None else np.flatnonzero(_among(filed, near[query]))
        yield visited[np.argsort(-of_query[visited], kind="stable")]


def _among(filed: Filed, centers: np.ndarray) -> np.ndarray:
    """`(N,)` which rows are filed under these centers."""
    wanted = np.zeros(len(filed.centers), dtype=bool)
    wanted[centers] = True
    return wanted[filed.list]


def _line(
    method: str,
    filed: Filed | None,
    probes: int,
    scanned: float,
    queries: np.ndarray,
    lifted: Lifted,
    lists: Lists,
    rules: Protocol,
) -> SearchLine:
    found = total = 0
    values: list[list[np.ndarray]] = []
    for block in (slice(start, start + BLOCK) for start in range(0, len(queries), BLOCK)):
        near = filed.nearest(queries[block])[:, :probes] if filed else None
        ranks = rank(lifted[0][block] @ lifted[1].T, near, filed)
        values.append(list(evaluate_rankings(ranks, lists[block], rules).per_query.values()))
        for column, of_query in zip(ranks.T, lists[block], strict=True):
            positive = np.unique(np.concatenate([of_query.get(name, np.zeros(0, dtype=np.int64)) for name in rules.positive]))
            found, total = found + int(np.isin(positive, column).sum()), total + len(positive)
    score, at_20, at_100 = (float(np.nanmean(np.concatenate(of_metric))) for of_metric in zip(*values, strict=True))
    return SearchLine(method, probes, scanned, found / max(total, 1), score, at_20, at_100, queries_per_second=0.0, fullest=1.0)


def _speed(search: Callable[[], object], queries: int) -> float:
    """Queries a second: the best of three runs."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        search()
        seconds.append(time.perf_counter() - start)
    return queries / min(seconds)


def study(lines: Sequence[SearchLine], metric: str) -> Study:
    """The table in percent, with the score over the share of the gallery that is compared with."""
    rows: list[dict[str, Cell]] = [
        {
            "search": line.method,
            "probes": line.probes,
            "scanned %": 100 * line.scanned,
            "reachable positives %": 100 * line.reachable,
            f"{metric} %": 100 * line.score,
            "P@20 %": 100 * line.precision_at_20,
            "P@100 %": 100 * line.precision_at_100,
            "queries/s": line.queries_per_second,
            "largest list / mean": line.fullest,
        }
        for line in lines
    ]
    methods = dict.fromkeys(line.method for line in lines[1:])
    curves = {name: [(100 * x.scanned, 100 * x.score) for x in lines if x.method == name] for name in methods}
    plot = charts.lines(curves, "gallery scanned (%)", f"{metric} (%)", level=("exhaustive", 100 * lines[0].score))
    note = (
        "The gallery is filed by the nearest anchor of each descriptor, never by its label; positives filed elsewhere are "
        f"missing. IVF: as many centers, by k-means, at the nearest share of the gallery. Queries/s: FAISS, {TIMED} neighbors."
    )
    return Study("anchors", "Two-stage search over class anchors", note, rows, {"Score and cost": plot})
