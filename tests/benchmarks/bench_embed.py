"""Descriptors of a folder against the embedding pass over shards of the same bytes, and how soon the first ones are there.

`python -m tests.benchmarks.bench_embed`, on photographs of the shared data where they are, else on generated ones.
"""

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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
from tests.benchmarks.table import Row, in_turns, report
from tests.corpora import write_corpus

PICTURES, ROUNDS, SIZE = 500, 5, 160
FIRST_ROW_S = 6
ROOT = Path(__file__).parents[2]


def of_folder(model: Model, folder: Path, world: World) -> None:
    """What launch/embed.py does from its listing to its file, the start of the process aside."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "out"
    config = EmbedConfig(model=str(folder / "model"), source=str(folder / "photos"), out=out, loader=LoaderConfig(workers=0))
    with claim(config, world):
        describe_source(model, open_source(config.source, out / "listing", world), config, world, lambda: False)
    assert len(np.load(out / "descriptors.npy")) == PICTURES


def of_shards(model: Model, corpus: Corpus) -> None:
    """A pass."""
    embedder = model.embedder(loader=LoaderConfig(workers=0))
    assert sum(len(rows.ids) for rows in model.describe(corpus, np.arange(PICTURES), embedder=embedder)) == PICTURES


def first_row(folder: Path) -> tuple[float, float]:
    """Seconds from the start of launch/embed.py until the row of the only photograph is written and it ends, and those of
    processors."""
    one, out = folder / "one", Path(tempfile.mkdtemp(dir=folder)) / "out"
    one.mkdir(exist_ok=True)
    shutil.copy(folder / "photos" / "00000.jpg", one)
    start, spent = time.perf_counter(), of_children()
    arguments = [f"model={folder / 'model'}", f"source={one}", f"out={out}"]
    subprocess.run([sys.executable, ROOT / "launch" / "embed.py", *arguments], check=True, cwd=ROOT, capture_output=True)
    return time.perf_counter() - start, of_children() - spent


def of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    seconds = [statistics.median(clock) for clock in zip(*(first_row(folder) for _ in range(ROUNDS)), strict=True)]
    for unit, of_clock in zip(("s", "CPU s"), seconds, strict=True):
        yield Row(f"start to first row ({unit})", of_clock, FIRST_ROW_S, 1, smaller_is_better=True)
    with World.start() as world:
        of_shards(model, shards)  # what is read once is in memory for both
        for unit, a, b in in_turns(lambda: of_folder(model, folder, world), lambda: of_shards(model, shards), ROUNDS):
            name = f"{PICTURES:,} photographs of a folder, of shards, {SIZE} px (pictures/{unit})"
            yield Row(name, PICTURES / a, PICTURES / b, 0.95)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        report(rows(Path(folder)))
