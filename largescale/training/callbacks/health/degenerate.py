"""Counts what a loss could not learn from: steps without a matching pair, negatives that are copies of their query"""

from collections.abc import Mapping

from largescale.corpus.loading import Step
from largescale.tracking import Reduce
from largescale.training.callbacks.base import Callback
from largescale.training.progress import Outcome


class Degenerate(Callback):
    """`train/degenerate`, where there was any: tuples of all ranks, or batches and queries of the global batch."""

    def __init__(self) -> None:
        self.counted = 0

    def votes(self, images: Step) -> Mapping[str, float]:
        trainer = self.trainer
        before, self.counted = self.counted, int(trainer.engine.module.loss.degenerate)
        # over labels, every rank sees the global batch and counts the same
        counts = trainer.config.loss.kind == "tuples" or trainer.world.is_first
        return {"degenerate": (self.counted - before) * counts}

    def after_step(self, images: Step, outcome: Outcome) -> None:
        if outcome.votes["degenerate"] and self.trainer.world.is_first:
            self.trainer.tracker.record("train/degenerate", outcome.votes["degenerate"], Reduce.SUM)
