"""The trainings and evaluations of an experiment: one program after another, each skipped where it is done."""

import json
import logging
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from largescale.commit import claim_folder, write_text
from largescale.config import check, load, to_yaml
from largescale.evaluation.config import EvaluateConfig
from largescale.experiments.config import ExperimentConfig, Point
from largescale.program.cli import command
from largescale.settings import UserError
from largescale.training.settings.recipe import TrainConfig

log = logging.getLogger(__name__)


class FailedError(UserError):
    """A program of a run failed; the others can go on."""


@dataclass(frozen=True)
class ExperimentRun:
    """One point of the experiment from one seed."""

    point: Point
    seed: int
    train: TrainConfig
    evaluate: EvaluateConfig
    arguments: list[str]
    """Of launch/train.py."""
    steps: int
    processes: int

    @property
    def images(self) -> int:
        """That the training sees, negatives included."""
        return self.steps * images_of_a_step(self.train)

    @property
    def weights(self) -> Path:
        return self.train.directory / "weights" / f"step-{self.steps:06d}.safetensors"

    @property
    def begun(self) -> Path:
        """The settings of the training as the experiment gives them, written before it begins; the run's own have more."""
        return self.train.directory.with_name(f"{self.train.name}.yaml")

    @property
    def done(self) -> Path:
        """The settings of the evaluation, written when it is finished."""
        return self.evaluate.out / "config.yaml"

    def seconds(self) -> tuple[float, float]:
        """How long an epoch took on the mean: its steps, with the wait for data, and the mining before them."""
        steps = mining = 0.0
        before = 0
        for line in map(json.loads, (self.train.directory / "log.jsonl").read_text().splitlines()):
            mining += line.get("mining/seconds", 0)
            if "data/images_per_second" in line:
                steps += (line["step"] - before) * images_of_a_step(self.train) / line["data/images_per_second"]
                before = line["step"]
        return steps / self.train.epochs, mining / self.train.epochs

    def go(self) -> None:
        """Train and evaluate, or what is left of it.

        Raises:
            FailedError: a program failed.
            UserError: the run was stopped, or is there with other settings.
        """
        if self._finished():
            return
        if not self.weights.exists():
            write_text(self.begun, to_yaml(self.train))
            self._launch("train", self.arguments)
        if not self.weights.exists():
            raise UserError(
                f"{self.train.directory} has no weights of step {self.steps}: the run was stopped, or the corpus offers fewer "
                "queries than an epoch takes; give the same command again, or a smaller `images`, or more epochs in `train`"
            )
        settings = self.evaluate.out.with_name("evaluate.yaml")
        write_text(settings, to_yaml(self.evaluate))
        self._launch("evaluate", [str(settings)])
        write_text(self.done, to_yaml(self.evaluate))

    def _finished(self) -> bool:
        """Whether the results are there, of these settings.

        Raises:
            UserError: they, or what was trained of them so far, are there of others.
        """
        if not self.begun.exists():
            return False
        kept = check(TrainConfig, yaml.safe_load(self.begun.read_text()))
        same = kept.resume_identity() == self.train.resume_identity() and kept.corpus == self.train.corpus
        if not same or (self.done.exists() and self.done.read_text() != to_yaml(self.evaluate)):
            raise UserError(
                f"{self.train.directory} was trained or scored with other settings than the experiment has now, so one table "
                "cannot hold both; give the experiment another name, or delete that folder"
            )
        return self.done.exists()

    def _launch(self, program: str, arguments: list[str]) -> None:
        several = [*command("torchrun"), "--standalone", "--nproc-per-node", str(self.processes), *command(program)[1:]]
        started = several if self.processes > 1 else command(program)
        log.info("%s %s", program, " ".join(arguments))
        if subprocess.run([*started, *arguments], check=False).returncode:
            raise FailedError(f"{program} of {self.point.name}, seed {self.seed} failed, see above")


def plan_runs(config: ExperimentConfig) -> list[ExperimentRun]:
    """All runs, checked, in the order of the seeds: after the first seed there is a whole table.

    Raises:
        UserError: settings of a method, or of the evaluation, that are not valid.
    """
    folder = config.out / config.name
    claim_folder(folder, "experiment", "name= or out=")
    _write(folder / "train.yaml", config.train)
    for method, settings in config.methods.items():
        _write(folder / f"{method}.yaml", settings)
    return [_run(config, folder, point, seed) for seed in config.seeds for point in config.points]


def _run(config: ExperimentConfig, folder: Path, point: Point, seed: int) -> ExperimentRun:
    arguments = [str(folder / "train.yaml"), str(folder / f"{point.method}.yaml")]
    if config.vary:
        arguments.append(f"{config.vary.setting}={point.value}")
    arguments += [f"name={point.name}-seed-{seed}", f"runs={folder / 'runs'}", f"seed={seed}"]
    train = load(TrainConfig, arguments)
    steps, setting = _budget(train, config.images)
    train = load(TrainConfig, [*arguments, setting])
    weights = train.directory / "weights" / f"step-{steps:06d}.safetensors"
    out = {"weights": str(weights), "out": str(train.directory / "score")}
    evaluate = check(EvaluateConfig, config.evaluate | out)
    return ExperimentRun(point, seed, train, evaluate, [*arguments, setting], steps, config.processes)


def _budget(train: TrainConfig, images: int) -> tuple[int, str]:
    """Steps of the training, and the setting that gives an epoch its share of them."""
    per_epoch = max(1, round(images / (images_of_a_step(train) * train.epochs)))
    setting = f"tuples.per_epoch={per_epoch * train.tuples.per_step}" if train.tuples else f"batches.per_epoch={per_epoch}"
    return per_epoch * train.epochs, setting


def images_of_a_step(train: TrainConfig) -> int:
    """Over all processes, negatives included."""
    if train.batches is not None:
        return train.batches.classes_per_batch * train.batches.images_per_class
    assert train.tuples is not None
    assert train.mining is not None
    return train.tuples.per_step * (2 + train.mining.negatives)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(values, sort_keys=False))
