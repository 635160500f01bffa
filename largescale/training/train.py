"""A whole training in one call, on every rank: what `launch/train.py` runs."""

from largescale.distributed import World
from largescale.program.cli import called
from largescale.training import preflight
from largescale.training.build import build_trainer
from largescale.training.dry_run import rehearse
from largescale.training.finishing import final
from largescale.training.finishing.farewell import farewell
from largescale.training.finishing.leaving import leave_model
from largescale.training.settings.recipe import TrainConfig


def train(config: TrainConfig, dry: bool = False) -> None:
    """Train, evaluate and leave the model folder; goes on where a run of these settings was stopped.

    Every rank of a torchrun calls this; without torchrun it is a world of one.

    Args:
        config: the settings, with a name.
        dry: try everything, write nothing.

    Raises:
        UserError: what would stop the run later: corpus, settings, memory or disk that do not fit; or a callback ended the run.
    """
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
        if world.is_first:
            print(farewell(trainer), flush=True)
        if trainer.finished and not trainer.stopping:
            world.decide(lambda: leave_model(config))
            final.score(config, world)
            model = world.decide(lambda: leave_model(config))  # again: as these evaluations have it
            if world.is_first:
                print(f"model: {model}\nTo search with it:\n  {called('search')} build model={model} source=PICTURES index=INDEX")
