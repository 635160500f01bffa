"""The mirrors that the settings ask for."""

from collections.abc import Mapping
from typing import Any

from largescale.tracking.config import TrackingConfig
from largescale.tracking.mirrors import Mirror, TrackedRun
from largescale.tracking.mlflow import MlflowMirror
from largescale.tracking.tensorboard import TensorBoardMirror
from largescale.tracking.wandb import WandbMirror, wanted


def open_mirrors(config: TrackingConfig, job: TrackedRun, ids: Mapping[str, Any]) -> list[Mirror]:
    """The mirrors that are asked for.

    Args:
        ids: what is continued, by the key of the mirror.

    Raises:
        UserError: the library of one is not installed.
    """
    mirrors: list[Mirror] = []
    if wanted(config):
        mirrors.append(WandbMirror(config, job, ids.get(WandbMirror.key)))
    if config.tensorboard:
        mirrors.append(TensorBoardMirror(job.directory / "tensorboard"))
    if config.mlflow is not None:
        mirrors.append(MlflowMirror(config, config.mlflow, job, ids.get(MlflowMirror.key)))
    return mirrors
