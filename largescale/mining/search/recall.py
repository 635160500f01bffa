"""How many of the true negatives an approximate index finds, on a sample of the queries. h queries of the sample, N negatives."""

import logging

from torch import Tensor

from largescale.distributed import World
from largescale.mining.search.index import ShardedIndex
from largescale.mining.search.select import NO_IMAGE

SAMPLE = 256
"""Queries, over all ranks."""
EFFORT = 4
"""How often the search may be doubled; beyond it finer codes are cheaper."""
log = logging.getLogger(__name__)


class RecallProbe:
    """The truth about a sample of the queries.

    Args:
        exact: index of the same pool.
        queries, excluded, caps: of this rank, see `ShardedIndex.search`; h may differ between ranks.
    """

    def __init__(self, world: World, exact: ShardedIndex, queries: Tensor, excluded: Tensor, caps: Tensor | None = None) -> None:
        self.world, self.queries, self.excluded, self.caps = world, queries, excluded, caps
        self.truth = self._ids(exact)  # (h, N)

    def recall(self, index: ShardedIndex) -> float:
        """Share of the true negatives that are found; the same on every rank."""
        found = self._ids(index)  # (h, N)
        hit = (self.truth[:, :, None] == found[:, None]).any(2) & (self.truth != NO_IMAGE)
        hits, wanted = self.world.sum(hit.sum().item(), (self.truth != NO_IMAGE).sum().item())
        return hits / max(wanted, 1)

    def _ids(self, index: ShardedIndex) -> Tensor:
        return index.search(self.queries, self.excluded, caps=self.caps).ids

    def deepen(self, index: ShardedIndex, least: float) -> float:
        """Search deeper until the recall is not below `least`, nothing is left to be searched, or it takes too much."""
        recall = self.recall(index)
        while recall < least and index.trained is not None and index.trained.effort < EFFORT and index.deepen():
            recall = self.recall(index)
        if recall < least and self.world.is_first:
            log.warning(
                "the index finds %.1f %% of the true negatives, %.1f %% are wanted (mining.min_recall): choose one with finer "
                "codes (mining.index), or exact",
                100 * recall,
                100 * least,
            )
        return recall
