"""Trains a descriptor network: torchrun --nproc-per-node N launch/train.py [config.yaml] [key=value ...]

The same command continues a run that was stopped. `--help` lists the settings; `--dry-run` tries everything without training.
"""

from largescale.config import explain, load, run_program, to_yaml
from largescale.training.recipe import TrainConfig, with_name


def main(arguments: list[str]) -> None:
    if "--help" in arguments:
        print(explain(TrainConfig, "launch/train.py"))
        return
    dry = "--dry-run" in arguments
    config = load(TrainConfig, with_name([argument for argument in arguments if argument != "--dry-run"]))
    train(config, dry)  # from here on with torch: what is wrong with the settings alone was said at once


def train(config: TrainConfig, dry: bool) -> None:
    import torch

    from largescale.commit import remove_directory, write_text
    from largescale.corpus.default import default_corpus
    from largescale.corpus.loading import Corpus
    from largescale.distributed import StopSignal, World
    from largescale.mining.service.exchange import TrainingExchange
    from largescale.tracking import Tracker
    from largescale.training import Checkpoints, StepModule, WeightAverage, build_engine, callbacks, preflight
    from largescale.training.dry_run import rehearse
    from largescale.training.engine.class_anchors import build_loss
    from largescale.training.planning.first_projection import start_projection
    from largescale.training.planning.planners import build_planner
    from largescale.training.trainer import Trainer

    # -----------------------------------------------------------------------------
    # Processes, and what they read
    preflight.check_machine()
    location = config.corpus or default_corpus()
    world = World.start()
    signal = StopSignal(world)

    # -----------------------------------------------------------------------------
    # Data, network, loss, and who updates the weights
    corpus = Corpus.open(location, config.storage)
    torch.manual_seed(config.seed)  # all ranks begin with the same weights
    network = config.model.build()
    identity = {**config.resume_identity(), "fingerprint of the corpus": corpus.manifest.fingerprint}
    checkpoints = Checkpoints(config.directory / "checkpoints", config.checkpoint, world, identity)
    if checkpoints.newest() is None and not dry:
        start_projection(network, config, corpus, world)
    loss = build_loss(config.loss, len(corpus.manifest.label_names), network.dim, world)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    engine = build_engine(config.engine, config.optim, StepModule(network, loss, world, autocast=config.engine.autocast))
    planner = build_planner(config, world, corpus, signal)
    preflight.check_run(config, world, planner, parameters)

    # -----------------------------------------------------------------------------
    # What is measured, saved and watched
    directory = config.directory
    tracker = Tracker(config.tracking, directory, config.model_dump(mode="json"), world)
    checkpointing = callbacks.Checkpointing(checkpoints, directory / "weights")
    url = config.mining.exchange if config.mining else None
    exchange = TrainingExchange(url, directory) if url and world.is_first else None
    features = [
        callbacks.Preemption(signal),
        callbacks.Garbage(),
        callbacks.BadImages(config.bad_images),
        callbacks.Degenerate(),
        callbacks.NonFinite(config.non_finite, directory / "non-finite"),
        callbacks.Throughput(),
        callbacks.Memory(),
        callbacks.Evaluation(config, signal, checkpointing),
        checkpointing,  # after those whose state it saves
        callbacks.Exchanging(exchange),
        callbacks.Console(),
    ]
    average = WeightAverage(engine.network(), config.ema.decay) if config.ema.decay else None
    trainer = Trainer(config, world, corpus, engine, planner, tracker, features, average)
    if dry:
        rehearse(trainer, parameters)
        return

    # -----------------------------------------------------------------------------
    # Go, or go on
    world.decide(lambda: preflight.claim(directory))
    newest = checkpoints.newest()
    if newest is None:  # negatives and weights without a checkpoint are of a run that nobody continues
        world.decide(lambda: [remove_directory(directory / name) for name in ("negatives", "weights")])
    trainer.begin(checkpoints.load(newest) if newest else None)
    world.decide(lambda: write_text(directory / "config.yaml", to_yaml(config)))
    trainer.fit()
    tracker.close()
    world.stop()


if __name__ == "__main__":
    run_program(main)
