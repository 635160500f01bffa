"""Textures, and the noise and masonry of which walls, roofs, hills and clouds are made.

h, w texels; row 0 is at the bottom. All landmarks draw from the same palettes, so that they differ in layout and detail more
than in color.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

TEXELS = 7.0
"""Texels per metre of wall."""

Generator = np.random.Generator
WHITE = np.ones(3)
_PALE = [[0.80, 0.69, 0.48], [0.88, 0.85, 0.78], [0.86, 0.62, 0.30], [0.76, 0.52, 0.44], [0.68, 0.58, 0.50]]
_DARK = [[0.62, 0.31, 0.22], [0.58, 0.58, 0.60], [0.40, 0.36, 0.33], [0.60, 0.66, 0.56], [0.55, 0.60, 0.70]]
WALLS = np.array([*_PALE, *_DARK])
ROOFS = np.array([[0.52, 0.25, 0.18], [0.30, 0.32, 0.37], [0.40, 0.30, 0.22], [0.32, 0.50, 0.42], [0.62, 0.56, 0.44]])


@dataclass(frozen=True)
class Texture:
    """A picture in few colors, each in many shades."""

    paint: np.ndarray
    """`(h, w)` uint16, which of the colors."""
    shade: np.ndarray
    """`(h, w)` float32, by which the color is multiplied; 0 where the texture is absent."""
    colors: list[np.ndarray]
    """`(3,)` each."""

    @staticmethod
    def plain(color: np.ndarray, shade: np.ndarray) -> "Texture":
        return Texture(np.zeros(shade.shape, np.uint16), shade, [color])

    def __getitem__(self, part: slice | tuple[slice, slice]) -> "Texture":
        """The rows, or rows and columns, of `part`, which may be painted in place."""
        return Texture(self.paint[part], self.shade[part], self.colors)

    def cover(self, where: np.ndarray | bool, color: np.ndarray, shade: np.ndarray | float = 1.0) -> None:
        """Paint over the texels `where` is true; it and `shade` need only broadcast to `(h, w)`."""
        np.copyto(self.paint, len(self.colors), where=where)
        np.copyto(self.shade, shade, where=where)
        self.colors.append(color)

    def dim(self, where: np.ndarray | bool, factor: float) -> None:
        np.multiply(self.shade, factor, out=self.shade, where=where)


@lru_cache(maxsize=256)
def _interpolation(size: int, cells: int) -> np.ndarray:
    """`(size, cells + 1)`: rows of linear weights from the knots of a lattice to `size` texels."""
    place = np.arange(size) * (cells / size)
    weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells + 1)))
    return weights.astype(np.float32)


def noise(rng: Generator, h: int, w: int, *cells: int) -> np.ndarray:
    """`(h, w)` value noise of about unit deviation: the sum of lattices with that many cells on the longer side."""
    left, right = [], []
    for count in cells:
        down, across = (max(1, round(count * side / max(h, w))) for side in (h, w))
        left.append(_interpolation(h, down) @ rng.standard_normal((down + 1, across + 1), np.float32))
        right.append(_interpolation(w, across))
    return np.concatenate(left, 1) * np.float32(1.5 / np.sqrt(len(cells))) @ np.concatenate(right, 1).T


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

    def paint(self, rng: Generator, h: int, w: int) -> Texture:
        """`(h, w)` of this masonry, stained and weathered."""
        row = np.arange(h) / (TEXELS * self.course)
        level = row.astype(int)
        odd = np.arange(level[-1] + 1) % 2
        column = np.arange(w) / (TEXELS * self.block) + 0.5 * np.arange(min(2, len(odd)))[:, None]  # even and odd courses
        number = column.astype(int)
        shades = rng.normal(1, self.spread, (len(odd), number.max() + 1)) * (1 - self.band * odd)[:, None]
        blocks = shades[np.arange(len(odd))[:, None], number[odd]]  # (courses, w)
        upright = blocks * (1 - self.joint * (column - number < 0.12))[odd]
        courses = np.stack([upright, blocks * (1 - self.joint)]).astype(np.float32)
        stains = 1 + np.float32(0.06) * noise(rng, h, w, 3, 9, 40)
        return Texture.plain(self.color, courses[(row - level < 0.2).astype(int), level] * stains)
