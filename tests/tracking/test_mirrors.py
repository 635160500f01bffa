"""Every mirror has the whole record, once, however often the run was interrupted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from largescale.commit import read_json
from largescale.distributed import World
from largescale.settings import UserError
from largescale.tracking import TrackedRun, Tracker, TrackingConfig, histogram, replay
from largescale.tracking.parts import lines_kept, records
from tests.tracking.wandb_server import serving

SETTINGS = {"name": "run", "optim": {"lr": 1}}
MEASURED = [(10 * step, step / 4, loss) for step, loss in enumerate((1, 0.25, 0.75, 0.625, 0.5), 1)]
"""Step, epoch, loss of five lines, of which the second is best."""


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))


def interrupted_run(directory: Path, config: TrackingConfig) -> None:
    """Three lines, the last of them behind the checkpoint; continued from there to the end."""
    job = TrackedRun(directory, SETTINGS, "run", "group")
    with World.start() as world:
        first = Tracker(config, job, world)
        first.open({})
        write(first, 0, 2)
        state = first.state()
        write(first, 2, 3)
        first.close()
        second = Tracker(config, job, world)
        second.open(state)
        write(second, 2, 5)
        assert {**second.state(), "position": 0} == {**state, "position": 0}
        second.close()


def write(tracker: Tracker, start: int, end: int) -> None:
    for step, epoch, loss in MEASURED[start:end]:
        tracker.log(step, epoch, {"train/loss": loss, "eval/score": 1 - loss, "note": "text"})
        if tracker.shows_pictures:
            tracker.table("pictures/rankings", [{"query": "a", "strip": np.zeros((8, 24, 3), np.uint8)}])


def history(path: Path) -> list[dict[str, Any]]:
    lines = [record.history for record in records(path) if record.HasField("history")]
    return [{(item.key or item.nested_key[0]): json.loads(item.value_json) for item in line.item} for line in lines]


def parts(directory: Path) -> list[Path]:
    return sorted(directory.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)


@pytest.mark.slow
def test_offline_parts_of_a_wandb_run_are_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part has the lines that those before it lack, so that they are one run where they are brought together."""
    pytest.importorskip("wandb")
    interrupted_run(tmp_path, TrackingConfig(wandb="offline", tags=("a", "b")))
    first, second = parts(tmp_path)
    assert first.name == second.name
    found = [(line["_step"], line["step"], line["epoch"], line["train/loss"]) for line in history(first) + history(second)]
    assert found == [(number, *values) for number, values in enumerate(MEASURED)]
    assert [line["_step"] for line in history(first)] == [0, 1, 2]
    assert [line["_step"] for line in history(second) if "pictures/rankings" in line] == [3, 4]
    (run,) = (record.run for record in records(second) if record.HasField("run"))
    assert (run.run_group, run.job_type, run.display_name, list(run.tags)) == ("group", "train", "run", ["a", "b"])
    summaries = {record.metric.name or record.metric.glob_name: record.metric.summary for record in records(second)}
    assert summaries["train/*"].min
    assert summaries["eval/*"].max
    assert any(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.rglob("artifacts/staging/*"))
    with serving(monkeypatch) as server:
        synced = [str(Path(sys.executable).with_name("wandb")), "sync", *(str(part.parent) for part in (first, second))]
        subprocess.run(synced, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    (taken,) = server.runs.values()
    assert [(line["_step"], line["step"], line["epoch"], line["train/loss"]) for line in taken.lines] == found
    assert taken.ended == 2
    assert taken.summary["train/loss"] == {"min": 0.25, "last": 0.5}
    assert taken.summary["eval/score"] == {"max": 0.75, "last": 0.5}
    assert {taken.about[name] for name in ("groupName", "jobType")} == {"group", "train"}
    assert sum(name.startswith("media/table/pictures") for name in taken.files) == 5


@pytest.mark.slow
def test_a_part_that_was_torn_has_the_lines_before(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    interrupted_run(tmp_path, TrackingConfig(wandb="offline"))
    first, second = parts(tmp_path)
    assert lines_kept(tmp_path, first.stem.removeprefix("run-")) == 5
    other = second.parent.rename(tmp_path / "wandb" / f"{first.parent.name}-1")  # as W&B calls a part of the same second
    assert lines_kept(tmp_path, first.stem.removeprefix("run-")) == 5
    (other / second.name).unlink()
    data = first.read_bytes()
    kept = []
    for end in range(len(data), 0, -1000):
        first.write_bytes(data[:end])
        kept.append(lines_kept(tmp_path, first.stem.removeprefix("run-")))
    assert kept == sorted(kept, reverse=True)
    assert {kept[0], kept[-1]} == {3, 0}
    assert lines_kept(tmp_path, "another") == 0


@pytest.mark.slow
def test_wandb_has_histograms_curves_one_best_score_and_the_workspace(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    points = [{"protocol": name, "distractors": n, "score": 1 / (1 + n)} for name in ("easy", "hard") for n in (0, 10)]
    with World.start() as world:
        tracker = Tracker(TrackingConfig(wandb="offline"), TrackedRun(tmp_path, SETTINGS, "run", "group"), world)
        tracker.open({})
        for score in (0.25, 0.75, 0.5):
            tracker.log(1, 0, {"eval/score": score, "eval/best_score": 0.75, "train/positive_distances": histogram([1, 2], 0, 2)})
        tracker.curve("tables/distractor_curve", points, ("distractors", "score", "protocol"))
        tracker.close()
    (part,) = parts(tmp_path)
    first = next(record.history for record in records(part) if record.HasField("history"))
    found = [item for item in first.item if item.nested_key[:1] == ["train/positive_distances"]]
    shown = {item.nested_key[1]: json.loads(item.value_json) for item in found}
    assert (shown["_type"], shown["values"], shown["bins"]) == ("histogram", [1, 2], [0, 1, 2])
    (table,) = [json.loads(path.read_text()) for path in tmp_path.rglob("media/table/tables/distractor_curve_table_*.table.json")]
    assert table["data"] == [[*point.values()] for point in points]
    metrics = {record.metric.name: record.metric for record in records(part) if record.HasField("metric")}
    assert not metrics["eval/best_score"].summary.max
    described = read_json(tmp_path / "wandb" / "workspace.json")
    assert [section["name"] for section in described["sections"]][:2] == ["Overview", "Descriptors"]
    overview = [metric for panel in described["sections"][0]["panels"] for metric in panel["shows"]]
    assert overview[:5] == ["eval/score", "eval/best_score", "train/loss", "data/images_per_second", "data/wait_percent"]
    assert overview[5:] == ["mining/age_steps", "mining/coverage"]
    assert described["url"] is None


@pytest.mark.slow
def test_tensorboard_has_every_line_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    interrupted_run(tmp_path, TrackingConfig(wandb="off", tensorboard=True))
    check_events(tmp_path / "tensorboard")


def check_events(directory: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    values = [
        (event.step, value.tag, value.tensor.float_val[0])
        for path in directory.iterdir()
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]
    for name, column in (("train/loss", 2), ("epoch", 1)):
        found = [(step, value) for step, tag, value in values if tag == name]
        assert found == [(line[0], pytest.approx(line[column])) for line in MEASURED]
    assert {tag for _, tag, _ in values} == {"epoch", "train/loss", "eval/score"}


@pytest.mark.slow
def test_mlflow_has_every_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "store").as_uri()
    interrupted_run(tmp_path, TrackingConfig(wandb="off", mlflow=store, project="retrieval", tags=("a",)))
    client = mlflow.MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("retrieval").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["optim.lr"]) == ("run", "FINISHED", "1")
    assert run.data.tags.items() >= {"group": "group", "job_type": "train", "a": "yes"}.items()
    found = sorted((entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, "train/loss"))
    assert found == [(step, pytest.approx(loss)) for step, _, loss in MEASURED]


def test_a_record_is_replayed_where_it_was_not_shown(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    interrupted_run(tmp_path, TrackingConfig(wandb="off"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, "tracking": {"wandb": "off"}}))
    with pytest.raises(UserError, match=r"nowhere to show it: give tracking\.wandb=online"):
        replay(tmp_path)
    assert replay(tmp_path, ["tracking.tensorboard=true"]) == 5
    check_events(tmp_path / "tensorboard")
    with pytest.raises(UserError, match="no run directory"):
        replay(tmp_path / "tensorboard")
