"""Scores queries against a gallery and its distractors: exact counts, block by block, shared by the ranks of a world."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from largescale.corpus.config import LoaderConfig
from largescale.corpus.workers import worker_count
from largescale.distributed import World
from largescale.evaluation.counting import EDGES, Exchange, count, own_chunks
from largescale.evaluation.records import Found
from largescale.evaluation.results import ProtocolResult, record_file
from largescale.evaluation.rows import Gallery
from largescale.evaluation.scoring import ProtocolScore
from largescale.evaluation.task import Task

QUERIES = 256
SHOWN = 20
PREFIXES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)


def search(task: Task, world: World, out: Path) -> list[ProtocolResult]:
    """Score every protocol; the records of queries are written beside the results.

    Returns:
        The same on every rank, bit for bit, for every number of ranks.
    """
    gallery, prefixes = _gallery(task)
    exchange, workers = world_exchange(world), worker_count(LoaderConfig())
    scores = [ProtocolScore(protocol, task.truth, prefixes) for protocol in task.protocols]
    paths = [out / f"queries-{protocol.name}.jsonl" for protocol in task.protocols]
    queries = len(task.truth.query)
    unjudged = np.zeros((gallery.groups, len(EDGES) - 1), dtype=np.int64)
    with ExitStack() as files, _bar(world, gallery, exchange, queries) as progress:
        writers = [files.enter_context(record_file(path)) for path in paths] if world.is_first else []
        for start in range(0, queries, QUERIES):
            piece = slice(start, min(start + QUERIES, queries))
            judged = task.truth.judged(piece)
            counted = count(task.rows(piece), gallery, judged, SHOWN, exchange, workers, progress)
            unjudged += counted.histogram
            found = [Found(task, score, start, judged, counted, *score.add(judged, counted)) for score in scores]
            for block, write in zip(found, writers, strict=False):
                write(block.records())
    inside = len(task.gallery) - len(task.truth.left_out)
    return [score.result(unjudged, inside, path.name) for score, path in zip(scores, paths, strict=True)]


def _gallery(task: Task) -> tuple[Gallery, list[int]]:
    """All rows with their groups, and the nested numbers of distractors.

    Distractors join in an order drawn from their fingerprints: the first thousand are a fair sample of a corpus that may be
    sorted by subject.
    """
    own, more = len(task.gallery), sum(map(len, task.distractors))
    prefixes = [0, *(n for n in PREFIXES if n < more), *([more] if more else [])]
    group = np.zeros(own + more, dtype=np.int8)
    group[task.truth.left_out] = -1
    names = "|".join(described.used.fingerprint for described in task.distractors)
    seed = int.from_bytes(hashlib.sha256(names.encode()).digest()[:8], "little")
    group[own:] = np.searchsorted(prefixes, np.random.default_rng(seed).permutation(more), "right")
    return Gallery([part for described in (task.gallery, *task.distractors) for part in described.parts], group), prefixes


def world_exchange(world: World) -> Exchange:
    def add(array: np.ndarray) -> np.ndarray:
        total = torch.from_numpy(np.ascontiguousarray(array)).clone()
        dist.all_reduce(total, group=world.control)
        return total.numpy()

    return Exchange(world.rank, world.size, add, world.gather)


@contextmanager
def _bar(world: World, gallery: Gallery, exchange: Exchange, queries: int) -> Iterator[Callable[[int], object]]:
    """Progress of rank 0 in rows, for each block of queries again."""
    mine = own_chunks(gallery, exchange)
    total = (min(mine.stop, len(gallery)) - mine.start) * -(-queries // QUERIES)
    with tqdm(desc="search", total=total, unit="row", unit_scale=True, disable=not world.is_first) as bar:
        yield bar.update
