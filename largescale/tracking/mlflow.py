"""MLflow."""

import re
import time
from collections.abc import Mapping
from typing import Any

from largescale.program.extras import mlflow
from largescale.tracking.config import TrackingConfig
from largescale.tracking.mirrors import TrackedRun, numbers

LINES = "largescale.lines"
"""Tag of a run: lines of the record that it has."""


class MlflowMirror:
    """A run of MLflow; the same `id` continues it. Of the names of metrics only `@` differs, which MLflow does not take."""

    key = "mlflow_id"
    shows_pictures = False

    def __init__(self, config: TrackingConfig, uri: str, job: TrackedRun, id: str | None) -> None:
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        self.id: str | None = id or self._create(config, job)
        self.client.update_run(self.id, status="RUNNING")
        self.known = int(self.client.get_run(self.id).data.tags.get(LINES, 0))

    def _create(self, config: TrackingConfig, job: TrackedRun) -> str:
        found = self.client.get_experiment_by_name(config.project)
        experiment = found.experiment_id if found else self.client.create_experiment(config.project)
        tags = {"group": job.group, "job_type": job.kind} | dict.fromkeys(config.tags, "yes")
        run = self.client.create_run(experiment, run_name=job.name, tags=tags)
        for name, value in _flat(job.settings).items():
            self.client.log_param(run.info.run_id, name, value)
        return str(run.info.run_id)

    def write(self, number: int, line: Mapping[str, Any]) -> None:
        entities, now = mlflow.entities, int(1000 * time.time())
        metrics = [entities.Metric(_allowed(name), value, now, line["step"]) for name, value in numbers(line).items()]
        self.client.log_batch(self.id, metrics=metrics, tags=[entities.RunTag(LINES, str(number + 1))])

    def table(self, number: int, name: str, rows: list[Mapping[str, Any]]) -> None: ...

    def curve(self, number: int, name: str, rows: list[Mapping[str, Any]], axes: tuple[str, str, str]) -> None: ...

    def close(self) -> None:
        self.client.set_terminated(self.id)


def _allowed(name: str) -> str:
    return re.sub(r"[^\w/.: -]", "_", name)


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """`{"optim": {"lr": 1}}` as `{"optim.lr": "1"}`, as settings are given on a command line; long values are cut."""
    found: dict[str, str] = {}
    for name, value in values.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {_allowed(before + name): str(value)[:500]}
    return found
