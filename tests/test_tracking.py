import json
import subprocess
import sys
from pathlib import Path

import pytest

from largescale.tracking import Reduce, Tracker, TrackingConfig
from tests.world import run_world

OFF = TrackingConfig(wandb="off")


def lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def record_on_every_rank(world, directory):
    tracker = Tracker(OFF, directory, {}, world)
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


def test_each_metric_is_reduced_as_it_says(tmp_path):
    (line, state), (other, _) = run_world(2, record_on_every_rank, tmp_path)
    expected = {"train/loss": 6.0, "data/images": 9, "data/wait": 1, "train/only_here": 7}
    assert line == other == {"step": 3, "epoch": 0.5, **expected}
    assert lines(tmp_path) == [line]
    assert state["position"] == (tmp_path / "log.jsonl").stat().st_size


def interrupted_record(world, directory):
    first = Tracker(OFF, directory, {}, world)
    first.open({})
    for step in (1, 2):
        first.log(step, 0, {"train/loss": step})
    state = first.state()
    first.log(3, 0, {"train/loss": 3})
    first.record_file.file.write('{"step": 4, "trai')
    first.close()
    second = Tracker(OFF, directory, {}, world)
    second.open(state)
    second.log(3, 0, {"train/loss": 30})
    second.close()


def test_a_resumed_record_goes_on_where_the_checkpoint_was(tmp_path):
    run_world(1, interrupted_record, tmp_path)
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [(1, 1), (2, 2), (3, 30)]


def mirrored_twice(directory: Path) -> None:
    import numpy as np

    from largescale.distributed import World

    with World.start() as world:
        state: dict = {}
        for step in (1, 2):
            tracker = Tracker(TrackingConfig(wandb="offline"), directory, {"optim": {"lr": 1}}, world)
            tracker.open(state)
            tracker.log(step, 0, {"train/loss": 0.5, "eval/map_rectangle": 0.1})
            tracker.wandb.table("eval/strips", step, [{"query": "a", "ap": 0.5, "strip": np.zeros((8, 24, 3), np.uint8)}])
            state = tracker.state()
            print(state["wandb_id"])
            tracker.close()


def test_wandb_offline_writes_one_run_that_a_resumed_process_continues(tmp_path):
    pytest.importorskip("wandb")
    code = f"from tests.test_tracking import *; mirrored_twice(Path({str(tmp_path)!r}))"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.split()
    assert first == second
    files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert {file.name for file in files} == {f"run-{first}.wandb"}
    assert any(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.glob("wandb/artifacts/staging/*"))
    assert len(lines(tmp_path)) == 2
