"""SIGTERM and SIGINT end the run after its step; Checkpointing saves it then."""

from collections.abc import Mapping

from largescale.corpus.loading import Step
from largescale.distributed import StopSignal
from largescale.training.callbacks.base import Callback
from largescale.training.progress import Outcome


class Preemption(Callback):
    """A signal that reached one rank stops all of them after the same step."""

    def __init__(self, signal: StopSignal) -> None:
        self.signal = signal

    def at_epoch_boundary(self) -> None:
        self._heed(self.signal.requested())

    def votes(self, images: Step) -> Mapping[str, float]:
        return {"stop": float(self.signal.received)}

    def after_step(self, images: Step, outcome: Outcome) -> None:
        self._heed(outcome.votes["stop"] > 0)

    def _heed(self, requested: bool) -> None:
        if requested:
            self.trainer.stop("a stop signal")
