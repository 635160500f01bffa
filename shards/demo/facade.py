"""Facades: storeys of windows between ledges and pilasters, a portal, and an emblem by which a landmark can be told.

h, w texels; lengths in metres.
"""

from dataclasses import dataclass

import numpy as np

from .textures import ROOFS, TEXELS, WALLS, WHITE, Generator, Masonry, Texture, noise

GLASS = np.array([0.16, 0.19, 0.24])
WOOD = np.array([0.30, 0.20, 0.13])


@dataclass(frozen=True)
class Opening:
    """The form of a window, an arch or a door, as fractions of its bay and storey."""

    half: float
    sill: float
    spring: float
    """Where the head begins."""
    head: float
    """Height of the head over its half width: 0 lintel, 1 round arch, above 1 pointed."""
    lights: int
    bars: float
    """Distance of the glazing bars in metres; 0 for none."""
    frame: float
    """Width of the surround in metres."""

    @staticmethod
    def draw(rng: Generator) -> "Opening":
        sill = rng.choice([0.0, 0.15, 0.25, 0.3])
        spring = rng.uniform(0.55, 0.78)
        head = rng.choice([0.0, 0.0, 1.0, 1.0, 1.7])
        bars = rng.choice([0.0, 0.5, 0.9])
        return Opening(
            rng.uniform(0.16, 0.36), sill, spring, head, int(rng.choice([1, 1, 2, 3])), bars, rng.choice([0.0, 0.2, 0.35])
        )

    def holds(self, x: np.ndarray, y: np.ndarray, bay: float, storey: float, margin: float = 0) -> np.ndarray:
        """`(h, w)` whether `x (w,)` from the middle of the bay and `y (h, 1)` above the floor are inside or within `margin`."""
        above = np.maximum(0, y - self.spring * storey) / max(self.head, 0.05)
        return (x**2 + above**2 < (self.half * bay + margin) ** 2) & (y > self.sill * storey - margin)


@dataclass(frozen=True)
class Storey:
    height: float
    opening: Opening
    ledge: float
    """Height in metres of the string course that closes the storey."""
    pilaster: float
    """Width in metres of the pilasters between bays."""
    shutters: bool

    @staticmethod
    def draw(rng: Generator) -> "Storey":
        pilaster = rng.choice([0.0, 0.0, 0.5, 0.8])
        return Storey(rng.uniform(3, 5.5), Opening.draw(rng), rng.choice([0.0, 0.3, 0.6]), pilaster, rng.random() < 0.2)


@dataclass(frozen=True)
class Style:
    """What the walls of one landmark have in common."""

    wall: Masonry
    trim: np.ndarray
    roof: Masonry
    storeys: tuple[Storey, ...]
    """From the ground up; higher walls repeat the last."""
    bay: float

    @staticmethod
    def draw(rng: Generator) -> "Style":
        wall = Masonry.draw(rng, WALLS)
        trim = np.clip((WALLS[rng.integers(len(WALLS))] + wall.color) / 2 * rng.choice([0.65, 1.25]), 0, 0.95)
        roof = Masonry.draw(rng, ROOFS, coarse=1.2)
        return Style(wall, trim, roof, tuple(Storey.draw(rng) for _ in range(3)), rng.uniform(2.4, 4.5))


def facade(rng: Generator, style: Style, width: float, height: float, ornate: bool) -> Texture:
    """A wall of `width` by `height` metres; an ornate one has a portal and perhaps a rose, a dial or a mural."""
    h, w = max(4, round(height * TEXELS)), max(4, round(width * TEXELS))
    picture = style.wall.paint(rng, h, w)
    bays = max(1, round(width / style.bay))
    floor, level = 0.0, 0
    while floor < height - 1:
        storey = style.storeys[min(level, len(style.storeys) - 1)]
        rows = slice(round(floor * TEXELS), round((floor + storey.height) * TEXELS))
        _paint_storey(rng, picture[rows], style, storey, bays)
        floor, level = floor + storey.height, level + 1
    if ornate:
        _paint_portal(rng, picture, style)
        _paint_emblem(rng, picture, style)
    picture[-max(2, round(0.5 * TEXELS)) :].cover(True, style.trim)
    return picture


def _paint_storey(rng: Generator, picture: Texture, style: Style, storey: Storey, bays: int) -> None:
    h, w = picture.shade.shape
    bay = w / TEXELS / bays
    place = np.arange(w) / TEXELS / bay
    number = np.minimum(place.astype(int), bays - 1)
    x, y = ((place - number - 0.5) * bay).astype(np.float32), np.arange(h, dtype=np.float32)[:, None] / TEXELS
    form = storey.opening
    if storey.shutters:
        leaf = np.abs(np.abs(x) - 1.5 * form.half * bay) < 0.5 * form.half * bay
        picture.cover(leaf & (y > form.sill * storey.height) & (y < form.spring * storey.height), style.roof.color)
    if form.frame:
        picture.cover(form.holds(x, y, bay, storey.height, form.frame), style.trim)
    glass = rng.uniform(0.6, 1.8, bays)
    hole = form.holds(x, y, bay, storey.height)
    picture.cover(hole, style.trim, 0.8)
    if form.bars:
        hole &= (y % form.bars > 0.14) & (np.abs(x) > 0.08)
    if form.lights > 1:
        light = 2 * form.half * bay / form.lights
        hole &= np.abs((x + form.half * bay) % light - light / 2) < 0.38 * light
    picture.cover(hole, GLASS, glass[number])
    if storey.pilaster:
        side = bay / 2 - np.abs(x)
        picture.cover(side < storey.pilaster / 2, style.trim, 1.05)
        picture.dim((side > storey.pilaster / 2) & (side < storey.pilaster / 2 + 0.2), 0.75)
    if storey.ledge:
        top = round(storey.ledge * TEXELS)
        picture[-top:].cover(True, style.trim)
        picture[-top - 3 : -top].dim(True, 0.65)


def _paint_portal(rng: Generator, picture: Texture, style: Style) -> None:
    h, w = picture.shade.shape
    x, y = (np.arange(w) - w / 2) / TEXELS, np.arange(h)[:, None] / TEXELS
    tall, wide = min(rng.uniform(3, 6), 0.5 * h / TEXELS), rng.uniform(1.6, 3.5)
    form = Opening(0.5, 0, 0.7, float(rng.choice([0.0, 1.0, 1.6])), 1, 0, 0)
    for ring in range(int(rng.integers(1, 4)), 0, -1):
        picture.cover(form.holds(x, y, wide, tall, 0.35 * ring), style.trim, 1.1 if ring % 2 else 0.7)
    door = form.holds(x, y, wide, tall)
    picture.cover(door, WOOD, rng.uniform(0.6, 1.6))
    picture.dim(door & (np.abs(x) < 0.1), 0.5)


def _paint_emblem(rng: Generator, picture: Texture, style: Style) -> None:
    """A rose window, a dial or a mural above the portal."""
    h, w = picture.shade.shape
    radius = min(rng.uniform(1.2, 3.2), 0.25 * h / TEXELS, 0.4 * w / TEXELS)
    x, y = (np.arange(w) - w / 2) / TEXELS, (np.arange(h)[:, None] - rng.uniform(0.58, 0.8) * h) / TEXELS
    distance, angle = np.hypot(x, y) / radius, np.arctan2(y, x)
    kind, petals = rng.integers(4), int(rng.integers(4, 11))
    if kind == 0:
        rose = (np.cos(petals * angle) > 0.3) & (distance > 0.3) & (distance < 0.85)
        picture.cover(distance < 1, style.trim)
        picture.cover(rose | (distance < 0.2), GLASS, 1.4)
    elif kind == 1:
        picture.cover(distance < 1, style.trim, 0.6)
        picture.cover(distance < 0.85, rng.choice([[0.85, 0.82, 0.75], [0.2, 0.25, 0.4]]))
        picture.cover((distance < 0.6) & (np.abs(np.sin(angle - rng.uniform(0, 3))) < 0.15), WHITE, 0.1)
    elif kind == 2:
        colors = rng.uniform(0.2, 0.8, (4, 3))
        panel = (np.abs(x) < radius * 1.4) & (np.abs(y) < radius)
        field = np.clip(noise(rng, h, w, 9) * 1.2 + 2, 0, 3.99).astype(int)
        for number, color in enumerate(colors):
            picture.cover(panel & (field == number), color)
