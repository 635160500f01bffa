"""Weights & Biases."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from largescale.program.extras import wandb
from largescale.tracking.config import TrackingConfig
from largescale.tracking.mirrors import TrackedRun, is_histogram, numbers
from largescale.tracking.parts import lines_kept
from largescale.tracking.record import read_lines
from largescale.tracking.workspace import publish, write_workspace

BEST = "eval/best_score"
"""One number in the summary, for sweeps and for tables."""
REDUCED: Mapping[str, Callable[[float, float], float]] = {"min": min, "max": max, "last": lambda _, value: value}
SECTIONS = {"train": "min,last", "mining": "last", "data": "mean", "eval": "max,last", "system": "max"}
"""Sections of metrics, and what the summary of a run says of each."""


class WandbMirror:
    """A W&B run; the same `id` continues it. Closing has a deadline, so that an unreachable server cannot hold the run.

    The step of W&B is the number of the line. A server says how many it has. Offline the parts of the run say it, because
    `wandb sync` puts each behind what those before it have brought.
    """

    key = "wandb_id"
    shows_pictures = True

    def __init__(self, config: TrackingConfig, job: TrackedRun, id: str | None) -> None:
        mode: Any = config.wandb
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        os.environ.setdefault("WANDB_DATA_DIR", str(job.directory / "wandb"))
        self.run = wandb.init(
            project=config.project,
            name=job.name,
            group=job.group,
            job_type=job.kind,
            tags=config.tags or None,
            id=id,
            resume="allow",
            mode=mode,
            dir=str(job.directory),
            config=dict(job.settings),
            settings=wandb.Settings(init_timeout=60, finish_timeout=60, console="off", silent=True),
        )
        self.id: str | None = self.run.id
        self.record = job.directory / "log.jsonl"
        self.known: int = lines_kept(job.directory, self.run.id) if self.run.offline else self.run.starting_step
        self.run.define_metric("step")
        for section, summary in SECTIONS.items():
            self.run.define_metric(f"{section}/*", step_metric="step", summary=summary)
        self.run.define_metric(BEST, step_metric="step")
        workspace = write_workspace(job.directory / "wandb")
        if not self.run.offline and self.run.project_url:
            publish(workspace, self.run.entity, self.run.project, self.run.project_url)

    def write(self, number: int, line: Mapping[str, Any]) -> None:
        self.run.log({name: _shown(value) for name, value in line.items()}, step=number)

    def table(self, number: int, name: str, rows: list[Mapping[str, Any]]) -> None:
        cells = [[wandb.Image(value) if key == "strip" else value for key, value in row.items()] for row in rows]
        self.run.log({name: wandb.Table(columns=list(rows[0]), data=cells)}, step=number)

    def curve(self, number: int, name: str, rows: list[Mapping[str, Any]], axes: tuple[str, str, str]) -> None:
        x, y, line = axes
        table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self.run.log({name: wandb.plot.line(table, x, y, stroke=line, title=f"{y} by {x}")}, step=number)  # and NAME_table

    def close(self) -> None:
        if self.known:
            self.run.log({}, commit=True)  # else the last line would change the summary once more
            for name, summary in _summaries(read_lines(self.record)).items():
                self.run.summary[name] = summary
        self.run.finish()


def _summaries(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of the whole record, for the metrics of which one is the smallest or the largest: W&B knows of what this process sent."""
    found: dict[str, dict[str, float]] = {}
    for line in lines:
        for name, value in numbers(line).items():
            kinds = SECTIONS.get(name.partition("/")[0], "").split(",")
            if name != BEST and {"min", "max"} & {*kinds}:
                own = found.setdefault(name, dict.fromkeys(kinds, value))
                found[name] = {kind: REDUCED[kind](own[kind], value) for kind in kinds}
    return found


def _shown(value: Any) -> Any:
    if not is_histogram(value):
        return value
    counts = np.array(value["counts"])
    return wandb.Histogram(np_histogram=(counts, np.linspace(value["low"], value["high"], len(counts) + 1)))


def wanted(config: TrackingConfig) -> bool:
    """Whether metrics go to W&B."""
    return config.wandb != "off" and (config.wandb != "auto" or wandb.installed)
