"""The cost model against generations and searches of four processes on this machine: `python -m tests.benchmarks.bench_cost`.

The rates are measured in the same processes just before, as `launch/mine.py --plan` does it.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from largescale.corpus.config import BadImagesConfig, ImagesConfig, LoaderConfig, TuplePlanConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.plan import plan_tuples
from largescale.cpu import cores_of_node, own_threads
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.mining import Miner, MiningConfig, ShardedIndex
from largescale.mining.config import PlanConfig
from largescale.mining.cost.calibration import measure, searching, sending
from largescale.mining.cost.model import Cost, Rates, estimate
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from tests.benchmarks.table import Row, report
from tests.corpora import encode, photograph, write_corpus
from tests.world import run_world

RANKS, PER_LABEL, SAMPLE, SCENES = 4, 10, 128, 40


@dataclass(frozen=True)
class Setting:
    """A generation."""

    pool: int = 2400
    queries: int = 400
    dim: int = 512
    size: int = 128
    backbone: str = "squeezenet1_1"

    def __str__(self) -> str:
        return f"{self.pool:,} images of {self.size} px, {self.queries:,} queries, {self.dim:,} dimensions, {self.backbone}"

    @property
    def plan(self) -> PlanConfig:
        return PlanConfig(pool=self.pool, queries=self.queries, dim=self.dim, ranks=RANKS, sample=SAMPLE)


SETTINGS = (
    Setting(),
    Setting(pool=4800),
    Setting(queries=2400),
    Setting(dim=2048),
    Setting(size=192),
    Setting(size=192, backbone="timm:test_resnet"),
    Setting(pool=4800, queries=4800, dim=128, size=64),
)


@dataclass(frozen=True)
class Point:
    """A search among descriptors that are there already."""

    pool: int = 40_000
    queries: int = 1000
    dim: int = 512


@dataclass(frozen=True)
class Outcome:
    """Seconds of a generation, or of a search, as the model says and by the clock."""

    cost: Cost
    embed: float
    search: float
    """With the index and the exchange."""

    @property
    def seconds(self) -> float:
        return self.embed + self.search


def generations(world: World, settings: Sequence[Setting], folder: Path) -> list[Outcome]:
    """Called by all ranks; the corpora are there."""
    return [_generation(world, setting, folder) for setting in settings]


def _generation(world: World, setting: Setting, folder: Path) -> Outcome:
    torch.manual_seed(0)
    corpus, images = Corpus.open(str(corpus_of(setting, folder))), ImagesConfig(size=setting.size)
    model, config, loader = (
        ModelConfig(backbone=setting.backbone, projection=setting.dim),
        MiningConfig(),
        LoaderConfig(workers=0),
    )
    network = spread(build_network(model).eval(), corpus, images)
    rates = measure(setting.plan, corpus, images, network, config.batch_size, world)
    embedder = Embedder.in_world(world, images, config.batch_size, loader, "fp32")
    miner = Miner(config, corpus, world, embedder, folder / f"run {setting}", seed=0, bad_images=BadImagesConfig())
    tuples = plan_tuples(corpus.manifest, TuplePlanConfig(per_step=1, per_epoch=setting.queries), 0, 0)
    found = miner.run(network, 0, 0, tuples)
    assert found is not None
    seconds = found.statistics
    rest = seconds["seconds"] - seconds["seconds_embed"]
    return Outcome(estimate(setting.plan, rates), seconds["seconds_embed"], rest)


def spread(network: RetrievalNet, corpus: Corpus, images: ImagesConfig) -> RetrievalNet:
    """Untrained, a network describes all images nearly alike, as no trained one does; about their mean it does not."""
    assert network.projection is not None
    projection, network.projection = network.projection, None
    some = np.arange(0, len(corpus.manifest), len(corpus.manifest) // SAMPLE)
    embedder = Embedder(images, SAMPLE, LoaderConfig(workers=0), torch.device("cpu"), "fp32")
    mean = torch.cat([group.descriptors for group in embedder.embed(network, corpus, some)]).mean(0)
    network.projection = projection
    with torch.no_grad():
        projection.bias.copy_(-projection.weight @ mean)
    return network


def corpus_of(setting: Setting, folder: Path) -> Path:
    return folder / f"corpus-{setting.pool}-{setting.size}"


def make_corpora(settings: Sequence[Setting], folder: Path) -> None:
    for setting in {corpus_of(setting, folder): setting for setting in settings}.values():
        write_corpus(corpus_of(setting, folder), _images(setting), np.arange(setting.pool) // PER_LABEL, shards=8)


def _images(setting: Setting) -> Iterator[tuple[bytes, int, int]]:
    """Few photographs, each view with noise of its own: they are made faster than they are read."""
    width, height, rng = setting.size, setting.size * 3 // 4, np.random.default_rng(0)
    scenes = [photograph(label, 0, width, height).astype(np.float32) for label in range(SCENES)]
    for i in range(setting.pool):
        noise = rng.standard_normal((height, width, 1), np.float32)
        yield encode((scenes[i // PER_LABEL % SCENES] + 12 * noise).clip(0, 255).astype(np.uint8)), width, height


def searches(world: World, points: Sequence[Point]) -> list[Outcome]:
    """Called by all ranks."""
    return [_search(world, point) for point in points]


def _search(world: World, point: Point) -> Outcome:
    plan = PlanConfig(pool=point.pool, queries=point.queries, dim=point.dim, ranks=world.size)
    share, asked = world.share(point.pool), world.share(point.queries)
    generator = torch.Generator().manual_seed(world.rank)
    rows = torch.nn.functional.normalize(torch.randn(share.stop - share.start, point.dim, generator=generator))
    ids = torch.arange(share.start, share.stop)
    queries, own = rows[: asked.stop - asked.start], ids[: asked.stop - asked.start, None].repeat(1, 2) // PER_LABEL
    with own_threads():
        rates = Rates(1, 1, searching(plan, world, False), sending(world), cores_of_node() / world.local_size)
        times = []
        for _ in range(3):
            world.barrier()
            start = time.perf_counter()
            ShardedIndex(MiningConfig(index="exact"), world, rows, ids, ids // PER_LABEL).search(queries, own)
            times.append(world.max(time.perf_counter() - start)[0])
    return Outcome(estimate(plan, rates), 0, sorted(times)[1])


def predicted(outcome: Outcome) -> float:
    """Seconds of the stages that were measured."""
    return outcome.cost.seconds - (0 if outcome.embed else outcome.cost.stages[0].seconds)


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        make_corpora(SETTINGS, Path(folder))
        for setting, outcome in zip(
            SETTINGS, run_world(RANKS, generations, SETTINGS, Path(folder), timeout_s=600)[0], strict=True
        ):
            both = outcome.seconds, predicted(outcome)
            yield Row(f"{setting}: larger / smaller of measured and model (s)", max(both), min(both), 1.2, smaller_is_better=True)


if __name__ == "__main__":
    raise SystemExit(0 if report(rows()) else 1)
