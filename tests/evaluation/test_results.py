"""Results survive the way to disk and back, and are refused where they are not ours."""

import dataclasses
from pathlib import Path

import pytest

from largescale.evaluation.results import (
    CorpusUsed,
    CurvePoint,
    Histogram,
    Interval,
    Missed,
    Neighbor,
    PrecisionRecall,
    ProtocolResult,
    QueryRecord,
    Results,
    Suspect,
    Suspects,
    read_records,
    read_results,
    record_file,
    write_results,
)
from largescale.settings import UserError


def some_results() -> Results:
    metrics = {"map_rectangle": Interval(0.5, 0.4, 0.6)}
    protocol = ProtocolResult(
        *("labels-leave-one-out", 1, "abc", "right: same label", "map_rectangle", 3, 1, 2, 10, 5),
        metrics,
        [CurvePoint(0, {"map_rectangle": Interval(0.6, 0.5, 0.7)}), CurvePoint(5, metrics)],
        Histogram([0, 0.5, 1], [1, 2], [3, 4], [5, 6]),
        PrecisionRecall([0.5, 1], [0.9, 0.1]),
        Suspects(1000, 70, [Suspect(Neighbor(3, "ü/3", "distractors", 0.25, "distractor", 1), 30, 2, [4, 5])]),
        "queries-labels-leave-one-out.jsonl",
    )
    used = CorpusUsed("data/test", "f00", 10)
    return Results("weights", "d1", {"step": 7}, {"size": 48}, used, used, [used], [protocol], {"processes": 2}, {"embed": 1.5})


def test_results_there_and_back(tmp_path: Path) -> None:
    write_results(tmp_path, some_results())
    assert read_results(tmp_path) == some_results()
    assert some_results().main_metrics() == {"labels-leave-one-out/map_rectangle": 0.5}
    assert some_results().protocol("labels-leave-one-out").queries == 3


def test_records_there_and_back(tmp_path: Path) -> None:
    top = [Neighbor(3, "ü/3", "distractors", 0.25, "distractor", 1)]
    found = QueryRecord(4, "ü/4", (0, 1, 2, 3.5), "a label", 0.5, 2, 0, {"map_rectangle": 0.5}, top, [Missed(9, "9", 70, -0.1)])
    nothing = QueryRecord(5, "5", None, "b", None, 0, None)
    with record_file(tmp_path / "queries.jsonl") as write:
        write([found])
        assert not (tmp_path / "queries.jsonl").exists()
        write([nothing])
    assert list(read_records(tmp_path / "queries.jsonl")) == [found, nothing]


def test_what_is_not_there_or_not_ours(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no evaluation has finished in this folder"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"version": 1}')
    with pytest.raises(UserError, match="evaluate again"):
        read_results(tmp_path)
    write_results(tmp_path, dataclasses.replace(some_results(), version=3))
    with pytest.raises(UserError, match="expected version 2, found 3"):
        read_results(tmp_path)
