import json
from pathlib import Path

import pytest

from largescale.tracking import Reduce, TrackedRun, Tracker, TrackingConfig
from tests.world import run_world

OFF = TrackingConfig(wandb="off")


def lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def record_on_every_rank(world, directory):
    tracker = Tracker(OFF, TrackedRun(directory, {}, "run", "run"), world)
    tracker.open({})
    for step in range(3):
        tracker.record("train/loss", 10 * world.rank + step)
        tracker.record("data/images", 1 + world.rank, Reduce.SUM)
        tracker.record("data/wait", world.rank - step, Reduce.MAX)
    if world.rank == 1:
        tracker.record("train/only_here", 7)
    line = tracker.flush(3, 0.5)
    state = tracker.state()
    tracker.close()
    return line, state


@pytest.mark.slow
@pytest.mark.distributed
def test_each_metric_is_reduced_as_it_says(tmp_path):
    (line, state), (other, _) = run_world(2, record_on_every_rank, tmp_path)
    expected = {"train/loss": 6.0, "data/images": 9, "data/wait": 1, "train/only_here": 7}
    assert line == other == {"step": 3, "epoch": 0.5, **expected}
    assert lines(tmp_path) == [line]
    assert state["position"] == (tmp_path / "log.jsonl").stat().st_size


def interrupted_record(world, directory):
    first = Tracker(OFF, TrackedRun(directory, {}, "run", "run"), world)
    first.open({})
    for step in (1, 2):
        first.log(step, 0, {"train/loss": step})
    state = first.state()
    first.log(3, 0, {"train/loss": 3})
    first.close()
    with (directory / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "trai')
    second = Tracker(OFF, TrackedRun(directory, {}, "run", "run"), world)
    second.open(state)
    second.log(3, 0, {"train/loss": 30})
    second.close()


@pytest.mark.slow
@pytest.mark.distributed
def test_a_resumed_record_goes_on_where_the_checkpoint_was(tmp_path):
    run_world(1, interrupted_record, tmp_path)
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [(1, 1), (2, 2), (3, 30)]
