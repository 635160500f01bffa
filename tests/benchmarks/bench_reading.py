"""Reading: loader workers against bare libjpeg-turbo on the same bytes, random access against a webdataset stream.

`python -m tests.benchmarks.bench_reading`, on photographs of the shared data where they are, else on generated ones. The
unit is images/s. Both sides of a row are measured in turns, so that a change of the machine's speed meets both.
"""

import itertools
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import webdataset
from torch.nn.functional import interpolate

from largescale.corpus.config import AugmentConfig, ImagesConfig, LoaderConfig, StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.images import random_crop
from largescale.corpus.loading import load_pass, load_steps, parts_of
from largescale.cpu import own_cores
from tests.benchmarks.table import Row, report
from tests.conftest import ROOT
from tests.corpora import encode, photograph, write_corpus

PHOTOGRAPHS = Path(os.environ.get("LARGESCALE_DATA", ROOT.parent / "shared" / "data")) / "imagenet1k_distract256.tar"
ROUNDS, SECONDS, BATCH, COPIES = 21, 0.5, 64, 50
"""A step is that of the default batch of labels: 16 x 4."""
CORES = own_cores()
WORKERS = max(1, CORES - 1)
"""A core is left to the process that takes the batches, as training does."""


def photographs() -> list[bytes]:
    if not PHOTOGRAPHS.exists():
        return [encode(photograph(i, 0, 362, 272)) for i in range(500)]
    with tarfile.open(PHOTOGRAPHS) as tar:
        return [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]


def rate(images: Iterator[int]) -> float:
    """Images/s over SECONDS; `images` yields how many have come."""
    count, start = 0, time.perf_counter()
    for arrived in images:
        count += arrived
        if time.perf_counter() - start > SECONDS:
            break
    return count / (time.perf_counter() - start)


def compare(name: str, ours: Iterator[int], peer: Iterator[int], goal: float, times: int = 1) -> Row:
    """The medians of rounds in turns; the goal is against `times`, the number of workers, the speed of the peer."""
    mine, bare = [], []
    for _ in range(ROUNDS):
        ahead = 0
        while ahead < 2 * times * LoaderConfig().prefetch * BATCH:  # what the workers prefetched while they were not measured
            ahead += next(ours)
        mine.append(rate(ours))
        time.sleep(0.5)
        bare.append(times * rate(peer))
    return Row(name, statistics.median(mine), statistics.median(bare), goal)


def bare_decoding(encoded: list[bytes]) -> Iterator[int]:
    for data in itertools.cycle(encoded):
        simplejpeg.decode_jpeg(data)
        yield 1


def bare_augmentation(encoded: list[bytes], images: ImagesConfig) -> Iterator[int]:
    """Decoding, RandomResizedCrop and flip, as a plain loop does them."""
    rng, augment = np.random.default_rng(0), images.augment
    assert augment is not None
    for data in itertools.cycle(encoded):
        pixels = simplejpeg.decode_jpeg(data)
        x0, y0, x1, y1 = random_crop((pixels.shape[1], pixels.shape[0]), augment, rng.random(40))
        crop = torch.from_numpy(pixels[y0:y1, x0:x1]).permute(2, 0, 1)[None]
        scaled = interpolate(crop, (images.size, images.size), mode="bilinear", antialias=True)
        if rng.random() < augment.flip:
            scaled.flip(3)
        yield 1


def steps(corpus: Corpus, images: ImagesConfig, workers: int) -> Iterator[int]:
    columns = np.random.default_rng(0).integers(0, corpus.manifest.shards[0].samples, (10_000, BATCH))
    for step in load_steps(corpus, columns, images, epoch=0, seed=0, loader=LoaderConfig(workers=workers)):
        yield len(step.ids)


def passes(corpus: Corpus, images: ImagesConfig) -> Iterator[int]:
    """One long pass: the corpus holds the photographs many times, a shard each time."""
    parts = parts_of(corpus.manifest, np.arange(len(corpus.manifest)), BATCH)
    for group in load_pass(corpus, parts, images, batch=BATCH, loader=LoaderConfig(workers=WORKERS)):
        yield len(group.ids)


def random_access(corpus: Corpus) -> Iterator[int]:
    rng = np.random.default_rng(0)
    while True:
        yield len(corpus.read(rng.integers(0, corpus.manifest.shards[0].samples, BATCH)))


def webdataset_stream(path: Path, decode: bool = False) -> Iterator[int]:
    while True:
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            if decode:
                simplejpeg.decode_jpeg(sample["jpg"])
            yield 1


def rows(folder: Path) -> Iterator[Row]:
    encoded = photographs()
    height_width = [simplejpeg.decode_jpeg_header(data)[:2] for data in encoded]
    copies = [(data, w, h) for _ in range(COPIES) for data, (h, w) in zip(encoded, height_width, strict=True)]
    write_corpus(folder / "corpus", copies, np.full(len(copies), -1), shards=COPIES)
    corpus = Corpus.open(str(folder / "corpus"), StorageConfig(cache=folder / "cache"))
    corpus.read(corpus.manifest.shard_start[:-1])  # every shard is checked once, and that is remembered
    plain = ImagesConfig(size=4096)  # nothing is scaled: what is left beside the decoding is ours
    augmented = ImagesConfig(size=224, augment=AugmentConfig(crop_scale=(0.4, 1)))
    shard = folder / "corpus" / corpus.manifest.shards[0].name
    bare = bare_decoding(encoded)
    for workers in dict.fromkeys((WORKERS, CORES)):
        name = f"steps of {BATCH}, {workers} workers on {CORES} cores / {workers} x bare decoding"
        yield compare(name, steps(corpus, plain, workers), bare, 0.9, workers)
    times = f"{WORKERS} workers / {WORKERS} x"
    peer = bare_augmentation(encoded, augmented)
    yield compare(
        f"augmented steps of {BATCH}, {times} bare decoding + augmentation", steps(corpus, augmented, WORKERS), peer, 0.9, WORKERS
    )
    peer = webdataset_stream(shard, decode=True)
    yield compare(f"pass, {times} webdataset stream + bare decoding", passes(corpus, plain), peer, 0.9, WORKERS)
    yield compare("random access / webdataset stream, undecoded", random_access(corpus), webdataset_stream(shard), 10)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(not report(rows(Path(temporary))))
