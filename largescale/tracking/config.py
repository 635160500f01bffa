"""Where metrics go besides `log.jsonl`."""

from typing import Literal

from pydantic import PositiveInt

from largescale.names import Location
from largescale.settings import Settings


class TrackingConfig(Settings):
    """Where metrics go besides `log.jsonl`."""

    every: PositiveInt = 10
    """Steps per line of metrics (steps)."""
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """Weights & Biases: `auto` is online when you are logged in, else offline, and off where wandb is not installed; `off`
    does without it."""
    project: str = "largescale"
    """Project of W&B, experiment of MLflow."""
    group: str | None = None
    """What is shown together; null: the name of the run, for its mining service and its evaluations too."""
    tags: tuple[str, ...] = ()
    """Words to find the run by, in W&B and MLflow."""
    tensorboard: bool = False
    """Event files of TensorBoard in RUN/tensorboard."""
    mlflow: Location | None = None
    """MLflow: where its server or its store is, as in http://localhost:5000."""
