"""A learning-rate range test: one short run in which the rate grows from step to step, until the loss rises (Smith 2017)."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from largescale.commit import write_json
from largescale.settings import Settings
from largescale.training.callbacks.base import Callback
from largescale.training.callbacks.health.trouble import Trouble
from largescale.training.engine.optim import rate_factor
from largescale.training.settings.recipe import TrainConfig

if TYPE_CHECKING:
    from largescale.corpus.loading import Step
    from largescale.training.trainer import Outcome

SMOOTHING = 0.9
BURN_IN = 0.1
"""Share of the steps whose smoothed losses show where the loss was, and are neither the least nor the end of the run: the first
of them are those of single steps."""
RISE = 1.5
"""The run ends where the smoothed loss is so many times its least value."""
ERRORS = 5.0
"""Standard errors of the smoothed loss, from differences of neighbors, by which it must fall. Its least value on the way is
sought, which for noise alone lies 3 below in a third of all ranges of 100 steps, 5 below in one of 30."""


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
        values["trouble"] = self.trouble.model_copy(update={"quick_images": 0, "on_collapse": "warn"})
        values["checkpoint"] = self.checkpoint.model_copy(update={"mirror": None})
        values["non_finite"] = self.non_finite.model_copy(update={"skip": tried.steps})
        values["tracking"] = self.tracking.model_copy(update={"wandb": "off", "every": 1})
        return TrainConfig.model_construct(**values)


class RateRange(Callback):
    """Ends the run when the loss rises or descriptors collapse, and leaves `rates.json`: rate and smoothed loss of each step, and
    a rate to take, null where none lowered the loss. A range that is stopped from outside leaves nothing."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.collapse: float | None = None
        """The rate from which on descriptors were collapsed."""
        self.whole = False

    def start(self) -> None:
        [self.trouble] = (callback for callback in self.trainer.callbacks if isinstance(callback, Trouble))

    def after_step(self, images: "Step", outcome: "Outcome") -> None:
        trainer = self.trainer
        late = len(self.losses) >= burn_in(trainer.total_steps)
        if not outcome.update.skipped and math.isfinite(outcome.loss):
            self.rates.append(self._rate())
            self.losses.append(outcome.loss)
            if self.trouble.has_collapsed:
                self._forget_collapsed()
                self._end("descriptors that have collapsed")
            elif late and has_risen(self.losses, burn_in(trainer.total_steps)):
                self._end("a loss that rises: larger rates would be of no use")
        elif late:
            self._end("a loss that is not finite")
        self.whole = self.whole or trainer.finished

    def _rate(self) -> float:
        """Of the step that was taken."""
        config, step = self.trainer.config, self.trainer.progress.step - 1
        return config.optim.lr * rate_factor(config.schedule, step, self.trainer.planner.steps, self.trainer.total_steps)

    def _forget_collapsed(self) -> None:
        since = len(self.losses) - self.trouble.collapsed
        self.collapse = self.rates[since]
        del self.rates[since:], self.losses[since:]

    def _end(self, reason: str) -> None:
        self.whole = True
        self.trainer.stop(reason)

    def finish(self) -> None:
        trainer = self.trainer
        if not trainer.world.is_first:
            return
        if not self.whole:
            print(f"the range is stopped by {trainer.stopping}; the same command begins it anew")
            return
        start = burn_in(trainer.total_steps)
        rate, losses = suggested(self.rates, self.losses, start), smoothed(self.losses)
        write_json(trainer.config.directory / "rates.json", {"rate": rate, "rates": self.rates, "losses": losses})
        if losses:
            print(table(self.rates, losses))
        if self.collapse is not None:
            print(f"\ndescriptors collapsed at rates from {self.collapse:.1e} on, which do not count")
        print(f"\n{verdict(rate, trainer.total_steps)}")


def burn_in(steps: int) -> int:
    """How many of the first losses only show where the loss was."""
    return math.ceil(BURN_IN * steps)


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential averages of losses, each over what there is up to it (Smith 2017, as fastai has it)."""
    sums = accumulate(losses, lambda total, loss: SMOOTHING * total + (1 - SMOOTHING) * loss, initial=0.0)
    return [total / (1 - SMOOTHING**step) for step, total in enumerate(sums) if step]


def has_risen(losses: Sequence[float], start: int) -> bool:
    """The smoothed loss is RISE times its least value since `start`."""
    found = smoothed(losses)[start:]
    return found[-1] > RISE * min(found)


def suggested(rates: Sequence[float], losses: Sequence[float], start: int) -> float | None:
    """A tenth of the rate at which the smoothed loss was least, but no less than the lowest rate.

    Args:
        losses: as they were, one for each rate.
        start: the number of losses before the first that counts, at least 1.

    Returns:
        None: the smoothed loss fell by no more than its noise.
    """
    if len(losses) <= start:
        return None
    found = smoothed(losses)
    least = start + int(np.argmin(found[start:]))
    noise = np.diff(losses[: least + 1]).std() * math.sqrt((1 - SMOOTHING) / (1 + SMOOTHING) / 2)
    return max(rates[least] / 10, rates[0]) if found[start - 1] - found[least] > ERRORS * noise else None


def verdict(rate: float | None, steps: int) -> str:
    """What a person should take."""
    if rate is None:
        return (
            f"no rate of the range lowered the loss by more than its noise: try more steps (range.steps={2 * steps}) or other "
            "rates (range.low, range.high)"
        )
    return f"optim.lr={rate:.1e}: a tenth of the rate at which the smoothed loss is least; try a third of it too"


def table(rates: Sequence[float], losses: Sequence[float], rows: int = 12) -> str:
    """Some of the steps, one a line, with a bar."""
    low, high = min(losses), max(losses)
    chosen = np.unique(np.linspace(0, len(rates) - 1, min(rows, len(rates))).astype(int))
    bars = [round(40 * (losses[i] - low) / max(high - low, 1e-12)) for i in chosen]
    return "\n".join(f"{rates[i]:10.1e} {losses[i]:10.4f} {'=' * bar}" for i, bar in zip(chosen, bars, strict=True))
