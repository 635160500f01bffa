"""What a person sees of a run on its way: progress and scores; rank 0 only."""

from collections.abc import Mapping
from typing import Any

from largescale.corpus.batches.batches import Step
from largescale.program.progress import progress_bar
from largescale.training.callbacks.base import Callback
from largescale.training.progress import Outcome

SHOWN = {"train/loss": "loss {:.4f}", "data/images_per_second": "{:.1f} images/s", "data/wait_percent": "waiting {:.0f} %"}


class Console(Callback):
    def start(self) -> None:
        trainer = self.trainer
        label = "train" if trainer.world.is_first else None
        self.bar = progress_bar(label, trainer.total_steps, "step", trainer.progress.step)

    def after_step(self, images: Step, outcome: Outcome) -> None:
        self.bar.update(1)

    def after_line(self, line: Mapping[str, Any]) -> None:
        shown = [text.format(line[name]) for name, text in SHOWN.items() if name in line]
        self.bar.set_postfix_str(", ".join(shown), refresh=False)

    def finish(self) -> None:
        self.bar.close()
