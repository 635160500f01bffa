"""Where a run is, and what a step did."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from largescale.training.engine.engine import Update


@dataclass
class Progress:
    """Where a run is."""

    step: int = 0
    """Steps taken in the run."""
    epoch: int = 0
    """Epochs finished."""
    done: int = 0
    """Steps taken in the epoch that is under way."""

    @property
    def boundary(self) -> int:
        """The step at which the epoch began."""
        return self.step - self.done

    def advance(self, epoch_steps: int) -> None:
        """Count a step."""
        self.step, self.done = self.step + 1, self.done + 1
        if self.done == epoch_steps:
            self.epoch, self.done = self.epoch + 1, 0


class Outcome(NamedTuple):
    """What a step did, the same on every rank."""

    loss: float
    """The objective of the whole step."""
    update: Update
    votes: Mapping[str, float]
    """Sums over ranks of what the callbacks voted."""
