"""Work of every stage that goes on where it was killed, small enough to be done again and again.

Processes come from a fork server that has imported what they need, so that two hundred kills take minutes.
"""

import hashlib
import os
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

import largescale
from largescale.config import load
from largescale.corpus.config import LoaderConfig
from largescale.describing.config import EmbedConfig
from largescale.distributed import World
from largescale.evaluation import EvaluateConfig, evaluate
from largescale.evaluation.report import write_report
from largescale.mining import Generations
from largescale.models.sharing.folder import Contents, DescriptorConfig, write_folder
from largescale.search.index import Index
from largescale.search.server.config import ServeConfig
from largescale.settings import UserError
from largescale.tensors import checksum_of_tensors, read_tensors
from largescale.training.build import build_trainer
from largescale.training.checkpoints.checkpoint import Checkpoints
from largescale.training.finishing.leaving import leave_model
from largescale.training.settings.config import CheckpointConfig, EngineConfig
from largescale.training.settings.recipe import TrainConfig
from shards.images import Encoding
from shards.sources.folder import Folder
from shards.writer import build
from tests.corpora import make_corpus
from tests.describing.test_program import describe
from tests.distributed.runs import losses
from tests.evaluation.small import SIZE, make_weights, settings, tiny_network, what_was_found
from tests.mining.served import STEPS as SERVED
from tests.mining.served import make_run, serve
from tests.mining.test_miner import CONFIG, EPOCH, STEP, mine_colors
from tests.search.rows import DIM, keys, unit_rows
from tests.search.served import ask, serving
from tests.shards.photographs import write_photographs
from tests.training.small import small_engine, train

STEPS, PARTS, PART, SENT = 6, 6, 40, 8
WAYS = ("all", "all", "one", "paused")
"""What happens to the processes: SIGKILL of all, or of one, whose others must end by themselves; SIGSTOP of one for a while."""


class Stage(NamedTuple):
    """Work that goes on where it was killed."""

    ranks: int
    work: Callable[..., Any]
    arguments: Callable[[Path], tuple[Any, ...]]
    found: Callable[[Path], Any]
    """What is compared at the end."""
    share: float
    """Of the disturbances, by what one costs."""
    ways: tuple[str, ...] = WAYS


def stages(inputs: Path) -> dict[str, Stage]:
    return {**_trainings(inputs), **_minings(inputs), **_readings(inputs), **_searches(inputs), "shards": _shards(inputs)}


def _trainings(inputs: Path) -> dict[str, Stage]:
    corpus, zero = (
        make_corpus(inputs / "learned", labels=8, per_label=4, shards=2, size=48),
        {"kind": "deepspeed", "zero_stage": 2},
    )

    def checkpoints(folder: Path) -> dict[str, str]:
        return files(folder / "checkpoints")

    return {
        "run": Stage(2, fit, lambda folder: (corpus, folder), learned, 0.05),
        "training": Stage(2, train_small, lambda folder: (folder, EngineConfig()), checkpoints, 0.2),
        "training under ZeRO": Stage(2, train_small, lambda folder: (folder, EngineConfig(**zero)), checkpoints, 0.05),
    }


def fit(world: World, corpus: Path, folder: Path) -> None:
    """A whole run: eight steps in two epochs with mined negatives, record, weights, checkpoints, the model that it leaves."""
    settings = ["tuples={per_step: 2, per_epoch: 8}", "mining.negatives=2", "epochs=2", "checkpoint.every=2", "tracking.every=1"]
    settings += [
        "images.size=48",
        "model={backbone: 'timm:test_resnet', weights: none}",
        "loader.workers=0",
        "tracking.wandb=off",
    ]
    config = load(TrainConfig, [*settings, f"corpus={corpus}", f"runs={folder}", "name=run"])
    trainer = build_trainer(config, world)
    trainer.begin()
    trainer.fit()
    world.decide(lambda: leave_model(config))


def learned(folder: Path) -> dict[str, Any]:
    """Losses, and the tensors of checkpoints, weights and model."""
    paths = sorted((folder / "run").rglob("*.safetensors"))
    tensors = {str(path.relative_to(folder)): checksum_of_tensors(read_tensors(path)[0], {}) for path in paths}
    return tensors | {"losses": losses(folder / "run")}


def train_small(world: World, folder: Path, config: EngineConfig) -> None:
    """Six steps with a checkpoint after each, from the newest one on."""
    engine = small_engine(world, config)
    checkpoints = Checkpoints(folder / "checkpoints", CheckpointConfig(keep=2), world, {"a": 1})
    newest = checkpoints.newest()
    step = 0
    if newest is not None:
        checkpoint = checkpoints.load(newest)
        engine.load(checkpoint.tensors)
        step = checkpoint.step
    for number in range(step, STEPS):
        train(engine, range(number, number + 1))
        checkpoints.save(number + 1, engine.state(), {})
    checkpoints.wait()


def _minings(inputs: Path) -> dict[str, Stage]:
    mined = make_corpus(inputs / "mined", labels=12, per_label=4, shards=4, size=16)
    served = make_corpus(inputs / "served", labels=8, per_label=4, shards=4, size=64)

    def service(folder: Path) -> tuple[Any, ...]:
        if not (folder / "run").exists():
            make_run(folder / "run", served, SERVED)
        return folder / "run", (1, SERVED)

    return {
        "mining": Stage(2, mine_colors, lambda folder: (mined, folder, CONFIG), lambda folder: parts(folder, EPOCH, STEP), 0.1),
        "mining service": Stage(2, serve, service, lambda folder: parts(folder / "run", 1, SERVED), 0.1),
    }


def parts(run: Path, epoch: int, step: int) -> list[bytes]:
    """Of a generation."""
    return [path.read_bytes() for path in sorted(Generations(run, "").path(epoch, step).glob("part-*.npy"))]


def _readings(inputs: Path) -> dict[str, Stage]:
    gallery = make_corpus(inputs / "gallery", labels=6, per_label=2, shards=6, size=48)
    weights, network = make_weights(inputs / "weights.safetensors"), tiny_network()
    write_folder(inputs / "model", Contents(network, DescriptorConfig(size=SIZE, dim=network.dim)), "")

    def evaluation(folder: Path) -> tuple[Any, ...]:
        return weights, settings(folder / "out", gallery=str(gallery))

    def embedding(workers: int) -> Callable[[Path], tuple[Any, ...]]:
        usual = {"model": str(inputs / "model"), "source": str(gallery), "loader": LoaderConfig(workers=workers)}
        return lambda folder: (EmbedConfig(out=folder / "out", batch_size=4, **usual),)

    return {
        "evaluation": Stage(2, score, evaluation, lambda folder: what_was_found(folder / "out"), 0.1),
        "embedding": Stage(2, describe, embedding(0), described, 0.1),
        "embedding with reading workers": Stage(
            2, describe_with_workers, embedding(1), described, 0.05, ("worker", "worker", "all")
        ),
    }


def score(world: World, weights: Path, config: EvaluateConfig) -> None:
    """An evaluation and its report."""
    evaluate(weights, config, world)
    world.decide(lambda: write_report(config.out))


def describe_with_workers(world: World, config: EmbedConfig) -> None:
    share_fork_server()
    describe(world, config)


def share_fork_server() -> None:
    """The workers of this process come from the server that it comes from itself, if any, which has imported what they need."""
    if forkserver._forkserver._forkserver_address is not None:  # type: ignore[attr-defined]
        forkserver._forkserver.ensure_running = resource_tracker.ensure_running  # type: ignore[attr-defined]


def described(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "out" / name).read_bytes() for name in ("descriptors.npy", "names.txt")}


def _searches(inputs: Path) -> dict[str, Stage]:
    photographs = write_photographs(inputs / "sent", [f"{n:03d}.jpg" for n in range(SENT)])
    return {
        "index": Stage(
            1, add_parts, lambda folder: (folder / "index",), lambda folder: rows_by_key(folder / "index"), 0.1, ("all",)
        ),
        "serve": Stage(1, send, lambda folder: (inputs / "model", photographs, folder), rows_sent, 0.05, ("all",)),
    }


def add_parts(_: World, folder: Path) -> None:
    """Parts of an index, from the first that is missing on; every third time a row goes and comes again."""
    index = (
        Index.open(folder)
        if (folder / "index.json").exists()
        else Index.create(folder, DIM, factory="auto", memory=200 * DIM * 4)
    )
    for number in range(len(index) // PART, PARTS):
        index.add_rows(unit_rows(PART, seed=number), keys(PART, f"{number} "))
        if number % 3 == 2:
            index.remove([f"{number} 00001"])
            index.add_rows(unit_rows(PART, seed=number)[1:2], [f"{number} 00001"])


def rows_by_key(folder: Path) -> list[bytes]:
    return _rows(folder, [name for number in range(PARTS) for name in keys(PART, f"{number} ")])


def send(_: World, model: Path, photographs: Path, folder: Path) -> None:
    """A server and its client, which writes down what was answered: that must be there when the server comes back."""
    loaded, place, answered = largescale.load(model, device="cpu"), folder / "index", folder / "answered"
    there = (place / "index.json").exists()
    index = Index.open(place, loaded) if there else Index.create(place, loaded.dim, loaded.metric, model=loaded)
    told = answered.read_text().splitlines() if answered.exists() else []
    assert (index.view.find(told) >= 0).all(), "a picture that was said to be kept is lost"
    with serving(index, ServeConfig(index=place, port=0)) as address, answered.open("a", buffering=1) as file:
        for path in sorted(photographs.iterdir()):
            if index.view.find([path.name])[0] < 0:
                try:
                    ask(address, f"/add?key={path.name}", "picture", path)
                except AssertionError as error:
                    raise UserError(str(error)) from None  # as the server has said it
                file.write(f"{path.name}\n")


def rows_sent(folder: Path) -> list[bytes]:
    return _rows(folder / "index", [f"{n:03d}.jpg" for n in range(SENT)])


def _rows(folder: Path, names: list[str]) -> list[bytes]:
    """Of these keys, if all are there."""
    view = Index.open(folder).view
    found = view.find(names)
    return [view.take(found).tobytes()] if (found >= 0).all() else []


def _shards(inputs: Path) -> Stage:
    photographs = write_photographs(inputs / "photographs", [f"{label}/{n:03d}.jpg" for label in "ab" for n in range(20)])
    ways = ("all", "worker", "paused")
    place = "corpus"
    return Stage(1, build_corpus, lambda folder: (photographs, folder / place), lambda folder: files(folder / place), 0.1, ways)


def build_corpus(_: World, photographs: Path, out: Path) -> None:
    share_fork_server()
    build(Folder(photographs), out, Encoding(max_side=24), workers=2)


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder but the hidden ones, by its hash."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {os.fspath(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
