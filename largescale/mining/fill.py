"""Random negatives for queries whose pool lacks eligible clusters. q queries, N negatives, C clusters."""

from functools import cached_property

import numpy as np

from largescale.corpus.manifest import Manifest
from largescale.corpus.plan import generator
from largescale.mining.search.select import NO_IMAGE, cluster_keys
from largescale.settings import UserError


class RandomNegatives:
    """Images of random clusters of the whole corpus; they depend on (manifest, seed, epoch, row of the plan) alone."""

    def __init__(self, manifest: Manifest, seed: int, epoch: int) -> None:
        self.manifest, self.seed, self.epoch = manifest, seed, epoch

    @cached_property
    def _clusters(self) -> tuple[np.ndarray, np.ndarray]:
        """`(C,)` first image and number of images of each cluster."""
        label = self.manifest.label
        starts = np.flatnonzero((np.diff(label, prepend=-2) != 0) | (label < 0))
        return starts, np.diff(starts, append=len(label))

    def fill(self, negatives: np.ndarray, excluded: np.ndarray, rows: np.ndarray) -> None:
        """Put images into the empty places, from clusters that the row does not have yet.

        Args:
            negatives: `(q, N)` image ids or `NO_IMAGE`, changed in place.
            excluded: `(q, 2)` the clusters of each query and of its positive.
            rows: `(q,)` rows of the queries in the plan.

        Raises:
            UserError: the corpus has too few clusters.
        """
        for row, clusters, number in zip(negatives, excluded.tolist(), rows.tolist(), strict=True):
            empty = row == NO_IMAGE
            if empty.any():
                row[empty] = self._draw(row[~empty], clusters, number, len(row))

    def _draw(self, found: np.ndarray, excluded: list[int], number: int, count: int) -> list[int]:
        rng = generator(self.manifest, f"random negatives {number}", self.seed, self.epoch)
        taken, (starts, lengths) = {*excluded, *self._keys(found)}, self._clusters
        # at most N + 1 clusters are taken while a place is empty: among N + 2 different ones are enough
        drawn = rng.choice(len(starts), min(len(starts), count + 2), replace=False)
        images = starts[drawn] + rng.integers(lengths[drawn])
        eligible = [image for image, key in zip(images.tolist(), self._keys(images), strict=True) if key not in taken]
        if len(eligible) < count - len(found):
            raise UserError(
                f"{self.manifest.storage.location} has {len(starts):,} clusters (labels, and images without a label); "
                f"{count} negatives from clusters other than the query's and its positive's need {count + len(set(excluded))}: "
                "lower mining.negatives, or build a corpus with more labels"
            )
        return eligible[: count - len(found)]

    def _keys(self, ids: np.ndarray) -> list[int]:
        return cluster_keys(self.manifest.label[ids], ids).tolist()
