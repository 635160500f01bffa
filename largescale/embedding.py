"""One pass of a network over images of a corpus: ids -> descriptors.

Letters: n images of the pass, b images of a group, D dimensions.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from largescale.corpus.batches.batches import BadImage, Group
from largescale.corpus.batches.grouping import Most
from largescale.corpus.batches.workers import Part
from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.loading import images_of, load_pass, parts_of, read_pass
from largescale.cpu import own_cores, single_threads
from largescale.distributed import World
from largescale.models.modes import in_evaluation_mode
from largescale.models.transform.fused import Network, as_computed, is_fused
from largescale.precision import Precision, Resolved, autocast, resolve
from largescale.program.inputs import seen_by
from largescale.program.progress import progress_bar

Result = TypeVar("Result")
AT_ONCE, PIXELS_AT_ONCE = 8, 2**20
"""Most images, and most pixels, of a group that a core computes: few, so that its activations stay in the cache."""


@dataclass(frozen=True)
class Embedded:
    """Descriptors of a group of images."""

    ids: np.ndarray
    """`(b,)` image ids."""
    descriptors: Tensor
    """`(b, D)`, or `(b, S, D)` at S scales; float32 on the network's device."""
    bad: list[BadImage]
    """Images that could not be decoded and have no descriptor."""


@dataclass(frozen=True)
class Embedder:
    """How a network describes images of a corpus: the same for mining, evaluation, whitening and search.

    On a CPU every core decodes and computes groups of its own, on one thread: the bits depend neither on the number of ranks nor
    on that of cores, and no loader processes are started. A GPU is fed by those of `loader`. The network is in evaluation mode
    while a pass runs and as it was afterwards; no random numbers are drawn.
    """

    images: ImagesConfig
    """Never augmented here; what they leave out is as the network was trained."""
    batch_size: int
    """Most images of a group; a core of a CPU takes a few at a time."""
    loader: LoaderConfig
    device: torch.device
    precision: Precision = "auto"
    share: tuple[int, int] = (0, 1)
    """(rank, ranks): of a pass, a rank embeds its `own_images`."""
    should_stop: Callable[[], bool] = lambda: False
    """Asked before each group; the pass ends early when it says so."""

    @staticmethod
    def in_world(
        world: World,
        images: ImagesConfig,
        batch_size: int,
        loader: LoaderConfig,
        precision: Precision,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> "Embedder":
        """On this rank's device, of this rank's share of each pass."""
        return Embedder(images, batch_size, loader, world.device, precision, (world.rank, world.size), should_stop)

    def own_images(self, corpus: Corpus, ids: np.ndarray) -> np.ndarray:
        """The images that this rank embeds in a pass: a contiguous run of `ids`, without gap or overlap between ranks."""
        return images_of(parts_of(corpus.manifest, ids, self.batch_size, share=self.share))

    def embed(
        self,
        network: Network,
        corpus: Corpus,
        ids: np.ndarray,
        *,
        shards: Collection[int] | None = None,
        boxes: np.ndarray | None = None,
        progress: str | None = None,
    ) -> Iterator[Embedded]:
        """Descriptors of each image once, in groups of equal shape.

        Args:
            ids: `(n,)` sorted image ids.
            shards: only the images in these are embedded, in the groups of the whole pass; None: those of all.
            boxes: `(n, 4)` regions that are cut out first (see `parts_of`).
            progress: label of a progress bar; none is shown without it.
        """
        parts = parts_of(corpus.manifest, ids, self.batch_size, share=self.share, shards=shards, boxes=boxes)
        precision = resolve(self.precision, self.device)
        threads = 1 if self.device.type == "cuda" else own_cores()
        # the threads end before the network is in another mode again, also where the consumer leaves early
        with (
            progress_bar(progress, len(images_of(parts)), "image") as bar,
            in_evaluation_mode(network),
            single_threads(threads) as pool,
        ):
            ready = as_computed(network, precision, self.device)
            run = partial(_embed_group, ready, self.device, precision)
            wanted = takewhile(
                lambda _: not self.should_stop(), self._groups(corpus, parts, seen_by(network.contract, self.images))
            )
            for embedded in _in_order((pool.submit(run, group) for group in wanted), 2 * threads):
                yield embedded
                bar.update(len(embedded.ids) + len(embedded.bad))

    def _groups(self, corpus: Corpus, parts: list[Part], images: ImagesConfig) -> Iterator[Callable[[], Group]]:
        if self.device.type == "cuda":  # loader processes decode while it computes
            loaded = load_pass(corpus, parts, images, batch=self.batch_size, loader=self.loader)
            return ((lambda group=group: group) for group in loaded)  # type: ignore[misc]
        # the core that decodes images computes them, while they are in its cache
        return read_pass(corpus, parts, images, Most(min(self.batch_size, AT_ONCE), PIXELS_AT_ONCE))


def gather_by_id(groups: Iterable[Embedded], world: World) -> tuple[np.ndarray, np.ndarray]:
    """The groups of all ranks on every rank: `(n,)` increasing image ids, and `(n, D)` their descriptors."""
    own = [(group.ids, group.descriptors.cpu().numpy()) for group in groups]
    everyone = [group for part in world.gather(own) for group in part]
    ids, rows = (np.concatenate(column) for column in zip(*everyone, strict=True))
    order = np.argsort(ids)
    return ids[order], rows[order]


def _in_order(futures: Iterator[Future[Result]], ahead: int) -> Iterator[Result]:
    """Results in the order of the futures, of which up to `ahead` more are under way."""
    waiting: deque[Future[Result]] = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


def _embed_group(network: Network, device: torch.device, precision: Resolved, decoded: Callable[[], Group]) -> Embedded:
    group = decoded()
    if not len(group.ids):  # all of them were bad
        return Embedded(group.ids, torch.empty((0, network.dim), device=device), group.bad)
    pixels = group.images.to(device, non_blocking=True)
    with torch.inference_mode(), autocast(precision, device):
        descriptors = network(pixels if is_fused(network) else network.contract.normalize(pixels))
    return Embedded(group.ids, descriptors.float(), group.bad)
