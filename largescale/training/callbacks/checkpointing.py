"""Saves the run every so many steps, epochs and minutes, and when it ends; exports weights beside each checkpoint."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from largescale.commit import complete_directories, own_paths, write_array
from largescale.corpus.loading import Step
from largescale.models.network import RetrievalNet
from largescale.models.sharing.sources import WHITENING_SUFFIX
from largescale.models.weights import save_weights
from largescale.training.callbacks.base import Callback
from largescale.training.checkpoints.checkpoint import NAME, WEIGHTS_NAME, Checkpoints, step_of
from largescale.training.engine.optimizer_state import part
from largescale.training.progress import Outcome


class Checkpointing(Callback):
    """Comes last among the callbacks: what the others did in a step belongs to its checkpoint."""

    def __init__(self, checkpoints: Checkpoints, weights: Path) -> None:
        self.checkpoints, self.weights = checkpoints, weights
        self.config = checkpoints.config
        self.saved = -1
        self.time = time.monotonic()

    def start(self) -> None:
        if self.trainer.progress.step > 0:
            self.saved = self.trainer.progress.step
        self.save()

    def votes(self, images: Step) -> Mapping[str, float]:
        # the clock of one rank decides, because clocks differ
        due = self.trainer.world.is_first and time.monotonic() - self.time > 60 * self.config.minutes
        return {"save": float(due)}

    def after_step(self, images: Step, outcome: Outcome) -> None:
        progress = self.trainer.progress
        at_epoch_boundary = progress.done == 0 and progress.epoch % self.config.epochs == 0
        if progress.step % self.config.every == 0 or at_epoch_boundary or outcome.votes["save"]:
            self.save()

    def finish(self) -> None:
        self.save()
        self.checkpoints.wait()

    @property
    def file(self) -> Path:
        """The weights of the last save."""
        return self.weights / f"step-{self.saved:06d}.safetensors"

    def save(self) -> None:
        """Save the run as it is after this step, unless that is done."""
        trainer, step = self.trainer, self.trainer.progress.step
        if self.saved == step:
            return
        trainer.write_line()
        self.saved, self.time = step, time.monotonic()
        tensors = trainer.tensors()
        self.checkpoints.save(step, tensors, trainer.state())
        if trainer.world.is_first:
            self._export(tensors)

    def _export(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the weights that evaluation and mining use; of earlier ones, keep the first and those with a checkpoint."""
        trainer = self.trainer
        about: dict[str, Any] = {"step": self.saved, "run": trainer.config.name, "corpus": trainer.corpus.manifest.fingerprint}
        if trainer.config.loss.matryoshka:
            about["matryoshka"] = trainer.config.loss.matryoshka
        network = cast(RetrievalNet, trainer.engine.module.net)
        weights = part(tensors, "model.net." if trainer.average is None else "average.")
        save_weights(network, self.file, about, weights)
        self.file.with_suffix(WHITENING_SUFFIX).unlink(missing_ok=True)  # of other weights
        _export_anchors(self.file.with_suffix(".anchors.npy"), tensors)
        kept = {0, self.saved, *map(step_of, complete_directories(self.checkpoints.directory, NAME))}
        for file in own_paths(self.weights, WEIGHTS_NAME):
            if step_of(file) not in kept:
                file.unlink()


def _export_anchors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Those of the class anchor loss, `(C, D)`, for two-stage search."""
    anchors = part(tensors, "model.loss.").get("anchors")
    if anchors is not None:
        write_array(file, anchors.detach().cpu().float().numpy())
