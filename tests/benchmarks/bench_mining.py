"""Search and selection against the bare matrix product, and against the way of cirtorch. P images, Q queries, D dimensions."""

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from largescale.distributed import World, own_cores
from largescale.mining import MiningConfig, ShardedIndex
from tests.benchmarks.table import Row, report

SIZES = ((512, 10_000), (512, 700), (2048, 700))
"""Dimensions and clusters."""
IMAGES, QUERIES, NEGATIVES, MEMORY_MB = 20_000, 2_000, 5, 150


def draw(dim: int, clusters: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Descriptors `(P, D)` that gather around the centre of their cluster, clusters `(P,)`, queries `(Q, D)`, their clusters."""
    generator = torch.Generator().manual_seed(0)
    of_cluster = torch.randint(clusters, (IMAGES,), generator=generator).sort().values
    centres = torch.randn(clusters, dim, generator=generator)
    pool = torch.nn.functional.normalize(centres[of_cluster] + torch.randn(IMAGES, dim, generator=generator))
    asked = torch.randint(IMAGES, (QUERIES,), generator=generator)
    return pool, of_cluster, pool[asked].clone(), of_cluster[asked]


def as_cirtorch(pool: Tensor, clusters: Tensor, queries: Tensor, query_clusters: Tensor) -> list[list[int]]:
    """One product, every column sorted whole, and for each query a walk down its column that reads one element at a time."""
    ranking = torch.sort(pool @ queries.T, dim=0, descending=True).indices  # (P, Q)
    of_image, chosen = clusters.tolist(), []
    for q, own in enumerate(query_clusters.tolist()):
        taken, negatives, place = [own], list[int](), 0
        while len(negatives) < NEGATIVES:
            image = int(ranking[place, q])
            if of_image[image] not in taken:
                negatives.append(image)
                taken.append(of_image[image])
            place += 1
        chosen.append(negatives)
    return chosen


def seconds(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median of each; they take turns, so that what else the machine does meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def extra_memory(action: Callable[[], object]) -> float:
    """Megabytes by which the resident memory of this process grows at most."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    action()
    return (_resident("VmHWM") - before) / 1024


def _resident(name: str) -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))


def measure(world: World, dim: int, clusters: int) -> Iterator[Row]:
    pool, of_cluster, queries, own = draw(dim, clusters)
    excluded = own[:, None].repeat(1, 2)
    index = ShardedIndex(MiningConfig(negatives=NEGATIVES), world, pool, torch.arange(IMAGES), of_cluster)

    def ours() -> list[list[int]]:
        return index.search(queries, excluded).ids.tolist()

    def peer() -> list[list[int]]:
        return as_cirtorch(pool, of_cluster, queries, own)

    memory = extra_memory(ours)
    assert ours() == peer()
    size = f"{IMAGES:,} x {dim}, {clusters:,} clusters"
    times = seconds({"ours": ours, "product": lambda: pool @ queries.T}, 9)
    yield Row(f"{size}: search and selection, product (s)", times["ours"], times["product"], 1.35, smaller_is_better=True)
    rates = {name: QUERIES / time for name, time in seconds({"ours": ours, "peer": peer}, 3).items()}
    yield Row(f"{size}: ours, cirtorch (queries / s)", rates["ours"], rates["peer"], 9 if dim == 512 else 4.5)
    yield Row(f"{size}: memory beside descriptors (MB)", memory, MEMORY_MB, 1, smaller_is_better=True)


if __name__ == "__main__":
    torch.set_num_threads(own_cores())
    world = World.start()
    report(chain.from_iterable(measure(world, *size) for size in SIZES))
    world.stop()
