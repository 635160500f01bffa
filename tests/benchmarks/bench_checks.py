"""What checks cost: checksums against the work that they guard, and all of it against an older checkout.

`python -m tests.benchmarks.bench_checks [CHECKOUT]`, on photographs of the shared data where they are, else on generated ones.
Seconds of processor time for 1,000 images; with a checkout, images/s of either, in turns.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import simplejpeg
import xxhash

from largescale.commit import checksum_of
from largescale.corpus.corpus import Corpus
from shards.images import Encoding, store
from tests.benchmarks.bench_reading import photographs
from tests.benchmarks.table import Row, median_seconds, report
from tests.corpora import write_corpus

MOST, ROUNDS, TURNS, SIDE = 0.02, 7, 41, 256
PROBE = """
import io, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from largescale.corpus.config import ImagesConfig
from largescale.corpus.images import decode_into, target_shape
from shards.images import Encoding, store
config, encoding = ImagesConfig(size=224), Encoding(max_side=int(sys.argv[2]))
def decode(data):
    image = Image.open(io.BytesIO(data))
    decode_into(np.empty((*target_shape(*image.size, config), 3), np.uint8), data, config, image.size)
files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
works = (lambda data: store(data, encoding), decode)
for line in sys.stdin:
    start = time.process_time()
    for data in files:
        works[int(line)](data)
    print(len(files) / (time.process_time() - start), flush=True)
"""


def seconds(work: Callable[[], object]) -> float:
    return median_seconds(work, ROUNDS, time.process_time)


def rows(folder: Path) -> Iterator[Row]:
    encoded = photographs()[:500]
    thousand = 1000 / len(encoded)
    sums = thousand * seconds(lambda: [xxhash.xxh3_64_intdigest(data) for data in encoded])
    decoding = thousand * seconds(lambda: [simplejpeg.decode_jpeg(data) for data in encoded])
    storing = thousand * seconds(lambda: [store(data, Encoding(max_side=SIDE)) for data in encoded])
    yield Row("checksums of images against decoding them (mining, evaluation, training)", sums, decoding, MOST, True)
    yield Row("checksums of images against make shards of them", sums, storing, MOST, True)
    home = write_corpus(folder / "corpus", ((data, 8, 8) for data in encoded), [-1] * len(encoded), 1)
    columns = thousand * seconds(lambda: [checksum_of(home / name) for name in ("images.arrow", "labels.arrow")])
    yield Row("checksums of columns against decoding the images that they name", columns, decoding, MOST, True)
    corpus = Corpus.open(str(home))
    reading = thousand * seconds(lambda: corpus.read(range(len(encoded))))
    yield Row("reading with checksums against decoding", reading, decoding, 0.1, True)


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
        good = report(rows(Path(place)))
        good &= len(sys.argv) < 2 or report(against(Path(sys.argv[1]), Path(place)))
    sys.exit(not good)
