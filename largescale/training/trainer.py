"""The training loop. It sequences; what it can do beyond that is in `callbacks/`, one file per feature."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from largescale.commit import write_sealed
from largescale.config import to_yaml
from largescale.corpus.batches.batches import Step
from largescale.corpus.corpus import Corpus
from largescale.corpus.loading import load_steps
from largescale.distributed import World
from largescale.models.network import RetrievalNet
from largescale.settings import UserError
from largescale.tracking import Tracker
from largescale.training import preflight
from largescale.training.callbacks.base import Callback
from largescale.training.checkpoints.checkpoint import Checkpoint, Checkpoints
from largescale.training.engine.average import WeightAverage
from largescale.training.engine.engine import Engine
from largescale.training.engine.optim import rate_factor
from largescale.training.engine.optimizer_state import Tensors
from largescale.training.planning.planners import EpochPlan, Planner, step_seed
from largescale.training.progress import Outcome, Progress
from largescale.training.settings.recipe import TrainConfig

log = logging.getLogger(__name__)


class Trainer:
    """Runs a network over the plans of all epochs. Every rank has one, and all do the same at the same time."""

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        corpus: Corpus,
        engine: Engine,
        planner: Planner,
        tracker: Tracker,
        callbacks: Sequence[Callback],
        checkpoints: Checkpoints,
        average: WeightAverage | None = None,
    ) -> None:
        self.config, self.world, self.corpus = config, world, corpus
        self.engine, self.planner, self.tracker = engine, planner, tracker
        self.callbacks, self.checkpoints, self.average = callbacks, checkpoints, average
        self.progress = Progress()
        self.stopping: str | None = None
        self.failure: str | None = None
        for callback in callbacks:
            callback.trainer = self

    def evaluated_model(self) -> RetrievalNet:
        """What is evaluated and mined with, the same on every rank: the weights, or their average. Every rank calls this."""
        return cast(RetrievalNet, self.engine.network() if self.average is None else self.average.network)

    @property
    def finished(self) -> bool:
        return self.progress.epoch >= self.config.epochs

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.planner.steps

    def fit(self) -> None:
        """Train until the last epoch is done or a callback stops the run.

        Raises:
            UserError: a callback found that it is of no use to go on; the state is saved.
        """
        for callback in self.callbacks:
            callback.start()
        while self._cross_epoch_boundary():
            plan = self._plan()
            if plan is None:
                self.stop("a stop signal while mining")
                break
            for images in self._images(plan):
                outcome = self._take_step(plan, images)
                for callback in self.callbacks:
                    callback.after_step(images, outcome)
                if self.progress.step % self.config.tracking.every == 0:
                    self.write_line()
                if self.stopping:
                    break
        for callback in self.callbacks:
            callback.finish()
        self.tracker.close()
        if self.failure:
            raise UserError(self.failure)

    def stop(self, reason: str) -> None:
        """End the run after this step."""
        self.stopping = self.stopping or reason

    def fail(self, reason: str, sentence: str) -> None:
        """End the run after this step and, once its state is saved, with an error. Every rank calls this."""
        self.stop(reason)
        self.failure = sentence

    def _cross_epoch_boundary(self) -> bool:
        """Do what belongs between two epochs; whether an epoch, or the rest of one, follows."""
        if self.progress.done == 0 and not self.stopping:
            for callback in self.callbacks:
                callback.at_epoch_boundary()
        return not self.stopping and not self.finished

    def _plan(self) -> EpochPlan | None:
        plan = self.planner.plan(self.progress, self.evaluated_model)
        if plan is not None and plan.statistics and self.progress.done == 0:
            self.log({f"mining/{name}": value for name, value in plan.statistics.items()})
        return plan

    def _images(self, plan: EpochPlan) -> Iterator[Step]:
        start, places = self.progress.done, {"epoch": self.progress.epoch, "seed": self.config.seed}
        steps = load_steps(self.corpus, plan.columns, self.config.images, **places, start=start, loader=self.config.loader)
        for _ in range(start, len(plan.columns)):
            for callback in self.callbacks:
                callback.before_data()
            images = next(steps)
            for callback in self.callbacks:
                callback.after_data(images)
            yield images

    def _take_step(self, plan: EpochPlan, images: Step) -> Outcome:
        progress, config = self.progress, self.config
        batch = plan.batch(images, progress.done, step_seed(config.seed, progress.step))
        loss = float(self.engine.backward(batch.split(config.engine.gradient_accumulation)))
        factor = rate_factor(config.schedule, progress.step, self.planner.steps, self.total_steps)
        update = self.engine.step(factor)
        if self.average is not None and not update.skipped:
            self.average.update(self.engine.network())
        progress.advance(self.planner.steps)
        self.tracker.record("train/learning_rate", factor * config.optim.lr)
        if not update.skipped:
            self.tracker.record("train/loss", loss)
            self.tracker.record("train/gradient_norm", update.norm)
        return Outcome(loss, update, self._vote(images))

    def _vote(self, images: Step) -> Mapping[str, float]:
        own = {name: value for callback in self.callbacks for name, value in callback.votes(images).items()}
        return dict(zip(own, self.world.sum(*own.values()), strict=True))

    def write_line(self) -> None:
        """Write what was measured since the last line, if anything."""
        if not self.tracker.recorded:
            return
        for callback in self.callbacks:
            callback.before_line()
        line = self.tracker.flush(self.progress.step, self.progress.step / self.planner.steps)
        for callback in self.callbacks:
            callback.after_line(line)

    def log(self, values: Mapping[str, Any]) -> None:
        """Write a line of values that are the same on every rank."""
        self.tracker.log(self.progress.step, self.progress.step / self.planner.steps, values)

    def tensors(self) -> Tensors:
        """Every tensor that a checkpoint keeps, the same on every rank."""
        state = self.engine.state()
        return state if self.average is None else state | self.average.state()

    def state(self) -> dict[str, Any]:
        """Everything but tensors that a checkpoint keeps."""
        features = {name: callback.state() for name, callback in self._named_callbacks()}
        return {"progress": asdict(self.progress), "tracking": self.tracker.state(), "callbacks": features}

    def _named_callbacks(self) -> Iterator[tuple[str, Callback]]:
        """By class, the second of a class with its number."""
        met: Counter[str] = Counter()
        for callback in self.callbacks:
            name = type(callback).__name__
            met[name] += 1
            yield name if met[name] == 1 else f"{name} {met[name]}", callback

    def begin(self) -> None:
        """Take over the run directory and the newest checkpoint in it, so that the run goes on as if it had never stopped."""
        directory = self.config.directory
        self.world.decide(lambda: preflight.claim(directory))
        preflight.check_shared(directory, self.world)
        newest = self.checkpoints.newest()
        if newest is None:
            self.world.decide(lambda: preflight.clear(directory))
        self._restore(self.checkpoints.load(newest) if newest else None)
        self.world.decide(lambda: write_sealed(directory / "config.yaml", to_yaml(self.config)))

    def _restore(self, checkpoint: Checkpoint | None) -> None:
        state = checkpoint.progress if checkpoint else {}
        if checkpoint:
            self.engine.load(checkpoint.tensors)
            if self.average is not None:
                self.average.load(checkpoint.tensors)
            self.progress = Progress(**state["progress"])
            for name, callback in self._named_callbacks():
                if name in state["callbacks"]:
                    callback.load_state(state["callbacks"][name])
                else:
                    log.info("%s is new in this run and begins here", name)
        self.tracker.open(state.get("tracking", {}))
