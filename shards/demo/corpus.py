"""The embedded demo: landmarks to train on, others to test on, and distractors of the same kind; no download.

V views of a landmark, P points on its surface.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import Field

from largescale.settings import Settings

from ..sources import Item, Source
from ..writer import build
from .landmarks import draw_landmark
from .photograph import Viewpoint
from .scene import Scene
from .textures import Generator

SPLITS = ("train", "test", "distractors")
MIN_INLIERS = 16
MIN_OVERLAP = 0.2
MAX_SCALE = 2.5
KEPT = str(2**25)
WORKER_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": KEPT, "MALLOC_TRIM_THRESHOLD_": KEPT}
"""There is a worker process per core; one that returned its memory after every picture would spend a tenth of its time on it."""


class Demo(Settings):
    """How much of the demo to make. Another seed draws other landmarks, lights and viewpoints."""

    seed: int = Field(0, ge=0)
    """Everything follows from it."""
    landmarks: int = Field(100, ge=1)
    """Landmarks to train on."""
    views: int = Field(12, ge=2)
    """Photographs of each of them."""
    test_landmarks: int = Field(30, ge=1)
    """Landmarks to test on; none of those to train on."""
    test_views: int = Field(10, ge=2)
    """Photographs of each of them."""
    distractors: int = Field(1000, ge=1)
    """Landmarks of the same kind that are seen once."""
    size: int = Field(128, ge=32)
    """Pixels on a side."""

    def sources(self) -> list["DemoSource"]:
        counts = (self.landmarks, self.views), (self.test_landmarks, self.test_views), (self.distractors, 1)
        return [DemoSource(split, self.seed, *count, self.size) for split, count in zip(SPLITS, counts, strict=True)]


def build_demo(out: Path, demo: Demo, workers: int | None = None) -> None:
    """Build the corpora `train`, `test` and `distractors` below `out`; go on where a killed build stopped."""
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for source in demo.sources():
        build(source, out / source.split, workers=workers)


@dataclass(frozen=True)
class DemoSource(Source):
    """One split; its landmarks are those of no other split and of no other seed."""

    split: str
    seed: int
    landmarks: int
    views: int
    size: int
    layout: str = "demo"

    def items(self) -> Iterator[Item]:
        for landmark in range(self.landmarks):
            name = f"{self.split}-{landmark:05d}"
            for view in range(self.views):
                label = None if self.split == "distractors" else name
                yield Item(f"{name}/{view:02d}", label, f"seed {self.seed} {self.size} px: {landmark} {view}")

    def read(self, place: str) -> bytes:
        landmark, view = map(int, place.split()[-2:])
        scene = self.scene(landmark)
        rng = self._generator(landmark, view + 1)
        return Viewpoint.draw(rng, scene).photograph(rng, scene, self.size)

    def pairs(self) -> dict[str, np.ndarray] | None:
        """Of each two views of a landmark: what the geometry says about them, where they share enough of it."""
        if self.split != "train":
            return None
        found = [self._landmark_pairs(landmark) for landmark in range(self.landmarks)]
        return {name: np.concatenate([columns[name] for columns in found]) for name in found[0]}

    def scene(self, landmark: int) -> Scene:
        return _scene(self.seed, SPLITS.index(self.split), landmark)

    def view(self, landmark: int, view: int) -> Viewpoint:
        return Viewpoint.draw(self._generator(landmark, view + 1), self.scene(landmark))

    def _generator(self, *numbers: int) -> Generator:
        return np.random.default_rng((self.seed, SPLITS.index(self.split), *numbers))

    def _landmark_pairs(self, landmark: int) -> Mapping[str, np.ndarray]:
        scene, views = self.scene(landmark), [self.view(landmark, view) for view in range(self.views)]
        columns = compare(scene, views, self.size)
        good = (columns["inliers"] >= MIN_INLIERS) & (columns["overlap"] >= MIN_OVERLAP) & (columns["scale"] <= MAX_SCALE)
        query, positive = np.nonzero(good & ~np.eye(len(views), dtype=bool))
        first = landmark * self.views
        return {"query": first + query, "positive": first + positive} | {n: c[query, positive] for n, c in columns.items()}


@lru_cache(maxsize=2)
def _scene(seed: int, split: int, landmark: int) -> Scene:
    return draw_landmark(np.random.default_rng((seed, split, landmark, 0)))


def compare(scene: Scene, views: list[Viewpoint], size: int) -> dict[str, np.ndarray]:
    """`(V, V)` each, row = query, column = positive.

    `inliers`: points visible in both; `overlap`: their share of the query's visible points; `scale`: median over them of how
    many times larger one view shows them than the other, at least 1; `distance`: metres between the cameras.
    """
    seen = np.stack([view.sees(scene, size) for view in views])  # (V, P)
    inliers = seen.astype(np.int64) @ seen.T.astype(np.int64)
    overlap = inliers / np.maximum(1, np.diag(inliers))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        large = np.log([view.camera.focal / view.camera.project(scene.points.T)[1] for view in views])  # (V, P)
    one, other = np.triu_indices(len(views))
    larger = np.where(seen[one] & seen[other], large[one] - large[other], np.inf)
    scale = np.empty((len(views), len(views)))
    scale[one, other] = scale[other, one] = np.exp(np.abs(_median(larger, inliers[one, other])))
    position = np.stack([view.camera.position for view in views])
    distance = np.linalg.norm(position[:, None] - position[None], axis=2)
    return {"inliers": inliers, "overlap": overlap, "scale": scale, "distance": distance}


def _median(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """`(n,)` medians of the rows of `values (n, P)`, of which `count (n,)` are finite; infinite where none is."""
    middle = np.stack([np.maximum(0, count - 1) // 2, count // 2], 1)
    return np.take_along_axis(np.sort(values, axis=1), middle, 1).mean(1)
