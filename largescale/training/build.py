"""A trainer and everything that it needs, put together from the settings of a run."""

import logging
from collections.abc import Sequence

import torch

from largescale.corpus.corpus import Corpus
from largescale.corpus.default import default_corpus
from largescale.corpus.plan import label_runs
from largescale.distributed import StopSignal, World
from largescale.mining.service.exchange import TrainingExchange
from largescale.models.build import build_network
from largescale.models.layers import freeze_idle, layers_of, undecayed
from largescale.models.network import RetrievalNet
from largescale.precision import agreed, resolve
from largescale.program.inputs import seen_by, stated, trained_on
from largescale.settings import UserError
from largescale.tracking import TrackedRun, Tracker
from largescale.training import callbacks, preflight
from largescale.training.callbacks import Callback
from largescale.training.callbacks.own import own_callback
from largescale.training.checkpoints.checkpoint import Checkpoints
from largescale.training.checkpoints.mirror import RunMirror
from largescale.training.engine.average import WeightAverage
from largescale.training.engine.build import build_engine
from largescale.training.engine.class_rows import build_loss, learns
from largescale.training.engine.optim import Layers
from largescale.training.engine.recompute import recompute
from largescale.training.engine.step_module import StepModule
from largescale.training.planning.first_projection import start_projection
from largescale.training.planning.planners import build_planner
from largescale.training.settings.recipe import TrainConfig
from largescale.training.trainer import Trainer

log = logging.getLogger(__name__)


def build_trainer(
    config: TrainConfig, world: World, *, first: Sequence[Callback] = (), last: Sequence[Callback] = (), fresh: bool = False
) -> Trainer:
    """The trainer of a run on this rank, the same on every rank; nothing is written yet.

    Args:
        first, last: callbacks before the usual ones, and after those that measure, before the state is saved.
        fresh: build what a run without a checkpoint begins with, whatever is there.

    Raises:
        UserError: what would stop the run later: corpus, settings, memory or disk that do not fit.
    """
    own = [own_callback(callback) for callback in config.callbacks]
    config = config.model_copy(update={"precision": agreed(config.precision, world)})
    corpus = Corpus.open(config.corpus or default_corpus(), config.storage, config.corpus_weights)
    signal = StopSignal(world)
    torch.manual_seed(config.seed)  # all ranks begin with the same weights
    network = build_network(config.model)
    said = [*_said(config, network, freeze_idle(network)), *_left_out(config, corpus)]
    for line in said if world.is_first else ():
        log.info("%s", line)
    config = config.model_copy(update={"images": seen_by(network.contract, config.images)})
    network.contract = trained_on(network.contract, config.images)
    identity = {**config.resume_identity(), "fingerprint of the corpus": corpus.manifest.fingerprint}
    checkpoints = Checkpoints(config.directory / "checkpoints", config.checkpoint, world, identity)
    if not fresh and checkpoints.newest() is None:
        world.decide(lambda: _restore(config))
    if not fresh and checkpoints.newest() is None:
        start_projection(network, config, corpus, world)
    if config.engine.recompute:
        recompute(network.backbone)
    loss = build_loss(config.loss, len(corpus.manifest.label_names), network.dim, world)
    if not learns(loss) and not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(
            f"nothing would learn: model.freeze={config.model.freeze} freezes all of {config.model.backbone}, and loss.name="
            f"{config.loss.name} has no weights of its own; freeze fewer layers, set model.projection, or take a loss with "
            "weights of its own such as arcface"
        )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    module = StepModule(network, loss, world, resolve(config.precision, world.device), layers_in(network))
    engine = build_engine(config.engine, config.optim, module)
    planner = build_planner(config, world, corpus, signal)
    preflight.check_run(config, world, planner, parameters)
    job = TrackedRun(config.directory, config.model_dump(mode="json"), config.name, config.tracking.group or config.name)
    tracker = Tracker(config.tracking, job, world)
    features = [*first, *_features(config, world, signal, checkpoints, [*own, *last])]
    average = WeightAverage(engine.network(), config.average) if config.average else None
    return Trainer(config, world, corpus, engine, planner, tracker, features, checkpoints, average)


def _restore(config: TrainConfig) -> None:
    """From the mirror, where the disk has nothing of the run. One rank calls this."""
    if config.checkpoint.mirror is not None and RunMirror(config.checkpoint.mirror, config.directory).restore():
        log.info("%s was brought from %s", config.directory, config.checkpoint.mirror)


def layers_in(network: RetrievalNet) -> Layers:
    """How the layers of the backbone learn."""
    config = network.config
    numbers = {f"net.backbone.{name}": number for name, number in layers_of(network.backbone).items()}
    plain = {f"net.backbone.{name}" for name in undecayed(network.backbone)}
    return Layers(numbers, plain) if config.unfreeze_at is None else Layers(numbers, plain, config.freeze, config.unfreeze_at)


def _said(config: TrainConfig, network: RetrievalNet, idle: Sequence[str]) -> list[str]:
    """What a person should know of the network before it trains."""
    said = [
        f"{config.model.backbone} sees images with {stated(network.contract, config.images)}",
        f"it trains in {config.precision}",
    ]
    if config.images.augment and config.images.augment.test_scale != 1:
        after = stated(network.contract, seen_by(network.contract, config.images).after_training())
        said.append(f"after training, in evaluations and in use, it sees them with {after}")
    if config.whitening:
        said.append("wherever it is scored, and in use, its descriptors are whitened by what the corpus teaches")
    if config.model.weights == "none":
        said.append("it begins with random weights; model.weights=imagenet downloads published ones, or give a file")
    if idle:
        said.append(f"frozen, because no descriptor depends on them: {', '.join(idle)}")
    return said


def _left_out(config: TrainConfig, corpus: Corpus) -> list[str]:
    """What of the corpus no step can use."""
    manifest = corpus.manifest
    alone = manifest.pairs is not None if config.batches is None else config.batches.images_per_class == 1
    single = 0 if alone else int((label_runs(manifest)[1] == 1).sum())
    return (
        [f"labels with one image, which has no positive: {single:,} of {len(manifest.label_names):,}, left out"] if single else []
    )


def _features(
    config: TrainConfig,
    world: World,
    signal: StopSignal,
    checkpoints: Checkpoints,
    further: Sequence[Callback],
) -> list[Callback]:
    directory = config.directory
    checkpointing = callbacks.Checkpointing(checkpoints, directory / "weights")
    url = config.mining.exchange if config.mining else None
    exchange = TrainingExchange(url, directory) if url and world.is_first else None
    copies = config.checkpoint.mirror
    mirror = RunMirror(copies, directory) if copies and world.is_first else None
    trouble, whitening = callbacks.Trouble(config.trouble), callbacks.FittedWhitening(signal, checkpointing)
    return [
        callbacks.Preemption(signal),
        callbacks.Garbage(),
        callbacks.BadImages(config.bad_images),
        callbacks.Degenerate(),
        callbacks.NonFinite(config.non_finite, directory / "non-finite"),
        trouble,
        callbacks.QuickScore(trouble),
        callbacks.Descriptors(config.evaluation.strips),
        callbacks.Throughput(),
        callbacks.Memory(),
        whitening,
        callbacks.Evaluation(config, signal, checkpointing, whitening),
        *further,
        checkpointing,  # after those whose state it saves
        callbacks.Exchanging(exchange),
        callbacks.Exchanging(mirror),
        callbacks.Console(),
    ]
