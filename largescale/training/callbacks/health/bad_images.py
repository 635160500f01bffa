"""Counts the images that could not be decoded, names each in the log, and ends the run when they are too many."""

from collections.abc import Mapping
from typing import Any

from largescale.corpus.config import BadImagesConfig
from largescale.corpus.loading import Step
from largescale.settings import UserError
from largescale.training.callbacks.base import Callback
from largescale.training.progress import Outcome


class BadImages(Callback):
    """Counts over all ranks and over the whole run, resumed or not."""

    def __init__(self, config: BadImagesConfig) -> None:
        self.config = config
        self.read = self.bad = 0

    def votes(self, images: Step) -> Mapping[str, float]:
        return {"images": len(images.ids), "bad_images": len(images.bad)}

    def after_step(self, images: Step, outcome: Outcome) -> None:
        self.read += int(outcome.votes["images"])
        if outcome.votes["bad_images"]:
            self._report(images)

    def _report(self, images: Step) -> None:
        trainer = self.trainer
        found = [image for part in trainer.world.gather(images.bad) for image in part]
        self.bad += len(found)
        named = [{"key": image.key, "shard": image.shard, "error": image.error} for image in found]
        trainer.log({"data/bad_images": self.bad, "bad_images": named})
        # the share of the first steps says nothing: the budget is that of an epoch at least
        seen = max(self.read, trainer.planner.steps * trainer.planner.images)
        allowed = int(self.config.budget * seen)
        if self.bad > allowed:
            last = found[-1]
            raise UserError(
                f"{self.bad} of {self.read:,} images could not be decoded; bad_images.budget={self.config.budget} allows "
                f"{allowed:,}. The last is {last.key} in {last.shard} ({last.error}); log.jsonl names all of them: repair "
                "the corpus (`make verify-shards` lists its faults) or raise bad_images.budget"
            )

    def state(self) -> dict[str, Any]:
        return {"read": self.read, "bad": self.bad}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.read, self.bad = state["read"], state["bad"]
