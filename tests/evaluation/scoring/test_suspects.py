"""Suspect distractors: those that stand before a positive of two queries or more, against whole rankings sorted by hand."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from largescale.distributed import World
from largescale.evaluation.config import ScoreConfig
from largescale.evaluation.protocol.ground_truth import LabelTruth
from largescale.evaluation.protocol.protocols import LABELS
from largescale.evaluation.results import CorpusUsed, Suspects
from largescale.evaluation.scoring import query_search
from largescale.evaluation.task import Described, Task

LABELLED, FAR = 60, (90, 110)
"""Rows of the gallery, of 6 labels, and of two corpora of distractors."""


class Case(NamedTuple):
    rows: np.ndarray
    queries: np.ndarray
    labels: np.ndarray
    asked: np.ndarray
    """The label of each query; the last one has no positive."""

    def suspects(self, kept: int, folder: Path, world: World) -> Suspects:
        truth = LabelTruth(self.asked, self.labels, [f"label {n}" for n in range(7)], leave_one_out=False)
        parts = np.split(self.rows, np.cumsum([LABELLED, *FAR])[:-1])
        described = [
            Described(CorpusUsed(f"c{n}", f"f{n}", len(part)), pa.array([f"c{n}/{i}" for i in range(len(part))]), [part])
            for n, part in enumerate(parts)
        ]
        keys = pa.array([f"q{n}" for n in range(len(self.queries))])
        task = Task(truth, [LABELS], lambda which: self.queries[which], described[0].used, keys, described[0], described[1:])
        wanted = query_search.QuerySearch(task, ScoreConfig(), folder, "these rows", kept)
        wanted.run(world)
        (result,) = wanted.score()
        return result.suspects

    def by_hand(self, kept: int) -> dict[int, list[tuple[int, int]]]:
        """(place, query) of each distractor, best first, where it is among the first `kept` rows and a positive follows."""
        found: dict[int, list[tuple[int, int]]] = {}
        for q, label in enumerate(self.asked):
            order = np.lexsort((np.arange(len(self.rows)), -(self.rows @ self.queries[q])))
            right = np.flatnonzero(np.isin(order, np.flatnonzero(self.labels == label)))
            for place in range(min(kept, right.max(initial=0))):
                found.setdefault(int(order[place]), []).append((place, q))
        return {row: sorted(places) for row, places in found.items() if row >= LABELLED and len(places) > 1}


@pytest.fixture(scope="module")
def case() -> Case:
    """Positives are found late: distractors of the first label's direction, and rows about nothing."""
    random = np.random.default_rng(0)
    labels, asked = np.repeat(np.arange(6), 10), np.array([*np.arange(6), *np.arange(6), 0, 0, 6])
    centers = random.normal(size=(7, 12))
    far = random.normal(size=(sum(FAR), 12))
    far[:5] = centers[0] + 0.9 * random.normal(size=(5, 12))
    rows = np.concatenate([centers[labels] + 1.5 * random.normal(size=(LABELLED, 12)), far])
    queries = centers[asked] + random.normal(size=(len(asked), 12))
    return Case(*((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (rows, queries)), labels, asked)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [1000, 50, 20])
def test_what_stands_before_a_positive_of_two_queries(
    kept: int, case: Case, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_search, "QUERIES", 4)  # several blocks
    found, expected = case.suspects(kept, tmp_path, world), case.by_hand(kept)
    assert (found.within, found.number) == (kept, len(expected))
    assert len(found.worst) == min(60, len(expected))
    firsts = [LABELLED, LABELLED + FAR[0]]
    for suspect in found.worst:
        places = expected[firsts[suspect.row.corpus] + suspect.row.id]
        assert suspect.row.key == f"c{suspect.row.corpus + 1}/{suspect.row.id}"
        assert (suspect.place, suspect.queries) == (places[0][0], len(places))
        assert [(q in dict(map(reversed, places))) for q in suspect.asked] == [True] * min(5, len(places))
        assert suspect.row.score == pytest.approx(
            case.rows[firsts[suspect.row.corpus] + suspect.row.id] @ case.queries[suspect.asked[0]]
        )
    second = [expected[firsts[suspect.row.corpus] + suspect.row.id][1][0] for suspect in found.worst]
    assert second == sorted(places[1][0] for places in expected.values())[:60]


@pytest.mark.slow
def test_also_beyond_the_rows_that_are_shown(case: Case, tmp_path: Path, world: World) -> None:
    """A distractor that no query has among its first twenty."""
    late = {row: places for row, places in case.by_hand(1000).items() if places[0][0] >= 20}
    assert late
    assert case.suspects(1000, tmp_path, world).number >= len(late) + len(case.by_hand(20))


@pytest.mark.slow
def test_nothing_follows_nothing_is_suspect(case: Case, tmp_path: Path, world: World) -> None:
    perfect = case._replace(rows=np.concatenate([np.eye(7, 12, dtype=np.float32)[case.labels], case.rows[LABELLED:]]))
    perfect = perfect._replace(queries=np.eye(7, 12, dtype=np.float32)[case.asked])
    assert perfect.suspects(1000, tmp_path, world) == Suspects(1000, 0, [])
