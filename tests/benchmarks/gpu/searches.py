"""Search for negatives, torch's and that of FAISS, beside torch's on the CPU. P rows of the pool, Q queries, N negatives."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from largescale.distributed import World
from largescale.mining.config import MiningConfig
from largescale.mining.search.exact import ExactSearch
from largescale.mining.search.index import ShardedIndex
from largescale.mining.search.placed import has_gpu
from largescale.mining.search.select import Found
from largescale.program.extras import faiss
from tests.benchmarks.gpu.measure import GIB, Place, Row, forget_memory, memory, peak, seconds

QUERIES, CLUSTER, PROBES = 256, 10, 32


def by_torch(place: Place) -> Iterator[Row]:
    """In single precision, as a GPU keeps the pool for distances; in half precision, as it does for the cosine; and in the memory
    of the node, where the recall of lists is measured."""
    on_gpu, limit, pool = place.device.type == "cuda", peak(place.device), _pool(place)
    with World.start() as world:
        for kind in (torch.float32, torch.float16) if on_gpu else (torch.float32,):
            rows, name = pool.to(kind), f"exact search by torch, {str(kind).removeprefix('torch.')}"
            wanted = _wanted(rows)
            forget_memory(place.device)
            search = _search(world, MiningConfig(index="exact"), rows.to(place.device))
            same, rate = _same(search, wanted), QUERIES / seconds(search, place.device)
            share = 2 * len(pool) * place.size.dim * rate / limit
            found = f"{same:.1%} of the CPU's ids, {rate:,.0f} queries/s, {share:.1%} of the peak, {memory(place.device)}"
            yield Row(name, found, "100 %", same == 1)
        if on_gpu:
            same = _same(_search(world, MiningConfig(index="exact"), rows), wanted)
            yield Row(f"{name}, pool in the memory of the node", f"{same:.1%} of the CPU's ids", "100 %", same == 1)


def by_faiss(place: Place) -> Iterator[Row]:
    """A flat index of a pool on the device, and lists of one in the memory of the node, where the miner keeps it for them."""
    on_gpu = faiss.installed and has_gpu(place.device)
    if not faiss.installed or (place.device.type == "cuda" and not on_gpu):
        yield Row("FAISS on the GPU", "FAISS for GPUs is not installed")
        return
    pool = _pool(place).to(torch.float16 if on_gpu else torch.float32)
    wanted, where = _wanted(pool), "on the GPU" if on_gpu else "on the CPU"
    lists, probes = f"IVF{place.size.lists},Flat", f"nprobe={min(PROBES, place.size.lists)}"
    with World.start() as world:
        for name, config, rows in (
            ("Flat", MiningConfig(index="Flat"), pool.to(place.device)),
            (f"{lists} {probes}", MiningConfig(index=lists, index_search=probes), pool),
        ):
            free = _free(place.device)
            search = _search(world, config, rows)
            same, rate = _same(search, wanted), QUERIES / seconds(search, place.device)
            held = f", {(free - _free(place.device)) / GIB:.2f} GiB" if on_gpu else ""
            goal = ("100 %", same == 1) if name == "Flat" else ("", None)
            yield Row(f"FAISS {where}, {name}", f"{same:.1%} of the exact ids, {rate:,.0f} queries/s{held}", *goal)


def _pool(place: Place) -> Tensor:
    """`(P, D)` unit rows in the memory of the node."""
    rows = torch.randn(place.size.pool, place.size.dim, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(rows)


def _clusters(pool: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and clusters `(P,)`, and the clusters `(Q, 2)` that are not eligible for the first rows as queries."""
    ids = torch.arange(len(pool))
    return ids, ids // CLUSTER, (ids[:QUERIES] // CLUSTER)[:, None].repeat(1, 2)


def _wanted(pool: Tensor) -> Tensor:
    """`(Q, N)` ids by the CPU, of the rows as they are rounded."""
    ids, clusters, excluded = _clusters(pool)
    rows = pool.float()
    return ExactSearch(rows, ids, clusters, MiningConfig().negatives).nearest(rows[:QUERIES], excluded).ids


def _search(world: World, config: MiningConfig, rows: Tensor) -> Callable[[], Found]:
    """The pool where `rows` are, queries on the world's device."""
    ids, clusters, excluded = _clusters(rows)
    index = ShardedIndex(config, world, rows, ids.to(rows.device), clusters.to(rows.device))
    return partial(index.search, rows[:QUERIES].to(world.device), excluded.to(world.device))


def _same(search: Callable[[], Found], wanted: Tensor) -> float:
    """The share of the wanted ids that are found in their places."""
    return float((search().ids.cpu() == wanted).float().mean())


def _free(device: torch.device) -> int:
    """Bytes that nobody holds on the GPU; FAISS does not ask torch for its own."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
