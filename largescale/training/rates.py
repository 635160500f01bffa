"""A learning-rate range test: one short run in which the rate grows from step to step, until the loss rises (Smith 2017)."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from largescale.commit import write_json
from largescale.settings import Settings
from largescale.training.callbacks.base import Callback
from largescale.training.settings.recipe import TrainConfig

if TYPE_CHECKING:
    from largescale.corpus.loading import Step
    from largescale.training.trainer import Outcome

SMOOTHING = 0.9
RISE = 1.5
"""The run ends where the smoothed loss is so many times its least value."""


class RangeConfig(Settings):
    """The rates that are tried."""

    low: float = Field(default=1e-6, gt=0)
    """The rate of the first step."""
    high: float = Field(default=1e-1, gt=0)
    """The rate of the last step."""
    steps: PositiveInt = 100
    """Steps from low to high, each with a rate larger by the same factor."""

    @model_validator(mode="after")
    def _grows(self) -> "RangeConfig":
        if self.low >= self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}: there is no range to try")
        return self


class RatesConfig(TrainConfig):
    """A training run of which the learning rate is wanted."""

    range: RangeConfig = RangeConfig()

    def trial(self) -> TrainConfig:
        """The same run, as short as the range, with a growing rate."""
        values = {name: getattr(self, name) for name in TrainConfig.model_fields}
        tried = self.range
        values["name"] = f"{self.name}-rates"  # the folder of the run itself stays free for it
        values["optim"] = self.optim.model_copy(update={"lr": tried.high})
        values["schedule"] = self.schedule.model_copy(
            update={"name": "range", "floor": tried.low / tried.high, "warmup_steps": 0, "milestones": ()}
        )
        values["epochs"] = 1
        if self.batches is not None:
            values["batches"] = self.batches.model_copy(update={"per_epoch": tried.steps})
        if self.tuples is not None:
            values["tuples"] = self.tuples.model_copy(update={"per_epoch": tried.steps * self.tuples.per_step})
        values["evaluation"] = self.evaluation.model_copy(update={"every": 0})
        values["trouble"] = self.trouble.model_copy(update={"quick_images": 0})
        values["non_finite"] = self.non_finite.model_copy(update={"skip": tried.steps})
        values["tracking"] = self.tracking.model_copy(update={"wandb": "off", "every": 1})
        return TrainConfig.model_construct(**values)


class RateRange(Callback):
    """Ends the run when the loss rises, and leaves `rates.json`: rate and smoothed loss of each step, and a rate to take."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.average = 0.0

    def after_step(self, images: "Step", outcome: "Outcome") -> None:
        trainer = self.trainer
        step = len(self.losses)
        schedule, steps = trainer.config.schedule, trainer.total_steps
        rate = trainer.config.optim.lr * schedule.floor ** (1 - step / max(steps - 1, 1))
        self.average = SMOOTHING * self.average + (1 - SMOOTHING) * outcome.loss
        smoothed = self.average / (1 - SMOOTHING ** (step + 1))
        if outcome.update.skipped or not math.isfinite(smoothed) or (self.losses and smoothed > RISE * min(self.losses)):
            trainer.stop("a loss that rises: larger rates would be of no use")
            return
        self.rates.append(rate)
        self.losses.append(smoothed)

    def state(self) -> dict[str, Any]:
        return {"rates": self.rates, "losses": self.losses, "average": self.average}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.rates, self.losses, self.average = list(state["rates"]), list(state["losses"]), state["average"]

    def finish(self) -> None:
        if not self.trainer.world.is_first or not self.losses:
            return
        found: dict[str, Any] = {"rate": suggested(self.rates, self.losses), "rates": self.rates, "losses": self.losses}
        write_json(self.trainer.config.directory / "rates.json", found)
        print(table(self.rates, self.losses))
        print(f"\noptim.lr={found['rate']:.1e}: a tenth of the rate at which the smoothed loss is least; try a third of it too")


def suggested(rates: list[float], losses: list[float]) -> float:
    """A tenth of the rate at which the loss was least."""
    return rates[int(np.argmin(losses))] / 10


def table(rates: list[float], losses: list[float], rows: int = 12) -> str:
    """Some of the steps, one a line, with a bar."""
    low, high = min(losses), max(losses)
    chosen = np.unique(np.linspace(0, len(rates) - 1, min(rows, len(rates))).astype(int))
    bars = [round(40 * (losses[i] - low) / max(high - low, 1e-12)) for i in chosen]
    return "\n".join(f"{rates[i]:10.1e} {losses[i]:10.4f} {'=' * bar}" for i, bar in zip(chosen, bars, strict=True))
