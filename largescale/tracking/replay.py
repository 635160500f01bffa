"""Shows the whole record of a run in W&B, TensorBoard or MLflow: python -m largescale.tracking replay RUN [tracking.KEY=VALUE]

Without settings, where the run said that its metrics go. The record of its mining service follows, where there is one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from largescale.config import check, parse_value, read_yaml
from largescale.settings import UserError
from largescale.tracking.chosen import open_mirrors
from largescale.tracking.config import TrackingConfig
from largescale.tracking.mirrors import TrackedRun, catch_up
from largescale.tracking.record import read_lines
from largescale.tracking.wandb import WandbMirror


def replay(directory: Path, changes: Sequence[str] = ()) -> int:
    """Show every line of the run in `directory`; returns how many lines there are.

    Args:
        changes: settings of tracking, as in `tracking.tensorboard=true`.

    Raises:
        UserError: there is no run, or nowhere to show it.
    """
    if not (directory / "config.yaml").exists() or not (directory / "log.jsonl").exists():
        raise UserError(f"{directory} has no config.yaml and log.jsonl, so it is no run directory; give RUNS/NAME")
    settings = read_yaml(directory / "config.yaml")
    config = check(TrackingConfig, {**settings["tracking"], **dict(map(_change, changes))})
    group = config.group or settings["name"]
    jobs = [TrackedRun(directory, settings, settings["name"], group)]
    if (directory / "mining" / "log.jsonl").exists():
        jobs.append(TrackedRun(directory / "mining", settings, f"{settings['name']}-mining", group, "mining"))
    return sum(_show(config, job) for job in jobs)


def _change(argument: str) -> tuple[str, Any]:
    key, equals, text = argument.partition("=")
    if not equals or not key.startswith("tracking."):
        raise UserError(f"{argument!r}: expected tracking.KEY=VALUE, as in tracking.tensorboard=true")
    return key.removeprefix("tracking."), parse_value(argument, text)


def _show(config: TrackingConfig, job: TrackedRun) -> int:
    mirrors = open_mirrors(config, job, {WandbMirror.key: _wandb_id(job.directory)})
    if not mirrors:
        raise UserError("nowhere to show it: give tracking.wandb=online, tracking.tensorboard=true or tracking.mlflow=URI")
    for mirror in mirrors:
        count = catch_up(mirror, read_lines(job.directory / "log.jsonl"))
        mirror.close()
    return count


def _wandb_id(directory: Path) -> str | None:
    """Of the newest part that the run has written, `wandb/offline-run-20260131_120000-ID`."""
    parts = sorted(directory.glob("wandb/*run-*-*"), key=lambda part: part.name.removeprefix("offline-"))
    return parts[-1].name.rpartition("-")[2] if parts else None
