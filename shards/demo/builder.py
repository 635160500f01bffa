"""Puts scenes together: walls lofted between footprints, and lids.

N corners of a footprint, counter-clockwise from above.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .facade import Style, facade
from .obstacles import bank
from .scene import Atlas, Mesh, Scene, areas, sample_points
from .textures import TEXELS, Generator, Texture

POINTS = 384
SQUARE = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])


def rectangle(width: float, depth: float, x: float = 0, y: float = 0) -> np.ndarray:
    """`(4, 2)`, counter-clockwise from the front left corner."""
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, depth / 2) + (x, y)


def polygon(radius: float, sides: int, x: float = 0, y: float = 0) -> np.ndarray:
    angle = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1) + (x, y)


@dataclass
class Builder:
    """Collects the surfaces and textures of a scene."""

    rng: Generator
    style: Style
    pictures: list[Texture]
    parts: list[Mesh] = field(default_factory=list)

    def picture(self, picture: Texture) -> int:
        self.pictures.append(picture)
        return len(self.pictures) - 1

    def wall(self, width: float, height: float, ornate: bool = False) -> int:
        return self.picture(facade(self.rng, self.style, width, height, ornate))

    def plain(self, width: float, height: float) -> int:
        h, w = (max(4, round(side * TEXELS)) for side in (height, width))
        return self.picture(self.style.wall.paint(self.rng, h, w))

    def tiles(self, width: float = 8, height: float = 8) -> int:
        h, w = (max(4, round(side * TEXELS)) for side in (height, width))
        return self.picture(self.style.roof.paint(self.rng, h, w))

    def loft(self, low: np.ndarray, high: np.ndarray, bottom: float, top: float, sides: Sequence[int] | int) -> None:
        """Walls from the footprint `low (N, 2)` at height `bottom` to `high (N, 2)` at `top`.

        One texture for all sides is wrapped around them; a list gives each side its own.
        """
        count = len(low)
        following = (np.arange(count) + 1) % count
        lower, upper = np.column_stack([low, np.full(count, bottom)]), np.column_stack([high, np.full(count, top)])
        quads = np.stack([lower, lower[following], upper[following], upper], 1)  # (N, 4, 3)
        left, share = (np.arange(count) / count, 1 / count) if isinstance(sides, int) else (np.zeros(count), 1)
        st = SQUARE * [share, 1] + np.multiply.outer(left, [[1, 0]])  # (N, 4, 2)
        self._add(quads, st, np.broadcast_to(sides, count))

    def lid(self, outline: np.ndarray, height: float, texture: int) -> None:
        """A flat top over `outline (N, 2)`."""
        corners = np.column_stack([outline, np.full(len(outline), height)])
        low, high = outline.min(0), outline.max(0)
        st = (outline - low) / (high - low)
        fan = np.arange(1, len(outline) - 1)
        pick = np.stack([np.zeros_like(fan), fan, fan + 1], 1)
        self.parts.append(Mesh(corners[pick], st[pick], np.full(len(fan), texture)))

    def repeat(self, first: int, places: Sequence[tuple[float, float]]) -> None:
        """Move what was added from the part `first` on by each of `places`: so many copies that are alike."""
        parts, moves = self.parts[first:], [np.array([x, y, 0]) for x, y in places]
        self.parts[first:] = [Mesh(part.corners + move, part.st, part.texture) for move in moves for part in parts]

    def mesh(self) -> Mesh:
        corners, st, texture = zip(*((part.corners, part.st, part.texture) for part in self.parts), strict=True)
        whole = Mesh(np.concatenate(corners), np.concatenate(st), np.concatenate(texture))
        proper = areas(whole.corners) > 1e-6
        return Mesh(whole.corners[proper], whole.st[proper], whole.texture[proper])

    def _add(self, quads: np.ndarray, st: np.ndarray, texture: np.ndarray) -> None:
        halves = [[0, 1, 2], [0, 2, 3]]
        self.parts.append(Mesh(quads[:, halves].reshape(-1, 3, 3), st[:, halves].reshape(-1, 3, 2), np.repeat(texture, 2)))


def build(rng: Generator, recipe: Callable[[Builder], None]) -> Scene:
    """The scene that `recipe` builds; textures of the obstacles come first in its atlas."""
    builder = Builder(rng, Style.draw(rng), list(bank()[0]))
    recipe(builder)
    mesh = builder.mesh()
    low, high = mesh.corners.min((0, 1)), mesh.corners.max((0, 1))
    size = max(high[0] - low[0], 1.1 * (high[2] - low[2]))
    middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, 0.45 * high[2]])
    return Scene(mesh, Atlas.pack(builder.pictures), *sample_points(rng, mesh, POINTS), size=float(size), middle=middle)
