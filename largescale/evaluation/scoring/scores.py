"""From counts to results: every metric of every protocol at every number of distractors, with what the plots need.

Q queries of a block, M judged rows of all queries, P positives, G groups (0 the gallery, g the g-th prefix of distractors)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from largescale.commit import checksum_of
from largescale.evaluation.protocol.ground_truth import Truth
from largescale.evaluation.protocol.metrics import Ranked, Scores, measure, precision_at_recall, scores
from largescale.evaluation.protocol.protocols import Protocol, incomplete
from largescale.evaluation.protocol.relevance import GalleryRows, Judged
from largescale.evaluation.results import CurvePoint, Full, Histogram, Interval, PrecisionRecall, ProtocolResult, Suspects
from largescale.evaluation.scoring.statistics import bootstrap
from largescale.evaluation.search.counting import ALONE, EDGES, Counted, RankExchange, count
from largescale.settings import UserError

RECALL = np.linspace(0.01, 1, 100)


@dataclass(frozen=True)
class Positives:
    """The positives of a block of queries, best first within each query."""

    index: np.ndarray
    """`(P,)` positions among the judged rows."""
    start: np.ndarray
    """`(Q + 1,)`"""

    @staticmethod
    def of(judged: Judged, score: np.ndarray, right: np.ndarray) -> "Positives":
        """
        Args:
            score: `(M,)` of the judged rows.
            right: `(M,)` which of them are positive; the others are junk.
        """
        query = judged.query
        index = np.lexsort((judged.row, -score, query))
        index = index[right[index]]
        return Positives(index, np.concatenate([[0], np.cumsum(np.bincount(query[index], minlength=len(judged.start) - 1))]))

    def ranked(self, before: np.ndarray) -> Ranked:
        """Their ranks, where `before` `(M,)` rows that are not judged stand before each; junk is not there."""
        number = np.diff(self.start)
        place = np.arange(len(self.index)) - np.repeat(self.start[:-1], number)
        return Ranked(self.start, before[self.index] + place, number)


def count_average_precision(
    queries: np.ndarray,
    gallery: GalleryRows,
    ground_truth: Sequence[Mapping[str, Sequence[int]]],
    protocol: Protocol,
    exchange: RankExchange = ALONE,
    workers: int = 1,
) -> Scores:
    """What `evaluate_rankings` gives for the complete ranking, without making one; memory O(positives + a chunk of rows).

    Args:
        queries: `(Q, D)` unit rows, the same on every rank.
        gallery: the rows; the ranks of `exchange` count a part each.
        ground_truth: per query its lists of rows, as for `evaluate_rankings`.
        workers: threads of this rank.

    Returns:
        The same on every rank, bit for bit, for every number of ranks and workers and any cut of the rows into parts.
    """
    judged = Judged.of(ground_truth, [*protocol.positive, *protocol.junk])
    counted = count(queries, gallery, judged, 1, exchange, workers)
    right = judged.list < len(protocol.positive)
    return scores(Positives.of(judged, counted.score, right).ranked(counted.before.sum(1)), protocol.metrics)


@dataclass
class ProtocolScore:
    """Collects one protocol's scores block by block."""

    protocol: Protocol
    truth: Truth
    prefixes: Sequence[int]
    """Numbers of distractors, rising: 0 and more, or one alone."""
    values: list[dict[str, list[np.ndarray]]] = field(default_factory=list)
    """Per prefix and metric, one array per block."""
    positives: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES) - 1, dtype=np.int64))
    curve: np.ndarray = field(default_factory=lambda: np.zeros(len(RECALL)))
    asked: int = 0

    def __post_init__(self) -> None:
        self.values = [{name: [] for name in self.protocol.metrics} for _ in self.prefixes]

    def add(self, judged: Judged, counted: Counted) -> tuple[Positives, Ranked]:
        """A block of queries; their positives, ranked among all distractors."""
        lists = [number for number, name in enumerate(self.truth.lists) if name in self.protocol.positive]
        found = Positives.of(judged, counted.score, np.isin(judged.list, lists))
        before = counted.before.cumsum(axis=1).T[-len(self.prefixes) :]
        for of_prefix, values in zip(before, self.values, strict=True):
            ranked = found.ranked(of_prefix)
            for name in self.protocol.metrics:
                values[name].append(measure(ranked, name))
        asked = int((ranked.positives > 0).sum())
        self.asked += asked
        self.curve += np.nansum(precision_at_recall(ranked, RECALL), axis=0)
        self.positives += np.histogram(counted.shown[found.index].clip(EDGES[0], EDGES[-1]), EDGES)[0]
        return found, ranked

    def result(self, unjudged: np.ndarray, gallery: int, suspects: Suspects, records: Path | None) -> ProtocolResult:
        """
        Args:
            unjudged: `(G, bins)` histograms of the rows that are not judged.
            records: the file of the records, which is complete; None: they were not written.

        Raises:
            UserError: no query has a positive.
        """
        if not self.asked:
            raise UserError(f"{self.protocol.name}: no query has a positive, so there is no score")
        points = self._points()
        histogram = Histogram(EDGES.tolist(), self.positives.tolist(), unjudged[0].tolist(), unjudged[1:].sum(0).tolist())
        return ProtocolResult(
            protocol=self.protocol.name,
            version=self.protocol.version,
            hash=self.protocol.hash,
            rules=self.protocol.rules,
            main=self.protocol.main,
            queries=len(self.truth.query),
            without_positive=len(self.truth.query) - self.asked,
            clusters=len(set(self.truth.cluster)),
            gallery=gallery,
            distractors=self.prefixes[-1],
            metrics=points[-1].metrics,
            distractor_curve=points,
            histogram=histogram,
            precision_recall=PrecisionRecall(RECALL.tolist(), (self.curve / self.asked).tolist()),
            suspects=suspects,
            records=records.name if records else "",
            records_checksum=checksum_of(records) if records else "",
            incomplete=incomplete(self.protocol.name, gallery),
        )

    def _points(self) -> list[CurvePoint]:
        names = self.protocol.metrics
        columns = [np.concatenate(values[name]) for values in self.values for name in names]
        table = np.stack(columns, axis=1)  # (all queries, prefixes * metrics)
        asked = ~np.isnan(table).any(axis=1)
        low, high = bootstrap(table[asked], np.asarray(self.truth.cluster)[asked])
        intervals = [Interval(*map(float, ends)) for ends in zip(table[asked].mean(0), low, high, strict=True)]
        step = len(names)
        return [
            CurvePoint(prefix, dict(zip(names, intervals[i * step : (i + 1) * step], strict=True)))
            for i, prefix in enumerate(self.prefixes)
        ]


def beside_full(compressed: ProtocolResult, full: ProtocolResult) -> ProtocolResult:
    """The result by compressed descriptors, with that by the full ones and what is lost between them."""
    lost = {name: x.value - compressed.metrics[name].value for name, x in full.metrics.items()}
    return replace(compressed, full=Full(full.metrics, lost))
