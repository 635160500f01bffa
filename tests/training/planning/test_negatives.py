"""What training reads where a service mines: real generations in a real run directory, two ranks that decide together."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largescale.config import load
from largescale.corpus.corpus import Corpus
from largescale.corpus.plan import Tuples, plan_tuples
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.mining import Generation, Miner
from largescale.mining.generations import Generations, QueryPart
from largescale.mining.miner import excluded_clusters
from largescale.mining.search.select import cluster_keys
from largescale.settings import UserError
from largescale.training.planning.negatives import ServedNegatives
from largescale.training.settings.recipe import TrainConfig
from tests.corpora import make_corpus
from tests.world import run_world

STEPS = 4
SETTINGS = ["tuples={per_step: 8, per_epoch: 32}", "loader.workers=0"]


class Side:
    """A rank of training that reads what a service publishes."""

    def __init__(self, world: World, corpus: Path, run: Path, wait: str, should_stop: Callable[[], bool] = lambda: False) -> None:
        config = load(TrainConfig, [*SETTINGS, f"mining={{home: service, wait: {wait}, negatives: 3}}"])
        assert config.mining is not None
        assert config.tuples is not None
        opened = Corpus.open(str(corpus))
        usual = config.images, config.mining.batch_size, config.loader, config.precision
        embedder = Embedder.in_world(world, *usual, should_stop=should_stop)
        miner = Miner(config.mining, opened, world, embedder, run, seed=0, bad_images=config.bad_images)
        self.world, self.manifest, self.plan, self.generations = world, opened.manifest, config.tuples, miner.generations
        self.negatives = ServedNegatives(miner)

    def tuples(self, epoch: int) -> Tuples:
        return plan_tuples(self.manifest, self.plan, 0, epoch)

    def take(self, epoch: int, resumed: bool = False) -> Generation:
        found = self.negatives.take(self.tuples(epoch), epoch, epoch * STEPS, resumed=resumed)
        assert found is not None
        self.check(found, epoch)
        return found

    def check(self, found: Generation, epoch: int) -> None:
        """The rule holds, whoever chose."""
        excluded = excluded_clusters(self.tuples(epoch))
        keys = cluster_keys(self.manifest.label[found.negatives], found.negatives)
        for row, other in zip(keys.tolist(), excluded.tolist(), strict=True):
            assert len({*row, *other}) == 3 + len({*other})

    def publish(self, epoch: int, step: int) -> None:
        """What a service found: the images of other labels that the step shifts, so that each step gives others."""
        if not self.world.is_first:
            return
        tuples = self.tuples(epoch)
        labels = (tuples.query_labels[:, None] + 1 + (step + np.arange(3)) % 5) % 10  # (Q, 3)
        similarities = np.tile(np.float32([0.9, 0.8, 0.7]), (len(labels), 1))
        part = QueryPart(np.arange(len(labels)), tuples.queries, labels * 4 + epoch % 4, similarities)
        self.generations.begin(epoch, step)
        parts = dict([self.generations.write_part(epoch, step, 0, part)])
        self.generations.commit(epoch, step, parts, [], {"pool": 40.0})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("negatives") / "corpus", 10, 4, shards=2)


def never_waits(world: World, corpus: Path, run: Path) -> dict[str, Any]:
    side = Side(world, corpus, run, "never")
    first = side.take(0)
    side.publish(0, 0)  # too late: the epoch has begun
    again = side.take(0, resumed=True)
    carried = side.take(1)
    side.publish(2, 2 * STEPS - 3)
    side.publish(2, 2 * STEPS - 1)
    own = side.take(2)
    side.publish(2, 2 * STEPS)
    resumed = side.take(2, resumed=True)
    world.barrier()
    if world.is_first:  # the next epoch has nothing to carry
        for path in side.generations.directory.glob("gen-*/part-*"):
            path.unlink()
    world.barrier()
    with pytest.raises(UserError, match="has lost the negatives that epoch 2 began with"):
        side.take(2, resumed=True)
    afresh = side.take(2)
    return {"first": first, "again": again, "carried": carried, "own": own, "resumed": resumed, "afresh": afresh}


@pytest.mark.slow
@pytest.mark.distributed
def test_training_goes_on_with_what_there_is_and_counts(corpus: Path, tmp_path: Path) -> None:
    for found in run_world(2, never_waits, corpus, tmp_path):
        first, carried, own = found["first"], found["carried"], found["own"]
        assert np.isnan(first.similarities).all()
        statistics = dict(first.statistics)
        assert statistics.pop("wait_seconds") == pytest.approx(0, abs=1)
        assert statistics == {"random_negatives": 96, "coverage": 0, "fallbacks": 1}
        assert found["again"].negatives.tobytes() == first.negatives.tobytes()
        # queries of epoch 1 that epoch 0 had too keep what was mined for them
        mined = ~np.isnan(carried.similarities)
        common = np.isin(carried.queries, first.queries)
        assert 0 < common.mean() < 1
        np.testing.assert_array_equal(mined.all(1), common)
        assert not mined[~common].any()
        assert carried.statistics["coverage"] == mined.mean()
        assert (carried.statistics["fallbacks"], carried.statistics["age_steps"]) == (2, STEPS)
        assert (own.step, own.statistics["age_steps"], own.statistics["coverage"]) == (2 * STEPS - 1, 1, 1)
        assert (own.statistics["fallbacks"], own.statistics["pool"]) == (2, 40)
        assert found["resumed"].negatives.tobytes() == own.negatives.tobytes()
        assert found["afresh"].statistics["coverage"] == 0


def waits(world: World, corpus: Path, run: Path, wait: str, delay: float) -> tuple[int, dict[str, float], float]:
    """While training waits, the generation of other weights appears, and then that of the boundary."""
    side = Side(world, corpus, run, wait)
    if wait == "always":
        side.publish(1, STEPS - 1)
    thread = threading.Timer(delay, side.publish, (1, STEPS))
    thread.start()
    start = time.monotonic()
    found = side.take(1)
    seconds = time.monotonic() - start
    thread.cancel()
    return found.step, dict(found.statistics), seconds


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("wait", ["always", "30"])
def test_training_waits_for_the_service(corpus: Path, tmp_path: Path, wait: str) -> None:
    for step, statistics, seconds in run_world(2, waits, corpus, tmp_path, wait, 1.0):
        assert step == STEPS
        assert (statistics["fallbacks"], statistics["age_steps"]) == (0, 0)
        assert 0.5 < statistics["wait_seconds"] <= seconds + 0.1


@pytest.mark.slow
@pytest.mark.distributed
def test_patience_ends(corpus: Path, tmp_path: Path) -> None:
    for _, statistics, _ in run_world(2, waits, corpus, tmp_path, "0.5", 30.0):
        assert (statistics["fallbacks"], statistics["coverage"]) == (1, 0)
        assert 0.5 <= statistics["wait_seconds"] < 5


def stopped(world: World, corpus: Path, run: Path) -> bool:
    end = time.monotonic() + 0.5
    side = Side(world, corpus, run, "always", lambda: world.rank == 1 and time.monotonic() > end)
    return side.negatives.take(side.tuples(0), 0, 0, resumed=False) is None and side.generations.taken(0) is None


@pytest.mark.slow
@pytest.mark.distributed
def test_a_stop_signal_ends_the_waiting_of_all(corpus: Path, tmp_path: Path) -> None:
    assert run_world(2, stopped, corpus, tmp_path) == [True, True]


def refused(world: World, corpus: Path, run: Path) -> str:
    side = Side(world, corpus, run, "never")
    side.generations = Generations(run, "another")
    side.publish(0, 0)
    with pytest.raises(UserError) as caught:
        side.take(0)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.distributed
def test_generations_of_another_corpus_are_refused(corpus: Path, tmp_path: Path) -> None:
    assert "was mined from the corpus another" in run_world(1, refused, corpus, tmp_path)[0]


def test_settings_that_contradict_each_other() -> None:
    for arguments, said in (
        (["mining={wait: always}"], "is read with home=service only"),
        (["mining={home: service, wait: always}", "checkpoint.epochs=2"], "training would wait for ever"),
        (["mining={home: service, wait: -1}"], "mining.wait"),
        (["runs=s3://bucket/runs"], "object storage has not"),
    ):
        with pytest.raises(UserError, match=said):
            load(TrainConfig, arguments)
