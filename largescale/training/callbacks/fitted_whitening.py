"""Fits the whitening that goes with the weights of a step: where they are scored, and of the last ones."""

from pathlib import Path

from largescale.commit import DamagedError
from largescale.distributed import StopSignal
from largescale.evaluation.descriptors.fitting import learned, matching_pairs
from largescale.models.sharing.sources import SHRUNK, read_whitening, write_whitening
from largescale.models.whitening import Whitening
from largescale.processes import StoppedError
from largescale.settings import UserError
from largescale.training.callbacks.base import Callback
from largescale.training.callbacks.checkpointing import Checkpointing
from largescale.training.planning.sample import describe_sample

PER_DIMENSION = 8
"""Most images that it is fitted on, for each dimension: with two it is nearly as good (docs/results/default-recipe.md)."""


class FittedWhitening(Callback):
    """Where the run whitens: RUN/weights/step-000123.whitening.safetensors, beside the weights. Training does not see it."""

    def __init__(self, signal: StopSignal, checkpointing: Checkpointing) -> None:
        self.signal, self.checkpointing = signal, checkpointing
        self.fitted: Whitening | None = None
        """That of the weights as they are, the same on every rank; None where they are not scored."""

    def start(self) -> None:
        manifest = self.trainer.corpus.manifest
        if self.trainer.config.whitening and not len(matching_pairs(manifest)):
            raise UserError(
                f"whitening=true learns from matching pairs, and {manifest.name} has neither pairs nor labels of two images; "
                "use whitening=false"
            )

    def at_epoch_boundary(self) -> None:
        trainer, self.fitted = self.trainer, None
        due = trainer.finished or trainer.config.evaluation.is_due(trainer.progress.epoch, last=False)
        if not trainer.config.whitening or not due or trainer.stopping:
            return
        self.checkpointing.save()
        weights = self.checkpointing.file
        try:
            self.fitted = trainer.world.decide(lambda: _whole(weights)) or self._fit(weights)
        except StoppedError:
            trainer.stop("a stop signal while fitting the whitening")

    def _fit(self, weights: Path) -> Whitening:
        config, corpus, world = self.trainer.config, self.trainer.corpus, self.trainer.world
        network, should_stop = self.trainer.evaluated_model(), lambda: self.signal.received
        most = PER_DIMENSION * network.dim
        ids, rows = describe_sample(network, config.scored_images, most, config, corpus, world, should_stop)
        fitted = learned(SHRUNK, corpus.manifest, ids, rows, world)
        return world.decide(lambda: _written(weights, Whitening(fitted.mean.float(), fitted.directions.float())))


def _written(weights: Path, whitening: Whitening) -> Whitening:
    write_whitening(weights, whitening)
    return whitening


def _whole(weights: Path) -> Whitening | None:
    try:
        return read_whitening(weights)
    except DamagedError:
        return None
