"""One mining pass: embed the pool and the queries, search, select, publish.

Letters: Q queries of an epoch, q those of this rank, N negatives, D dimensions.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from largescale.corpus.batches.batches import BadImage
from largescale.corpus.config import BadImagesConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.plan import Tuples, plan_pool
from largescale.cpu import own_threads
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.mining.config import MiningConfig
from largescale.mining.faults import within_budget, without_descriptor
from largescale.mining.fill import RandomNegatives
from largescale.mining.generations import Generation, Generations, QueryPart, distances
from largescale.mining.search.embedding_buffer import EmbeddingBuffer
from largescale.mining.search.factory import Trained, choose
from largescale.mining.search.faster import QUERIES, faster_exact
from largescale.mining.search.index import ShardedIndex
from largescale.mining.search.placed import has_gpu
from largescale.mining.search.recall import SAMPLE, RecallProbe
from largescale.mining.search.select import NO_IMAGE, cluster_keys, norms
from largescale.mining.search.similarity_caps import caps
from largescale.mining.stages import Stages
from largescale.mining.stored import StoredPool, choose_stored
from largescale.models.metric import COLUMNS, COSINE, Space
from largescale.models.network import RetrievalNet
from largescale.processes import StoppedError
from largescale.program.progress import progress_bar
from largescale.settings import UserError


class NotPublishedError(UserError):
    """A generation could not be written, for instance because the disk is full. Raised on every rank; nothing is left of it."""


class Miner:
    """Finds the hardest negatives of an epoch's queries. Every rank of a world has one, and all run it at the same time.

    Args:
        embedder: its `should_stop` says whether this rank was asked to stop; the ranks decide together.
    """

    def __init__(
        self,
        config: MiningConfig,
        corpus: Corpus,
        world: World,
        embedder: Embedder,
        run_directory: Path,
        *,
        seed: int,
        bad_images: BadImagesConfig,
    ) -> None:
        self.config, self.corpus, self.world, self.embedder = config, corpus, world, embedder
        self.seed, self.bad_images = seed, bad_images
        self.generations = Generations(run_directory, corpus.manifest.fingerprint)
        self._trained: Trained | None = None
        self._space = COSINE
        self._exact: str | None = None

    def run(self, network: RetrievalNet, epoch: int, step: int, tuples: Tuples) -> Generation | None:
        """Mine and commit the negatives of an epoch; None when the run was asked to stop before they were there.

        With exact search they depend on (weights, manifest, seed, epoch, pool, batch) and not on the number of ranks. A pass
        that was killed leaves nothing that a reader sees; the next one begins again.

        Args:
            step: the step of the network's weights.

        Raises:
            UserError: more images that cannot be used than `bad_images.budget` allows, or fewer clusters than N + 1.
            NotPublishedError: the generation could not be written.
        """
        stages = Stages()
        try:
            with own_threads():
                with stages.time("embed"):
                    pool, queries, faults = self._embed(network, epoch, tuples)
                    self._space = self._measured(network, pool)
                with stages.time("index"):
                    self._trained = self._trained or self._trained_before(epoch, step)
                    limits = caps(self.config, self.world, queries, tuples, self._space)
                    index = self._index(self._chosen(pool, queries, tuples), pool, self._trained)
                with stages.time("recall"):
                    index, recall = self._trusted(index, pool, queries, tuples, limits)
                with stages.time("search"):
                    part = self._search(index, queries, epoch, tuples, limits)
                stored = self._stored(pool, part, epoch, tuples)
                statistics = self._statistics(part, pool, index) | recall
        except StoppedError:
            return None
        statistics |= {"faults": len(faults)} | stages.seconds(self.world)
        return self._publish(epoch, step, part, stored, index.trained if index.approximate else None, faults, statistics)

    def _embed(
        self, network: RetrievalNet, epoch: int, tuples: Tuples
    ) -> tuple[EmbeddingBuffer, EmbeddingBuffer, list[BadImage]]:
        """This rank's descriptors of the pool and of the queries, each image read once, and what no rank could use."""
        pool = plan_pool(self.corpus.manifest, self.config.pool, self.seed, epoch)
        asked = np.union1d(tuples.queries, tuples.positives) if self.config.semi_hard else tuples.queries
        ids, device = np.union1d(pool, asked), self.world.device
        own = self.embedder.own_images(self.corpus, ids)
        by_length = network.metric == "l2"
        kind = torch.float16 if device.type == "cuda" and not by_length else torch.float32
        width = network.dim + (COLUMNS if by_length else 0)
        place = self._place(own[np.isin(own, pool)], width, kind)
        buffers = (
            EmbeddingBuffer(own[np.isin(own, pool)], network.dim, kind, place, width, by_length),
            EmbeddingBuffer(own[np.isin(own, asked)], network.dim, kind, device, zero=by_length),
        )
        faults = list[BadImage]()
        groups = self.embedder.embed(network, self.corpus, ids, progress=self._label(epoch, "embedding"))
        for group in groups:
            for buffer in buffers:
                buffer.put(group.ids, group.descriptors)
            faults += group.bad
        self._heed_stop()
        faults += without_descriptor(self.corpus.manifest, np.union1d(*(buffer.close_up() for buffer in buffers)))
        return buffers[0], buffers[1], within_budget(self.world, self.bad_images, faults, len(ids))

    def _measured(self, network: RetrievalNet, pool: EmbeddingBuffer) -> Space:
        """The space of the pool, whose rows are turned into its items; the longest row decides, whatever the cut."""
        if network.metric == "cosine":
            return COSINE
        lengths = norms(pool.rows[:, :-COLUMNS])
        space = Space.of_length(self.world.max(lengths.max().item() if len(lengths) else 0.0)[0])
        space.complete(pool.rows)
        return space

    def _place(self, own: np.ndarray, dim: int, kind: torch.dtype) -> torch.device:
        """Where the pool's descriptors stand: the device for exact search, else the memory of the node."""
        index, _ = choose(self.config, int(self.world.max(len(own))[0]), dim, kind.itemsize)
        return self.world.device if index == "exact" else torch.device("cpu")

    def _chosen(self, pool: EmbeddingBuffer, queries: EmbeddingBuffer, tuples: Tuples) -> MiningConfig:
        """The settings, with the faster way of exact search where the choice is open; it is made once for the run."""
        largest = int(self.world.max(len(pool.ids))[0])
        kind, _ = choose(self.config, largest, pool.rows.shape[1], pool.rows.element_size())
        if self.config.index != "auto" or kind != "exact" or not has_gpu(self.world.device):
            return self.config
        if self._exact is None:
            held = np.flatnonzero(np.isin(tuples.queries, queries.ids))[:QUERIES]
            excluded = torch.from_numpy(excluded_clusters(tuples)[held]).to(self.world.device)
            asked = queries.take(tuples.queries[held])
            self._exact = faster_exact(self.world, lambda kind: self._index(self._as(kind), pool), asked, excluded)
        return self._as(self._exact)

    def _as(self, kind: str) -> MiningConfig:
        return self.config.model_copy(update={"index": kind, "index_search": ""})

    def _index(self, config: MiningConfig, pool: EmbeddingBuffer, trained: Trained | None = None) -> ShardedIndex:
        clusters = cluster_keys(self.corpus.manifest.label[pool.ids], pool.ids)
        ids, of_image = (torch.from_numpy(column).to(pool.rows.device) for column in (pool.ids, clusters))
        return ShardedIndex(config, self.world, pool.rows, ids, of_image, trained, self._space)

    def _trained_before(self, epoch: int, step: int) -> Trained | None:
        """What the index of an earlier life of the run had learned, so that a resumed run mines what the others would."""

        def read() -> Trained | None:
            before = self.generations.before(epoch, step)
            if before is None or before.index is None:
                return None
            return Trained(before.index, int(before.statistics["effort"]))

        return None if self.config.index == "exact" else self.world.decide(read)

    def _trusted(
        self, index: ShardedIndex, pool: EmbeddingBuffer, queries: EmbeddingBuffer, tuples: Tuples, limits: Tensor | None
    ) -> tuple[ShardedIndex, dict[str, float]]:
        """An index that finds enough of the true negatives, if there is one, and what share it finds.

        What an earlier generation trained is kept while it is good enough.
        """
        if not index.approximate:
            return index, {}
        held = np.flatnonzero(np.isin(tuples.queries, queries.ids))[:: max(1, len(tuples.queries) // SAMPLE)]
        excluded = torch.from_numpy(excluded_clusters(tuples)[held]).to(self.world.device)
        exact = self._index(self._as("exact"), pool)
        probe = RecallProbe(self.world, exact, queries.take(tuples.queries[held]), excluded, _of_rows(limits, held))
        if self._trained is not None and probe.recall(index) < self.config.min_recall:
            index = self._index(self.config, pool)
        recall, self._trained = probe.deepen(index, self.config.min_recall), index.trained
        assert self._trained is not None
        index.bytes_sent = 0
        return index, {"recall": recall, "effort": self._trained.effort}

    def _search(
        self, index: ShardedIndex, queries: EmbeddingBuffer, epoch: int, tuples: Tuples, limits: Tensor | None
    ) -> QueryPart:
        """The negatives of the queries that this rank holds; rank 0 answers for those that no rank could embed."""
        rows, excluded = np.flatnonzero(np.isin(tuples.queries, queries.ids)), excluded_clusters(tuples)  # (q,), (Q, 2)
        with progress_bar(self._label(epoch, "searching"), len(rows), "query") as bar:

            def each_block(count: int) -> None:
                bar.update(count)
                self._heed_stop()

            device_excluded = torch.from_numpy(excluded[rows]).to(self.world.device)
            found = index.search(queries.take(tuples.queries[rows]), device_excluded, each_block, _of_rows(limits, rows))
        ids, similarities = found.ids.cpu().numpy(), found.similarities.float().cpu().numpy()  # (q, N)
        lost = self._lost(rows, len(tuples.queries))
        rows = np.append(rows, lost)
        negatives = np.append(ids, np.full((len(lost), ids.shape[1]), NO_IMAGE), axis=0)
        similarities = np.append(similarities, np.full((len(lost), ids.shape[1]), np.nan, np.float32), axis=0)
        similarities[negatives == NO_IMAGE] = np.nan
        RandomNegatives(self.corpus.manifest, self.seed, epoch).fill(negatives, excluded[rows], rows)
        return QueryPart(rows, tuples.queries[rows], negatives, similarities)

    def _stored(self, pool: EmbeddingBuffer, part: QueryPart, epoch: int, tuples: Tuples) -> StoredPool | None:
        """This rank's share of the descriptors that the generation carries; None where it carries none."""
        if not self.config.stored:
            return None
        own = np.unique(part.negatives[~np.isnan(part.similarities)])
        negatives = np.unique(np.concatenate(self.world.gather(own)))
        ids = choose_stored(self.corpus.manifest, self.config, negatives, excluded_clusters(tuples), self.seed, epoch)
        places = np.flatnonzero(np.isin(ids, pool.ids))
        return StoredPool(places, ids[places], self._space.descriptors(pool.take(ids[places])).cpu().numpy())

    def _lost(self, rows: np.ndarray, count: int) -> np.ndarray:
        """On rank 0 the rows of the plan that no rank holds, elsewhere none."""
        holders = torch.zeros(count, dtype=torch.int32, device=self.world.device)
        holders[torch.from_numpy(rows)] = 1
        dist.all_reduce(holders)
        return np.flatnonzero(holders.cpu().numpy() == 0) if self.world.is_first else rows[:0]

    def _statistics(self, part: QueryPart, pool: EmbeddingBuffer, index: ShardedIndex) -> dict[str, float]:
        random = np.isnan(part.similarities)  # (q, N)
        mined = part.similarities[~random].astype(np.float64)
        sums = (
            len(pool.ids),
            len(part.rows),
            random.any(1).sum(),
            random.sum(),
            mined.sum(),
            distances(mined).sum(),
            index.bytes_sent,
        )
        images, queries, short, filled, similarity, distance, sent = self.world.sum(*sums)
        found = max(queries * random.shape[1] - filled, 1)
        return {
            "pool": images,
            "queries": queries,
            "short_queries": short,
            "random_negatives": filled,
            "coverage": 1 - filled / max(queries * random.shape[1], 1),
            "similarity": similarity / found,
            "distance": distance / found,
            "index_bytes": self.world.max(pool.rows.nbytes)[0],
            "exchanged_bytes": sent,
        }

    def _publish(
        self,
        epoch: int,
        step: int,
        part: QueryPart,
        stored: StoredPool | None,
        trained: Trained | None,
        faults: list[BadImage],
        statistics: Mapping[str, float],
    ) -> Generation:
        try:
            self.world.decide(lambda: self.generations.begin(epoch, step))
            parts = self.world.agree(lambda: self.generations.write_part(epoch, step, self.world.rank, part))
            if stored is not None:
                parts += self.world.agree(lambda: self.generations.write_stored(epoch, step, self.world.rank, stored))
            if trained is not None:
                parts.append(self.world.decide(lambda: self.generations.write_index(epoch, step, trained.empty)))
            self.world.decide(lambda: self.generations.commit(epoch, step, dict(parts), faults, statistics))
        except OSError as error:
            self.world.decide(self.generations.clear)
            raise NotPublishedError(
                f"{self.generations.path(epoch, step)} could not be written ({error}), and nothing of it is left: make room, or "
                "let the folder be written to; the same command goes on"
            ) from error
        generation = self.world.decide(lambda: self.generations.read(epoch, step))
        assert generation is not None
        return generation

    def _label(self, epoch: int, stage: str) -> str | None:
        return f"epoch {epoch}: {stage}" if self.world.is_first else None

    def _heed_stop(self) -> None:
        if self.world.any(self.embedder.should_stop()):
            raise StoppedError


def _of_rows(limits: Tensor | None, rows: np.ndarray) -> Tensor | None:
    return None if limits is None else limits[torch.from_numpy(rows)]


def excluded_clusters(tuples: Tuples) -> np.ndarray:
    """`(Q, 2)` the clusters of each query and of its positive."""
    images = (tuples.query_labels, tuples.queries), (tuples.positive_labels, tuples.positives)
    return np.stack([cluster_keys(labels, ids) for labels, ids in images], 1)
