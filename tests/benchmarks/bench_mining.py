"""Search and selection against the bare matrix product, the way of cirtorch and FAISS. P images, Q queries, D dimensions.

Times against a product are of processors: what else the machine does disturbs them less than it disturbs the clock. Those against
cirtorch are of the clock: its walk leaves all cores but one idle.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from largescale.cpu import own_cores
from largescale.distributed import World
from largescale.mining import MiningConfig, ShardedIndex
from largescale.mining.search.precision import kinds
from tests.benchmarks.table import Row, report
from tests.world import run_world

SIZES = ((512, 10_000), (512, 700), (2048, 700))
"""Dimensions and clusters."""
IMAGES, MANY_IMAGES, QUERIES, NEGATIVES, MEMORY_MB = 20_000, 160_000, 2_000, 5, 150
RANKS = 4
Drawn = tuple[Tensor, Tensor, Tensor, Tensor]


def draw(images: int, dim: int, clusters: int) -> Drawn:
    """Descriptors `(P, D)` that gather around the center of their cluster, clusters `(P,)`, queries `(Q, D)`, their clusters."""
    generator = torch.Generator().manual_seed(0)
    of_cluster = torch.randint(clusters, (images,), generator=generator).sort().values
    pool = torch.randn(clusters, dim, generator=generator)[of_cluster]
    for part in pool.split(2**14):
        part += torch.randn(part.shape, generator=generator)
        part /= part.norm(dim=1, keepdim=True)
    asked = torch.randint(images, (QUERIES,), generator=generator)
    return pool, of_cluster, pool[asked].clone(), of_cluster[asked]


def as_cirtorch(pool: Tensor, clusters: Tensor, queries: Tensor, query_clusters: Tensor) -> list[list[int]]:
    """One product, every column sorted whole, and for each query a walk down its column that reads one element at a time.

    Descriptors are columns, `(D, P)` and `(D, Q)`, as cirtorch holds them; on the way it adds up the distances of the negatives.
    """
    ranking = torch.sort(pool.T @ queries, dim=0, descending=True).indices  # (P, Q)
    of_image, chosen, distance = clusters.tolist(), [], torch.zeros(())
    for q, own in enumerate(query_clusters.tolist()):
        taken, negatives, place = [own], list[int](), 0
        while len(negatives) < NEGATIVES:
            image = int(ranking[place, q])
            if of_image[image] not in taken:
                negatives.append(image)
                taken.append(of_image[image])
                distance += (queries[:, q] - pool[:, image]).square().sum().sqrt()
            place += 1
        chosen.append(negatives)
    return chosen


def seconds(
    actions: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Median time of each, of processors unless told otherwise; they take turns, so that what disturbs meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            start = clock()
            action()
            times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def extra_memory(action: Callable[[], object]) -> float:
    """Megabytes by which the resident memory of this process grows at most."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    action()
    return (_resident("VmHWM") - before) / 1024


def _resident(name: str) -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))


def search(world: World, drawn: Drawn, kind: str = "exact") -> tuple[Tensor, int]:
    """Index the pool and find the negatives: ids `(Q, N)` of this rank's queries, and the bytes that it sent."""
    pool, clusters, queries, own = drawn
    share, asked = world.share(len(pool)), world.share(len(queries))
    config = MiningConfig(negatives=NEGATIVES, index=kind)
    index = ShardedIndex(config, world, pool[share], torch.arange(len(pool))[share], clusters[share])
    return index.search(queries[asked], own[asked, None].repeat(1, 2)).ids, index.bytes_sent


def small(world: World, dim: int, clusters: int) -> Iterator[Row]:
    drawn = draw(IMAGES, dim, clusters)
    pool, of_cluster, queries, own = drawn
    columns = pool.T.contiguous(), of_cluster, queries.T.contiguous(), own
    size = f"{IMAGES:,} x {dim}, {clusters:,} clusters"
    memory = extra_memory(lambda: search(world, drawn))
    assert search(world, drawn)[0].tolist() == as_cirtorch(*columns)
    actions = {"ours": lambda: search(world, drawn), "product": lambda: pool @ queries.T}
    times = seconds(actions, 5)
    yield Row(f"{size}: index, search, select, product (CPU s)", times["ours"], times["product"], 1.35, smaller_is_better=True)
    times = seconds({"ours": actions["ours"], "peer": lambda: as_cirtorch(*columns)}, 3, time.perf_counter)
    rates = {name: QUERIES / value for name, value in times.items()}
    yield Row(f"{size}: ours, cirtorch (queries/s)", rates["ours"], rates["peer"], 9 if dim == 512 else 4.5)
    yield Row(f"{size}: memory beside descriptors (MB)", memory, MEMORY_MB, 1, smaller_is_better=True)


def large(world: World) -> Iterator[Row]:
    drawn = draw(MANY_IMAGES, 512, 10_000)
    pool, _, queries, _ = drawn
    size = f"{MANY_IMAGES:,} x 512"
    memory = extra_memory(lambda: search(world, drawn))

    def product() -> None:
        for part in queries.split(256):
            _ = pool @ part.T

    ids = {kind: search(world, drawn, kind)[0] for kind in ("exact", "Flat")}
    assert torch.equal(ids["exact"], ids["Flat"])
    times = seconds({"ours": lambda: search(world, drawn), "product": product, "faiss": lambda: search(world, drawn, "Flat")}, 3)
    goal = 1.0 if torch.bfloat16 in kinds(pool.device) else 1.25
    yield Row(f"{size}: index, search, select, product (CPU s)", times["ours"], times["product"], goal, smaller_is_better=True)
    yield Row(f"{size}: exact search by torch, by FAISS (CPU s)", times["ours"], times["faiss"], 1, smaller_is_better=True)
    yield Row(f"{size}: memory beside descriptors (MB)", memory, MEMORY_MB, 1, smaller_is_better=True)


def shared(world: World) -> tuple[float, int, int]:
    """Median processor time of this rank, bytes that it sent, and its longest share of the queries."""
    drawn = draw(MANY_IMAGES, 512, 10_000)
    sent = search(world, drawn)[1]
    gc.collect()
    return seconds({"ours": lambda: search(world, drawn)}, 3)["ours"], sent, -(-QUERIES // world.size)


def ranks() -> Iterator[Row]:
    (alone, *_), *_ = run_world(1, shared, timeout_s=300)
    several = run_world(RANKS, shared, timeout_s=300)
    together = sum(used for used, *_ in several)
    size = f"{MANY_IMAGES:,} x 512"
    yield Row(f"{size}: {RANKS} processes, one process (CPU s)", together, alone, 1.15, smaller_is_better=True)
    sent, model = several[0][1], (RANKS - 1) * several[0][2] * (512 * 4 + 3 * 8 + NEGATIVES * 24)
    assert sent == model
    yield Row(f"{size}: {RANKS} processes: bytes that one sends, by the formula", sent, model, 1, smaller_is_better=True)


if __name__ == "__main__":
    torch.set_num_threads(own_cores())
    with World.start() as world:
        report(chain(*(small(world, *size) for size in SIZES), large(world)))
    report(ranks())
