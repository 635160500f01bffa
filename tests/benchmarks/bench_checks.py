"""What checks cost: the share of checksums in the stages that they guard, and two pieces of work against an older checkout.

`python -m tests.benchmarks.bench_checks [CHECKOUT]`, on photographs of the shared data where they are, else on generated ones.
Seconds of processor time; with a checkout, images/s of either, in turns.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import xxhash

from largescale import commit, tensors
from largescale.corpus.config import BadImagesConfig, ImagesConfig, LoaderConfig, TuplePlanConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.plan import plan_tuples
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.evaluation import EvaluateConfig, evaluate
from largescale.mining import Miner, MiningConfig
from shards.images import Encoding
from shards.plan import Sharding, settle
from shards.shard import ShardJob, write_shard
from shards.sources.folder import Folder
from shards.writer import build
from tests.benchmarks.bench_reading import photographs
from tests.benchmarks.bench_stage import small_network
from tests.benchmarks.table import Row, report
from tests.evaluation.small import alone

MOST, IMAGES, ROUNDS, TURNS, SIDE = 0.02, 500, 5, 41, 256
PROBE = """
import io, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from largescale.corpus.config import ImagesConfig
from largescale.corpus.images import decode_into, target_shape
from shards.images import Encoding, store
config, encoding = ImagesConfig(size=224), Encoding(max_side=int(sys.argv[2]))
files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
sizes = {data: Image.open(io.BytesIO(data)).size for data in files}
shapes = {data: (*target_shape(*size, config), 3) for data, size in sizes.items()}
def decode(data):
    decode_into(np.empty(shapes[data], np.uint8), data, config, sizes[data])
works = (lambda data: store(data, encoding), decode)
for line in sys.stdin:
    start = time.process_time()
    for data in files:
        works[int(line)](data)
    print(len(files) / (time.process_time() - start), flush=True)
"""


class Sums:
    """Processor seconds of all checksums within the block: they replace what our modules call, wherever they have imported it."""

    def __init__(self) -> None:
        self.seconds, self._inside = 0.0, threading.local()

    def _timed(self, sum_: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            if getattr(self._inside, "yes", False):
                return sum_(*arguments)
            self._inside.yes, start = True, time.thread_time()
            try:
                return sum_(*arguments)
            finally:
                self.seconds, self._inside.yes = self.seconds + time.thread_time() - start, False

        return timed

    def __enter__(self) -> "Sums":
        places = [(xxhash, "xxh3_64_intdigest"), (commit, "checksum"), (commit, "checksum_of"), (commit, "array_fault")]
        timed = {id(sum_): self._timed(sum_) for sum_ in [getattr(*place) for place in places] + [tensors.checksum_of_tensors]}
        ours = [module for name, module in sys.modules.items() if name.startswith(("largescale", "shards", "xxhash"))]
        found = [(module, name, value) for module in ours for name, value in list(vars(module).items()) if id(value) in timed]
        self._replaced = found
        for module, name, value in found:
            setattr(module, name, timed[id(value)])
        return self

    def __exit__(self, *_: object) -> None:
        for module, name, value in self._replaced:
            setattr(module, name, value)


def share(work: Callable[[], object]) -> tuple[float, float]:
    """Processor seconds of checksums, and of everything."""
    start = time.process_time()
    with Sums() as sums:
        work()
    return sums.seconds, time.process_time() - start


def rows(folder: Path, world: World) -> Iterator[Row]:
    """Each stage with the least work beside the checksums: a network of one sparse layer, in one process."""
    source, network = folder / "source", small_network()
    for number, data in enumerate(photographs()[:IMAGES]):
        path = source / f"{number // 10:03d}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def make_shards(out: Path) -> None:
        plan = settle(Folder(source), out, Encoding(max_side=SIDE), Sharding())
        assert plan is not None
        for shard in range(plan.shards):
            write_shard(ShardJob(Folder(source), out, Encoding(max_side=SIDE), "checks"), shard, lambda: None)

    corpus = folder / "corpus"
    build(Folder(source), corpus, Encoding(max_side=SIDE), workers=1)
    scored = {"gallery": str(corpus), "loader": LoaderConfig(workers=0), "images": ImagesConfig(size=None)}
    tuples = plan_tuples(Corpus.open(str(corpus)).manifest, TuplePlanConfig(per_step=8, per_epoch=400), 0, 0)

    def mine(run: Path) -> None:
        embedder = Embedder.in_world(world, ImagesConfig(size=SIDE), 64, LoaderConfig(workers=0), "fp32")
        made = Miner(MiningConfig(), Corpus.open(str(corpus)), world, embedder, run, seed=0, bad_images=BadImagesConfig())
        made.run(network, 0, 0, tuples)

    stages: dict[str, Callable[[Path], object]] = {
        "make shards": make_shards,
        "an evaluation": lambda out: evaluate(network, EvaluateConfig(out=out, **scored), world),
        "a mining pass": mine,
    }
    for name, stage in stages.items():
        found = [share(partial(stage, folder / f"{name} {turn}")) for turn in range(ROUNDS)]
        sums, whole = min(found, key=lambda pair: pair[1])
        yield Row(f"CPU s of checksums, of {name}", sums, whole, MOST, True)


def against(checkout: Path, folder: Path) -> Iterator[Row]:
    """Both checkouts in turns, a tenth of a second each; the best of either, which what else runs on the machine spoils least."""
    (folder / "images").mkdir()
    for number, data in enumerate(photographs()[:20]):
        (folder / "images" / f"{number:05d}.jpg").write_bytes(data)
    sides = [_probe(place, folder) for place in (Path.cwd(), checkout)]
    for work, name in enumerate(("make shards", "decoding for a network")):
        rounds = [[_rate(side, work) for side in sides] for _ in range(TURNS + 1)][1:]  # the first one warms up
        ours, peer = map(max, zip(*rounds, strict=True))
        yield Row(f"{name}, images/s, against the other checkout", ours, peer, 0.95)
    for side in sides:
        side.communicate()


def _probe(place: Path, folder: Path) -> subprocess.Popen[str]:
    """A checkout that stores or decodes the images once for each line that it is sent, and answers with images/s."""
    command = [sys.executable, "-c", PROBE, str(folder / "images"), str(SIDE)]
    return subprocess.Popen(
        command,
        cwd=place,
        env={"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _rate(probe: subprocess.Popen[str], work: int) -> float:
    assert probe.stdin
    assert probe.stdout
    print(work, file=probe.stdin, flush=True)
    return float(probe.stdout.readline())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        with alone() as world:
            good = report(rows(Path(place), world))
        good &= len(sys.argv) < 2 or report(against(Path(sys.argv[1]), Path(place)))
    sys.exit(not good)
