"""`python -m tests.benchmarks.bench_shards`: building a corpus on all cores against one core times their number.

Photographs of 12 megapixels, or those that are named (`bench_shards PHOTOGRAPHS`), are stored by the ways of img2dataset (OpenCV)
and of pyvips too, where they are installed (opencv-python-headless, pyvips[binary]). Both sides take turns, and seconds are
those of the processor.
"""

import io
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from shards.images import Encoding, store
from shards.sources.folder import Folder
from shards.writer import build
from tests.benchmarks.table import Row, report

DISTINCT, IMAGES, ALONE = 32, 2400, 200
MEGAPIXELS_12, ROUNDS = (4000, 3000), 15
ENCODING = Encoding()


def photograph(seed: int, width: int, height: int) -> bytes:
    """A JPEG with structure at every scale, as photographs have it."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 9):
        noise = random.integers(0, 256, (height // 2**octave + 2, width // 2**octave + 2, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)) / 2.0 ** (9 - octave)
    buffer = io.BytesIO()
    Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def rate(work: Callable[[bytes], object], images: list[bytes], count: int) -> float:
    """Images per second of one process."""
    start = time.perf_counter()
    for number in range(count):
        work(images[number % len(images)])
    return count / (time.perf_counter() - start)


def shrunk(data: bytes) -> bytes:
    return store(data, ENCODING).data


def fully_decoded(data: bytes) -> Image.Image:
    """The same image shrunk without the help of the JPEG decoder."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = ENCODING.max_side / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def as_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=ENCODING.quality)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(10 * np.log10(255**2 / (error**2).mean()))


def build_rate(images: list[bytes]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(IMAGES):
            path = Path(folder, "in", f"{number % 8}", f"{number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images[number % len(images)])
        start = time.perf_counter()
        build(Folder(Path(folder, "in")), Path(folder, "out"), ENCODING)
        return IMAGES / (time.perf_counter() - start)


Way = Callable[[bytes], bytes]


def by_opencv() -> Way:
    """What img2dataset does: decoded whole, averaged over areas, encoded."""
    import cv2

    cv2.setNumThreads(1)

    def stored(data: bytes) -> bytes:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        scale = ENCODING.max_side / max(pixels.shape)
        shape = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
        small = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
        return bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, ENCODING.quality])[1])

    return stored


def by_pyvips() -> Way:
    import pyvips

    pyvips.concurrency_set(1)

    def stored(data: bytes) -> bytes:
        small = pyvips.Image.thumbnail_buffer(data, ENCODING.max_side, size="down")
        return bytes(small.jpegsave_buffer(Q=ENCODING.quality, subsample_mode="on"))

    return stored


def peers() -> Iterator[tuple[str, Way, float]]:
    """(name, from the bytes of a photograph to those that are stored, goal)."""
    for name, make, goal in (("img2dataset's OpenCV", by_opencv, 2.0), ("pyvips' thumbnail", by_pyvips, 1.0)):
        with suppress(ImportError, OSError):
            yield name, make(), goal


def against_peers(photographs: list[bytes]) -> Iterator[Row]:
    """Images per second of a core; what each way changes is in the table of `bench_pixels shrink`."""
    for name, way, goal in peers():
        ours, theirs = [], []
        for number in range(ROUNDS):
            data = photographs[number % len(photographs)]
            for found, work in ((ours, shrunk), (theirs, way)):
                start = time.process_time()
                work(data)
                found.append(1 / (time.process_time() - start))
        yield Row(f"12 megapixels to 512, images/s of a core: {name}", statistics.median(ours), statistics.median(theirs), goal)


def rows() -> Iterator[Row]:
    cores = len(os.sched_getaffinity(0))
    images = [photograph(seed, 1024, 768) for seed in range(DISTINCT)]
    before, built, after = rate(shrunk, images, ALONE), build_rate(images), rate(shrunk, images, ALONE)
    alone = (before + after) / 2
    yield Row(f"make shards, 1024x768 to 512, images/s: {cores} cores against {cores} x one core", built, cores * alone, 0.9)
    large = [photograph(seed, 3072, 2304) for seed in range(3)]
    ours, peer = rate(shrunk, large, 30), rate(lambda data: as_jpeg(fully_decoded(data)), large, 30)
    yield Row("3072x2304 to 512, images/s: DCT scaling against a full decode", ours, peer, 1.4)
    loss_of_scaling = min(psnr(opened(shrunk(data)), opened(as_jpeg(fully_decoded(data)))) for data in large)
    loss_of_jpeg = min(psnr(opened(as_jpeg(fully_decoded(data))), fully_decoded(data)) for data in large)
    yield Row("what DCT scaling changes against what quality 90 changes, dB", loss_of_scaling, loss_of_jpeg, 1.0)
    yield from against_peers([photograph(seed, *MEGAPIXELS_12) for seed in range(3)])


def main(photographs: list[str]) -> bool:
    return report(against_peers([Path(name).read_bytes() for name in photographs]) if photographs else rows())


if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["shards.shard", "torch"])
    raise SystemExit(not main(sys.argv[1:]))
