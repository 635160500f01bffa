"""Whitening of an evaluation: fitted once on a training corpus, at the very scales that are scored.

n images, P pairs, D dimensions
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from largescale.commit import committed_file
from largescale.corpus.manifest import Manifest
from largescale.cpu import one_thread
from largescale.distributed import World
from largescale.evaluation.descriptors.derived import readable
from largescale.models.whitening import SHRINKAGE, Form, LearnedWhitening, PCAWhitening, RowParts, Rows, Whitening
from largescale.settings import UserError

LEARNED: Mapping[str, tuple[Form, float]] = {
    "learned": ("cirtorch", 0.0),
    "learned_paper": ("paper", 0.0),
    "learned_shrunk": ("cirtorch", SHRINKAGE),
}
"""Form and shrinkage of each kind."""


def matching_pairs(manifest: Manifest) -> np.ndarray:
    """`(P, 2)` image ids: those of `pairs.arrow`, else each image and the next of its label."""
    if manifest.pairs is not None:
        return np.stack([manifest.pairs["query"], manifest.pairs["positive"]], axis=1)
    label = manifest.label
    query = np.flatnonzero((label[:-1] == label[1:]) & (label[:-1] >= 0))
    return np.stack([query, query + 1], axis=1)


def pairs_among(manifest: Manifest, ids: np.ndarray) -> np.ndarray:
    """`(P, 2)` places in the sorted `ids` `(n,)` of the matching pairs that are both among them."""
    pairs = matching_pairs(manifest)
    return np.searchsorted(ids, pairs[np.isin(pairs, ids).all(axis=1)])


def images_to_fit(manifest: Manifest, most: int) -> np.ndarray:
    """`(n,)` sorted image ids: all, else those of as many matching pairs as fit, drawn by the corpus's fingerprint."""
    if len(manifest) <= most:
        return np.arange(len(manifest))
    rng, pairs = np.random.default_rng(int(manifest.fingerprint, 16)), matching_pairs(manifest)
    drawn = pairs[rng.permutation(len(pairs))[: most // 2]] if len(pairs) else rng.permutation(len(manifest))[:most]
    return np.unique(drawn)


def fitted(path: Path, kind: str, manifest: Manifest, ids: np.ndarray, parts: Sequence[np.ndarray], world: World) -> Whitening:
    """The whitening in `path`; where there is none, rank 0 fits it.

    Args:
        kind: pca, or one of `LEARNED`.
        ids: `(n,)` the images whose descriptors `parts` hold, side by side.

    Raises:
        UserError: a learned whitening of a corpus without matching pairs.
    """

    def fit() -> None:
        if readable(path, ("mean", "directions")):
            return
        rows = RowParts(parts)
        with one_thread():
            whitening = PCAWhitening.fit(rows) if kind == "pca" else learned(kind, manifest, ids, rows)
        with committed_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, mean=whitening.mean.numpy(), directions=whitening.directions.numpy())

    world.decide(fit)
    with np.load(path) as file:
        return Whitening(torch.from_numpy(file["mean"]), torch.from_numpy(file["directions"]))


def learned(kind: str, manifest: Manifest, ids: np.ndarray, rows: Rows, world: World | None = None) -> Whitening:
    """From the matching pairs among some images.

    Args:
        kind: one of `LEARNED`.
        ids: `(n,)` the images whose descriptors `(n, D)` are given.
        world: its ranks, which all have them, share the work.

    Raises:
        UserError: there are no pairs.
    """
    pairs = pairs_among(manifest, ids)
    if not len(pairs):
        raise UserError(f"whitening={kind}: {manifest.name} has neither pairs nor labels of two images; use whitening=pca")
    (queries, positives), (form, shrinkage) = pairs.T, LEARNED[kind]
    return LearnedWhitening.fit(rows, queries, positives, form, world, shrinkage)
