"""Negatives whose images are not read: the descriptors that a generation carries, as constants in the loss.

T tuples, K stored negatives of a tuple, M descriptors of the generation, Q queries of an epoch, D dimensions.
"""

import numpy as np
import torch
from torch import Tensor

from largescale.corpus.manifest import Manifest
from largescale.corpus.plan import Tuples
from largescale.mining.miner import excluded_clusters
from largescale.mining.search.select import cluster_keys
from largescale.mining.stored import StoredPool, eligible


class StoredNegatives:
    """Each query is compared with the first K descriptors of clusters that are neither its own nor its positive's.

    K is the same for all queries of an epoch: `count`, or fewer where the generation has fewer for one of them.
    """

    def __init__(self, stored: StoredPool, manifest: Manifest, tuples: Tuples, count: int, device: torch.device) -> None:
        self.descriptors = torch.from_numpy(stored.descriptors).to(device)
        """`(M, D)`."""
        self.keys = cluster_keys(manifest.label[stored.ids], stored.ids)  # (M,)
        self.excluded = excluded_clusters(tuples)  # (Q, 2)
        self.count = int(eligible(self.keys, self.excluded).min(initial=count))
        """K."""

    def rows(self, queries: np.ndarray) -> Tensor:
        """Rows of the plan `(T,)` -> rows of the descriptors `(T, K)`."""
        far = (self.keys[None, :, None] != self.excluded[queries][:, None]).all(2)  # (T, M)
        far &= far.cumsum(1) <= self.count
        return torch.from_numpy(far.nonzero()[1].reshape(len(queries), self.count))
