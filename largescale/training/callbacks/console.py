"""What a person sees: progress, scores, and at the end what there is and what comes next; rank 0 only."""

import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from largescale.corpus.batches.batches import Step
from largescale.distributed import World
from largescale.program.cli import for_torchrun
from largescale.program.progress import progress_bar
from largescale.training.callbacks.base import Callback
from largescale.training.checkpoints.checkpoint import best_of
from largescale.training.progress import Outcome

log = logging.getLogger(__name__)

SHOWN = {"train/loss": "loss {:.4f}", "data/images_per_second": "{:.1f} images/s", "data/wait_percent": "waiting {:.0f} %"}


class Console(Callback):
    """
    Args:
        said: lines for the start.
    """

    def __init__(self, said: Sequence[str] = ()) -> None:
        self.said = said

    def start(self) -> None:
        trainer = self.trainer
        label = "train" if trainer.world.is_first else None
        if trainer.world.is_first:
            for line in self.said:
                log.info("%s", line)
        self.bar = progress_bar(label, trainer.total_steps, "step", trainer.progress.step)

    def after_step(self, images: Step, outcome: Outcome) -> None:
        self.bar.update(1)

    def after_line(self, line: Mapping[str, Any]) -> None:
        shown = [text.format(line[name]) for name, text in SHOWN.items() if name in line]
        self.bar.set_postfix_str(", ".join(shown), refresh=False)

    def finish(self) -> None:
        self.bar.close()
        if self.trainer.world.is_first:
            print(self._farewell(), flush=True)

    def _farewell(self) -> str:
        trainer = self.trainer
        directory, step, total = trainer.config.directory, trainer.progress.step, trainer.total_steps
        if trainer.finished:
            return f"{directory} is finished: {step:,} steps. {self._more()}\n{self._result()}"
        command = _command(trainer.world, trainer.config.name)
        return f"{directory} is stopped by {trainer.stopping} after step {step:,} of {total:,}. To go on:\n  {command}"

    def _more(self) -> str:
        """How to train on."""
        config = self.trainer.config
        if config.schedule.name == "cosine":  # which ends at the last epoch, so that more of them are another run
            return f"To train on from its weights: name=NEW model.weights={self._weights(self.trainer.progress.step)}"
        return f"More epochs continue it: epochs={2 * config.epochs}"

    def _result(self) -> str:
        """The best score and its weights, where there was an evaluation, and the command that scores them."""
        trainer, settings = self.trainer, self.trainer.config.evaluation
        best = best_of(trainer.config.directory / "checkpoints")
        weights = self._weights(best.get("step", trainer.progress.step))
        found = f"best score {100 * best['score']:.2f} at step {best['step']:,}: {weights}" if best else f"weights: {weights}"
        gallery = settings.gallery or "CORPUS"
        queries = f" queries={settings.queries}" if settings.queries else ""
        program = f"torchrun --nproc-per-node {trainer.world.local_size} {for_torchrun('evaluate')}"
        return f"{found}\nTo score them:\n  {program} weights={weights} gallery={gallery}{queries}"

    def _weights(self, step: int) -> Path:
        return self.trainer.config.directory / "weights" / f"step-{step:06d}.safetensors"


def _command(world: World, name: str) -> str:
    """What starts this run again."""
    named = any(argument.startswith("name=") for argument in sys.argv)
    program, *given = sys.argv
    module = ["-m", *program.split()] if program.startswith("largescale ") else [program]
    arguments = [*module, *given, *([] if named else [f"name={name}"])]
    nodes = world.size // world.local_size
    several = f"--nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint HOST:PORT " if nodes > 1 else ""
    return f"torchrun {several}--nproc-per-node {world.local_size} {shlex.join(arguments)}"
