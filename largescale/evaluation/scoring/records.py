"""What a query found: its best rows with their marks, and the positives that it missed.

Q queries of a block, M judged rows of all queries
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from largescale.evaluation.protocol.metrics import Ranked, precision_at_recall
from largescale.evaluation.protocol.relevance import Judged
from largescale.evaluation.results import Mark, Missed, Neighbor, QueryRecord
from largescale.evaluation.scoring.scores import Positives, ProtocolScore
from largescale.evaluation.search.counting import Counted
from largescale.evaluation.task import Task

SHOWN, SHOWN_MISSED = 20, 10
RECALL = np.linspace(0.1, 1, 10)


@dataclass(frozen=True)
class QueryBlock:
    """A block of queries under one protocol."""

    task: Task
    score: ProtocolScore
    first: int
    """The number of its first query."""
    judged: Judged
    counted: Counted
    positives: Positives
    ranked: Ranked

    def records(self) -> Iterator[QueryRecord]:
        protocol, truth = self.score.protocol, self.task.truth
        metrics = {name: values[-1] for name, values in self.score.values[-1].items()}
        first_hits = self.ranked.first.tolist()
        precision = precision_at_recall(self.ranked, RECALL).round(4).tolist()
        for q, positives in enumerate(self.ranked.positives.tolist()):
            id = int(truth.query[self.first + q])
            yield QueryRecord(
                id=id,
                key=self.task.query_keys[id].as_py(),
                box=truth.boxes[self.first + q],
                label=truth.cluster[self.first + q],
                ap=float(metrics[protocol.main][q]) if positives else None,
                positives=positives,
                first_hit=first_hits[q] if positives else None,
                metrics={name: float(values[q]) for name, values in metrics.items()} if positives else {},
                top=list(self._top(q)),
                missed=list(self._missed(q)),
                precision=precision[q] if positives else [],
            )

    def _top(self, q: int) -> Iterator[Neighbor]:
        rows = self.counted.top_row[q, :SHOWN]
        marks = self._marks(q, rows)
        inliers = self.counted.inliers[q].tolist() if len(self.counted.inliers) else []
        columns = rows[rows >= 0].tolist(), self.counted.top_score[q].tolist(), [*inliers, *[None] * SHOWN]
        for row, score, agreeing in zip(*columns, strict=False):
            part, corpus, id, key = self.task.place(row)
            wrong: Mark = "distractor" if part == "distractors" else "wrong"
            yield Neighbor(id, key, part, score, marks.get(row, wrong), corpus, agreeing)

    def _marks(self, q: int, rows: np.ndarray) -> dict[int, Mark]:
        """Of those of the rows that are judged."""
        mine = slice(self.judged.start[q], self.judged.start[q + 1])
        shown = np.isin(self.judged.row[mine], rows)
        codes = self.judged.list[mine][shown].tolist()
        return dict(zip(self.judged.row[mine][shown].tolist(), map(self._mark, codes), strict=True))

    def _mark(self, code: int) -> Mark:
        name = self.task.truth.lists[code]
        return "self" if name == "own image" else "right" if name in self.score.protocol.positive else "junk"

    def _missed(self, q: int) -> Iterator[Missed]:
        """The lowest-ranked positives that are not among the rows shown, the worst first."""
        first, last = int(self.positives.start[q]), int(self.positives.start[q + 1])
        for p in reversed(range(max(first, last - SHOWN_MISSED), last)):
            judged = self.positives.index[p]
            if self.judged.row[judged] not in self.counted.top_row[q, :SHOWN]:
                _, _, id, key = self.task.place(int(self.judged.row[judged]))
                yield Missed(id, key, int(self.ranked.rank[p]), float(self.counted.shown[judged]))
