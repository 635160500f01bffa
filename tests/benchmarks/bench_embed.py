"""Descriptors of a folder against the embedding pass over shards of the same bytes, and how soon the first ones are there.

`python -m tests.benchmarks.bench_embed`, on photographs of the shared data where they are, else on generated ones.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import largescale
from largescale import Model
from largescale.corpus.config import LoaderConfig, StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.describing.config import EmbedConfig
from largescale.describing.program import claim, describe_source
from largescale.distributed import World
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.sharing.folder import Contents, DescriptorConfig, write_folder
from shards.in_place import open_source
from tests.benchmarks.bench_reading import photographs
from tests.benchmarks.table import Row, report
from tests.corpora import write_corpus

PICTURES, ROUNDS, SIZE = 1000, 3, 160
FIRST_ROW_S = 6
ROOT = Path(__file__).parents[2]


def of_folder(model: Model, folder: Path, world: World) -> float:
    """Pictures/s of launch/embed.py from its listing to its file, the start of the process aside."""
    start, out = time.perf_counter(), Path(tempfile.mkdtemp(dir=folder)) / "out"
    config = EmbedConfig(model=str(folder / "model"), source=str(folder / "photos"), out=out, loader=LoaderConfig(workers=0))
    claim(config, world)
    describe_source(model, open_source(config.source, out / "listing", world), config, world, lambda: False)
    assert len(np.load(out / "descriptors.npy")) == PICTURES
    return PICTURES / (time.perf_counter() - start)


def of_shards(model: Model, corpus: Corpus) -> float:
    """Pictures/s of a pass."""
    start, ids = time.perf_counter(), np.arange(len(corpus.manifest))
    embedder = model.embedder(loader=LoaderConfig(workers=0))
    count = sum(len(rows.ids) for rows in model.describe(corpus, ids, embedder=embedder))
    return count / (time.perf_counter() - start)


def in_turns(ours: Callable[[], float], peer: Callable[[], float]) -> tuple[float, float]:
    """The medians of rounds."""
    pairs = [(ours(), peer()) for _ in range(ROUNDS)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def first_row(folder: Path) -> float:
    """Seconds from the start of a program until it has a row."""
    program = "import sys, largescale; largescale.load(sys.argv[1]).embed(sys.argv[2:])"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, folder / "model", folder / "photos/00000.jpg"], check=True, cwd=ROOT)
    return time.perf_counter() - start


def rows(folder: Path) -> Iterator[Row]:
    encoded = photographs()
    encoded = (encoded * (PICTURES // len(encoded) + 1))[:PICTURES]
    (folder / "photos").mkdir()
    images = []
    for number, data in enumerate(encoded):
        path = folder / "photos" / f"{number:05d}.jpg"
        path.write_bytes(data)
        with Image.open(path) as image:
            images.append((data, *image.size))
    write_corpus(folder / "corpus", images, np.full(PICTURES, -1), shards=8)
    network = build_network(ModelConfig(backbone="squeezenet1_1", weights="none"))
    write_folder(folder / "model", Contents(network, DescriptorConfig(size=SIZE, dim=network.dim)), "")
    model = largescale.load(folder / "model")
    shards = Corpus.open(str(folder / "corpus"), StorageConfig(cache=folder / "cache"))
    with World.start() as world:
        ours, theirs = in_turns(lambda: of_folder(model, folder, world), lambda: of_shards(model, shards))
    yield Row(f"{PICTURES:,} photographs of a folder, of shards, {SIZE} px (pictures/s)", ours, theirs, 0.95)
    seconds = statistics.median(first_row(folder) for _ in range(ROUNDS))
    yield Row("start to first row (s)", seconds, FIRST_ROW_S, 1, smaller_is_better=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        report(rows(Path(folder)))
