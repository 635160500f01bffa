"""Mining at scale, among generated descriptors: how a search grows with the pool, and 7.4 million images on 32 ranks.

`python -m tests.benchmarks.bench_scale` takes about ten minutes of two cores and 5 GB. The replay has the real plan of an
epoch; one process plays the ranks one after the other, searches the share of each for all queries and selects from all
candidates. Seconds are those of the processor, and the rate of the cost model is measured as `launch/mine.py --plan` does it.
"""

import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from largescale.corpus.config import TuplePlanConfig
from largescale.corpus.plan import plan_tuples
from largescale.cpu import own_cores
from largescale.distributed import World
from largescale.mining.config import PlanConfig
from largescale.mining.cost.calibration import searching
from largescale.mining.cost.model import Rates, estimate
from largescale.mining.search.exact import ExactSearch
from largescale.mining.search.select import Found, cluster_keys, listed, select
from tests.benchmarks.bench_mining import draw, extra_memory, search
from tests.benchmarks.table import Row, report
from tests.corpus.synthetic import manifest_of

POOLS, PER_CLUSTER, ROUNDS = (10_000, 100_000, 1_000_000), 10, 3
PLAN = PlanConfig(pool=7_400_000, queries=2000, dim=512, ranks=32, negatives=5)
LABELS = 100_000


def growth(world: World) -> Iterator[Row]:
    """Seconds and memory for an image of the pool, against those of the smallest pool."""
    spent = [_spent(world, pool) for pool in POOLS]
    for pool, (seconds, memory) in zip(POOLS[1:], spent[1:], strict=True):
        name = f"{pool:,} images against {POOLS[0]:,}, for an image"
        yield Row(f"{name}: index and search (CPU us)", 1e6 * seconds, 1e6 * spent[0][0], 1.1, smaller_is_better=True)
        yield Row(f"{name}: memory with descriptors (bytes)", memory, spent[0][1], 1.1, smaller_is_better=True)


def _spent(world: World, pool: int) -> tuple[float, float]:
    """Seconds and bytes for an image."""
    drawn = draw(pool, PLAN.dim, pool // PER_CLUSTER)
    memory, times = extra_memory(lambda: search(world, drawn)) * 2**20 + drawn[0].nbytes, []
    for _ in range(ROUNDS):
        start = time.process_time()
        search(world, drawn)
        times.append(time.process_time() - start)
    return statistics.median(times) / pool, memory / pool


def rows_of(share: slice) -> Tensor:
    """`(P, D)` unit rows of a rank."""
    generator = torch.Generator().manual_seed(share.start)
    return normalize(torch.randn(share.stop - share.start, PLAN.dim, generator=generator))


def replay(world: World) -> Iterator[Row]:
    """An epoch's search as each of the ranks does it, against the model: the median of the ranks, for their shares are equal, and
    one that is slower than the others tells what else the machine did meanwhile."""
    manifest = manifest_of(np.random.default_rng(0).multinomial(PLAN.pool, np.full(LABELS, 1 / LABELS)), shards=300)
    tuples = plan_tuples(manifest, TuplePlanConfig(per_step=8, per_epoch=PLAN.queries), 0, 0)
    keys = torch.from_numpy(cluster_keys(manifest.label.astype(np.int64), np.arange(PLAN.pool)))
    labels = np.stack([tuples.query_labels, tuples.positive_labels], 1).astype(np.int64)
    queries, excluded = normalize(torch.randn(PLAN.queries, PLAN.dim)), torch.from_numpy(labels)
    times, found = [], list[Found]()
    for rank in range(PLAN.ranks):
        share = slice(rank * PLAN.pool // PLAN.ranks, (rank + 1) * PLAN.pool // PLAN.ranks)
        rows, ids = rows_of(share), torch.arange(share.start, share.stop)
        start = time.process_time()
        found.append(ExactSearch(rows, ids, keys[share], PLAN.negatives).nearest(queries, excluded))
        times.append(time.process_time() - start)
    start, own = time.process_time(), slice(0, -(-PLAN.queries // PLAN.ranks))
    everyone = (torch.cat([part[own] for part in column], 1) for column in zip(*found, strict=True))
    chosen = select(listed(*everyone), excluded[own], PLAN.negatives)
    selecting = time.process_time() - start
    assert (chosen.similarities.isfinite()).all()
    rates = Rates(1, 1, searching(PLAN, world, False), 1e9, 1)
    model = next(stage.seconds for stage in estimate(PLAN, rates).stages if stage.name == "search")
    typical = statistics.median(times)
    both = typical + selecting, model
    name = f"{PLAN.pool:,} images, {PLAN.queries:,} queries, {PLAN.ranks} ranks"
    yield Row(f"{name}: larger / smaller of replay and model (CPU s)", max(both), min(both), 1.2, smaller_is_better=True)
    yield Row(f"{name}: the slowest rank against the median (CPU s)", max(times), typical, 1.2, smaller_is_better=True)


def rows() -> Iterator[Row]:
    torch.set_num_threads(own_cores())
    with World.start() as world:
        yield from growth(world)
        yield from replay(world)


if __name__ == "__main__":
    raise SystemExit(0 if report(rows()) else 1)
