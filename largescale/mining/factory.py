"""Search of one rank's share in a FAISS index: candidate lists, scored again and selected; deeper where clusters lack.

Letters: P images of the share, B queries, K candidates, N negatives, D dimensions.
"""

from typing import Any

import faiss
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from largescale.distributed import World
from largescale.mining.config import MiningConfig
from largescale.mining.select import NO_IMAGE, Candidates, Found, norms, nothing, score_pairs, select
from largescale.settings import UserError

DEEPER = 4
_PAIRS = 2**20


class FactorySearch:
    """The nearest eligible clusters among the candidates that a FAISS index of this share returns.

    What needs training is trained once, by rank 0 on a sample of the whole pool.
    """

    def __init__(self, config: MiningConfig, world: World, descriptors: Tensor, ids: Tensor, clusters: Tensor) -> None:
        self.descriptors, self.ids, self.clusters = descriptors, ids, clusters
        self.count, self.depth = config.negatives, config.depth
        sample = _sample(world, descriptors, config.index_sample)
        faiss.omp_set_num_threads(torch.get_num_threads())
        self._index = faiss.deserialize_index(world.decide(lambda: _train(config, sample)))
        if len(descriptors):
            self._index.add(_array(descriptors))
            self._largest = norms(descriptors).max()

    def nearest(self, queries: Tensor, excluded: Tensor) -> Found:
        """As `ExactSearch.nearest`, as far as the index finds it."""
        found = nothing(len(queries), self.count, queries.device)
        depth, left = min(self.depth, self._index.ntotal), torch.arange(len(queries), device=queries.device)
        while depth and len(left):
            short = []
            for rows in left.split(max(1, _PAIRS // depth)):
                answer, done = self._deep(queries[rows], excluded[rows], depth)
                for column, part in zip(found, answer, strict=True):
                    column[rows] = part
                short.append(rows[~done])
            left = torch.cat(short)
            depth = 0 if depth == self._index.ntotal else min(DEEPER * depth, self._index.ntotal)
        return found

    def _deep(self, queries: Tensor, excluded: Tensor, depth: int) -> tuple[Found, Tensor]:
        """The negatives among the `depth` first neighbours, and for which queries a longer list cannot add to them."""
        raw, places = (torch.from_numpy(part).to(queries.device) for part in self._index.search(_array(queries), depth))  # (B, K)
        query, column = torch.nonzero(places >= 0, as_tuple=True)
        place = places[query, column]
        similarities = score_pairs(self.descriptors, queries, place, query)
        found = select(Candidates(similarities, self.ids[place], self.clusters[place], query), excluded, self.count)
        full = found.ids[:, -1] != NO_IMAGE
        if isinstance(
            faiss.downcast_index(self._index), faiss.IndexFlat
        ):  # its order is the true one but for rounding (see `ExactSearch`)
            full &= found.similarities[:, -1] > raw[:, -1] + queries.shape[1] * 2**-23 * self._largest * norms(queries)
        return found, full | (places[:, -1] < 0)


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
    dist.gather(padded, parts, dst=0)
    return _array(torch.cat([part[:n] for part, n in zip(parts or [], sizes, strict=False)] or [own[:0]]))


def _train(config: MiningConfig, sample: np.ndarray) -> np.ndarray:
    """The empty, trained index as bytes."""
    try:
        index = faiss.index_factory(sample.shape[1], config.index, faiss.METRIC_INNER_PRODUCT)
        if config.index_search:
            faiss.ParameterSpace().set_index_parameters(index, config.index_search)  # type: ignore[arg-type]
        if not index.is_trained:
            index.train(sample)
    except RuntimeError as error:
        raise UserError(
            f"mining.index={config.index!r} with index_search={config.index_search!r} cannot be built for {len(sample):,} "
            f"descriptors of {sample.shape[1]} dimensions ({str(error).splitlines()[0]}), so nothing was mined: correct it, "
            "or use mining.index=exact"
        ) from None
    return faiss.serialize_index(index)


def _array(descriptors: Tensor) -> Any:
    return descriptors.float().cpu().contiguous().numpy()
