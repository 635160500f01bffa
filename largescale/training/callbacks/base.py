"""What a feature of training can hook into: one small class per feature, its methods called by the loop in order."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from largescale.corpus.batches.batches import Step
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.models.network import RetrievalNet
from largescale.tracking import Tracker
from largescale.training.engine.average import WeightAverage
from largescale.training.engine.engine import Engine
from largescale.training.engine.optimizer_state import Tensors
from largescale.training.planning.planners import Planner
from largescale.training.progress import Outcome, Progress
from largescale.training.settings.recipe import TrainConfig


class Run(Protocol):
    """What a feature sees of the run that it belongs to."""

    config: TrainConfig
    world: World
    corpus: Corpus
    engine: Engine
    planner: Planner
    tracker: Tracker
    progress: Progress
    average: WeightAverage | None
    callbacks: Sequence["Callback"]
    stopping: str | None
    """Why the run ends after this step, if it does."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        ...

    @property
    def finished(self) -> bool:
        """The last epoch is done."""
        ...

    def evaluated_model(self) -> RetrievalNet:
        """What is evaluated and mined with, the same on every rank; every rank calls this."""
        ...

    def stop(self, reason: str) -> None:
        """End the run after this step."""
        ...

    def fail(self, reason: str, sentence: str) -> None:
        """End the run after this step and, once its state is saved, with an error. Every rank calls this."""
        ...

    def log(self, values: Mapping[str, Any]) -> None:
        """Write a line of values that are the same on every rank."""
        ...

    def write_line(self) -> None:
        """Write what was measured since the last line, if anything."""
        ...

    def tensors(self) -> Tensors:
        """Every tensor that a checkpoint keeps."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything but tensors that a checkpoint keeps."""
        ...


class Callback:
    """A feature of training. Every hook runs on every rank, at the same place of the run."""

    trainer: Run

    def start(self) -> None:
        """Before anything else; the state of a resumed run is in place."""

    def at_epoch_boundary(self) -> None:
        """Between two epochs, before the first and after the last: the weights rest."""

    def before_data(self) -> None:
        """Before the images of a step are asked for."""

    def after_data(self, images: Step) -> None:
        """The images of a step are there."""

    def votes(self, images: Step) -> Mapping[str, float]:
        """Numbers that this rank contributes to the one decision of the step; the names are the same on every rank."""
        return {}

    def after_step(self, images: Step, outcome: Outcome) -> None:
        """The step is counted; `outcome.votes` holds the sums of the votes over the ranks."""

    def before_line(self) -> None:
        """Before a line of metrics is written: the place to record what is measured once per line."""

    def after_line(self, line: Mapping[str, Any]) -> None:
        """A line of metrics was written."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this feature."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""

    def finish(self) -> None:
        """After the last step or a stop."""
