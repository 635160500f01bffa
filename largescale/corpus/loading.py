"""The steps of a plan and whole passes over images, decoded by worker processes or in this one."""

import functools
from collections.abc import Callable, Collection, Iterator

import numpy as np

from largescale.corpus.batches.batches import Decoder, Group, Step
from largescale.corpus.batches.buffers import Buffers
from largescale.corpus.batches.grouping import Most
from largescale.corpus.batches.workers import Part, PassReader, StepReader, buffers_for, run_workers, split
from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.images import target_shapes
from largescale.corpus.manifest import Manifest

SAMPLE = 1000
"""Steps, or images of a pass, from which the memory of one is estimated."""


def load_steps(
    corpus: Corpus,
    columns: np.ndarray,
    images: ImagesConfig,
    *,
    epoch: int,
    seed: int,
    start: int = 0,
    loader: LoaderConfig | None = None,
) -> Iterator[Step]:
    """The steps of a plan from step `start`, decoded by worker processes, in the order of the plan.

    Args:
        columns: `(steps, n)` image ids, this rank's columns of the plan.

    Raises:
        UserError: /dev/shm cannot hold what is prefetched; a shard that cannot be read; a worker that was killed.
    """
    loader = loader or LoaderConfig()
    rest = columns[start:]
    sample = rest[:SAMPLE]
    areas = target_areas(corpus.manifest, sample.ravel(), images).reshape(sample.shape)
    buffers = buffers_for(loader, int(areas.sum(axis=1).max(initial=0)) * 3)
    reader = StepReader(Decoder(corpus, images, buffers, seed, epoch))
    for ids, packed in zip(rest, run_workers(reader, loader, sampler=rest), strict=True):
        yield packed.step(buffers.view(packed.lent), ids)


def load_pass(
    corpus: Corpus, parts: list[Part], images: ImagesConfig, *, batch: int, loader: LoaderConfig | None = None
) -> Iterator[Group]:
    """One pass over images in groups of equal shape, each image once; bad ones are left out and reported.

    Which images form a group depends on the parts (`parts_of`) and the batch only. There is no augmentation.

    Args:
        batch: most images of a group.
    """
    loader, images = loader or LoaderConfig(), _plain(images)
    ids = images_of(parts)
    areas = target_areas(corpus.manifest, ids[:: len(ids) // SAMPLE + 1], images)
    decoder = Decoder(corpus, images, buffers_for(loader, int(areas.max(initial=0)) * 3 * batch))
    for packed in run_workers(PassReader(decoder, parts, batch), loader):
        yield from packed.groups(decoder.buffers.view(packed.lent))


def read_pass(corpus: Corpus, parts: list[Part], images: ImagesConfig, most: Most) -> Iterator[Callable[[], Group]]:
    """The pass of `load_pass`, read in this process; each group is decoded by the thread that calls for it, and for its cache."""
    decoder = Decoder(corpus, _plain(images), Buffers(0, 0, 0))
    for ids, boxes in parts:
        for encoded in decoder.read(ids, boxes, most):
            yield functools.partial(decoder.group, encoded)


def target_areas(manifest: Manifest, ids: np.ndarray, images: ImagesConfig) -> np.ndarray:
    """`(n,)` pixels of the tensors that images become."""
    return target_shapes(manifest.width[ids], manifest.height[ids], images).prod(axis=1)


def parts_of(
    manifest: Manifest,
    ids: np.ndarray,
    batch: int,
    *,
    share: tuple[int, int] = (0, 1),
    shards: Collection[int] | None = None,
    boxes: np.ndarray | None = None,
) -> list[Part]:
    """The parts of a pass that a rank reads: they never cross a shard, and lie side by side in `ids`.

    Args:
        ids: `(n,)` sorted image ids.
        batch: most images of a group; parts hold many groups.
        share: (rank, ranks); a rank has none where there are fewer parts than ranks.
        shards: only the images in these are read, in the parts of the whole pass; None: those of all.
        boxes: `(n, 4)` regions in stored pixels (x0, y0, x1, y1) that are cut out first.
    """
    cuts, (rank, size) = split(manifest, ids, batch), share
    first, last = np.searchsorted([cut.start for cut in cuts], [rank * len(ids) / size, (rank + 1) * len(ids) / size])
    own = [cut for cut in cuts[first:last] if shards is None or manifest.shard[ids[cut.start]] in shards]
    return [(ids[cut], None if boxes is None else boxes[cut]) for cut in own]


def images_of(parts: list[Part]) -> np.ndarray:
    """`(n,)` ids of the images of parts, in their order."""
    return np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in parts)])


def _plain(images: ImagesConfig) -> ImagesConfig:
    return images.model_copy(update={"augment": None})
