"""Trains a descriptor network: torchrun --nproc-per-node N launch/train.py [config.yaml] [key=value ...]

The same command continues a run that was stopped. `--help` lists the settings; `--dry-run` tries everything without training.
"""

from largescale.config import asked, explain, load, run_program
from largescale.training.default_recipe import with_default_recipe
from largescale.training.recipe import TrainConfig, named

USAGE = "torchrun --nproc-per-node N launch/train.py [config.yaml] [key=value ...] [--dry-run] [--help [GROUP]]"
COMMON = (
    *("corpus", "name", "epochs", "seed", "images.size", "model.backbone", "model.pooling", "model.weights", "precision"),
    *("loss.name", "tuples.per_step", "batches.classes_per_batch", "batches.images_per_class", "mining.negatives"),
    *("optim.lr", "schedule.name", "engine.kind", "evaluation.gallery", "checkpoint.every", "tracking.wandb"),
)


def main(arguments: list[str]) -> None:
    if (group := asked(arguments)) is not None:
        print(explain(TrainConfig, USAGE, COMMON, group))
        return
    dry = "--dry-run" in arguments
    given = [argument for argument in arguments if argument != "--dry-run"]
    config = load(TrainConfig, given := with_default_recipe(given))
    train(named(config, given), dry)  # from here on with torch: what is wrong with the settings alone was said at once


def train(config: TrainConfig, dry: bool) -> None:
    from largescale.distributed import World
    from largescale.training import final, preflight
    from largescale.training.build import build_trainer
    from largescale.training.dry_run import rehearse
    from largescale.training.leaving import leave_model

    preflight.check_machine()
    final.finals(config)
    with World.start() as world:
        trainer = build_trainer(config, world, fresh=dry)
        if dry:
            rehearse(trainer)
            return
        final.announce(config, world)
        trainer.begin()
        trainer.fit()
        if trainer.finished:
            world.decide(lambda: leave_model(config))
            final.score(config, world)
            world.decide(lambda: leave_model(config))  # again: as these evaluations have it


if __name__ == "__main__":
    run_program(main)
