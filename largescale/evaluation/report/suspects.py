"""Distractors that may show what was asked for: they stand before a positive of several queries. Listed, never removed."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from largescale.evaluation.results import Neighbour, QueryRecord

LEAST = 2
SHOWN = 60


@dataclass(frozen=True)
class Suspect:
    """A distractor, and the queries among whose first places it stands before a positive."""

    row: Neighbour
    """As the query finds it that ranks it best by similarity."""
    queries: list[QueryRecord]

    @property
    def clusters(self) -> int:
        return len({record.label for record in self.queries})


def suspects(records: Iterable[QueryRecord]) -> list[Suspect]:
    """Those of at least `LEAST` queries; first those of the most landmarks and queries, then the most similar."""
    rows: dict[tuple[int, int], list[tuple[float, Neighbour, QueryRecord]]] = defaultdict(list)
    for record in records:
        for row in _outranking(record):
            rows[row.corpus, row.id].append((row.score, row, record))
    found = []
    for seen in rows.values():
        if len(seen) >= LEAST:
            best = max(seen, key=lambda entry: entry[0])
            found.append(Suspect(best[1], [record for _, _, record in seen]))
    return sorted(found, key=lambda s: (-s.clusters, -len(s.queries), -s.row.score, s.row.key))


def _outranking(record: QueryRecord) -> Iterator[Neighbour]:
    """Distractors among the rows shown that a positive follows, shown or not."""
    following = record.positives
    for row in record.top:
        following -= row.mark == "right"
        if row.mark == "distractor" and following > 0:
            yield row
