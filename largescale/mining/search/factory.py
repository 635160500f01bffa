"""Search of one rank's share in a FAISS index: candidate lists, scored again and selected; deeper where clusters lack.

Letters: P images of the share, B queries, K candidates, N negatives, D dimensions.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from largescale.distributed import World
from largescale.mining.config import MiningConfig
from largescale.mining.search.exact import ExactSearch
from largescale.mining.search.placed import PlacedIndex, to_gpu
from largescale.mining.search.select import NO_IMAGE, Found, NegativeCandidates, norms, nothing, score_pairs, select
from largescale.models.metric import COSINE, Space
from largescale.program.extras import faiss
from largescale.settings import UserError

DEEPER = 4
_PAIRS = 2**20
_ROWS = 2**15
_PROBES = 16


class Trained(NamedTuple):
    """What a later index of other descriptors can take over."""

    empty: np.ndarray
    """The trained, empty FAISS index as bytes."""
    effort: int
    """How often the lists that are visited, and the candidates, were doubled to find enough."""


class FactorySearch:
    """The nearest eligible clusters among the candidates that a FAISS index of this share returns.

    What needs training is trained once, by rank 0 on a sample of the whole pool. The index is on the GPU of the rank where
    FAISS can hold it there; all candidates are scored again, so both find the same.

    Args:
        descriptors: `(P, D)` float32 or float16, items of `space`.
        trained: of an earlier index, instead of training.
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
        # the farthest of a query are the nearest of its opposite by inner product, not by distance
        self._by_distance = space.unit is not None and config.order == "nearest"
        self._rows = space.rows if self._by_distance else COSINE.rows
        self.descriptors, self.ids, self.clusters = descriptors, ids.to(descriptors.device), clusters.to(descriptors.device)
        self.count, self.depth = config.negatives, config.depth
        faiss.omp_set_num_threads(torch.get_num_threads())
        if trained is None:
            sample = _sample(world, self._rows(descriptors), config.index_sample)
            trained = Trained(world.decide(lambda: _train(config, sample, self._by_distance, world.device)), 0)
        self.trained = Trained(trained.empty, 0)
        half = descriptors.dtype == torch.float16
        self._index = PlacedIndex(trained.empty, world.device, config.index_scratch, half)
        for part in descriptors.split(_ROWS) if len(descriptors) else ():
            self._index.add(_array(self._rows(part)))
        self._largest = norms(self._rows(descriptors)).amax() if len(descriptors) else descriptors.new_zeros(())
        for _ in range(trained.effort):
            self.deepen()

    @property
    def approximate(self) -> bool:
        return self._index.approximate

    def deepen(self) -> bool:
        """Visit twice as many lists and take twice as many candidates; whether there were more."""
        probes = self._index.visit_twice()
        more = probes or self.depth < self._index.deepest
        self.depth, self.trained = 2 * self.depth, Trained(self.trained.empty, self.trained.effort + 1)
        return more

    def nearest(self, queries: Tensor, excluded: Tensor, caps: Tensor | None = None) -> Found:
        """As `ExactSearch.nearest`, as far as the index finds it."""
        limits = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device) if caps is None else caps
        return self._nearest(queries, excluded, limits)

    def _nearest(self, queries: Tensor, excluded: Tensor, caps: Tensor) -> Found:
        found = nothing(len(queries), self.count, queries.device)
        depth, left = min(self.depth, self._index.deepest), torch.arange(len(queries), device=queries.device)
        while depth and len(left):
            short = []
            for rows in left.split(max(1, _PAIRS // depth)):
                answer, done = self._deep(queries[rows], excluded[rows], caps[rows], depth)
                for column, part in zip(found, answer, strict=True):
                    column[rows] = part
                short.append(rows[~done])
            left = torch.cat(short)
            depth = 0 if depth == self._index.deepest else min(DEEPER * depth, self._index.deepest)
        if len(left) and self._index.deepest < len(self._index):
            exact = ExactSearch(self.descriptors, self.ids, self.clusters, self.count)  # a GPU gives no more neighbors
            for column, part in zip(found, exact.nearest(queries[left], excluded[left], caps[left]), strict=True):
                column[left] = part
        return found

    def _deep(self, queries: Tensor, excluded: Tensor, caps: Tensor, depth: int) -> tuple[Found, Tensor]:
        """The negatives among the `depth` first neighbors, and for which queries a longer list cannot add to them."""
        asked = self._rows(queries)
        raw, places = (torch.from_numpy(part).to(queries.device) for part in self._index.search(_array(asked), depth))  # (B, K)
        query, column = torch.nonzero(places >= 0, as_tuple=True)
        place = places[query, column]
        similarities = score_pairs(self.descriptors, queries, place, query)
        similarities.masked_fill_(similarities >= caps[query], -torch.inf)
        found = select(NegativeCandidates(similarities, self.ids[place], self.clusters[place], query), excluded, self.count)
        full = found.ids[:, -1] != NO_IMAGE
        if not self.approximate:  # its order is the true one but for rounding (see `precision`)
            full &= found.similarities[:, -1] > self._most(raw[:, -1], norms(asked), asked.shape[1])
        return found, full | (places[:, -1] < 0)

    def _most(self, raw: Tensor, lengths: Tensor, dim: int) -> Tensor:
        """`(B,)` the most that a similarity can be of what FAISS gives for it; `lengths` are those of the queries."""
        if not self._by_distance:
            return raw + dim * 2**-23 * self._largest * lengths
        return 1 - raw / 2 + dim * 2**-23 * (self._largest + lengths).square()


def choose(config: MiningConfig, images: int, dim: int, itemsize: int) -> tuple[str, str]:
    """`index` and `index_search` for the largest share of the pool, where `auto` leaves them open.

    Exact while the descriptors fit; else lists, about 4 sqrt(P) of them, of codes with a byte per dimension, or where these do
    not fit either, a byte for each 8 dimensions. All candidates are scored again with the descriptors.
    """
    if config.index != "auto":
        return config.index, config.index_search
    if images * dim * itemsize <= config.exact_bytes:
        return "exact", ""
    lists = 2 ** round(math.log2(4 * math.sqrt(images)))
    parts = next(parts for parts in range(max(1, dim // 8), 0, -1) if dim % parts == 0)
    codes = "SQ8" if images * dim <= config.exact_bytes else f"PQ{parts}"
    return f"IVF{lists},{codes}", f"nprobe={min(_PROBES, lists)}"


def _sample(world: World, descriptors: Tensor, size: int) -> np.ndarray:
    """On rank 0: about `size` descriptors, evenly over the pool in its order, whatever the cut; elsewhere nothing."""
    counts = world.gather(len(descriptors))
    stride = -(-max(1, sum(counts)) // size)
    offset = sum(counts[: world.rank])
    own = descriptors[-offset % stride :: stride]  # (s, D)
    sizes = world.gather(len(own))
    padded = own.new_zeros((max(sizes), own.shape[1]))
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in sizes] if world.is_first else None
    dist.gather(padded, parts, dst=0, group=world.group_of(padded))
    return _array(torch.cat([part[:n] for part, n in zip(parts or [], sizes, strict=False)] or [own[:0]]))


def _train(config: MiningConfig, sample: np.ndarray, by_distance: bool, device: torch.device) -> np.ndarray:
    """The empty, trained index as bytes; trained on the GPU where it can be."""
    try:
        metric = faiss.METRIC_L2 if by_distance else faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(sample.shape[1], config.index, metric)
        if not index.is_trained:
            held = to_gpu(index, device, config.index_scratch, half=False)
            (held[1] if held else index).train(sample)
            index = faiss.index_gpu_to_cpu(held[1]) if held else index
        if config.index_search:
            faiss.ParameterSpace().set_index_parameters(index, config.index_search)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise UserError(
            f"mining.index={config.index!r} with index_search={config.index_search!r} cannot be built for {len(sample):,} "
            f"descriptors of {sample.shape[1]} dimensions ({str(error).splitlines()[0]}), so nothing was mined: correct it, "
            "or use mining.index=exact"
        ) from None
    return faiss.serialize_index(index)


def _array(descriptors: Tensor) -> Any:
    return descriptors.float().cpu().contiguous().numpy()
