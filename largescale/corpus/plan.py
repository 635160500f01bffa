"""The order of an epoch: pure functions (manifest, settings, seed, epoch) -> arrays of image ids.

Nothing here knows how many ranks or workers exist. A rank takes its columns of a step; a resumed run starts at step k.
Q queries of an epoch, T tuples of a step, N negatives.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from largescale.corpus.config import TuplePlanConfig
from largescale.corpus.manifest import Manifest
from largescale.corpus.positives import find_candidates
from largescale.settings import UserError

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray | None, int, int]
"""Queries (Q,), positives (Q,), candidates (Q, C) if any, queries that the corpus offers, labels with one image."""


@dataclass(frozen=True)
class PlanStatistics:
    """What an epoch uses of the corpus."""

    available: int
    """Queries (tuples) or images (labels) that the corpus offers."""
    planned: int
    """Different ones of them in this epoch; the rest is left for other epochs."""
    repeated: int
    """Places filled again with an image of a label that has fewer than K."""
    single_labels: int
    """Labels with one image: they have no positive and are left out."""


@dataclass(frozen=True)
class Tuples:
    """Queries of an epoch with their positives; `(Q,)` each, Q a multiple of T."""

    queries: np.ndarray
    positives: np.ndarray
    query_labels: np.ndarray
    positive_labels: np.ndarray
    batch_size: int
    statistics: PlanStatistics
    candidates: np.ndarray | None = None
    """`(Q, C)` images of which the nearest to the query is to be the positive, -1 where there are fewer; else None."""

    def steps(self, negatives: np.ndarray) -> np.ndarray:
        """`(Q, N)` negatives -> `(steps, T, 2 + N)` image ids: query, positive, negatives."""
        tuples = np.column_stack([self.queries, self.positives, negatives]).astype(np.int64)  # (Q, 2 + N)
        return tuples.reshape(-1, self.batch_size, tuples.shape[1])


def plan_tuples(manifest: Manifest, config: TuplePlanConfig, seed: int, epoch: int) -> Tuples:
    """Queries drawn without replacement with one positive each: rows of `pairs.arrow` where the corpus has them, else
    images of labels with two images or more, and another random image of that label. With another rule for the positive than
    `given`, queries of `pairs.arrow` with one of their candidates.

    Raises:
        UserError: neither pairs nor labels with two images, or fewer of them than a step takes; pairs that lack what the rule
            for the positive reads.
    """
    rng = generator(manifest, "tuples", seed, epoch)
    draw = _from_candidates if config.positive != "given" else _from_labels if manifest.pairs is None else _from_pairs
    queries, positives, candidates, available, single = draw(manifest, config, rng)
    window = shard_windows(manifest, config.shuffle_window, rng)[manifest.shard[queries]]
    order = np.argsort(window, kind="stable")
    queries, positives = queries[order], positives[order]
    candidates = None if candidates is None else candidates[order]
    statistics = PlanStatistics(available, len(queries), 0, single)
    labels = manifest.label[queries], manifest.label[positives]
    return Tuples(queries, positives, *labels, config.per_step, statistics, candidates)


def check_clusters(manifest: Manifest, negatives: int) -> None:
    """Hard negatives come from clusters other than the query's: there must be N + 1.

    Raises:
        UserError: fewer clusters than N + 1.
    """
    clusters = len(label_runs(manifest)[0])
    if clusters < negatives + 1:
        raise UserError(
            f"{manifest.storage.location} has {clusters} labels; {negatives} negatives from different clusters need at least "
            f"{negatives + 1}: set mining.negatives to {max(clusters - 1, 0)} or fewer, or build a corpus with more labels"
        )


def plan_pool(manifest: Manifest, size: int | None, seed: int, epoch: int) -> np.ndarray:
    """`(size,)` sorted image ids drawn without replacement; all images for None or a size beyond them."""
    if size is None or size >= len(manifest):
        return np.arange(len(manifest))
    return np.sort(generator(manifest, "pool", seed, epoch).choice(len(manifest), size, replace=False))


def generator(manifest: Manifest, purpose: str, seed: int, epoch: int) -> np.random.Generator:
    """Random numbers that depend on the corpus, the purpose, the seed and the epoch, and on nothing else."""
    return np.random.default_rng([int(manifest.fingerprint, 16), seed, epoch, zlib.crc32(purpose.encode())])


def label_runs(manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """First image and number of images of each label, `(labels,)` each; images without a label are no run."""
    label = manifest.label
    starts = np.concatenate([[0], np.flatnonzero(np.diff(label)) + 1])[: len(label)]
    lengths = np.diff(starts, append=len(label))
    labeled = label[starts] >= 0
    return starts[labeled], lengths[labeled]


def shard_windows(manifest: Manifest, window: int | None, rng: np.random.Generator) -> np.ndarray:
    """`(shards,)` the window of each shard: shards in random order, cut into windows of at least `window`."""
    shards = len(manifest.shards)
    count = 1 if window is None else max(1, shards // window)
    windows = np.empty(shards, np.int64)
    for number, members in enumerate(np.array_split(rng.permutation(shards), count)):
        windows[members] = number
    return windows


def _from_pairs(manifest: Manifest, config: TuplePlanConfig, rng: np.random.Generator) -> Drawn:
    assert manifest.pairs is not None
    query, positive = manifest.pairs["query"], manifest.pairs["positive"]
    rows = _draw(manifest, len(query), config, rng, query)  # (Q,)
    return query[rows], positive[rows], None, len(query), 0


def _from_candidates(manifest: Manifest, config: TuplePlanConfig, rng: np.random.Generator) -> Drawn:
    found = find_candidates(manifest, config)
    rows = _draw(manifest, len(found.queries), config, rng, found.queries)  # (Q,)
    place = rng.integers(found.lengths[rows]) if config.positive == "relaxed_inliers" else 0
    candidates = found.padded(rows) if config.positive == "descriptor" else None
    return found.queries[rows], found.positives[found.starts[rows] + place], candidates, len(found.queries), 0


def _from_labels(manifest: Manifest, config: TuplePlanConfig, rng: np.random.Generator) -> Drawn:
    starts, lengths = label_runs(manifest)
    several = lengths > 1
    single = int(len(several) - several.sum())
    starts, lengths = starts[several], lengths[several]
    ends = np.cumsum(lengths)
    available = int(lengths.sum())
    images = None if manifest.weights is None else np.repeat(starts - (ends - lengths), lengths) + np.arange(available)
    rank = _draw(manifest, available, config, rng, images)  # (Q,)
    run = np.searchsorted(ends, rank, side="right")
    place = rank - (ends - lengths)[run]
    other = (place + 1 + rng.integers(lengths[run] - 1)) % lengths[run]
    return starts[run] + place, starts[run] + other, None, available, single


def _draw(
    manifest: Manifest, available: int, config: TuplePlanConfig, rng: np.random.Generator, images: np.ndarray | None
) -> np.ndarray:
    """Random different numbers below `available`, as many as make whole steps.

    Args:
        images: `(available,)` the query behind each number, for corpora with weights.
    """
    count = min(config.per_epoch, available) // config.per_step * config.per_step
    if count == 0:
        raise UserError(
            f"{manifest.storage.location} offers {available:,} queries (pairs, or images of labels with two or more images), "
            f"a step takes {config.per_step}: nothing to train on; lower tuples.per_step, or "
            "build the corpus with pairs or labels"
        )
    if manifest.weights is None or images is None:
        return rng.choice(available, count, replace=False)
    weights = manifest.weights[images]
    return rng.choice(available, count, replace=False, p=weights / weights.sum())
