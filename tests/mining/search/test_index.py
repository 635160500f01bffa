"""A search by several ranks gives the bits of one rank, and the ids of a brute force."""

import itertools
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from largescale.distributed import World
from largescale.mining import MiningConfig, ShardedIndex
from largescale.models.metric import COSINE, Space
from largescale.settings import UserError
from tests.mining.reference import nearest
from tests.world import run_world

WORLDS = (1, 2, 4)
EXACT = MiningConfig()


@dataclass(frozen=True)
class Case:
    """A pool and queries, and how they are cut."""

    name: str
    pool: Tensor
    ids: Tensor
    clusters: Tensor
    queries: Tensor
    excluded: Tensor
    cuts: tuple[float, ...] = ()
    """Where the pool is cut for 4 ranks, as shares of it; evenly where empty."""
    asked: tuple[float, ...] = ()
    """Where the queries are cut."""
    config: MiningConfig = EXACT
    threads: int = 1
    limited: bool = False
    """Whether each query has a similarity_cap of its own."""
    space: Space = COSINE

    @property
    def similarities(self) -> Tensor:
        """`(Q, P)`."""
        queries, pool = self.queries.double(), self.pool.double()
        return queries @ pool.T if self.space == COSINE else 1 - (queries[:, None] - pool).square().sum(2) / 2

    @property
    def caps(self) -> Tensor | None:
        """Equal to the similarity of some image: what is equal is not below."""
        return self.similarities.sort(1).values[:, -len(self.pool) // 8].contiguous() if self.limited else None


def case(
    name: str, images: int = 300, dim: int = 24, queries: int = 37, clusters: int = 40, copies: int = 0, **settings: object
) -> Case:
    """Coordinates are small multiples of 1/8: every sum of products is exact, so ties are ties."""
    rng, dim = np.random.default_rng(zlib.crc32(name.encode())), 24
    pool = torch.from_numpy(rng.integers(-8, 9, (copies or images, dim)) / 8).float()[torch.arange(images) % (copies or images)]
    of_cluster = torch.from_numpy(np.sort(rng.integers(0, clusters, images)))
    ids = torch.arange(images) * 2 + 2**31 - 100
    of_cluster = torch.where(torch.arange(images) % 9 == 0, -2 - ids, of_cluster)
    chosen = torch.from_numpy(rng.integers(0, images, queries))
    asked = pool[chosen] + torch.from_numpy(rng.integers(-1, 2, (queries, dim)) / 8).float()
    excluded = torch.stack([of_cluster[chosen], of_cluster[(chosen + 1) % images]], 1)
    return Case(name, pool, ids, of_cluster, asked, excluded, **settings)


CASES = [
    case("even"),
    case("four threads", threads=4),
    case("small blocks", config=EXACT.model_copy(update={"block_bytes": 2**13}), queries=150),
    case("copies", copies=11),
    case("fewer clusters than N", clusters=3, images=17),
    case("rank without images", cuts=(0.5, 0.5, 0.9)),
    case("all images on one rank", cuts=(0.0, 0.0, 1.0)),
    case("rank without queries", asked=(0.1, 0.1, 0.2)),
    case("no queries", queries=0),
    case("more ranks than images", images=3, clusters=3),
    case("farthest", config=MiningConfig(order="farthest")),
    case("below caps", limited=True),
    case("below caps, small blocks", limited=True, config=EXACT.model_copy(update={"block_bytes": 2**13})),
    case("below caps with copies", limited=True, copies=11),
    case("without near-duplicates", config=MiningConfig(duplicate=5.0), clusters=8),
    case("without near-duplicates on some ranks", config=MiningConfig(duplicate=3.0), clusters=8, cuts=(0.1, 0.1, 0.2)),
    case("below caps without near-duplicates", config=MiningConfig(duplicate=6.0), limited=True),
    case("flat, farthest", config=MiningConfig(index="Flat", order="farthest", depth=9)),
    case("flat, below caps", config=MiningConfig(index="Flat", depth=9), limited=True),
    case("flat, without near-duplicates", config=MiningConfig(index="Flat", depth=9, duplicate=5.0), clusters=8),
    case("flat", config=MiningConfig(index="Flat", depth=3)),
    case("flat with copies", copies=11, config=MiningConfig(index="Flat", depth=1)),
    case("flat, deeper than the share", images=20, config=MiningConfig(index="Flat", depth=1000), cuts=(0.1, 0.1, 0.2)),
    case("all lists", config=MiningConfig(index="IVF4,Flat", index_search="nprobe=4", depth=300)),
    *(
        case(f"by distance: {name}", space=Space(4.0), **settings)
        for name, settings in {
            "exact": {},
            "copies": {"copies": 11},
            "farthest": {"config": MiningConfig(order="farthest")},
            "below caps": {"limited": True},
            "without near-duplicates": {"config": MiningConfig(duplicate=-3.0), "clusters": 8},
            "flat": {"config": MiningConfig(index="Flat", depth=3)},
            "flat with copies": {"copies": 11, "config": MiningConfig(index="Flat", depth=1)},
            "flat, farthest": {"config": MiningConfig(index="Flat", order="farthest", depth=9)},
            "all lists": {"config": MiningConfig(index="IVF4,Flat", index_search="nprobe=4", depth=300)},
        }.items()
    ),
]


def share(rows: Tensor, cuts: tuple[float, ...], world: World) -> Tensor:
    if world.size < 4 or not cuts:
        return rows[world.share(len(rows))]
    edges = [0, *(round(cut * len(rows)) for cut in cuts), len(rows)]
    return rows[edges[world.rank] : edges[world.rank + 1]]


def search(world: World, cases: list[Case]) -> list[tuple[np.ndarray, np.ndarray]]:
    answers = []
    for case in cases:
        torch.set_num_threads(case.threads)
        pool = (share(rows, case.cuts, world) for rows in (case.pool, case.ids, case.clusters))
        rows, ids, clusters = pool
        index = ShardedIndex(case.config, world, case.space.items(rows), ids, clusters, space=case.space)
        caps = None if case.caps is None else case.space.inside(share(case.caps, case.asked, world))
        found = index.search(*(share(rows, case.asked, world) for rows in (case.queries, case.excluded)), caps=caps)
        answers.append((found.ids.numpy(), found.similarities.numpy()))
    return answers


@pytest.fixture(scope="module")
def answers() -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """For each world, for each case, ids and similarities of all queries."""
    runs = {size: run_world(size, search, CASES) for size in WORLDS}
    return {
        size: [tuple(np.concatenate([rank[i][part] for rank in run]) for part in (0, 1)) for i in range(len(CASES))]
        for size, run in runs.items()
    }


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_equals_brute_force(answers: dict[int, list[tuple[np.ndarray, np.ndarray]]], number: int, size: int) -> None:
    case = CASES[number]
    similarities = case.similarities.numpy()
    sign = -1 if case.config.order == "farthest" else 1
    rows = sign * similarities, case.ids.numpy(), case.clusters.numpy(), case.excluded.tolist()
    caps = None if case.caps is None else case.caps.numpy()
    duplicate = np.inf if case.config.duplicate is None else case.config.duplicate
    ids, values = nearest(*rows, case.config.negatives, caps, duplicate)
    np.testing.assert_array_equal(answers[size][number][0], ids)
    np.testing.assert_array_equal(answers[size][number][1], sign * values)


def blocks_and_bits(world: World) -> list[np.ndarray]:
    """Real numbers, whose products do depend on blocks: similarities for several sizes of a block."""
    generator = torch.Generator().manual_seed(0)
    pool, queries = (torch.nn.functional.normalize(torch.randn(n, 384, generator=generator)) for n in (3000, 200))
    ids, excluded = torch.arange(3000), torch.arange(200)[:, None].expand(-1, 2) * 15 // 10
    own = world.share(3000)
    found = []
    for space, block_bytes in itertools.product((COSINE, Space(1.0)), (2**18, 2**20, 2**26)):
        config = MiningConfig().model_copy(update={"block_bytes": block_bytes})
        lengths = 1 if space == COSINE else 1 + ids[own, None] % 7 / 5  # without them the distance orders as the cosine does
        index = ShardedIndex(config, world, space.items(pool[own] * lengths), ids[own], ids[own] // 10, space=space)
        answer = index.search(queries[world.share(200)], excluded[world.share(200)])
        found.append(np.stack([answer.similarities.view(torch.int64).numpy(), answer.ids.numpy()]))
    return found


@pytest.mark.slow
@pytest.mark.distributed
def test_bits_do_not_depend_on_blocks_nor_ranks() -> None:
    runs = [run_world(size, blocks_and_bits) for size in WORLDS]
    whole = [np.concatenate(parts, axis=1) for run in runs for parts in zip(*run, strict=True)]
    assert len(whole) == 18
    for number, answer in enumerate(whole):
        np.testing.assert_array_equal(answer, whole[number % 6 // 3 * 3])
    assert (whole[0] != whole[3]).any()


def build_wrong(world: World, index: str) -> str:
    rows = torch.nn.functional.normalize(torch.randn(10, 8, generator=torch.Generator().manual_seed(0)))
    try:
        ShardedIndex(MiningConfig(index=index), world, rows, torch.arange(10), torch.arange(10))
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("index", ["IVF9999,Flat", "Flatt", "PQ3"])
def test_an_index_that_cannot_be_built_is_an_error_on_every_rank(index: str) -> None:
    for message in run_world(2, build_wrong, index):
        assert index in message
        assert "mining.index=exact" in message


def exchange(world: World) -> int:
    index = ShardedIndex(MiningConfig(negatives=5), world, torch.eye(8), torch.arange(8), torch.arange(8))
    index.search(torch.eye(8)[: 8 - world.rank], torch.zeros((8 - world.rank, 2), dtype=torch.int64))
    return index.bytes_sent


@pytest.mark.slow
@pytest.mark.distributed
def test_bytes_sent_are_those_of_the_cost_model() -> None:
    """To each other rank, by query of the rank with the most: descriptor, two clusters, a mark, N candidates of 24 bytes."""
    assert run_world(4, exchange) == [3 * 8 * (8 * 4 + 2 * 8 + 8 + 5 * 24)] * 4


@pytest.mark.distributed
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu() -> None:
    [(on_gpu, on_cpu)] = run_world(1, both_devices, gpu=True)
    np.testing.assert_array_equal(on_gpu, on_cpu)


def both_devices(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Half precision on the GPU and the same values in float32 on the CPU."""
    from largescale.mining.search.exact import ExactSearch

    generator = torch.Generator().manual_seed(0)
    pool, queries = (torch.nn.functional.normalize(torch.randn(n, 512, generator=generator)).half() for n in (20000, 300))
    ids, excluded = torch.arange(20000), torch.arange(300)[:, None].expand(-1, 2)
    rows = [pool, ids, ids // 7]
    gpu = ExactSearch(*(row.cuda() for row in rows), 5).nearest(queries.cuda(), excluded.cuda())
    cpu = ExactSearch(pool.float(), ids, ids // 7, 5).nearest(queries.float(), excluded)
    bits = [np.stack([found.ids.cpu().numpy(), found.similarities.view(torch.int64).cpu().numpy()]) for found in (gpu, cpu)]
    return bits[0], bits[1]
