"""Noise and masonry, of which walls, roofs, hills and clouds are made.

Textures are `(h, w, 3)` with row 0 at the bottom; h, w texels. All landmarks draw from the same palettes, so that they
differ in layout and detail more than in color.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

TEXELS = 7.0
"""Texels per metre of wall."""

Generator = np.random.Generator
_PALE = [[0.80, 0.69, 0.48], [0.88, 0.85, 0.78], [0.86, 0.62, 0.30], [0.76, 0.52, 0.44], [0.68, 0.58, 0.50]]
_DARK = [[0.62, 0.31, 0.22], [0.58, 0.58, 0.60], [0.40, 0.36, 0.33], [0.60, 0.66, 0.56], [0.55, 0.60, 0.70]]
WALLS = np.array([*_PALE, *_DARK])
ROOFS = np.array([[0.52, 0.25, 0.18], [0.30, 0.32, 0.37], [0.40, 0.30, 0.22], [0.32, 0.50, 0.42], [0.62, 0.56, 0.44]])


@lru_cache(maxsize=256)
def _interpolation(size: int, cells: int) -> np.ndarray:
    """`(size, cells + 1)`: rows of linear weights from the knots of a lattice to `size` texels."""
    place = np.linspace(0, cells, size, endpoint=False)
    weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells + 1)))
    return weights.astype(np.float32)


def noise(rng: Generator, h: int, w: int, *cells: int) -> np.ndarray:
    """`(h, w)` value noise of about unit deviation: the sum of lattices with that many cells on the longer side."""
    total = np.zeros((h, w), np.float32)
    for count in cells:
        down, across = (max(1, round(count * side / max(h, w))) for side in (h, w))
        lattice = rng.standard_normal((down + 1, across + 1), np.float32)
        total += _interpolation(h, down) @ lattice @ _interpolation(w, across).T
    return total * (1.5 / np.sqrt(len(cells)))


@dataclass(frozen=True)
class Masonry:
    """Blocks in courses; lengths in metres."""

    color: np.ndarray
    course: float
    block: float
    joint: float
    """How much darker the joints are."""
    spread: float
    """Deviation of the shade from block to block."""
    band: float
    """How much darker every other course is."""

    @staticmethod
    def draw(rng: Generator, palette: np.ndarray, coarse: float = 1.0) -> "Masonry":
        color = palette[rng.integers(len(palette))] * rng.uniform(0.9, 1.1) + rng.normal(0, 0.015, 3)
        course = coarse * rng.choice([0.35, 0.5, 0.8, 1.2])
        band = rng.choice([0.0, 0.0, 0.0, 0.35])
        return Masonry(color, course, course * rng.uniform(1, 2.4), rng.uniform(0, 0.3), rng.uniform(0.02, 0.12), band)

    def paint(self, rng: Generator, h: int, w: int) -> np.ndarray:
        """`(h, w, 3)` of this masonry, stained and weathered."""
        row = np.arange(h) / (TEXELS * self.course)
        level = row.astype(int)
        column = np.arange(w) / (TEXELS * self.block) + 0.5 * (level % 2)[:, None]  # (h, w)
        number = column.astype(int)
        shades = rng.normal(1, self.spread, (level[-1] + 1, number.max() + 1)).astype(np.float32)
        shade = shades[level[:, None], number] * (1 - self.band * (level % 2))[:, None]
        shade *= 1 - self.joint * ((row - level < 0.2)[:, None] | (column - number < 0.12))
        shade *= 1 + 0.06 * noise(rng, h, w, 3, 9, 40)
        return shade[..., None] * self.color.astype(np.float32)
