"""Descriptors that a generation carries, so that losses compare with many images without reading them.

Letters: M images, Q queries of an epoch, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from largescale.corpus.manifest import Manifest
from largescale.corpus.plan import generator, plan_pool
from largescale.mining.config import MiningConfig
from largescale.mining.search.select import cluster_keys


@dataclass(frozen=True)
class StoredPool:
    """Images of the pool with their descriptors, or one rank's share of them."""

    places: np.ndarray
    """`(M,)` where each stands in the order in which queries take them."""
    ids: np.ndarray
    """`(M,)` image ids."""
    descriptors: np.ndarray
    """`(M, D)` float32, or float16 from a GPU; of the weights of the generation."""

    def table(self) -> np.ndarray:
        """`(M,)` records."""
        rows = self.descriptors
        records = np.empty(len(rows), [("place", "<i8"), ("id", "<i8"), ("descriptor", rows.dtype, rows.shape[1:])])
        records["place"], records["id"], records["descriptor"] = self.places, self.ids, rows
        return records

    @staticmethod
    def read(tables: Sequence[np.ndarray]) -> "StoredPool | None":
        """The shares of all ranks, in the order of the places; None of no tables."""
        if not tables:
            return None
        records = np.concatenate(tables)
        records = records[np.argsort(records["place"])]
        return StoredPool(*(np.ascontiguousarray(records[name]) for name in ("place", "id", "descriptor")))


def choose_stored(
    manifest: Manifest, config: MiningConfig, negatives: np.ndarray, excluded: np.ndarray, seed: int, epoch: int
) -> np.ndarray:
    """`(M,)` image ids in the order in which queries take them: the negatives in random order, then others of the pool.

    So many that each query can take `config.stored` of other clusters than its own and its positive's, if there are.

    Args:
        negatives: ids of all negatives that were mined, each once.
        excluded: `(Q, 2)` the clusters of each query and of its positive.
    """
    rng = generator(manifest, "stored", seed, epoch)
    others = np.setdiff1d(plan_pool(manifest, config.pool, seed, epoch), negatives)
    ids = np.concatenate([rng.permutation(negatives), rng.permutation(others)])
    keys, count = cluster_keys(manifest.label[ids], ids), config.stored
    while count < len(ids) and (lacking := config.stored - int(eligible(keys[:count], excluded).min(initial=config.stored))) > 0:
        count += lacking
    return ids[:count]


def eligible(keys: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """`(Q,)` how many of the images with the clusters `(M,)` are of none of a query's `(Q, 2)` clusters."""
    if not len(keys):
        return np.zeros(len(excluded), np.int64)
    clusters, counts = np.unique(keys, return_counts=True)
    place = np.searchsorted(clusters, excluded).clip(max=len(clusters) - 1)  # (Q, 2)
    held = np.where(clusters[place] == excluded, counts[place], 0)
    held[excluded[:, 0] == excluded[:, 1], 1] = 0
    return len(keys) - held.sum(1)
