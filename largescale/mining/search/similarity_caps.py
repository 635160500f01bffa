"""The similarity from which an image may not be a negative. Q queries of an epoch, D dimensions."""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from largescale.corpus.plan import Tuples
from largescale.distributed import World
from largescale.mining.config import MiningConfig
from largescale.mining.search.embedding_buffer import EmbeddingBuffer
from largescale.mining.search.select import score_pairs
from largescale.models.metric import COSINE, Space

_ROWS = 2**12


def caps(config: MiningConfig, world: World, buffer: EmbeddingBuffer, tuples: Tuples, space: Space = COSINE) -> Tensor | None:
    """`(Q,)` float64 on the device, the same on every rank, in the space; None where no setting limits the similarity.

    Args:
        buffer: descriptors of this rank's queries and, for `semi_hard`, positives.
    """
    if config.similarity_cap is None and not config.semi_hard:
        return None
    limits = torch.full((len(tuples.queries),), torch.inf, dtype=torch.float64, device=world.device)
    if config.semi_hard:
        parts = torch.arange(len(limits)).split(_ROWS)
        limits = torch.cat(
            [_positives(buffer, tuples.queries[part], tuples.positives[part], space) for part in parts] or [limits]
        )
    if config.similarity_cap is None:
        return limits
    return torch.minimum(limits, space.inside(limits.new_tensor(config.similarity_cap)))


def _positives(buffer: EmbeddingBuffer, queries: np.ndarray, positives: np.ndarray, space: Space) -> Tensor:
    """`(n,)` similarity of each query with its positive, whichever ranks hold them; inf where one has no descriptor."""
    asked = buffer.rows.new_zeros((len(queries), buffer.rows.shape[1]))  # (n, D)
    known = asked.new_zeros(len(queries), dtype=torch.float64)
    similarities = torch.full_like(known, torch.inf)
    held = np.flatnonzero(np.isin(queries, buffer.ids))
    asked[torch.from_numpy(held)], known[torch.from_numpy(held)] = buffer.take(queries[held]), 1.0
    dist.all_reduce(asked)  # one rank holds each query, the others add zeros
    dist.all_reduce(known)
    held = np.flatnonzero(np.isin(positives, buffer.ids))
    place = torch.from_numpy(held).to(asked.device)
    row = torch.arange(len(held), device=asked.device)
    similarities[place] = score_pairs(space.queries(asked), space.items(buffer.take(positives[held])), place, row)
    dist.all_reduce(similarities, dist.ReduceOp.MIN)
    return similarities.masked_fill(known == 0, torch.inf)
