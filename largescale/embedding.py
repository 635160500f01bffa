"""One pass of a network over images of a corpus: ids -> descriptors.

Letters: n images of the pass, b images of a group, D dimensions.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from largescale.corpus.batches import BadImage, Group
from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.grouping import Most
from largescale.corpus.loading import images_of, load_pass, parts_of, read_pass
from largescale.distributed import World, own_cores, single_threads
from largescale.models.multiscale import AtScales
from largescale.models.network import RetrievalNet, normalize
from largescale.progress import progress_bar

Network = RetrievalNet | AtScales
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


def own_images(corpus: Corpus, ids: np.ndarray, batch: int, share: tuple[int, int]) -> np.ndarray:
    """The images that a rank embeds in a pass over `ids`: a contiguous run of them, without gap or overlap between ranks."""
    return images_of(parts_of(corpus.manifest, ids, batch, share=share))


def embed(
    network: Network,
    corpus: Corpus,
    ids: np.ndarray,
    images: ImagesConfig,
    *,
    batch: int,
    loader: LoaderConfig,
    device: torch.device,
    autocast: bool = True,
    share: tuple[int, int] = (0, 1),
    shards: Collection[int] | None = None,
    boxes: np.ndarray | None = None,
    progress: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Embedded]:
    """Descriptors of each image once, in groups of equal shape.

    On a CPU every core decodes and computes groups of its own, on one thread: the bits depend neither on the number of ranks nor
    on that of cores, and no loader processes are started. A GPU is fed by those of `loader`. The network is in evaluation mode
    while the pass runs and as it was afterwards; no random numbers are drawn.

    Args:
        ids: `(n,)` sorted image ids.
        batch: most images of a group; a core of a CPU takes a few at a time.
        autocast: run the network in bfloat16 on a GPU.
        share: (rank, ranks); the images of a rank are `own_images`.
        shards: only the images in these are embedded, in the groups of the whole pass; None: those of all.
        boxes: `(n, 4)` regions that are cut out first (see `parts_of`).
        progress: label of a progress bar; none is shown without it.
        should_stop: asked before each group; the pass ends early when it says so.
    """
    parts = parts_of(corpus.manifest, ids, batch, share=share, shards=shards, boxes=boxes)
    if device.type == "cuda":  # loader processes decode while it computes
        loaded = load_pass(corpus, parts, images, batch=batch, loader=loader)
        groups: Iterator[Callable[[], Group]] = ((lambda group=group: group) for group in loaded)  # type: ignore[misc]
    else:  # the core that decodes images computes them, while they are in its cache
        groups = read_pass(corpus, parts, images, Most(min(batch, AT_ONCE), PIXELS_AT_ONCE))
    threads = 1 if device.type == "cuda" else own_cores()
    total = len(images_of(parts))
    # the threads end before the network is in another mode again, also where the consumer leaves early
    with progress_bar(progress, total, "image") as bar, in_evaluation_mode(network), single_threads(threads) as pool:
        wanted = takewhile(lambda _: not should_stop(), groups)
        futures = (pool.submit(_embed_group, network, group, device, autocast) for group in wanted)
        for embedded in _in_order(futures, 2 * threads):
            yield embedded
            bar.update(len(embedded.ids) + len(embedded.bad))


@contextmanager
def in_evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


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


def _embed_group(network: Network, decoded: Callable[[], Group], device: torch.device, autocast: bool) -> Embedded:
    group = decoded()
    if not len(group.ids):  # all of them were bad
        return Embedded(group.ids, torch.empty((0, network.dim), device=device), group.bad)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast and device.type == "cuda"):
        descriptors = network(normalize(group.images.to(device, non_blocking=True)))
    return Embedded(group.ids, descriptors.float(), group.bad)
