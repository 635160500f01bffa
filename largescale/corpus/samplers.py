"""Batches of labels: P x K, labels that are alike, pairs of super-labels, and subsets of few images per label.

Pure functions (manifest, settings, seed, epoch) -> arrays of image ids. P labels of a batch, K images of a label.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse

from largescale.corpus.alike import batches_of_alike
from largescale.corpus.config import LabelPlanConfig
from largescale.corpus.manifest import Manifest
from largescale.corpus.plan import PlanStatistics, Tuples, generator, label_runs, shard_windows
from largescale.settings import UserError


@dataclass(frozen=True)
class Batches:
    """Batches of an epoch: `(steps, P * K)` image ids, the K images of a label side by side."""

    steps: np.ndarray
    statistics: PlanStatistics


class Runs(NamedTuple):
    """Images label after label."""

    ids: np.ndarray
    """`(images,)` image ids."""
    starts: np.ndarray
    """`(labels,)` where the images of a label begin in `ids`."""
    lengths: np.ndarray
    """`(labels,)` how many they are."""

    def labels(self, chosen: np.ndarray) -> "Runs":
        """Some of the labels, by mask or by index."""
        return Runs(self.ids, self.starts[chosen], self.lengths[chosen])


def plan_labels(
    manifest: Manifest, config: LabelPlanConfig, seed: int, epoch: int, near: sparse.csr_matrix | None = None
) -> Batches:
    """Batches of P different labels with K images each; labels with one image are left out, unless K is 1.

    A pass has every image at most once, except that labels with fewer than K images repeat them in turn. An epoch is one pass,
    or the first `per_epoch` batches of as many passes as they take. With `super_pairs` an epoch is that many batches for each
    two super-labels, half of the labels of a batch from either, drawn anew for each batch (ROADMAP's sampler).

    Args:
        near: `(labels, labels)` how near two are: the labels of a batch are alike; None: they are random.

    Raises:
        UserError: too few labels, or no super-labels, for the batches that are asked for.
    """
    runs = _usable(manifest, config, seed)
    several = runs.lengths >= min(config.images_per_class, 2)
    single = int(len(several) - several.sum())
    runs, rng = runs.labels(several), generator(manifest, "labels", seed, epoch)
    if config.super_pairs is None:
        steps = _passes(manifest, runs, config, rng, near)  # (steps, P * K)
    else:
        steps = _super_pairs(manifest, runs, config, rng)
    planned = _different(steps, len(manifest))
    return Batches(steps, PlanStatistics(int(runs.lengths.sum()), planned, steps.size - planned, single))


def steps_of_epoch(manifest: Manifest, config: LabelPlanConfig, seed: int) -> int:
    """Steps of every epoch: those of the first. Windows and weights may give an epoch one more or less of its own."""
    return len(plan_labels(manifest, config, seed, 0).steps)


def plan_askers(manifest: Manifest, config: LabelPlanConfig, seed: int, epoch: int) -> Tuples:
    """K images of each label that has batches, or all that it has: mined for, they tell which labels are alike."""
    runs = _usable(manifest, config, seed)
    runs = runs.labels(runs.lengths >= min(config.images_per_class, 2))
    shuffled, starts = _shuffled(runs, generator(manifest, "askers", seed, epoch)), np.cumsum(runs.lengths) - runs.lengths
    lengths = np.minimum(runs.lengths, config.images_per_class)
    first, place = np.repeat(starts, lengths), np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    queries, positives = shuffled[first + place], shuffled[first + (place + 1) % np.repeat(lengths, lengths)]
    labels = manifest.label[queries]
    return Tuples(queries, positives, labels, labels, 1, PlanStatistics(int(runs.lengths.sum()), len(queries), 0, 0))


def _usable(manifest: Manifest, config: LabelPlanConfig, seed: int) -> Runs:
    """The images that may be used: all with a label, or `shots` of each label, the same in every epoch of a seed."""
    runs = Runs(np.arange(len(manifest)), *label_runs(manifest))
    if config.shots is None:
        return runs
    rng = generator(manifest, "shots", seed, 0)
    shuffled = _shuffled(runs, rng)
    lengths = np.minimum(runs.lengths, config.shots)
    place = np.arange(len(shuffled)) - np.repeat(np.cumsum(runs.lengths) - runs.lengths, runs.lengths)  # within its label
    return Runs(shuffled[place < config.shots], np.cumsum(lengths) - lengths, lengths)


def _passes(
    manifest: Manifest, runs: Runs, config: LabelPlanConfig, rng: np.random.Generator, near: sparse.csr_matrix | None
) -> np.ndarray:
    passes = [_pass(manifest, runs, config, rng, near)]
    if not len(passes[0]):
        raise UserError(
            f"{manifest.storage.location} has {len(runs.starts):,} labels with {_enough(config)}, a batch takes "
            f"{config.classes_per_batch}: no batch can be made; lower batches.classes_per_batch, widen "
            "batches.shuffle_window, raise batches.shots, or build a "
            "corpus with more labels"
        )
    while config.per_epoch and sum(map(len, passes)) < config.per_epoch:
        passes.append(_pass(manifest, runs, config, rng, near))
    return np.concatenate(passes)[: config.per_epoch]


def _pass(
    manifest: Manifest, runs: Runs, config: LabelPlanConfig, rng: np.random.Generator, near: sparse.csr_matrix | None
) -> np.ndarray:
    """`(steps, P * K)`: each image of the labels about once, window after window."""
    window = shard_windows(manifest, config.shuffle_window, rng)[manifest.shard[runs.ids[runs.starts]]]
    parts = [_batches(manifest, runs.labels(window == w), config, rng, near) for w in range(window.max(initial=0) + 1)]
    return np.concatenate(parts)


def _batches(
    manifest: Manifest, runs: Runs, config: LabelPlanConfig, rng: np.random.Generator, near: sparse.csr_matrix | None
) -> np.ndarray:
    """`(steps, P * K)` from the labels of one window."""
    P, K = config.classes_per_batch, config.images_per_class
    runs = runs.labels(rng.permutation(len(runs.starts)))
    chunks = np.maximum(runs.lengths // K, 1)
    if config.balance == "labels":
        chunks = np.full_like(chunks, max(1, round(chunks.mean())))
    if manifest.weights is not None:
        runs, chunks = _weighted(manifest.weights, runs, chunks, rng)
    steps, chunks = _whole_batches(chunks, P)
    if steps == 0:
        return np.empty((0, P * K), np.int64)
    run = np.repeat(np.arange(len(chunks)), chunks)[: steps * P]
    if near is not None:
        labels = manifest.label[runs.ids[runs.starts]]
        run = batches_of_alike(np.bincount(run, minlength=len(chunks)), near[labels][:, labels], P, rng).ravel()
    number = _which_time(run)  # which chunk of its label
    place = (number[:, None] * K + np.arange(K)) % runs.lengths[run][:, None]  # (steps * P, K)
    images = _shuffled(runs, rng)[(np.cumsum(runs.lengths) - runs.lengths)[run][:, None] + place]
    # those that are alike come in any order, for what is left at the end is less so
    order = _spread(run.reshape(P, steps), rng) if near is None else rng.permutation(np.arange(steps * P).reshape(steps, P))
    return images[order].reshape(steps, P * K)


def _which_time(values: np.ndarray) -> np.ndarray:
    """How often each value came before."""
    order = np.argsort(values, kind="stable")
    times = np.empty(len(values), np.int64)
    first = np.flatnonzero(np.diff(values[order], prepend=-1))
    times[order] = np.arange(len(values)) - np.repeat(first, np.diff(first, append=len(values)))
    return times


def _weighted(weights: np.ndarray, runs: Runs, chunks: np.ndarray, rng: np.random.Generator) -> tuple[Runs, np.ndarray]:
    """Chunks of each label times the weight of its corpus, relative to the largest; fractions are drawn."""
    share = weights[runs.ids[runs.starts]] / weights.max()
    chunks = (chunks * share + rng.random(len(chunks))).astype(chunks.dtype)
    return runs.labels(chunks > 0), chunks[chunks > 0]


def _whole_batches(chunks: np.ndarray, P: int) -> tuple[int, np.ndarray]:
    """How many batches of P different labels the chunks make, and how many chunks of each label can be used."""
    steps = int(chunks.sum()) // P
    while (chunks > steps).any() and steps:
        chunks = np.minimum(chunks, steps)
        steps = int(chunks.sum()) // P
    return steps, chunks


def _shuffled(runs: Runs, rng: np.random.Generator) -> np.ndarray:
    """The images of all labels, label after label, in random order within each."""
    run = np.repeat(np.arange(len(runs.starts)), runs.lengths)
    order = np.argsort(run + rng.random(len(run)))
    return runs.ids[order + (runs.starts - (np.cumsum(runs.lengths) - runs.lengths))[run]]


def _spread(run: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`(steps, P)` indices into `run.ravel()` such that no batch holds a label twice.

    `run` is `(P, steps)`: the label of each chunk, chunks of a label in sequence, at most `steps` of them. Each row is dealt
    to the batches in random order; a label that goes on from the row before avoids the batches that it is already in.
    """
    P, steps = run.shape
    table, batches = np.empty((steps, P), np.int64), np.empty(0, np.int64)
    for p in range(P):
        goes_on = run[p - 1] == run[p, 0] if p else np.zeros(steps, bool)
        taken = batches[goes_on] if p else batches
        rest = int((run[p] == run[p, 0]).sum()) if len(taken) else 0
        free = rng.permutation(np.delete(np.arange(steps), taken))
        batches = np.concatenate([free[:rest], rng.permutation(np.concatenate([free[rest:], taken]))])
        table[batches, p] = p * steps + np.arange(steps)
    return table


def _super_pairs(manifest: Manifest, runs: Runs, config: LabelPlanConfig, rng: np.random.Generator) -> np.ndarray:
    """`(pairs * super_pairs, P * K)` in random order (Ramzi et al. 2021, the hierarchical sampler of the released code)."""
    groups = _super_labels(manifest, runs, config)
    pairs = [pair for pair in itertools.combinations(groups, 2) for _ in range(config.super_pairs or 0)]
    half = config.classes_per_batch // 2
    labels = np.array([[rng.choice(group, half, replace=False) for group in pair] for pair in pairs])  # (steps, 2, P / 2)
    images = [_sample(runs, label, config.images_per_class, rng) for label in labels.ravel().tolist()]
    return rng.permutation(np.stack(images).reshape(len(pairs), -1))


def _super_labels(manifest: Manifest, runs: Runs, config: LabelPlanConfig) -> list[np.ndarray]:
    """The labels (their places in `runs`) of each super-label."""
    names = manifest.super_labels
    if names is None:
        raise UserError(
            f"{manifest.storage.location} has no super-labels, which batches.super_pairs needs: a label belongs to one where it "
            "is named SUPER/LABEL, as in a folder of folders; build the corpus from such a tree or list, or leave super_pairs out"
        )
    number = names[manifest.label[runs.ids[runs.starts]]]
    groups = [np.flatnonzero(number == one) for one in np.unique(number)]
    least, half = min(map(len, groups), default=0), config.classes_per_batch // 2
    if len(groups) < 2 or least < half:
        raise UserError(
            f"{manifest.storage.location} has {len(groups)} super-labels, the smallest with {least} "
            f"labels with {_enough(config)}; a batch takes {half} labels from each of two: "
            f"set batches.classes_per_batch to {2 * least} or fewer"
        )
    return groups


def _sample(runs: Runs, label: int, K: int, rng: np.random.Generator) -> np.ndarray:
    """`(K,)` different images of a label; in turn where it has fewer."""
    return runs.ids[runs.starts[label] + np.resize(rng.permutation(runs.lengths[label]), K)]


def _enough(config: LabelPlanConfig) -> str:
    return "an image" if config.images_per_class == 1 else "two or more images"


def _different(ids: np.ndarray, images: int) -> int:
    """How many different image ids there are."""
    seen = np.zeros(images, bool)
    seen[ids] = True
    return int(seen.sum())
