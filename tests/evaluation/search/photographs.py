"""Photographs of textured walls from several places, with a ground truth: something for local features."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.corpora import encode, write_corpus
from tests.evaluation.small import add_ground_truth

SIDE, WALLS, VIEWS = 160, 5, 4


def wall(number: int) -> np.ndarray:
    """`(SIDE, SIDE, 3)` uint8: rectangles and discs of many colors."""
    rng, pixels = np.random.default_rng([7, number]), np.full((SIDE, SIDE, 3), 128, np.uint8)
    for _ in range(220):
        (x, y), size, color = rng.integers(0, SIDE, 2).tolist(), int(rng.integers(2, 9)), rng.integers(0, 256, 3).tolist()
        if rng.random() < 0.5:
            cv2.circle(pixels, (x, y), size, color, -1)
        else:
            cv2.rectangle(pixels, (x, y), (x + 2 * size, y + size), color, -1)
    return pixels


def seen(pixels: np.ndarray, view: int) -> np.ndarray:
    """From another place: turned, scaled and tilted a little; view 0 as it is."""
    if view == 0:
        return pixels
    corners = np.float32([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]])
    moved = corners + np.random.default_rng(view).uniform(-14, 14, (4, 2)).astype(np.float32)
    return cv2.warpPerspective(pixels, cv2.getPerspectiveTransform(corners, moved), (SIDE, SIDE))


def make_walls(folder: Path) -> Path:
    """A corpus of all walls and views; the queries are the first view of the first two walls, cut out."""
    images = ((encode(seen(wall(number), view), quality=92), SIDE, SIDE) for number in range(WALLS) for view in range(VIEWS))
    write_corpus(folder, images, np.repeat(np.arange(WALLS), VIEWS), shards=2)
    queries: list[dict[str, Any]] = [
        {"key": f"{4 * n:06d}", "box": [10, 10, 150, 150], "good": [f"{4 * n + view:06d}" for view in range(4)]} for n in range(2)
    ]
    add_ground_truth(folder, {"protocol": "oxford5k", "queries": queries, "gallery": None})
    return folder
