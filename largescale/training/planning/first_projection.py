"""The projection of a network begins as a whitening of the descriptors before it (LRML §4.5.2, end-to-end whitening).

n images, D dimensions before the projection, d after it
"""

import numpy as np
import torch

from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.evaluation.descriptors.fitting import pairs_among
from largescale.models.network import RetrievalNet
from largescale.models.whitening import LearnedWhitening, PCAWhitening, Whitening
from largescale.settings import UserError
from largescale.training.planning.sample import describe_sample
from largescale.training.settings.recipe import TrainConfig

IMAGES = 20_000
"""Most images of the training corpus that it is fitted on."""


def start_projection(network: RetrievalNet, config: TrainConfig, corpus: Corpus, world: World) -> None:
    """As `model.projection_start` says, the same on every rank; nothing for `random`.

    Raises:
        UserError: more dimensions than the backbone gives, or a learned whitening of fewer matching pairs than those.
    """
    kind, projection = config.model.projection_start, network.projection
    if kind == "random" or projection is None:
        return
    if projection.out_features > projection.in_features:
        raise UserError(
            f"model.projection={projection.out_features} of {projection.in_features} dimensions: a whitening has no more "
            f"directions than that; use model.projection={projection.in_features} or fewer, or model.projection_start=random"
        )
    ids, rows = _describe(network, config, corpus, world)
    whitening = PCAWhitening.fit(rows, world=world) if kind == "pca" else _learned(corpus, ids, rows, world)
    directions = whitening.directions[: projection.out_features]  # (d, D)
    with torch.no_grad():
        projection.weight.copy_(directions)
        projection.bias.copy_(-directions @ whitening.mean)


def _describe(network: RetrievalNet, config: TrainConfig, corpus: Corpus, world: World) -> tuple[np.ndarray, np.ndarray]:
    """`(n,)` ids of images, and their descriptors before the projection `(n, D)`, on every rank."""
    network.projection, projection = None, network.projection
    found = describe_sample(network.to(world.device), config.images, IMAGES, config, corpus, world)
    network.projection = projection
    return found


def _learned(corpus: Corpus, ids: np.ndarray, rows: np.ndarray, world: World) -> Whitening:
    pairs = pairs_among(corpus.manifest, ids)
    if len(pairs) < rows.shape[1]:
        raise UserError(
            f"model.projection_start=learned: {corpus.manifest.name} has {len(pairs):,} matching pairs for {rows.shape[1]:,} "
            "dimensions, and what they do not span would be magnified without bound; use model.projection_start=pca"
        )
    queries, positives = pairs.T
    return LearnedWhitening.fit(rows, queries, positives, world=world)
