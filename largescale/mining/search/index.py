"""The pool's descriptors, cut over the ranks and searched by all of them together.

Letters: R ranks, P images of one rank's share, Q queries of one rank, B queries of a block, N negatives, D dimensions.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from largescale.distributed import World
from largescale.mining.config import MiningConfig
from largescale.mining.search.exact import ExactSearch
from largescale.mining.search.factory import FactorySearch, Trained, choose
from largescale.mining.search.select import NO_CLUSTER, Found, listed, nothing, select
from largescale.models.metric import COSINE, Space

_BLOCK_BYTES = {"cpu": 2**25, "cuda": 2**29}


class Search(Protocol):
    """Search of one rank's share."""

    def nearest(self, queries: Tensor, excluded: Tensor, caps: Tensor | None = None) -> Found:
        """The best eligible image of each of the N nearest clusters.

        Args:
            queries: `(B, D)` of the descriptors' type.
            excluded: `(B, X)` clusters that are not eligible.
            caps: `(B,)` float64; images that are as similar are not eligible.
        """
        ...


class ShardedIndex:
    """Each rank indexes its own share; a search is a collective in which each rank passes its own queries.

    Exact search gives the same bits for every number of ranks, cut of the pool, block size and number of threads.
    Descriptors must be `usable`.

    Args:
        descriptors: `(P, D)` items of `space` on this rank, float32, or float16 on a GPU and beside one; P may be 0 and may
            differ between ranks. They are searched where they are, and queries may be elsewhere.
        ids, clusters: `(P,)` int64 image ids and cluster keys (see `cluster_keys`).
        trained: what an earlier index of this configuration learnt, instead of training.

    Raises:
        UserError: the FAISS factory string is not valid, or the pool is too small to train it.
    """

    def __init__(
        self,
        config: MiningConfig,
        world: World,
        descriptors: Tensor,
        ids: Tensor,
        clusters: Tensor,
        trained: Trained | None = None,
        space: Space = COSINE,
    ) -> None:
        self.config, self.world, self.space, self.count = config, world, space, config.negatives
        self.bytes_sent = 0
        """To other ranks, so far."""
        images, dim, itemsize = int(world.max(len(descriptors))[0]), descriptors.shape[1], descriptors.element_size()
        block_bytes = config.block_bytes or _BLOCK_BYTES[descriptors.device.type]
        self.block = max(1, block_bytes // (dim * itemsize * world.size))
        """Queries of each rank that are gathered at a time."""
        duplicate = config.duplicate
        self._duplicate = None if duplicate is None else space.inside(torch.tensor(duplicate, dtype=torch.float64)).item()
        kind, parameters = choose(config, images, dim, itemsize)
        chosen = config.model_copy(update={"index": kind, "index_search": parameters})
        self._place = descriptors.device
        share = descriptors, ids, clusters
        self._factory = None if kind == "exact" else FactorySearch(chosen, world, *share, trained, space)
        self._search: Search = self._factory or ExactSearch(*share, config.negatives, block_bytes)

    @property
    def trained(self) -> Trained | None:
        return None if self._factory is None else self._factory.trained

    @property
    def approximate(self) -> bool:
        return self._factory is not None and self._factory.approximate

    def deepen(self) -> bool:
        """Search more of an approximate index from now on; whether any rank had more."""
        return self.world.any(self._factory is not None and self._factory.deepen())

    def search(
        self,
        queries: Tensor,
        excluded: Tensor,
        each_block: Callable[[int], None] = lambda _: None,
        caps: Tensor | None = None,
    ) -> Found:
        """The best eligible images of the N nearest clusters of the whole pool (or farthest), for the queries of this rank.

        Args:
            queries: `(Q, D)` descriptors, of the type of those that are searched; Q may be 0 and may differ between ranks.
            excluded: `(Q, 2)` the clusters of each query and of its positive.
            each_block: called on every rank after each block with the number of this rank's queries in it.
            caps: `(Q,)` float64, on every rank or on none: images that are as similar, in `space`, are not eligible.
        """
        queries = self.space.queries(queries)
        longest = int(self.world.max(len(queries))[0])
        parts = [nothing(0, self.count, queries.device)]
        for start in range(0, longest, self.block):
            part, room = slice(start, start + self.block), min(self.block, longest - start)
            parts.append(self._search_block(queries[part], excluded[part], None if caps is None else caps[part], room))
            each_block(len(queries[part]))
        found = Found(*(torch.cat(column) for column in zip(*parts, strict=True)))
        return found._replace(similarities=self.space.outside(found.similarities))

    def _search_block(self, queries: Tensor, excluded: Tensor, caps: Tensor | None, room: int) -> Found:
        if self.config.order == "farthest":
            found = self._find(-queries, excluded, None, room)
            return found._replace(similarities=-found.similarities)
        if self._duplicate is None:
            return self._find(queries, excluded, caps, room)
        found = self._find(queries, excluded, None, room)
        while self.world.any(bool((copies := found.similarities >= self._duplicate).any())):
            excluded = torch.cat([excluded, found.clusters.masked_fill(~copies, NO_CLUSTER)], 1)
            found = self._find(queries, excluded, None, room)
        return found if caps is None else self._find(queries, excluded, caps, room)

    def _find(self, queries: Tensor, excluded: Tensor, caps: Tensor | None, room: int) -> Found:
        """Gather the block's queries, search this share, give each rank the candidates of its own queries."""
        own = slice(0, len(queries))
        everyone = self._gather(queries, room)  # (R * b, D)
        columns = [excluded, excluded.new_ones((len(excluded), 1))]
        columns += [] if caps is None else [caps.view(torch.int64)[:, None]]
        about = self._gather(torch.cat(columns, 1), room)  # (R * b, X + 1 or X + 2)
        width = excluded.shape[1]
        asked = about[:, width] == 1
        limits = None if caps is None else about[asked, width + 1].view(torch.float64).to(self._place)
        found = nothing(len(everyone), self.count, queries.device)
        nearest = self._search.nearest(everyone[asked].to(self._place), about[asked, :width].to(self._place), limits)
        for column, part in zip(found, nearest, strict=True):
            column[asked] = part.to(column.device)
        candidates = self._exchange(found)  # (b, R * N) each
        return select(listed(*(column[own] for column in candidates)), excluded, self.count)

    def _gather(self, rows: Tensor, room: int) -> Tensor:
        """`(at most b, ...)` of each rank -> `(R * b, ...)` on every rank, with zeros where a rank has fewer than b = `room`."""
        padded = rows.new_zeros((room, *rows.shape[1:]))
        padded[: len(rows)] = rows
        everyone = padded.new_empty((self.world.size * room, *rows.shape[1:]))
        dist.all_gather_single(everyone, padded)
        self.bytes_sent += padded.nbytes * (self.world.size - 1)
        return everyone

    def _exchange(self, found: Found) -> tuple[Tensor, Tensor, Tensor]:
        """Answers `(R * b, N)` to the queries of every rank -> candidates `(b, R * N)` from every rank for own queries."""
        ranks = self.world.size
        packed = torch.stack([found.similarities.view(torch.int64), found.ids, found.clusters], -1)  # (R * b, N, 3)
        received = torch.empty_like(packed)
        dist.all_to_all_single(received, packed)
        self.bytes_sent += packed.nbytes * (ranks - 1) // ranks
        similarities, ids, clusters = received.unflatten(0, (ranks, -1)).transpose(0, 1).flatten(1, 2).unbind(-1)  # (b, R * N)
        return similarities.contiguous().view(torch.float64), ids, clusters
