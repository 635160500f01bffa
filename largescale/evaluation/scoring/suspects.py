"""Distractors that may show what was asked for: they stand before a positive of several queries. Listed, never removed.

Q queries of a block, K best rows of each that are kept, S places where a distractor stands before a positive
"""

from dataclasses import dataclass, field

import numpy as np

from largescale.evaluation.results import Neighbor, Suspect, Suspects
from largescale.evaluation.scoring.records import QueryBlock
from largescale.evaluation.task import Task

LEAST, SHOWN, ASKED = 2, 60, 5


@dataclass
class Outranking:
    """Collects, block by block, where distractors stand before a positive under one protocol."""

    task: Task
    kept: int
    """Best rows of each query that are looked at."""
    seen: list[np.ndarray] = field(default_factory=list)
    """Per block `(4, S)`: row, place, score, number of the query."""

    def add(self, found: QueryBlock) -> None:
        """The distractors among the best rows of a block of queries that a positive follows, among these rows or below."""
        rows = found.counted.top_row
        following = found.ranked.positives[:, None] - np.cumsum(_right(found), axis=1)  # (Q, K)
        query, place = np.nonzero((rows >= len(self.task.gallery)) & (following > 0))
        self.seen.append(np.stack([rows[query, place], place, found.counted.top_score[query, place], found.first + query]))

    def suspects(self) -> Suspects:
        """Those of at least `LEAST` queries; first those that reach the best places in so many queries, then the most similar."""
        seen = np.concatenate([np.zeros((4, 0)), *self.seen], axis=1)
        row, place, score, _ = seen = seen[:, np.lexsort((-seen[2], seen[1], seen[0]))]
        _, start, queries = np.unique(row, return_index=True, return_counts=True)
        start, queries = start[queries >= LEAST], queries[queries >= LEAST]
        order = np.lexsort((row[start], -score[start], -queries, place[start + LEAST - 1]))
        worst = [self._suspect(seen[:, start[i] : start[i] + queries[i]]) for i in order[:SHOWN].tolist()]
        return Suspects(self.kept, len(start), worst)

    def _suspect(self, seen: np.ndarray) -> Suspect:
        (row, place, score), asked = seen[:3, 0], seen[3, :ASKED].astype(int)
        part, corpus, id, key = self.task.place(int(row))
        found = Neighbor(id, key, part, float(score), "distractor", corpus)
        return Suspect(found, int(place), seen.shape[1], self.task.truth.query[asked].tolist())


def _right(found: QueryBlock) -> np.ndarray:
    """`(Q, K)` which of the best rows are positives."""
    of_query = np.split(found.judged.row[found.positives.index], found.positives.start[1:-1])
    return np.stack([np.isin(top, right) for top, right in zip(found.counted.top_row, of_query, strict=True)])
