"""What landmarks there are: halls, churches, castles, temples and solids, drawn at random from one family."""

import numpy as np

from .builder import Builder, build, polygon, rectangle
from .scene import Scene
from .textures import Generator


def draw_landmark(rng: Generator) -> Scene:
    recipes = (hall, hall, church, church, castle, temple, solid)
    return build(rng, recipes[rng.integers(len(recipes))])


def hall(b: Builder) -> None:
    """A palace or town hall: a body, perhaps wings, a middle tower or a dome."""
    width, depth, height = b.rng.uniform(14, 26), b.rng.uniform(9, 16), b.rng.uniform(9, 17)
    body(b, width, depth, height, ornate=True)
    if b.rng.random() < 0.5:
        wing, low = b.rng.uniform(5, 9), height * b.rng.uniform(0.5, 0.85)
        for side in (-1, 1):
            body(b, wing, depth * 0.8, low, x=side * (width + wing) / 2)
    crown = b.rng.integers(3)
    if crown == 0:
        tower(b, b.rng.uniform(2, 3.5), height * b.rng.uniform(1.4, 2), y=-depth / 2 + 3.6)
    elif crown == 1:
        drum(b, b.rng.uniform(3, 0.4 * depth), height)


def church(b: Builder) -> None:
    """A nave with its gable to the front and one or two towers."""
    width, depth, height = b.rng.uniform(9, 14), b.rng.uniform(16, 24), b.rng.uniform(8, 13)
    body(b, width, depth, height, ornate=True, roof="front")
    radius = b.rng.uniform(1.8, 3)
    sides = b.rng.choice([(-1, 1), (1, 1), (-1, -1), (0, 0)])
    for side in sorted(set(sides.tolist())):
        tower(b, radius, height * b.rng.uniform(1.5, 2.3), x=side * (width / 2 + radius * 0.7), y=(-0.5 if side else 0.2) * depth)


def castle(b: Builder) -> None:
    """A keep between corner towers."""
    width, depth, height = b.rng.uniform(12, 20), b.rng.uniform(10, 16), b.rng.uniform(7, 12)
    body(b, width, depth, height, ornate=True, roof=b.rng.choice(["flat", "hip"]))
    radius, rise = b.rng.uniform(1.8, 3.2), b.rng.uniform(1.2, 1.7)
    first = len(b.parts)
    tower(b, radius, height * rise)
    b.repeat(first, [(x * width / 2, y * depth / 2) for x in (-1, 1) for y in (-1, 1)])


def temple(b: Builder) -> None:
    """Steps, columns and a pediment before a cella."""
    width, depth, height = b.rng.uniform(12, 22), b.rng.uniform(12, 20), b.rng.uniform(7, 12)
    stone = b.plain(width, 3)
    for step in range(3):
        foot = rectangle(width + 3 - step, depth + 3 - step)
        b.loft(foot, foot, 0.5 * step, 0.5 * step + 0.5, stone)
        b.lid(foot, 0.5 * step + 0.5, stone)
    inner = rectangle(width - 3, depth - 6, y=1.5)
    b.loft(inner, inner, 1.5, height, [b.wall(width - 3, height - 1.5, ornate=True)] + [b.wall(depth - 6, height - 1.5)] * 3)
    shaft, radius = b.plain(4, height), b.rng.uniform(0.4, 0.8)
    for x in np.linspace(-0.46, 0.46, int(b.rng.integers(4, 9))) * width:
        foot = polygon(radius, 8, x, -depth / 2 + 1)
        b.loft(foot, foot * 0.9 + 0.1 * foot.mean(0), 1.5, height, shaft)
    beam = rectangle(width, depth)
    b.loft(beam, beam, height, height + 1.4, b.plain(width, 1.4))
    gable(b, width, depth, height + 1.4, b.rng.uniform(0.2, 0.4) * width, front=True)
    if b.rng.random() < 0.3:
        drum(b, 0.3 * width, height + 1.4)


def solid(b: Builder) -> None:
    """An obelisk, a stepped pyramid or a lone tower on a plinth."""
    kind, height = b.rng.integers(3), b.rng.uniform(14, 24)
    side = b.rng.uniform(7, 11)
    plinth = rectangle(side, side)
    b.loft(plinth, plinth, 0, 2, [b.wall(side, 2)] * 4)
    b.lid(plinth, 2, b.tiles())
    if kind == 0:
        foot = rectangle(side * 0.5, side * 0.5)
        b.loft(foot, foot * 0.6, 2, height, [b.wall(side * 0.5, height, ornate=True), b.wall(side * 0.5, height)] * 2)
        b.loft(foot * 0.6, foot * 0, height, height * 1.12, b.tiles())
    elif kind == 1:
        for step in range(4):
            foot, low, high = plinth * 1.8 * (1 - 0.21 * step), 2 + step * height / 6, 2 + (step + 1) * height / 6
            b.loft(
                foot, foot * 0.93, low, high, [b.wall(side * 2, high - low, ornate=step == 0), b.wall(side * 2, high - low)] * 2
            )
            b.lid(foot * 0.93, high, b.tiles())
    else:
        tower(b, side * 0.35, height * 1.2, bottom=2)


def body(b: Builder, width: float, depth: float, height: float, x: float = 0, ornate: bool = False, roof: str = "") -> None:
    """A box with its roof: "front" and "side" name where the gable is."""
    foot = rectangle(width, depth, x)
    flank = b.wall(depth, height)
    b.loft(foot, foot, 0, height, [b.wall(width, height, ornate), flank, b.wall(width, height), flank])
    kind = roof or b.rng.choice(["flat", "hip", "front", "side"])
    rise = b.rng.uniform(0.25, 0.6) * min(width, depth)
    if kind == "flat":
        b.lid(foot, height, b.tiles(width, depth))
        rim = rectangle(width + 0.8, depth + 0.8, x)
        b.loft(rim, rim, height - 0.2, height + 1, b.plain(width, 1.2))
    elif kind == "hip":
        ridge = rectangle(max(0, width - depth), max(0, depth - width), x)
        b.loft(rectangle(width + 1, depth + 1, x), ridge, height, height + rise, b.tiles(2 * (width + depth), rise))
    else:
        gable(b, width, depth, height, rise, front=kind == "front", x=x)


def gable(b: Builder, width: float, depth: float, height: float, rise: float, front: bool, x: float = 0) -> None:
    foot = rectangle(width, depth, x)
    ridge = rectangle(0 if front else width, depth if front else 0, x)
    end, slope = b.plain(width if front else depth, rise), b.tiles(depth if front else width, rise * 1.5)
    b.loft(foot, ridge, height, height + rise, [end, slope] * 2 if front else [slope, end] * 2)


def tower(b: Builder, radius: float, height: float, x: float = 0, y: float = 0, bottom: float = 0) -> None:
    """Square, eight-sided or round, with a spire, a dome or battlements."""
    sides = int(b.rng.choice([4, 4, 8, 12]))
    foot = rectangle(2 * radius, 2 * radius, x, y) if sides == 4 else polygon(radius, sides, x, y)
    around = b.wall(2 * radius, height - bottom) if sides == 4 else b.wall(6.3 * radius, height - bottom)
    b.loft(foot, foot, bottom, height, [around] * 4 if sides == 4 else around)
    center = np.array([x, y])
    cap = b.rng.integers(4)
    if cap == 0:
        eaves = center + (foot - center) * 1.12
        b.loft(eaves, center + 0 * foot, height, height + radius * b.rng.uniform(1.5, 4.5), b.tiles())
    elif cap == 1:
        dome(b, foot, height, radius * b.rng.uniform(0.8, 1.5))
    elif cap == 2:
        rim = center + (foot - center) * 1.15
        b.loft(rim, rim, height - 0.8, height + 1.2, b.wall(6, 2))
        b.lid(rim, height + 1.2, b.tiles())
    else:
        small = center + (foot - center) * 0.65
        b.lid(foot, height, b.tiles())
        b.loft(small, small, height, height + 2 * radius, b.wall(4 * radius, 2 * radius))
        b.loft(center + (foot - center) * 0.75, center + 0 * foot, height + 2 * radius, height + 3.5 * radius, b.tiles())


def drum(b: Builder, radius: float, bottom: float) -> None:
    """A dome on its drum."""
    foot = polygon(radius, 12)
    rise = radius * b.rng.uniform(0.4, 1)
    b.loft(foot, foot, bottom, bottom + rise, b.wall(6.3 * radius, rise))
    dome(b, foot, bottom + rise, radius * b.rng.uniform(0.8, 1.3))


def dome(b: Builder, foot: np.ndarray, bottom: float, rise: float) -> None:
    center, tiles = foot.mean(0), b.tiles(16, 3)
    bulge, rings = b.rng.choice([0.0, 0.25]), 4
    angle = np.linspace(0, np.pi / 2, rings + 1)
    spread = np.cos(angle) * (1 + bulge * np.sin(2 * angle))
    for ring in range(rings):
        low, high = (center + (foot - center) * spread[ring + i] for i in (0, 1))
        b.loft(low, high, bottom + rise * np.sin(angle[ring]), bottom + rise * np.sin(angle[ring + 1]), tiles)
