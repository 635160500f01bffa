"""An approximate index is measured; it searches deeper until it finds enough, and says so where it does not."""

import logging

import pytest
import torch

from largescale.distributed import World
from largescale.mining import MiningConfig, ShardedIndex
from largescale.mining.search.factory import Trained, choose
from largescale.mining.search.recall import EFFORT, RecallProbe
from tests.world import run_world

PROBED = MiningConfig(index="IVF16,SQ8", depth=64)
COARSE = MiningConfig(index="IVF8,PQ1x2", depth=10)


def index(world: World, config: MiningConfig, trained: Trained | None = None, seed: int = 0) -> ShardedIndex:
    rows = torch.nn.functional.normalize(torch.randn(2000, 32, generator=torch.Generator().manual_seed(seed)))
    own = world.share(2000)
    return ShardedIndex(config, world, rows[own], torch.arange(2000)[own], torch.arange(2000)[own] // 4, trained)


def probe(world: World, seed: int = 0) -> RecallProbe:
    queries = torch.nn.functional.normalize(torch.randn(100, 32, generator=torch.Generator().manual_seed(seed + 1)))
    own = world.share(100)
    return RecallProbe(world, index(world, MiningConfig(index="exact"), seed=seed), queries[own], torch.zeros(100, 2).long()[own])


def deepened(world: World) -> tuple[float, float, Trained | None]:
    made, truth = index(world, PROBED), probe(world)
    first = truth.recall(made)
    return first, truth.deepen(made, 0.95), made.trained


@pytest.mark.slow
@pytest.mark.distributed
def test_a_search_of_few_lists_goes_deeper_until_it_finds_enough() -> None:
    answers = run_world(2, deepened)
    for first, recall, trained in answers:
        assert first < 0.6
        assert recall >= 0.95
        assert trained is not None
        assert 2 <= trained.effort <= EFFORT
        assert (first, recall) == answers[0][:2]


def reused(world: World) -> tuple[bool, float, float]:
    made, truth = index(world, PROBED), probe(world)
    recall = truth.deepen(made, 0.95)
    again = index(world, PROBED, made.trained)
    assert made.trained is not None
    assert again.trained is not None
    same = bool((again.trained.empty == made.trained.empty).all()) and again.trained.effort == made.trained.effort
    return same, recall, truth.recall(again)


@pytest.mark.slow
@pytest.mark.distributed
def test_what_was_trained_is_used_again_with_its_effort() -> None:
    [(same, recall, again)] = run_world(1, reused)
    assert same
    assert again == recall


def hopeless(world: World) -> tuple[float, str]:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("largescale.mining.search.recall").addHandler(handler)
    return probe(world).deepen(index(world, COARSE), 0.95), "".join(messages)


@pytest.mark.slow
@pytest.mark.distributed
def test_where_no_depth_is_enough_it_says_so() -> None:
    [(recall, said)] = run_world(1, hopeless)
    assert recall < 0.95
    assert f"finds {100 * recall:.1f} % of the true negatives, 95.0 % are wanted (mining.min_recall)" in said


@pytest.mark.parametrize(
    ("images", "dim", "itemsize", "expected"),
    [
        (100_000, 2048, 4, ("exact", "")),
        (2**21, 2048, 4, ("exact", "")),
        (2**21 + 1, 2048, 4, ("IVF8192,SQ8", "nprobe=16")),
        (2**21 + 1, 2048, 2, ("exact", "")),
        (2**24, 2048, 2, ("IVF16384,PQ256", "nprobe=16")),
    ],
)
def test_auto_is_exact_where_that_fits_else_codes_that_fit(
    images: int, dim: int, itemsize: int, expected: tuple[str, str]
) -> None:
    assert choose(MiningConfig(), images, dim, itemsize) == expected
    assert choose(MiningConfig(index="Flat"), images, dim, itemsize) == ("Flat", "")
