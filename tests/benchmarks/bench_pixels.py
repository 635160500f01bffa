"""`python -m tests.benchmarks.bench_pixels`: kinds of pictures beside their references, shrinking against a full-size Lanczos.

`sheet` prints the table of docs/reference/conventions/decoders.md and writes sheet.webp; `shrink PHOTOGRAPHS…` prints that of
docs/explanation/pixels.md. Peers that are not installed (pyvips, opencv-python-headless) are left out.
"""

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageDraw

from largescale.corpus.decoding.pixels import rgb_pixels
from shards.images import Encoding, shrink, store
from tests.corpus.sheet import Kind, heic, kinds

SIDE = 512
LANCZOS = Image.Resampling.LANCZOS


def sheet(path: Path) -> None:
    """A line per kind: largest and mean difference of what is read and what is stored; the pictures in `path`."""
    found = [(kind, rgb_pixels(kind.data), rgb_pixels(store(kind.data, Encoding()).data)) for kind in pictures()]
    canvas = Image.new("RGB", (640, 72 * len(found)), "white")
    print("| kind | read, largest | read, mean | stored, mean |\n|---|---:|---:|---:|")
    for row, (kind, read, stored) in enumerate(found):
        for column, pixels in enumerate((kind.shown, read, stored)):
            canvas.paste(Image.fromarray(pixels), (104 * column, 72 * row))
        ImageDraw.Draw(canvas).text((320, 72 * row + 24), kind.name, "black")
        apart, after = (np.abs(pixels.astype(int) - kind.shown) for pixels in (read, stored))
        print(f"| {kind.name} | {apart.max()} | {apart.mean():.2f} | {after.mean():.2f} |")
    canvas.save(path, quality=60, method=6)


def pictures() -> Iterator[Kind]:
    yield from kinds()
    with suppress(ImportError):
        yield heic()


def decoded(data: bytes, scale: float) -> np.ndarray:
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    return simplejpeg.decode_jpeg(data, min_height=int(height * scale), min_width=int(width * scale), min_factor=1 / scale)


def ways() -> Iterator[tuple[str, Callable[[bytes, tuple[int, int]], np.ndarray]]]:
    """(name, from an encoded photograph and a shape to pixels)."""
    for name, scale in (("all", 1.0), ("1/2", 0.5), ("3/8", 0.375), ("1/4", 0.25)):
        yield f"decoded at {name}, torch's Lanczos", lambda data, shape, scale=scale: _shrunk(decoded(data, scale), shape)
    yield "decoded at 1/2, Pillow's Lanczos (thumbnail, gap 2)", _thumbnail
    try:
        import pyvips

        yield "pyvips thumbnail", lambda data, shape: pyvips.Image.thumbnail_buffer(data, shape[1], size="down").numpy()
    except (ImportError, OSError):
        pass
    try:
        import cv2

        yield "OpenCV, INTER_AREA (img2dataset)", lambda data, shape: cv2.cvtColor(_by_area(cv2, data, shape), cv2.COLOR_BGR2RGB)
    except ImportError:
        pass


def _shrunk(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return shrink(pixels, shape, pixels.shape[:2])


def _thumbnail(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    image.thumbnail(shape[::-1], LANCZOS, reducing_gap=2.0)
    return np.asarray(image)


def _by_area(cv2: "object", data: bytes, shape: tuple[int, int]) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # type: ignore[attr-defined]
    return cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[attr-defined]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-9)))


def table(photographs: list[bytes]) -> None:
    """Milliseconds of one core, and the distance from a Lanczos reduction of all pixels."""
    print("| way | ms | PSNR | largest |\n|---|---:|---:|---:|")
    shapes = [Encoding(max_side=SIDE).shape(*Image.open(io.BytesIO(data)).size) for data in photographs]
    whole = [Image.open(io.BytesIO(data)).convert("RGB") for data in photographs]
    references = [np.asarray(image.resize(shape[::-1], LANCZOS)) for image, shape in zip(whole, shapes, strict=True)]
    for name, way in ways():
        times, errors, largest = [], [], 0
        for data, shape, reference in list(zip(photographs, shapes, references, strict=True)) * 3:
            start = time.process_time()
            pixels = way(data, shape)
            times.append(time.process_time() - start)
            errors.append(psnr(pixels, reference))
            largest = max(largest, int(np.abs(pixels.astype(int) - reference).max()))
        print(f"| {name} | {1e3 * float(np.median(times)):.0f} | {np.mean(errors):.1f} | {largest} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["shrink"]:
        table([Path(name).read_bytes() for name in sys.argv[2:]])
    else:
        sheet(Path("sheet.webp"))
