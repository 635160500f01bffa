"""What it costs in mAP when queries and gallery are shrunk by different tools: `python -m tests.benchmarks.bench_shrinkers`.

Photographs of the shared data to a longest side of 96 pixels, described by SqueezeNet; nothing where they are not. For each tool:
mAP of `make shards` against that of queries and gallery by the tool, mAP of queries by the tool in a gallery by `make shards`
against that of both by `make shards`, and how far pixels are apart, in levels of 255. OpenCV is left out where it is absent.
"""

import io
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image

from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from shards.images import shrink
from tests.benchmarks.bench_reading import PHOTOGRAPHS
from tests.benchmarks.table import Row, report

DATA, SIDE, PER_CLASS = PHOTOGRAPHS.parent, 96, 8
GROCERY = DATA / "grocery192.tar"
OWN, MIXED, MEAN, MOST = 0.99, 0.97, 4, 100
"""The goals: of mAP, and of pixels."""
Way = Callable[[bytes], np.ndarray]
"""Encoded -> (h, w, 3) uint8."""


def photographs() -> tuple[list[bytes], np.ndarray]:
    """The first ones of each odd class in the list of test images, and their classes."""
    with tarfile.open(GROCERY) as tar:
        members = {member.name: member for member in tar if member.isfile()}
        listed = next(name for name in members if name.endswith("test.txt"))
        rows = [line.replace(",", " ").split() for line in tar.extractfile(members[listed]).read().decode().splitlines()]  # type: ignore[union-attr]
        places: dict[int, list[str]] = {}
        for path, label, *_ in rows:
            places.setdefault(int(label), []).append(listed.removesuffix("test.txt") + path)
        chosen = [(path, label) for label in sorted(places) if label % 2 for path in sorted(places[label])[:PER_CLASS]]
        data = [tar.extractfile(members[path]).read() for path, _ in chosen]  # type: ignore[union-attr]
    return data, np.array([label for _, label in chosen])


def rgb(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def shape(pixels: np.ndarray) -> tuple[int, int]:
    scale = SIDE / max(pixels.shape[:2])
    height, width = (max(32, round(side * scale)) for side in pixels.shape[:2])
    return height, width


def by_pillow(resampling: Image.Resampling) -> Way:
    def way(data: bytes) -> np.ndarray:
        pixels = rgb(data)
        return np.asarray(Image.fromarray(pixels).resize(shape(pixels)[::-1], resampling))

    return way


def by_torch(antialias: bool) -> Way:
    def way(data: bytes) -> np.ndarray:
        pixels = rgb(data)
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        scaled = torch.nn.functional.interpolate(planes, shape(pixels), mode="bilinear", antialias=antialias)
        return scaled[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()

    return way


def by_opencv(interpolation: str) -> Way:
    import cv2

    def way(data: bytes) -> np.ndarray:
        pixels = rgb(data)
        return cv2.resize(pixels, shape(pixels)[::-1], interpolation=getattr(cv2, interpolation))

    return way


def ways() -> Mapping[str, Way]:
    some: dict[str, Way] = {
        "make shards": lambda data: shrink(pixels := rgb(data), shape(pixels), pixels.shape[:2]),
        "Pillow, Lanczos": by_pillow(Image.Resampling.LANCZOS),
        "Pillow, BOX": by_pillow(Image.Resampling.BOX),
        "Pillow, bilinear": by_pillow(Image.Resampling.BILINEAR),
        "torchvision, bilinear, antialiased": by_torch(True),
        "torch, bilinear, not antialiased": by_torch(False),
    }
    if find_spec("cv2"):
        some |= {f"OpenCV, {name}": by_opencv(name) for name in ("INTER_AREA", "INTER_LINEAR")}
    return some


def mean_ap(queries: np.ndarray, gallery: np.ndarray, label: np.ndarray) -> float:
    """Per cent; photograph i is left out of the ranking of photograph i."""
    scores = queries @ gallery.T
    np.fill_diagonal(scores, -np.inf)
    found = []
    for row, own in zip(scores, label, strict=True):
        right = np.flatnonzero(label[np.argsort(-row)[:-1]] == own)
        found.append((np.arange(1, len(right) + 1) / (right + 1)).mean())
    return 100 * float(np.mean(found))


def describe(pixels: Mapping[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """`(n, D)` rows of each tool's pictures."""
    weights = DATA / "weights" / "squeezenet1_1_features_imagenet.pth"
    network, rows = build_network(ModelConfig(backbone="squeezenet1_1", weights=str(weights))).eval(), {}
    with torch.inference_mode():
        for name, pictures in pixels.items():
            batches = (torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in pictures)
            rows[name] = torch.cat([network(network.contract.normalize(batch)) for batch in batches]).numpy()
    return rows


def measured() -> Iterator[Row]:
    if not GROCERY.exists():
        print(f"no photographs at {GROCERY}")
        return
    data, label = photographs()
    pixels = {name: [np.array(way(one), order="C") for one in data] for name, way in ways().items()}
    (_, ours), *others = describe(pixels).items()
    own = mean_ap(ours, ours, label)
    reference = next(iter(pixels.values()))
    for name, rows in others:
        apart = [np.abs(a.astype(int) - b) for a, b in zip(pixels[name], reference, strict=True)]
        yield Row(f"mAP: make shards, against {name}", own, mean_ap(rows, rows, label), OWN)
        yield Row(f"mAP: queries by {name}, against make shards", mean_ap(rows, ours, label), own, MIXED)
        yield Row(f"levels, mean: {name}", float(np.mean([levels.mean() for levels in apart])), MEAN, 1, True)
        yield Row(f"levels, largest: {name}", max(int(levels.max()) for levels in apart), MOST, 1, True)


if __name__ == "__main__":
    sys.exit(not report(measured()))
