"""Trains a descriptor network: torchrun --nproc-per-node N launch/train.py [config.yaml] [key=value ...]

The same command continues a run that was stopped. `--help` lists the settings; `--dry-run` tries everything without training.
"""

import largescale
from largescale.config import asked, explain, load
from largescale.program.cli import for_torchrun
from largescale.program.running import run_program
from largescale.training.settings.default_recipe import with_default_recipe
from largescale.training.settings.recipe import TrainConfig, named

USAGE = f"torchrun --nproc-per-node N {for_torchrun('train')} [config.yaml] [key=value ...] [--dry-run] [--help [GROUP]]"
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
    largescale.train(named(config, given), dry)  # from here on with torch: what is wrong with the settings alone was said at once


if __name__ == "__main__":
    run_program(main)
