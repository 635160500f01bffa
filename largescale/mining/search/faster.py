"""Two ways of exact search, timed on the descriptors at hand: torch's product with its selection, and a flat FAISS index."""

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from largescale.distributed import World
from largescale.mining.search.index import ShardedIndex

KINDS = ("exact", "Flat")
QUERIES = 256
"""Of each rank, that are timed."""
log = logging.getLogger(__name__)


def faster_exact(world: World, build: Callable[[str], ShardedIndex], queries: Tensor, excluded: Tensor) -> str:
    """`exact` or `Flat`, the same on every rank: both find the same. Called by all ranks together.

    Args:
        build: the index of a kind, over the whole pool.
        queries, excluded: of this rank, see `ShardedIndex.search`.
    """
    seconds = {kind: _seconds(world, build(kind), queries[:QUERIES], excluded[:QUERIES]) for kind in KINDS}
    fastest = world.decide(lambda: min(seconds, key=lambda kind: seconds[kind]))
    if world.is_first:
        took = " and ".join(f"{kind} {seconds[kind]:.3f} s" for kind in KINDS)
        log.info("exact search by mining.index=%s for this run: of the same queries %s", fastest, took)
    return fastest


def _seconds(world: World, index: ShardedIndex, queries: Tensor, excluded: Tensor) -> float:
    """Of the slowest rank; what is done once is done before."""
    index.search(queries[:8], excluded[:8])
    world.barrier()
    start = time.perf_counter()
    index.search(queries, excluded)
    if queries.is_cuda:
        torch.cuda.synchronize()
    return world.max(time.perf_counter() - start)[0]
