"""Two-stage search: against a search by hand, and against what it must never do."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from largescale.evaluation.protocol.ground_truth import ListedTruth, Published
from largescale.evaluation.protocol.metrics import average_precision
from largescale.evaluation.protocol.protocols import LABELS, landmark_protocols
from largescale.evaluation.results import CorpusUsed
from largescale.evaluation.studies.two_stage import Filed, measure, measure_task, rank, study
from largescale.evaluation.task import Described, Task
from largescale.settings import UserError

CLASSES, DIM = 10, 16


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def toy() -> dict[str, np.ndarray]:
    """Classes about anchors, so noisy that a fifth is nearest to the anchor of another."""
    random = np.random.default_rng(0)
    anchors = 1.4 * np.eye(CLASSES, DIM)
    label, query_label = random.integers(CLASSES, size=1500), random.integers(CLASSES, size=80)
    noise = 0.55
    return {
        "anchors": anchors,
        "label": label,
        "query_label": query_label,
        "rows": unit(anchors[label] + noise * random.normal(size=(1500, DIM))),
        "queries": unit(anchors[query_label] + noise * random.normal(size=(80, DIM))),
    }


def lists(toy: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{"same label": np.flatnonzero(toy["label"] == label)} for label in toy["query_label"]]


def test_ranks_are_those_of_a_search_by_hand(toy: dict[str, np.ndarray]) -> None:
    filed = Filed(toy["anchors"], toy["rows"])
    directions = unit(toy["anchors"])
    file = (toy["rows"] @ directions.T).argmax(1)
    ranks = rank(toy["queries"] @ toy["rows"].T, filed.nearest(toy["queries"])[:, :2], filed)
    for query, column in zip(toy["queries"], ranks.T, strict=True):
        visited = np.flatnonzero(np.isin(file, np.argsort(-(directions @ query))[:2]))
        expected = visited[np.argsort(-(toy["rows"] @ query)[visited], kind="stable")]
        assert set(column[column >= 0]) == set(expected)
        np.testing.assert_allclose((toy["rows"] @ query)[column[column >= 0]], (toy["rows"] @ query)[expected], atol=1e-6)


def test_unreachable_positives_are_missing(toy: dict[str, np.ndarray]) -> None:
    """One query by hand: its average precision divides by all positives, also those in lists that it does not visit."""
    filed = Filed(toy["anchors"], toy["rows"])
    rules = replace(LABELS, metrics=("map_trapezoid", "precision_at_20"))
    one = {**toy, "queries": toy["queries"][:1], "query_label": toy["query_label"][:1]}
    line = measure(one["queries"], one["rows"], one["anchors"], lists(one), rules, [1])[1]
    (column,) = rank(one["queries"] @ one["rows"].T, filed.nearest(one["queries"])[:, :1], filed).T
    right = toy["label"][column] == toy["query_label"][0]
    positives = int((toy["label"] == toy["query_label"][0]).sum())
    assert line.score == pytest.approx(average_precision(np.flatnonzero(right), positives))
    assert line.reachable == pytest.approx(right.sum() / positives)
    assert line.precision_at_20 == pytest.approx(right[:20].sum() / 20)
    assert line.scanned == pytest.approx(len(column) / 1500)
    assert line.reachable < 1


@pytest.mark.slow
def test_all_probes_are_exhaustive_search(toy: dict[str, np.ndarray]) -> None:
    exhaustive, anchored, k_means = measure(toy["queries"], toy["rows"], toy["anchors"], lists(toy), LABELS, [CLASSES])
    for line in (anchored, k_means):
        assert (line.scanned, line.reachable) == pytest.approx((1, 1))
        assert line.score == pytest.approx(exhaustive.score)
        assert line.precision_at_100 == pytest.approx(exhaustive.precision_at_100)


@pytest.mark.slow
def test_more_probes_reach_more_and_never_beat_exhaustive_search_as_labels_would(toy: dict[str, np.ndarray]) -> None:
    exhaustive, *found = measure(toy["queries"], toy["rows"], toy["anchors"], lists(toy), LABELS, [1, 2, 4])
    anchored = [line for line in found if line.method == "anchors"]
    assert [line.probes for line in anchored] == [1, 2, 4]
    assert sorted(line.reachable for line in anchored) == [line.reachable for line in anchored]
    assert all(line.reachable < 0.95 for line in anchored[:2])
    for line, same in zip(anchored, found[1::2], strict=True):
        assert same.method == f"IVF{CLASSES}"
        assert same.scanned == pytest.approx(line.scanned, abs=0.06)
        assert same.queries_per_second > 0
    by_label = (toy["queries"] @ unit(toy["anchors"]).T).argmax(1) == toy["query_label"]
    assert all(line.score < by_label.mean() for line in anchored)  # filing by label would give the accuracy
    assert exhaustive.fullest == 1 < anchored[0].fullest
    shown = study([exhaustive, *found], "map_rectangle")
    assert len(shown.text().splitlines()) == 8
    assert [row["scanned %"] for row in shown.rows] == [100 * line.scanned for line in (exhaustive, *found)]


@pytest.mark.slow
def test_rows_that_are_not_of_the_gallery_are_not_searched() -> None:
    """A revisited corpus stores its queries too: they stand in no ranking, and in no share of it."""
    random = np.random.default_rng(3)
    rows, anchors = unit(random.normal(size=(60, 8))), random.normal(size=(5, 8))
    keys = [f"image{i:02d}" for i in range(60)]
    queries = [{"key": keys[7 * i], "box": None, "easy": keys[7 * i + 1 : 7 * i + 3]} for i in range(8)]
    searched = np.array([i for i in range(60) if i % 7 or i > 49])
    published = Published.parse({"protocol": "roxford5k", "queries": queries, "gallery": [keys[i] for i in searched]}, "a test")

    def measured(gallery: np.ndarray) -> list[dict[str, Any]]:
        names, all_names = (pa.array([keys[i] for i in ids], pa.large_string()) for ids in (gallery, range(60)))
        truth = ListedTruth(published, names, all_names)
        described = Described(CorpusUsed("here", "0", len(gallery)), names, [rows[gallery]])
        protocol = landmark_protocols("roxford5k", False)[0]
        task = Task(truth, [protocol], lambda which: rows[truth.query[which]], described.used, all_names, described, [])
        return [{**row, "queries/s": 0} for row in measure_task(task, anchors, [1, 2]).rows]

    both = measured(np.arange(60)), measured(searched)
    assert both[0] == both[1]
    assert both[0][1]["reachable positives %"] < 100


def test_anchors_of_another_network(toy: dict[str, np.ndarray]) -> None:
    with pytest.raises(UserError, match=r"expected anchors \(C, 16\)"):
        Filed(toy["anchors"][:, :8], toy["rows"])
    with pytest.raises(UserError, match="zero or not finite"):
        Filed(np.zeros((3, DIM)), toy["rows"])
