"""Collects Python's garbage on all ranks at the same steps, so that no rank pauses alone while the others wait for it."""

import gc

from largescale.corpus.loading import Step
from largescale.training.callbacks.base import Callback
from largescale.training.progress import Outcome

EVERY = 1000


class Garbage(Callback):
    """What lives at the start stays for the whole run: it is frozen, and never looked at again."""

    def start(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()

    def at_epoch_boundary(self) -> None:
        gc.collect()

    def after_step(self, images: Step, outcome: Outcome) -> None:
        if self.trainer.progress.step % EVERY == 0:
            gc.collect(1)

    def finish(self) -> None:
        gc.enable()
        gc.unfreeze()
