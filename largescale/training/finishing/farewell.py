"""What a run says at its end: what there is and what comes next."""

import shlex
import sys
from pathlib import Path

from largescale.distributed import World
from largescale.program.cli import for_torchrun
from largescale.training.checkpoints.checkpoint import best_of
from largescale.training.settings.recipe import TrainConfig
from largescale.training.trainer import Trainer


def farewell(trainer: Trainer) -> str:
    """Of a run that has ended: how to train on, and to score its weights, or, of one that was stopped, how to go on."""
    config, world = trainer.config, trainer.world
    directory, step, total = config.directory, trainer.progress.step, trainer.total_steps
    if trainer.finished and not trainer.stopping:
        return f"{directory} is finished: {step:,} steps. {_more(config, step)}\n{_result(config, world, step)}"
    command = command_of(world, config.name)
    return f"{directory} is stopped by {trainer.stopping} after step {step:,} of {total:,}. To go on:\n  {command}"


def _more(config: TrainConfig, step: int) -> str:
    """How to train on."""
    if config.schedule.name == "cosine":  # which ends at the last epoch, so that more of them are another run
        return f"To train on from its weights: name=NEW model.weights={_weights(config, step)}"
    return f"More epochs continue it: epochs={2 * config.epochs}"


def _result(config: TrainConfig, world: World, step: int) -> str:
    """The best score and its weights, where there was an evaluation, and the command that scores them."""
    settings = config.evaluation
    best = best_of(config.directory / "checkpoints")
    weights = _weights(config, best.get("step", step))
    found = f"best score {100 * best['score']:.2f} at step {best['step']:,}: {weights}" if best else f"weights: {weights}"
    gallery = settings.gallery or "CORPUS"
    queries = f" queries={settings.queries}" if settings.queries else ""
    program = f"torchrun --nproc-per-node {world.local_size} {for_torchrun('evaluate')}"
    return f"{found}\nTo score them:\n  {program} weights={weights} gallery={gallery}{queries}"


def _weights(config: TrainConfig, step: int) -> Path:
    return config.directory / "weights" / f"step-{step:06d}.safetensors"


def command_of(world: World, name: str) -> str:
    """What starts this run again."""
    named = any(argument.startswith("name=") for argument in sys.argv)
    program, *given = sys.argv
    module = ["-m", *program.split()] if program.startswith("largescale ") else [program]
    arguments = [*module, *given, *([] if named else [f"name={name}"])]
    nodes = world.size // world.local_size
    several = f"--nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint HOST:PORT " if nodes > 1 else ""
    return f"torchrun {several}--nproc-per-node {world.local_size} {shlex.join(arguments)}"
