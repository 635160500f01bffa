"""Run directories for a mining service, as training would have left them, and worlds that serve them."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from largescale.commit import write_text
from largescale.config import load, to_yaml
from largescale.corpus.corpus import Corpus
from largescale.corpus.plan import plan_tuples
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.mining import Generation, Generations, Miner
from largescale.mining.service.service import Service
from largescale.models.build import build_network
from largescale.models.network import RetrievalNet
from largescale.models.weights import save_weights
from largescale.training.settings.recipe import TrainConfig

STEPS, EPOCHS = 4, 3
SETTINGS = [
    *("images.size=64", "loader.workers=0", "model={backbone: 'timm:test_resnet', weights: none}", f"epochs={EPOCHS}"),
    *("tuples={per_step: 4, per_epoch: 16}", "tracking.wandb=off", "bad_images.budget=0.1"),
]


def settings_of(directory: Path, corpus: Path, wait: str) -> TrainConfig:
    place = [f"runs={directory.parent}", f"name={directory.name}", f"corpus={corpus}"]
    return load(TrainConfig, [*SETTINGS, *place, f"mining={{negatives: 2, batch_size: 4, home: service, wait: {wait}}}"])


def network_of(step: int) -> RetrievalNet:
    torch.manual_seed(step)
    return build_network(load(TrainConfig, SETTINGS).model)


def add_weights(directory: Path, corpus: Path, step: int) -> Path:
    path = directory / "weights" / f"step-{step:06d}.safetensors"
    about = {"step": step, "run": directory.name, "corpus": Corpus.open(str(corpus)).manifest.fingerprint}
    save_weights(network_of(step), path, about)
    return path


def make_run(directory: Path, corpus: Path, *steps: int, wait: str = "always") -> Path:
    """A run with the weights of some steps, without training."""
    write_text(directory / "config.yaml", to_yaml(settings_of(directory, corpus, wait)))
    for step in steps:
        add_weights(directory, corpus, step)
    return directory


def generations(directory: Path, corpus: Path) -> Generations:
    return Generations(directory, Corpus.open(str(corpus)).manifest.fingerprint)


def mined(directory: Path, corpus: Path, epoch: int, step: int) -> Generation:
    """A generation of a run, which must be there."""
    found = generations(directory, corpus).read(epoch, step)
    assert found is not None
    return found


def mine_inline(world: World, directory: Path, corpus: Path, epoch: int, step: int) -> Generation | None:
    """What the miner inside of training finds with the weights of a step."""
    config = settings_of(directory, corpus, "never")
    assert config.mining is not None
    assert config.tuples is not None
    opened = Corpus.open(str(corpus))
    usual = config.images, config.mining.batch_size, config.loader, config.precision
    embedder = Embedder.in_world(world, *usual)
    miner = Miner(config.mining, opened, world, embedder, directory, seed=config.seed, bad_images=config.bad_images)
    return miner.run(network_of(step), epoch, step, plan_tuples(opened.manifest, config.tuples, config.seed, epoch))


class Until:
    """Answers `should_stop`: when these generations are there."""

    def __init__(self, directory: Path, *names: tuple[int, int]) -> None:
        self.paths = [Generations(directory, "").path(*name) / "COMPLETE" for name in names]

    def __call__(self) -> bool:
        return all(path.exists() for path in self.paths)


def serve(world: World, directory: Path, *names: tuple[int, int]) -> str:
    """Serve a run until these generations are there, or for ever."""
    return Service(directory, world, Until(directory, *names) if names else lambda: False).follow()


def serve_and_die(world: World, directory: Path, stage: str, victim: int) -> str:
    """Serve a run in which a rank is killed in a stage of the first pass."""
    if world.rank == victim:
        _die_in(stage)
    return serve(world, directory)


def _die_in(stage: str) -> None:
    places: dict[str, tuple[Any, str]] = {
        "embedding": (Miner, "_index"),
        "search": (Miner, "_lost"),
        "commit": (Generations, "commit"),
        "writing": (Generations, "write_part"),
    }
    owner, name = places[stage]
    setattr(owner, name, _killed(getattr(owner, name)))


def _killed(original: Callable[..., Any]) -> Callable[..., Any]:
    def instead(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    return instead
