"""Corpora of pictures that are made on the fly: some different ones, with the grain of a camera, again and again."""

from collections.abc import Iterator

import numpy as np

from largescale.corpus.config import ImagesConfig, StorageConfig
from largescale.corpus.corpus import Corpus
from tests.benchmarks.gpu.measure import Place
from tests.corpora import encode, photograph, write_corpus

DIFFERENT, PER_LABEL = 64, 8
SHARDS, GRAIN = 8, 4


def corpus_of(place: Place, side: int) -> Corpus:
    """Square pictures of `side` px; the first part that asks makes them, a second or two for each thousand."""
    folder, count = place.folder / f"{side}px", place.size.images
    if not (folder / "manifest.json").exists():
        encoded = list(_encoded(min(DIFFERENT, count), side))
        images = ((encoded[number % len(encoded)], side, side) for number in range(count))
        write_corpus(folder, images, np.arange(count) % DIFFERENT // PER_LABEL, min(SHARDS, count // place.size.batch))
    return Corpus.open(str(folder), StorageConfig(cache=place.folder / "cache"))


def images_of(side: int) -> ImagesConfig:
    """Nothing is scaled: shards hold pictures at the size of the training."""
    return ImagesConfig(size=side, fit="inside")


def _encoded(count: int, side: int) -> Iterator[bytes]:
    grain = np.random.default_rng(0)
    for number in range(count):
        pixels = photograph(number // PER_LABEL, number % PER_LABEL, side, side) + grain.normal(0, GRAIN, (side, side, 3))
        yield encode(pixels.clip(0, 255).astype(np.uint8))
