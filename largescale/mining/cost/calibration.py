"""The rates of the cost model, measured on the ranks that run: each does a little of every stage, all at the same time.

On processors the time is that of the process, not of the clock, so that more ranks than cores do not falsify it.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist

from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.loading import load_pass, parts_of
from largescale.cpu import cores_of_node, own_threads
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.mining.config import MiningConfig, PlanConfig
from largescale.mining.cost.model import Rates
from largescale.mining.search.index import ShardedIndex
from largescale.models.network import RetrievalNet

ROWS, QUERIES, PER_CLUSTER = 2**14, 256, 10
BLOCK = 2**20
"""Numbers that each rank sends at a time."""
_ALONE = LoaderConfig(workers=0)


def measure(plan: PlanConfig, corpus: Corpus, images: ImagesConfig, network: RetrievalNet, batch: int, world: World) -> Rates:
    """The rates of an average rank of this world. Called by all ranks together.

    Args:
        batch: images of a group.
    """
    gpu = world.device.type == "cuda"
    sample = np.linspace(0, len(corpus.manifest) - 1, min(plan.sample, len(corpus.manifest))).astype(np.int64)

    def decode() -> None:
        for _ in load_pass(corpus, parts_of(corpus.manifest, sample, batch), images, batch=batch, loader=_ALONE):
            pass

    def embed_all() -> None:
        for _ in Embedder(images, batch, _ALONE, world.device).embed(network, corpus, sample):
            pass
        _settle(gpu)

    with own_threads():
        decoding = _seconds(decode, world, False)
        both = _seconds(embed_all, world, gpu)
        rate = searching(plan, world, gpu)
    return Rates(
        decode=len(sample) / decoding,
        forward=len(sample) / max(both - decoding, 1e-9),
        search=rate,
        network=sending(world),
        cores=cores_of_node() / world.local_size,
        gpu=gpu,
    )


def _seconds(action: Callable[[], object], world: World, gpu: bool) -> float:
    """The faster of two times, as the mean over ranks: by the clock where a GPU works, else of the process."""
    clock, times = time.perf_counter if gpu else time.process_time, []
    for _ in range(2):
        world.barrier()
        start = clock()
        action()
        times.append(clock() - start)
    return world.sum(min(times))[0] / world.size


def searching(plan: PlanConfig, world: World, gpu: bool) -> float:
    """FLOP/s of a search with descriptors of this dimension, on a core or a GPU."""
    kind, here = (torch.float16 if gpu else torch.float32), world.device
    generator = torch.Generator().manual_seed(world.rank)
    pool = torch.nn.functional.normalize(torch.randn(ROWS, plan.dim, generator=generator)).to(here, kind)
    ids = torch.arange(ROWS, device=here) + world.rank * ROWS
    index = ShardedIndex(MiningConfig(negatives=plan.negatives, index="exact"), world, pool, ids, ids // PER_CLUSTER)
    queries, excluded = pool[:QUERIES], (ids // PER_CLUSTER)[:QUERIES, None].repeat(1, 2)

    def search() -> None:
        index.search(queries, excluded)
        _settle(gpu)

    return 2.0 * ROWS * QUERIES * world.size * plan.dim / _seconds(search, world, gpu)


def sending(world: World) -> float:
    """Bytes per second that each rank sends while all gather; of one rank alone, copies in memory stand for the network."""
    block = torch.zeros(BLOCK, device=world.device)
    everyone = block.new_empty(world.size * BLOCK)

    def gather() -> None:
        dist.all_gather_single(everyone, block)
        _settle(world.device.type == "cuda")

    return block.nbytes * max(world.size - 1, 1) / _seconds(gather, world, True)


def _settle(gpu: bool) -> None:
    if gpu:
        torch.cuda.synchronize()
