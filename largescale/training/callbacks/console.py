"""What a person sees of a run on its way: progress and scores; rank 0 only."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from largescale.corpus.batches.batches import Step
from largescale.program.progress import progress_bar
from largescale.training.callbacks.base import Callback
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
