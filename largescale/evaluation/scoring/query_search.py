"""Searches queries in a gallery and its distractors: exact counts and best rows, block by block, shared by the ranks."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from largescale.commit import committed_file
from largescale.corpus.batches.workers import worker_count
from largescale.corpus.config import LoaderConfig
from largescale.cpu import one_thread
from largescale.distributed import World
from largescale.evaluation.config import ScoreConfig
from largescale.evaluation.descriptors.derived import digest_of, gallery_parts, readable
from largescale.evaluation.protocol.relevance import GalleryRows, Judged
from largescale.evaluation.results import ProtocolResult, record_file
from largescale.evaluation.scoring.records import QueryBlock
from largescale.evaluation.scoring.scores import ProtocolScore, beside_full
from largescale.evaluation.scoring.suspects import Outranking
from largescale.evaluation.search.compression import Compressed
from largescale.evaluation.search.counting import Counted, RankExchange, count, count_scores, own_chunks, similarities
from largescale.evaluation.search.expansion import combine, without
from largescale.evaluation.search.neighbors import nearest
from largescale.evaluation.search.verification import Verifier, in_order_of
from largescale.evaluation.search.visiting import count_visited
from largescale.evaluation.task import Task
from largescale.models.metric import COSINE
from largescale.processes import StoppedError
from largescale.program.progress import progress_bar
from largescale.settings import UserError

Again = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`(Q, D)` queries and the places `(q,)` of some -> their scores `(q, N)`, by which the rows are ranked anew, in [-1, 1]."""
QUERIES = 256
MOST = 200_000
KEPT = 1000
"""Best rows of a query that are stored."""
PREFIXES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)


@dataclass(frozen=True)
class QuerySearch:
    """Counts and best rows of every query, a file per block of queries: what is there is not searched again."""

    task: Task
    rules: ScoreConfig
    store: Path
    identity: str
    """Of the rows that are searched and asked."""
    kept: int = KEPT
    among: int | None = None
    """Only so many of the distractors are there; None: all."""
    anchors: np.ndarray | None = None
    """`(C, D)` of a two-stage search."""
    verifier: Verifier | None = None
    """What compares queries with rows, where the rules say so."""

    @cached_property
    def directory(self) -> Path:
        rules = self.rules.model_dump(mode="json")
        return self.store / f"search-{self._digest(self.task.truth.digest, self.prefixes, rules, self.kept)}"

    @cached_property
    def prefixes(self) -> list[int]:
        """Nested numbers of distractors that are counted in one search.

        Where rows are mixed, a ranking is right for the very rows that it was made of, so each number is a search of its own.
        """
        return self.numbers if self.among is None else [self.among]

    @property
    def numbers(self) -> list[int]:
        more = sum(map(len, self.task.distractors))
        return [0, *(n for n in PREFIXES if n < more), *([more] if more else [])]

    @property
    def _apart(self) -> "list[QuerySearch]":
        """The searches among each number of distractors, where it takes one for each."""
        mixes = self.rules.mixes_rows and self.among is None
        return [replace(self, among=number) for number in self.numbers] if mixes else []

    @property
    def starts(self) -> range:
        return range(0, len(self.task.truth.query), QUERIES)

    def run(self, world: World, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Search the blocks of queries that are not on disk yet; the counts are the same for every number of ranks, bit for bit.

        Raises:
            StoppedError: `should_stop` said so on some rank.
        """
        if self.uncompressed:
            self.uncompressed.run(world, should_stop)
        for of_number in reversed(self._apart):  # the largest first: it may be too large
            of_number.run(world, should_stop)
        missing = world.decide(self._missing)
        if self._apart or not missing:
            return
        gallery, exchange = self._searched(world), world_exchange(world)
        again = self._compressed(gallery) or self._reranker(gallery, world)
        with _bar(world, gallery, exchange, len(missing)) as progress:
            for start in missing:
                if world.any(should_stop()):
                    raise StoppedError
                counted = self._count(start, gallery, again, exchange, progress)
                world.decide(partial(_write, self._file(start), counted))

    def score(self, out: Path | None = None) -> list[ProtocolResult]:
        """Every protocol's scores from the counts on disk.

        Args:
            out: the records of queries are written here, beside the results; None: they are not.
        """
        if self.uncompressed:
            return [beside_full(*both) for both in zip(self._scores(out), self.uncompressed.score(), strict=True)]
        return self._scores(out)

    def _scores(self, out: Path | None) -> list[ProtocolResult]:
        if self._apart:
            *fewer, everything = self._apart
            curves = [of_number.score() for of_number in fewer]
            return [_with_curve(found) for found in zip(*curves, everything.score(out), strict=True)]
        task = self.task
        scores = [ProtocolScore(protocol, task.truth, self.prefixes) for protocol in task.protocols]
        paths = [out / f"queries-{protocol.name}.jsonl" for protocol in task.protocols] if out else []
        missing = self._missing()
        if missing:
            raise UserError(
                f"{len(missing):,} of {len(self.starts):,} blocks of queries are not searched yet: run the step search first"
            )
        unjudged, outranking = [], [Outranking(task, self.kept) for _ in scores]
        with ExitStack() as files:
            writers = [files.enter_context(record_file(path)) for path in paths]
            for start in self.starts:
                judged, counted = task.truth.judged(self._piece(start)), _read(self._file(start))
                unjudged.append(counted.histogram)
                found = [QueryBlock(task, score, start, judged, counted, *score.add(judged, counted)) for score in scores]
                for of_protocol, collected in zip(found, outranking, strict=True):
                    collected.add(of_protocol)
                for of_protocol, write in zip(found, writers, strict=False):
                    write(of_protocol.records())
        inside = len(task.gallery) - len(task.truth.left_out)
        written: Sequence[Path | None] = paths or [None] * len(scores)
        return [
            score.result(np.sum(unjudged, axis=0), inside, collected.suspects(), path)
            for score, collected, path in zip(scores, outranking, written, strict=True)
        ]

    @property
    def uncompressed(self) -> "QuerySearch | None":
        """The same search by the full descriptors, where it is by compressed ones."""
        if self.rules.compression == "none" or self.among is not None:
            return None
        return replace(self, rules=self.rules.model_copy(update={"compression": "none"}))

    def _missing(self) -> list[int]:
        """Blocks of queries that are not on disk, or damaged."""
        names = [field.name for field in fields(Counted)]
        return [start for start in self.starts if not readable(self._file(start), names)]

    def _count(
        self,
        start: int,
        gallery: GalleryRows,
        again: Compressed | Again | None,
        exchange: RankExchange,
        progress: Callable[[int], object],
    ) -> Counted:
        piece, workers = self._piece(start), worker_count(LoaderConfig())
        judged, queries = self.task.truth.judged(piece), self.task.rows(piece).astype(np.float32)
        if self.anchors is not None and self.rules.two_stage is not None:
            visits = self.anchors, self.rules.two_stage.probes
            return count_visited(queries, gallery, judged, *visits, self.kept, exchange, workers, progress)
        how = self.kept, exchange, workers
        expansion = self.rules.query_expansion
        if expansion:
            first = self._verified(start, count(queries, gallery, judged, *how), judged, gallery)
            near = without(self._trusted(first), self.task.truth.own[piece], expansion.neighbors)
            queries = combine(queries, gallery, near, expansion.alpha)
        if isinstance(again, Compressed):
            return again.count(queries, judged, self.rules.rescored, *how, progress)
        if again is None:
            return self._verified(start, count(queries, gallery, judged, *how, progress), judged, gallery)
        own = np.array_split(np.arange(len(queries)), exchange.size)[exchange.rank]
        placed = np.zeros_like(queries)  # at their places: where a row stands in a product decides its last bits
        placed[own] = queries[own]
        parts = exchange.gather(again(placed, own) if len(own) else None)
        scores = np.concatenate([part for part in parts if part is not None])
        return count_scores(scores, gallery, judged, *how, progress)

    def _verified(self, start: int, counted: Counted, judged: Judged, gallery: GalleryRows) -> Counted:
        """With the verified of the first rows before all others, where the rules say so."""
        if self.verifier is None:
            return counted
        config = self.verifier.config
        inliers = self.verifier(start, counted.top_row[:, : config.first])
        return in_order_of(inliers, config.least, counted, judged, gallery)

    def _trusted(self, counted: Counted) -> np.ndarray:
        """`(Q, K)` the rows that may be added to a query; -1 for others."""
        if self.verifier is None:
            return counted.top_row
        rows = counted.top_row[:, : counted.inliers.shape[1]]
        return np.where(counted.inliers >= self.verifier.config.least, rows, -1)

    def _searched(self, world: World) -> GalleryRows:
        """All rows with their groups; each with its nearest others added where the settings say so."""
        gallery, augmentation = _gallery(self.task, self.prefixes), self.rules.database_augmentation
        inside = int((gallery.group >= 0).sum())
        if (augmentation or self.rules.rerank != "none") and inside > MOST:
            raise UserError(
                f"database_augmentation and rerank need the neighbors of all images, which takes the square of their number: at "
                f"most {MOST:,}; here are {inside:,}: leave them out, or use fewer distractors"
            )
        if augmentation is None:
            return gallery

        def augmented(rows: np.ndarray, numbers: slice) -> np.ndarray:
            near, _ = nearest(rows, gallery, augmentation.neighbors, np.arange(numbers.start, numbers.stop))
            return combine(rows, gallery, near, augmentation.alpha)

        directory = self.store / f"augmented-{self._digest(augmentation.model_dump(mode='json'))}"
        return replace(gallery, parts=gallery_parts(directory, gallery, augmented, world))

    def _reranker(self, gallery: GalleryRows, world: World) -> Again | None:
        """What makes the rankings anew from neighbors of neighbors."""
        rules, augmentation, workers = self.rules, self.rules.database_augmentation, worker_count(LoaderConfig())
        if rules.rerank == "none":
            return None
        kept = self._digest(rules.rerank, augmentation and augmentation.model_dump(mode="json"))
        with one_thread():
            from largescale.evaluation.search.reranking import reranker  # with scipy

            rerank = reranker(rules.rerank, gallery, self.store / f"graph-{kept}", world)
        return lambda queries, own: rerank(_present(similarities(queries, gallery, workers)[own], gallery))

    def _compressed(self, gallery: GalleryRows) -> Compressed | None:
        kind = self.rules.compression
        if kind == "none":
            return None
        if gallery.space != COSINE:
            raise UserError(
                f"compression={kind} compares by the cosine, this network's descriptors are compared by distance: leave it out"
            )
        return Compressed(kind, gallery)

    def _digest(self, *values: Any) -> str:
        return digest_of(self.identity, self.task.truth.left_out.tolist(), self.among, *values)

    def _piece(self, start: int) -> slice:
        return slice(start, min(start + QUERIES, len(self.task.truth.query)))

    def _file(self, start: int) -> Path:
        return self.directory / f"queries-{start:08d}.npz"


def _present(similarity: np.ndarray, gallery: GalleryRows) -> np.ndarray:
    """`(Q, N)`, where rows that are left out are like nothing."""
    similarity[:, gallery.group < 0] = -1
    return similarity


def _with_curve(found: Sequence[ProtocolResult]) -> ProtocolResult:
    """The result among all distractors, with those among fewer as its curve."""
    return replace(found[-1], distractor_curve=[result.distractor_curve[-1] for result in found])


def _write(path: Path, counted: Counted) -> None:
    with committed_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: _small(array) for name, array in vars(counted).items()})


def _small(array: np.ndarray) -> np.ndarray:
    fits = array.dtype == np.int64 and array.max(initial=0) < 2**31
    return array.astype(np.int32) if fits else array


def _read(path: Path) -> Counted:
    with np.load(path) as file:
        return Counted(**{name: array.astype(np.int64) if array.dtype == np.int32 else array for name, array in file.items()})


def _gallery(task: Task, prefixes: list[int]) -> GalleryRows:
    """All rows with their groups.

    Distractors join in an order drawn from their fingerprints: the first thousand are a fair sample of a corpus that may be
    sorted by subject.
    """
    own, more = len(task.gallery), sum(map(len, task.distractors))
    group = np.zeros(own + more, dtype=np.int8)
    group[task.truth.left_out] = -1
    names = "|".join(described.used.fingerprint for described in task.distractors)
    seed = int.from_bytes(hashlib.sha256(names.encode()).digest()[:8], "little")
    nested = prefixes if prefixes[0] == 0 else [0, *prefixes]
    group[own:] = np.searchsorted(nested, np.random.default_rng(seed).permutation(more), "right")
    group[group == len(nested)] = -1
    return GalleryRows([part for described in (task.gallery, *task.distractors) for part in described.parts], group, task.space)


def world_exchange(world: World) -> RankExchange:
    def add(array: np.ndarray) -> np.ndarray:
        total = torch.from_numpy(np.ascontiguousarray(array)).clone()
        dist.all_reduce(total, group=world.control)
        return total.numpy()

    return RankExchange(world.rank, world.size, add, world.gather)


@contextmanager
def _bar(world: World, gallery: GalleryRows, exchange: RankExchange, blocks: int) -> Iterator[Callable[[int], object]]:
    """Progress of rank 0 in rows, for each block of queries again."""
    mine = own_chunks(gallery, exchange)
    total = (min(mine.stop, len(gallery)) - mine.start) * blocks
    with progress_bar("search" if world.is_first else None, total, "row", unit_scale=True) as bar:
        yield bar.update
