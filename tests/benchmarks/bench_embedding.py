"""The embedding pass from shards, against the network on the same groups ready in memory (images/s, squeezenet1_1).

`python -m tests.benchmarks.bench_embedding`, on photographs of the shared data where they are, else on generated ones.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg
import torch

from largescale.corpus.batches.batches import Group
from largescale.corpus.batches.grouping import Most
from largescale.corpus.config import ImagesConfig, LoaderConfig, StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.loading import load_pass, parts_of, read_pass
from largescale.cpu import own_cores, single_threads
from largescale.embedding import AT_ONCE, PIXELS_AT_ONCE, Embedded, Embedder, _embed_group, _in_order
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from tests.benchmarks.bench_reading import compare, photographs
from tests.benchmarks.table import Row, report
from tests.corpora import write_corpus

BATCH, COPIES, READY = 32, 30, 20
CPU = torch.device("cpu")


def passes(network: RetrievalNet, corpus: Corpus, images: ImagesConfig) -> Iterator[int]:
    every = np.arange(len(corpus.manifest))
    for group in Embedder(images, BATCH, LoaderConfig(workers=0), CPU, "fp32").embed(network, corpus, every):
        yield len(group.ids)


def ready(corpus: Corpus, images: ImagesConfig) -> list[Group]:
    parts = parts_of(corpus.manifest, np.arange(len(corpus.manifest)), BATCH)
    groups = load_pass(corpus, parts, images, batch=BATCH, loader=LoaderConfig(workers=0))
    return list(itertools.islice(groups, READY))


def plain_loop(network: RetrievalNet, groups: list[Group]) -> Iterator[int]:
    """Each group on all cores."""
    torch.set_num_threads(own_cores())
    for group in itertools.cycle(groups):
        with torch.inference_mode():
            network(network.contract.normalize(group.images))
        yield len(group.ids)


def side_by_side(tasks: Iterable[Callable[[], Group | Embedded]]) -> Iterator[int]:
    """On all cores, as the pass does it."""
    with single_threads(own_cores()) as pool:
        for done in _in_order((pool.submit(task) for task in tasks), 2 * own_cores()):
            yield len(done.ids)


def forwards(network: RetrievalNet, groups: list[Group]) -> Iterator[int]:
    """The network alone, on groups of the size that the pass computes at a time."""
    few = [Group(part, group.ids[: len(part)], []) for group in groups for part in group.images.split(AT_ONCE)]
    return side_by_side(partial(_embed_group, network, lambda group=group: group, CPU, False) for group in itertools.cycle(few))


def decodes(corpus: Corpus, images: ImagesConfig) -> Iterator[int]:
    endless = itertools.repeat(parts_of(corpus.manifest, np.arange(len(corpus.manifest)), BATCH))
    passes = (read_pass(corpus, parts, images, Most(AT_ONCE, PIXELS_AT_ONCE)) for parts in endless)
    return side_by_side(itertools.chain.from_iterable(passes))


def rows(folder: Path) -> Iterator[Row]:
    encoded = photographs()
    sizes = [simplejpeg.decode_jpeg_header(data)[:2] for data in encoded]
    copies = [(data, w, h) for _ in range(COPIES) for data, (h, w) in zip(encoded, sizes, strict=True)]
    write_corpus(folder / "corpus", copies, np.full(len(copies), -1), shards=COPIES)
    corpus = Corpus.open(str(folder / "corpus"), StorageConfig(cache=folder / "cache"))
    network = build_network(ModelConfig(backbone="squeezenet1_1")).eval()
    for fit in ("squash", "inside"):
        images, name = ImagesConfig(size=160, fit=fit), f"160 px {fit}"
        groups, embedded = ready(corpus, images), passes(network, corpus, images)
        yield compare(f"{name}: pass, plain loop on ready groups", embedded, plain_loop(network, groups), 0.95)
        forward = compare("", embedded, forwards(network, groups), 0.95)
        decode = compare("", decodes(corpus, images), forwards(network, groups), 1)
        yield decode._replace(name=f"{name}: decoding alone, network alone on ready groups")
        cores = 1 / (1 / forward.peer + 1 / decode.ours)
        yield Row(f"{name}: pass, limit of the cores 1 / (1 / network + 1 / decoding)", forward.ours, cores, 0.95)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        report(rows(Path(folder)))
