"""What a person sees: a progress bar on a terminal, one line per epoch's part elsewhere; rank 0 only."""

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from largescale.distributed import World
from largescale.training.callbacks.base import Callback

if TYPE_CHECKING:
    from largescale.corpus.loading import Step
    from largescale.training.trainer import Outcome

SHOWN = {"train/loss": "loss {:.4f}", "data/images_per_second": "{:.1f} images/s", "data/wait_percent": "waiting {:.0f} %"}


class Console(Callback):
    def start(self) -> None:
        trainer = self.trainer
        self.bar = tqdm(
            total=trainer.total_steps,
            initial=trainer.progress.step,
            unit="step",
            disable=not trainer.world.is_first,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
        )

    def after_step(self, images: "Step", outcome: "Outcome") -> None:
        self.bar.update()

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
            return f"{directory} is finished: {step:,} steps. More epochs continue it: epochs={2 * trainer.config.epochs}"
        command = _command(trainer.world)
        return f"{directory} is stopped by {trainer.stopping} after step {step:,} of {total:,}. To go on:\n  {command}"


def _command(world: World) -> str:
    """What starts this run again."""
    nodes = world.size // world.local_size
    several = f"--nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint HOST:PORT " if nodes > 1 else ""
    return f"torchrun {several}--nproc-per-node {world.local_size} {shlex.join(sys.argv)}"
