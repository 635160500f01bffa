"""What a run measures. `log.jsonl` is the record, one JSON object per line; W&B mirrors it.

A metric is recorded on every rank and says how it is reduced over the steps of a line and over the ranks.
"""

import json
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import PositiveInt

from largescale.extras import wandb
from largescale.settings import Settings

if TYPE_CHECKING:
    from largescale.distributed import World

SECTIONS = ("train", "mining", "data", "eval", "system")


class TrackingConfig(Settings):
    """Where metrics go besides `log.jsonl`."""

    every: PositiveInt = 10
    """Steps per line of metrics (steps)."""
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """Weights & Biases: `auto` is online when you are logged in, else offline, and off where wandb is not installed; `off`
    writes `log.jsonl` only."""
    project: str = "largescale"
    """W&B project."""


class Reduce(StrEnum):
    """How the values of several steps and ranks become one."""

    MEAN = "mean"
    SUM = "sum"
    MAX = "max"


class Sink(Protocol):
    """A place that lines of metrics are written to."""

    def write(self, line: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`log.jsonl`: one line per write, flushed at once; cut back to `position` when a run resumes."""

    def __init__(self, path: Path, position: int) -> None:
        self.file = path.open("a", encoding="utf-8")
        if path.stat().st_size > position:
            self.file.truncate(position)

    def write(self, line: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def position(self) -> int:
        """Bytes of the record so far, on the disk when this returns."""
        os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        self.file.close()


class NoSink:
    """Stands in for W&B when it is off, and for every sink on the ranks that write nothing."""

    id: str | None = None
    shows_pictures = False

    def write(self, line: Mapping[str, Any]) -> None: ...

    def table(self, name: str, step: int, rows: list[Mapping[str, Any]]) -> None: ...

    def position(self) -> int:
        return 0

    def close(self) -> None: ...


class WandbMirror:
    """A W&B run; the same `id` continues it. Closing has a deadline, so that an unreachable server cannot hold the run."""

    shows_pictures = True

    def __init__(self, config: TrackingConfig, directory: Path, settings: Mapping[str, Any], id: str | None) -> None:
        mode: Any = config.wandb
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        os.environ.setdefault("WANDB_DATA_DIR", str(directory / "wandb"))
        limits = wandb.Settings(init_timeout=60, finish_timeout=60, console="off", silent=True)
        self.run = wandb.init(
            project=config.project,
            name=settings.get("name", directory.name),
            id=id,
            resume="allow",
            mode=mode,
            dir=str(directory),
            config=dict(settings),
            settings=limits,
        )
        self.id = self.run.id
        self.run.define_metric("step")
        for section in SECTIONS:
            self.run.define_metric(f"{section}/*", step_metric="step")

    def write(self, line: Mapping[str, Any]) -> None:
        self.run.log(dict(line))

    def table(self, name: str, step: int, rows: list[Mapping[str, Any]]) -> None:
        """A table; pictures are arrays `(h, w, 3)` uint8 in the column `strip`."""
        cells = [[wandb.Image(value) if key == "strip" else value for key, value in row.items()] for row in rows]
        self.run.log({"step": step, name: wandb.Table(columns=list(rows[0]), data=cells)})

    def close(self) -> None:
        self.run.finish()


class Tracker:
    """Collects the metrics of every rank and writes one line per `config.every` steps on rank 0."""

    def __init__(self, config: TrackingConfig, directory: Path, settings: Mapping[str, Any], world: "World") -> None:
        self.config, self.directory, self.settings, self.world = config, directory, settings, world
        self.recorded: dict[tuple[str, Reduce], list[float]] = {}
        self.record_file: JsonLines | NoSink = NoSink()
        self.wandb: WandbMirror | NoSink = NoSink()

    def open(self, state: Mapping[str, Any]) -> None:
        """Begin the record, or continue the one whose `state` a checkpoint holds. Called once, on every rank."""
        if not self.world.is_first:
            return
        self.record_file = JsonLines(self.directory / "log.jsonl", state.get("position", 0))
        if self.config.wandb != "off" and (self.config.wandb != "auto" or wandb.installed):
            self.wandb = WandbMirror(self.config, self.directory, self.settings, state.get("wandb_id"))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the W&B run, and the length of the record at this moment."""
        return {"wandb_id": self.wandb.id, "position": self.record_file.position()}

    def record(self, name: str, value: float, reduce: Reduce = Reduce.MEAN) -> None:
        """Add a value of this step and rank to the next line."""
        self.recorded.setdefault((name, reduce), []).append(value)

    def flush(self, step: int, epoch: float) -> dict[str, Any]:
        """Reduce what was recorded over steps and ranks, write it as one line, return it. Every rank calls this."""
        everyone = self.world.gather(self.recorded)
        self.recorded = {}
        values: dict[tuple[str, Reduce], list[float]] = {}
        for recorded in everyone:
            for key, numbers in recorded.items():
                values.setdefault(key, []).extend(numbers)
        return self.log(step, epoch, {name: _reduce(reduce, numbers) for (name, reduce), numbers in values.items()})

    def log(self, step: int, epoch: float, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write a line of values that are the same on every rank."""
        line = {"step": step, "epoch": epoch, **values}
        self.record_file.write(line)
        self.wandb.write(line)
        return line

    def close(self) -> None:
        self.record_file.close()
        self.wandb.close()


def _reduce(reduce: Reduce, numbers: list[float]) -> float:
    if reduce is Reduce.MAX:
        return max(numbers)
    total = sum(numbers)
    return total / len(numbers) if reduce is Reduce.MEAN else total
