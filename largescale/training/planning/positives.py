"""The positive of a query as the nearest of its candidates, by the network at the epoch's boundary (LRML eq. 4).

Q queries of an epoch, C candidates of a query at most, n images among them, D dimensions.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from largescale.commit import read_array, write_array
from largescale.corpus.plan import Tuples
from largescale.embedding import gather_by_id
from largescale.mining import Miner
from largescale.models.network import RetrievalNet
from largescale.settings import UserError

AT_ONCE = 64


class NearestPositives:
    """Chooses the positives of an epoch and writes them down beside its negatives: resumed, an epoch reads the same again.

    Every method is called by all ranks together.
    """

    def __init__(self, miner: Miner) -> None:
        self.miner, self.world, self.corpus = miner, miner.world, miner.corpus

    def choose(self, network: RetrievalNet, tuples: Tuples, epoch: int, boundary: int, *, resumed: bool) -> Tuples | None:
        """The tuples with their positives; None when the run was asked to stop before they were known.

        Args:
            boundary: the step of the network's weights.
            resumed: the epoch has begun already.

        Raises:
            UserError: the epoch has begun with positives that are gone.
        """
        path = self.miner.generations.directory / f"positives-{epoch:06d}-{boundary:06d}.npy"
        positives = self.world.decide(lambda: read_array(path) if path.exists() else None)
        if positives is None and resumed:
            raise UserError(
                f"{path} is gone: the batches after step {boundary} follow from it; delete the checkpoints after step "
                f"{boundary} to begin the epoch again"
            )
        if positives is not None and not _are_candidates(positives, tuples):
            raise UserError(
                f"{path} does not choose from the candidates of this epoch: it is of another run or corpus; delete it, and the "
                f"checkpoints after step {boundary}, to begin the epoch again"
            )
        if positives is None:
            found = self._nearest(network, tuples)
            if found is None:
                return None
            positives = found
            self.world.decide(lambda: write_array(path, found))
        return replace(tuples, positives=positives, positive_labels=self.corpus.manifest.label[positives])

    def _nearest(self, network: RetrievalNet, tuples: Tuples) -> np.ndarray | None:
        """`(Q,)` image ids; the first candidate where no descriptor is usable."""
        assert tuples.candidates is not None
        candidates = tuples.candidates  # (Q, C)
        embedded = self._embed(network, np.union1d(tuples.queries, candidates[candidates >= 0]))
        if embedded is None:
            return None
        ids, x = embedded
        place = [self._rows(ids, wanted) for wanted in (tuples.queries, candidates)]
        parts = zip(*(torch.from_numpy(rows).split(AT_ONCE) for rows in place), strict=True)
        best = torch.cat([_distances(x, queries, others).argmin(1) for queries, others in parts])
        return candidates[np.arange(len(candidates)), best.numpy()]

    def _embed(self, network: RetrievalNet, ids: np.ndarray) -> tuple[np.ndarray, Tensor] | None:
        """`(n,)` image ids, increasing, and `(n, D)` their descriptors, the same on every rank; None after a stop signal."""
        embedder = self.miner.embedder
        groups = list(embedder.embed(network, self.corpus, ids))
        if self.world.any(embedder.should_stop()):
            return None
        found, rows = gather_by_id(groups, self.world)
        return found, torch.from_numpy(rows)

    @staticmethod
    def _rows(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Where the wanted ids stand in `ids`; -1 for those that do not."""
        place = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
        return np.where(ids[place] == wanted, place, -1)


def _are_candidates(positives: np.ndarray, tuples: Tuples) -> bool:
    """Whether they are one of its own candidates for each query."""
    assert tuples.candidates is not None
    if positives.shape != tuples.queries.shape or positives.dtype.kind != "i":
        return False
    return bool(((tuples.candidates == positives[:, None]) & (positives >= 0)[:, None]).any(axis=1).all())


def _distances(x: Tensor, queries: Tensor, others: Tensor) -> Tensor:
    """`(q, C)` Euclidean distances between rows of `x`, infinite for row -1 and for what is not finite."""
    far = torch.linalg.vector_norm(x[queries][:, None].double() - x[others].double(), dim=2)
    known = (queries >= 0)[:, None] & (others >= 0) & far.isfinite()
    return far.masked_fill(~known, torch.inf)
