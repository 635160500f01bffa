"""The embedding pass from shards, against the network on the same groups ready in memory (images/s, squeezenet1_1).

`python -m tests.benchmarks.bench_embedding`, on photographs of the shared data where they are, else on generated ones.
"""

import itertools
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
import torch

from largescale.corpus.config import ImagesConfig, LoaderConfig, StorageConfig
from largescale.corpus.reading import Corpus, Group, load_pass
from largescale.distributed import own_cores
from largescale.embedding import _embed_group, _in_order, embed
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet, normalise
from tests.benchmarks.bench_reading import compare, photographs
from tests.benchmarks.table import Row, report
from tests.corpora import write_corpus

BATCH, COPIES, READY = 32, 30, 20
CPU = torch.device("cpu")


def passes(network: RetrievalNet, corpus: Corpus, images: ImagesConfig, loader: LoaderConfig) -> Iterator[int]:
    for group in embed(network, corpus, np.arange(len(corpus.manifest)), images, batch=BATCH, loader=loader, device=CPU):
        yield len(group.ids)


def ready(corpus: Corpus, images: ImagesConfig) -> list[Group]:
    groups = load_pass(corpus, np.arange(len(corpus.manifest)), images, batch=BATCH, loader=LoaderConfig(workers=0))
    return list(itertools.islice(groups, READY))


def plain_loop(network: RetrievalNet, groups: list[Group]) -> Iterator[int]:
    """Each group on all cores."""
    torch.set_num_threads(own_cores())
    for group in itertools.cycle(groups):
        with torch.inference_mode():
            network(normalise(group.images))
        yield len(group.ids)


def threads(network: RetrievalNet, groups: list[Group]) -> Iterator[int]:
    """Groups side by side, as the pass does it."""
    with ThreadPoolExecutor(own_cores(), torch.set_num_threads, initargs=(1,)) as pool:
        futures = (pool.submit(_embed_group, network, group, CPU, False) for group in itertools.cycle(groups))
        for embedded in _in_order(futures, own_cores()):
            yield len(embedded.ids)


def loads(corpus: Corpus, images: ImagesConfig, loader: LoaderConfig) -> Iterator[int]:
    for group in load_pass(corpus, np.arange(len(corpus.manifest)), images, batch=BATCH, loader=loader):
        yield len(group.ids)


def rows(folder: Path) -> Iterator[Row]:
    encoded = photographs()
    sizes = [simplejpeg.decode_jpeg_header(data)[:2] for data in encoded]
    copies = [(data, w, h) for _ in range(COPIES) for data, (h, w) in zip(encoded, sizes, strict=True)]
    write_corpus(folder / "corpus", copies, np.full(len(copies), -1), shards=COPIES)
    corpus = Corpus.open(str(folder / "corpus"), StorageConfig(cache=folder / "cache"))
    network = ModelConfig(backbone="squeezenet1_1").build().eval()
    for fit, workers in itertools.product(("squash", "inside"), (1, 2)):
        images, loader = ImagesConfig(size=160, fit=fit), LoaderConfig(workers=workers)
        groups, embedded = ready(corpus, images), passes(network, corpus, images, loader)
        name = f"{images.size} px {fit}, {workers} workers"
        yield compare(f"{name}: pass, plain loop on ready groups", embedded, plain_loop(network, groups), 0.95)
        forward = compare("", embedded, threads(network, groups), 0.95)
        load = compare("", loads(corpus, images, loader), threads(network, groups), 1)
        yield load._replace(name=f"{name}: loader alone, network alone on ready groups")
        cores = 1 / (1 / forward.peer + 1 / load.ours)
        yield Row(f"{name}: pass, limit of the cores 1 / (1 / network + 1 / loader)", forward.ours, cores, 0.95)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        report(rows(Path(folder)))
