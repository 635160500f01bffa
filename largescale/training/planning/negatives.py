"""The negatives of an epoch: mined at its boundary, or taken from a mining service, for which training waits, or goes on without.

Letters: Q queries of an epoch, N negatives.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from largescale.corpus.plan import Tuples
from largescale.mining import Generation, Miner
from largescale.mining.fill import RandomNegatives
from largescale.mining.miner import excluded_clusters
from largescale.mining.search.select import NO_IMAGE, cluster_keys
from largescale.models.network import RetrievalNet
from largescale.program.cli import for_torchrun
from largescale.settings import UserError
from largescale.training.progress import Progress

log = logging.getLogger(__name__)

POLL_S = 0.2
NEWS_S = 60

Evaluated = Callable[[], RetrievalNet]
"""Gives the network that is evaluated and mined with."""


def negatives_of(
    miner: Miner, progress: Progress, network: Evaluated, tuples: Tuples, *, by_label: bool = False
) -> Generation | None:
    """Mined with the weights at the epoch's boundary; those of an earlier life of the run are read back.

    None when the run was asked to stop before they were there. All ranks call this together.

    Args:
        by_label: a query speaks for its label, so that those of another epoch serve as well.

    Raises:
        UserError: the epoch has begun with negatives that are gone.
    """
    epoch, boundary, generations = progress.epoch, progress.boundary, miner.generations
    if miner.config.home == "service":
        return ServedNegatives(miner, by_label).take(tuples, epoch, boundary, resumed=progress.done > 0)
    generation = miner.world.decide(lambda: generations.read(epoch, boundary))
    if generation is not None:
        return generation
    if progress.done:
        raise UserError(
            f"{generations.directory} has no whole generation of epoch {epoch} from step {boundary}: the batches after step "
            f"{progress.step} follow from it; delete the checkpoints after step {boundary} to mine it again"
        )
    return miner.run(network(), epoch, boundary, tuples)


class ServedNegatives:
    """Reads the generations of the service. What an epoch began with is written down: resumed, it reads the same again.

    Every method is called by all ranks together.
    """

    def __init__(self, miner: Miner, by_label: bool = False) -> None:
        self.by_label = by_label
        self.world, self.generations, self.config = miner.world, miner.generations, miner.config
        self.manifest, self.seed, self.should_stop = miner.corpus.manifest, miner.seed, miner.embedder.should_stop

    def take(self, tuples: Tuples, epoch: int, boundary: int, *, resumed: bool) -> Generation | None:
        """The negatives of an epoch; None when the run was asked to stop while it waited.

        Args:
            boundary: the step at which the epoch begins.
            resumed: the epoch has begun already.

        Raises:
            UserError: the epoch has begun with negatives that are gone.
        """
        kept, whole = self.world.decide(lambda: self._kept(epoch))
        if resumed and not whole:
            raise UserError(
                f"{self.generations.directory} has lost the negatives that epoch {epoch} began with: the batches after step "
                f"{boundary} follow from them; delete the checkpoints after step {boundary} to begin the epoch again"
            )
        if not whole:
            patience = self._wait(epoch, boundary)
            if patience is None:
                return None
            kept = self.world.decide(lambda: self._choose(epoch, boundary, patience))
        self._require_images(kept)
        fallbacks, waited = self.world.decide(lambda: self._account(epoch))
        generation = self._fitted(kept, tuples, epoch)
        mined = float((~np.isnan(generation.similarities)).mean())
        metrics = {"coverage": mined, "fallbacks": fallbacks, "wait_seconds": waited}
        age = {} if kept is None else {"age_steps": boundary - kept.step}
        return replace(generation, statistics={**generation.statistics, **metrics, **age})

    def _require_images(self, found: Generation | None) -> None:
        """Raise UserError where a generation that others have published names images that the corpus does not have."""
        largest = -1 if found is None else int(max(found.queries.max(initial=-1), found.negatives.max(initial=-1)))
        if found is not None and largest >= len(self.manifest):
            raise UserError(
                f"{self.generations.path(found.epoch, found.step)} names image {largest:,}, but the corpus has "
                f"{len(self.manifest):,}: whoever wrote it has another corpus; delete it, and it is mined again"
            )

    def _kept(self, epoch: int) -> tuple[Generation | None, bool]:
        """What an earlier life of the run took for this epoch, and whether it is still there."""
        taken = self.generations.taken(epoch)
        generation = None if taken is None or taken.generation is None else self.generations.read(*taken.generation)
        return generation, taken is not None and (taken.generation is None or generation is not None)

    def _wait(self, epoch: int, boundary: int) -> float | None:
        """Seconds until there was something to take or no more patience; None after a stop signal."""
        wait, start, news = self.config.wait, time.monotonic(), time.monotonic() + NEWS_S
        patience = {"never": 0.0, "always": math.inf}.get(wait) if isinstance(wait, str) else wait
        assert patience is not None
        while not self.world.decide(lambda: time.monotonic() - start >= patience or self._own(epoch, boundary) is not None):
            if self.world.any(self.should_stop()):
                return None
            if self.world.is_first and time.monotonic() > news:
                served = self.config.exchange or self.generations.directory.parent
                log.info("waiting for the negatives of epoch %d: torchrun %s %s", epoch, for_torchrun("mine"), served)
                news += NEWS_S
            time.sleep(POLL_S)
        return time.monotonic() - start

    def _own(self, epoch: int, boundary: int) -> Generation | None:
        """The generation of the epoch: for `always` the one that the inline miner would find."""
        return self.generations.read(epoch, boundary) if self.config.wait == "always" else self.generations.newest(epoch)

    def _choose(self, epoch: int, boundary: int, waited: float) -> Generation | None:
        found = self._own(epoch, boundary) or self.generations.latest(epoch)
        self.generations.take(epoch, found, waited)
        return found

    def _account(self, epoch: int) -> tuple[int, float]:
        """Fallbacks of the run so far, and seconds that this epoch waited."""
        taken = self.generations.taken(epoch)
        assert taken is not None
        return self.generations.fallbacks(epoch), taken.waited

    def _fitted(self, found: Generation | None, tuples: Tuples, epoch: int) -> Generation:
        """Its own negatives; or those of the queries that an earlier epoch had too, and random ones for the others."""
        own = found is not None and found.epoch == epoch and np.array_equal(found.queries, tuples.queries)
        if found is not None and (own or self.by_label):
            return found
        excluded, shape = excluded_clusters(tuples), (len(tuples.queries), self.config.negatives)
        negatives, similarities = np.full(shape, NO_IMAGE), np.full(shape, np.nan, np.float32)
        if found is not None:
            negatives, similarities = self._carried(found, tuples, excluded)
        RandomNegatives(self.manifest, self.seed, epoch).fill(negatives, excluded, np.arange(len(negatives)))
        about: Mapping[str, float] = {"random_negatives": float(np.isnan(similarities).sum())}
        step = -1 if found is None else found.step
        stored = None if found is None else found.stored
        return Generation(epoch, step, self.manifest.fingerprint, tuples.queries, negatives, similarities, [], about, stored)

    def _carried(self, found: Generation, tuples: Tuples, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(Q, N)` mined negatives of an earlier generation and their similarities, `NO_IMAGE` and NaN where there are none."""
        order = np.argsort(found.queries, kind="stable")
        place = np.searchsorted(found.queries, tuples.queries, sorter=order).clip(max=len(order) - 1)
        row = order[place]  # (Q,)
        negatives, similarities = found.negatives[row], found.similarities[row]  # (Q, N)
        keys = cluster_keys(self.manifest.label[negatives], negatives)
        gone = np.isnan(similarities) | (keys[:, :, None] == excluded[:, None, :]).any(2)
        gone |= (found.queries[row] != tuples.queries)[:, None]
        nearest_first = np.argsort(gone, axis=1, kind="stable")
        negatives, similarities = np.where(gone, NO_IMAGE, negatives), np.where(gone, np.float32(np.nan), similarities)
        return np.take_along_axis(negatives, nearest_first, 1), np.take_along_axis(similarities, nearest_first, 1)
