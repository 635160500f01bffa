"""Do old negatives teach as well as fresh ones? `python -m tests.benchmarks.freshness EXPERIMENT.yaml [key=value ...]`

Trains the runs whose negatives are so many epochs old as AGES says, in the place of a service that is always so far behind:
before each epoch it mines with the weights of an earlier boundary, then training goes on by one epoch with what it finds. All
other runs, the scores and the table are those of launch/experiment.py. The same command goes on where it was stopped.
"""

import os
import subprocess
import sys

from largescale.config import load
from largescale.corpus.corpus import Corpus
from largescale.corpus.plan import plan_tuples
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.experiments.config import ExperimentConfig
from largescale.experiments.runs import ExperimentRun, plan_runs
from largescale.mining import Miner
from largescale.models.build import load_network
from largescale.program.running import run_program
from largescale.settings import UserError
from largescale.training.settings.recipe import TrainConfig

ENVIRONMENT = dict(os.environ)
"""Before this process made a world of its own."""
AGES = {"one-epoch-old": 1, "five-epochs-old": 5}


def main(arguments: list[str]) -> None:
    runs = plan_runs(load(ExperimentConfig, arguments))
    with World.start() as world:
        for run in runs:
            if run.point.method in AGES and not run.weights.exists():
                train_behind(run, AGES[run.point.method], world)
    launch("experiment.py", arguments)


def train_behind(run: ExperimentRun, age: int, world: World) -> None:
    """All epochs, each with the negatives that the weights of `age` epochs before its boundary find."""
    config, steps = run.train, run.steps // run.train.epochs
    print(f"{config.directory}: {age} epochs behind", flush=True)
    # before the first step there are no older weights: the miner of training finds the same with those that are there
    launch("train.py", [*run.arguments, "epochs=1", "mining.home=inline"])
    for epoch in range(1, config.epochs):
        mine(config, world, epoch, max(epoch - age, 0) * steps)
        launch("train.py", [*run.arguments, f"epochs={epoch + 1}"])


def mine(config: TrainConfig, world: World, epoch: int, step: int) -> None:
    """Publish the generation of an epoch from the weights of a step, unless training has taken it already."""
    assert config.mining is not None
    assert config.tuples is not None
    corpus = Corpus.open(str(config.corpus), config.storage)
    usual = config.images, config.mining.batch_size, config.loader, config.precision
    embedder = Embedder.in_world(world, *usual)
    miner = Miner(config.mining, corpus, world, embedder, config.directory, seed=config.seed, bad_images=config.bad_images)
    if miner.generations.read(epoch, step) is None:
        network = load_network(config.directory / "weights" / f"step-{step:06d}.safetensors")[0]
        miner.run(network.to(world.device), epoch, step, plan_tuples(corpus.manifest, config.tuples, config.seed, epoch))


def launch(program: str, arguments: list[str]) -> None:
    if subprocess.run([sys.executable, f"launch/{program}", *arguments], env=ENVIRONMENT, check=False).returncode:
        raise UserError(f"{program} failed, see above; the same command goes on")


if __name__ == "__main__":
    run_program(main)
