"""Descriptors of some images of the training corpus, from which a whitening is fitted. n images, D dimensions."""

from collections.abc import Callable

import numpy as np

from largescale.corpus.config import ImagesConfig
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.embedding import Embedder, gather_by_id
from largescale.evaluation.descriptors.fitting import images_to_fit
from largescale.models.network import RetrievalNet
from largescale.processes import StoppedError
from largescale.training.settings.recipe import TrainConfig

BATCH_SIZE = 16


def describe_sample(
    network: RetrievalNet,
    images: ImagesConfig,
    most: int,
    config: TrainConfig,
    corpus: Corpus,
    world: World,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[np.ndarray, np.ndarray]:
    """`(n,)` increasing ids and `(n, D)` descriptors on every rank: of all images, or of those of some matching pairs.

    Args:
        most: of them.

    Raises:
        StoppedError: on every rank, where `should_stop` said so on one.
    """
    embedder = Embedder.in_world(world, images, BATCH_SIZE, config.loader, config.precision, should_stop)
    wanted = images_to_fit(corpus.manifest, most)
    own = list(embedder.embed(network, corpus, wanted, progress="whitening" if world.is_first else None))
    if world.any(should_stop()):
        raise StoppedError
    return gather_by_id(own, world)
