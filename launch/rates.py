"""Finds a learning rate: torchrun --nproc-per-node N launch/rates.py [config.yaml] [key=value ...] [range.low=...]

One short run of the same recipe in which the rate grows from step to step, until the loss rises. `--help` lists the settings.
"""

from largescale.config import asked, explain, load
from largescale.program.cli import for_torchrun
from largescale.program.running import run_program
from largescale.training.rates import RatesConfig
from largescale.training.settings.default_recipe import with_default_recipe
from largescale.training.settings.recipe import named

USAGE = f"torchrun --nproc-per-node N {for_torchrun('rates')} [config.yaml] [key=value ...] [--help [GROUP]]"
COMMON = ("corpus", "range.low", "range.high", "range.steps", "images.size", "model.backbone", "model.weights", "loss.name")


def main(arguments: list[str]) -> None:
    if (group := asked(arguments)) is not None:
        print(explain(RatesConfig, USAGE, COMMON, group))
        return
    given = with_default_recipe(arguments)
    find(named(load(RatesConfig, given), given))


def find(config: RatesConfig) -> None:
    from largescale.distributed import World
    from largescale.training import preflight
    from largescale.training.build import build_trainer
    from largescale.training.rates import RateRange

    preflight.check_machine()
    with World.start() as world:
        trial = config.trial()
        world.decide(lambda: preflight.begin_anew(trial.directory))
        trainer = build_trainer(trial, world, last=[RateRange()])
        trainer.begin()
        trainer.fit()


if __name__ == "__main__":
    run_program(main)
