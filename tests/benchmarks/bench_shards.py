"""`python -m tests.benchmarks.bench_shards`: building a corpus on all cores against one core times their number."""

import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from shards.images import Encoding, store
from shards.sources.folder import Folder
from shards.writer import build
from tests.benchmarks.table import Row, report

DISTINCT, IMAGES, ALONE = 32, 2400, 200
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


def main() -> bool:
    return report(rows())


if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["shards.shard", "torch"])
    raise SystemExit(not main())
