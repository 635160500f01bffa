"""When a loss or gradient is not finite, no rank steps; this writes down whose images they were and ends the run in time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from largescale.commit import write_json
from largescale.corpus.loading import Step
from largescale.settings import UserError
from largescale.training.callbacks.base import Callback
from largescale.training.progress import Outcome
from largescale.training.settings.recipe import NonFiniteConfig


class NonFinite(Callback):
    """`directory/step-000123.json` holds the loss, the norm and the keys of each rank's images."""

    def __init__(self, config: "NonFiniteConfig", directory: Path) -> None:
        self.config, self.directory = config, directory
        self.skipped = 0

    def after_step(self, images: Step, outcome: Outcome) -> None:
        if not outcome.update.skipped:
            return
        trainer = self.trainer
        self.skipped += 1
        file = self.directory / f"step-{trainer.progress.step:06d}.json"
        keys = [trainer.corpus.manifest.keys[int(i)].as_py() for i in images.ids]
        everyone = trainer.world.gather(keys)
        loss, norm = outcome.loss, outcome.update.norm
        if trainer.world.is_first:
            write_json(file, {"loss": str(loss), "gradient_norm": str(norm), "keys": dict(enumerate(everyone))})
        trainer.log({"train/skipped_steps": self.skipped})
        if self.skipped > self.config.skip:
            raise UserError(
                f"step {trainer.progress.step}: loss {loss}, norm of the gradient {norm}. That makes {self.skipped} steps that "
                f"were not finite, non_finite.skip={self.config.skip} allows no more. {file} names the images; the newest "
                "checkpoint is from before. Lower optim.lr or set engine.max_grad_norm, and begin a run of another name"
            )

    def state(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.skipped = state["skipped"]
