"""What a feature of training can hook into: one small class per feature, its methods called by the loop in order."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from largescale.corpus.loading import Step
    from largescale.training.trainer import Outcome, Trainer


class Callback:
    """A feature of training. Every hook runs on every rank, at the same place of the run."""

    trainer: "Trainer"

    def start(self) -> None:
        """Before anything else; the state of a resumed run is in place."""

    def at_epoch_boundary(self) -> None:
        """Between two epochs, before the first and after the last: the weights rest."""

    def before_data(self) -> None:
        """Before the images of a step are asked for."""

    def after_data(self, images: "Step") -> None:
        """The images of a step are there."""

    def votes(self, images: "Step") -> Mapping[str, float]:
        """Numbers that this rank contributes to the one decision of the step; the names are the same on every rank."""
        return {}

    def after_step(self, images: "Step", outcome: "Outcome") -> None:
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
