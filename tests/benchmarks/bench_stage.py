"""The whole evaluation stage on generated photographs of 1024 px, against bare decoding of the same bytes on the same cores.

`python -m tests.benchmarks.bench_stage`. The network is one sparse layer: what remains is reading, decoding, storing, scoring.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from torch import nn

from largescale.cpu import own_cores, single_threads
from largescale.evaluation import EvaluateConfig, evaluate
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from tests.benchmarks.table import Row, report
from tests.corpora import encode, photograph, write_corpus
from tests.evaluation.small import alone

DISTINCT, COPIES, SHARDS, SIDES, REPEATS = 24, 160, 4, (1024, 768), 3


def small_network() -> RetrievalNet:
    network = build_network(ModelConfig(backbone="squeezenet1_1"))
    network.backbone, network.dim = nn.Sequential(nn.Conv2d(3, 16, 7, stride=32), nn.ReLU()), 16
    return network.eval()


def decode(encoded: list[bytes]) -> None:
    """On all cores; the decoder leaves the interpreter's lock. No image is kept: its memory is that of the one before."""

    def decode_part(part: list[bytes]) -> None:
        for data in part:
            simplejpeg.decode_jpeg(data)

    with single_threads(own_cores()) as pool:
        list(pool.map(decode_part, (encoded[core :: own_cores()] for core in range(own_cores()))))


def forward(network: RetrievalNet, images: int) -> None:
    """The network alone, on images that are ready, on all cores."""
    batch = torch.zeros((1, SIDES[1], SIDES[0], 3), dtype=torch.uint8).permute(0, 3, 1, 2)

    def describe(_: int) -> None:
        with torch.inference_mode():
            network(network.contract.normalize(batch))

    with single_threads(own_cores()) as pool:
        list(pool.map(describe, range(images)))


def speed(images: int, run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return images / (time.perf_counter() - start)


def rows(folder: Path) -> Iterator[Row]:
    distinct = [encode(photograph(i, 0, *SIDES)) for i in range(DISTINCT)]
    labels = np.arange(DISTINCT)
    asked = ((encode(photograph(i, 1, *SIDES)), *SIDES) for i in range(DISTINCT))
    queries = write_corpus(folder / "queries", asked, labels)
    encoded = [data for data in distinct for _ in range(COPIES)]
    gallery = ((data, *SIDES) for data in encoded)
    corpus = write_corpus(folder / "corpus", gallery, labels.repeat(COPIES), shards=SHARDS)
    network, found = small_network(), dict[str, list[float]](ours=[], decoding=[], network=[])
    with alone() as world:
        for repeat in range(REPEATS):
            config = EvaluateConfig(gallery=str(corpus), queries=str(queries), out=folder / str(repeat))
            found["ours"].append(speed(len(encoded), lambda config=config: evaluate(network, config, world)))  # type: ignore[misc]
            found["decoding"].append(speed(len(encoded), lambda: decode(encoded)))
            found["network"].append(speed(len(encoded), lambda: forward(network, len(encoded))))
    best = {name: max(values) for name, values in found.items()}
    yield Row("whole stage, 1024 px, images/s: bare decoding", best["ours"], best["decoding"], 0.9)
    cores = 1 / (1 / best["decoding"] + 1 / best["network"])
    yield Row("whole stage, 1024 px, images/s: decoding and network on the same cores", best["ours"], cores, 0.9)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        report(rows(Path(folder)))
