"""What stands between a camera and a landmark: upright pictures of trees, people, poles and cars.

The last channel of a picture is 1 where the thing is.
"""

from functools import lru_cache

import numpy as np

from .facade import GLASS, WOOD
from .render import Camera
from .scene import Mesh, Scene
from .textures import Generator, noise


def tree(rng: Generator) -> np.ndarray:
    """`(64, 56, 4)`"""
    h, w = 64, 56
    x, y = np.linspace(-1, 1, w), np.linspace(-0.75, 1.25, h)[:, None]
    crown = np.hypot(x / 0.75, (y - 0.35) / 0.7) + 0.16 * noise(rng, h, w, 6, 14) < 0.95
    backbone = (np.abs(x + 0.05 * y) < rng.uniform(0.04, 0.1)) & (y < 0.3)
    green = np.array([0.22, 0.33, 0.14]) * rng.uniform(0.6, 1.3, 3)
    color = np.where(crown[..., None], green * (1 + 0.3 * noise(rng, h, w, 8, 20)[..., None] + 0.25 * y[..., None]), WOOD)
    return np.dstack([color, crown | backbone])


def person(rng: Generator) -> np.ndarray:
    """`(48, 20, 4)`"""
    x, y = np.linspace(-1, 1, 20), np.linspace(0, 1, 48)[:, None]
    head, coat = np.hypot(x / 0.35, (y - 0.9) / 0.1) < 1, (np.abs(x) < 0.75 - 0.3 * y) & (y > 0.42) & (y < 0.82)
    legs = (np.abs(np.abs(x) - 0.3) < 0.22) & (y <= 0.42)
    colors = [np.array([0.65, 0.48, 0.38]), rng.uniform(0.05, 0.8, 3), rng.uniform(0.05, 0.4, 3)]
    color = np.select([head[..., None], coat[..., None]], colors[:2], colors[2])
    return np.dstack([color, head | coat | legs])


def pole(rng: Generator) -> np.ndarray:
    """`(64, 16, 4)`: a lamp post or a sign."""
    x, y = np.linspace(-1, 1, 16), np.linspace(0, 1, 64)[:, None]
    plate = (np.abs(y - rng.uniform(0.75, 0.95)) < rng.uniform(0.04, 0.15)) & (np.abs(x) < 0.9)
    color = np.where(plate[..., None], rng.uniform(0.1, 0.9, 3), np.array([0.2, 0.2, 0.22]))
    return np.dstack([color, plate | (np.abs(x) < 0.2)])


def car(rng: Generator) -> np.ndarray:
    """`(28, 64, 4)`"""
    x, y = np.linspace(-1, 1, 64), np.linspace(0, 1, 28)[:, None]
    body, cabin = (np.abs(x) < 0.97) & (y > 0.15) & (y < 0.58), (np.abs(x + 0.05) < 0.85 - 0.5 * y) & (y >= 0.58)
    wheel = np.hypot((np.abs(x) - 0.6) / 0.17, (y - 0.18) / 0.2) < 1
    color = np.where(cabin[..., None] & (y < 0.9)[..., None], GLASS, rng.uniform(0.05, 0.85, 3))
    return np.dstack([np.where(wheel[..., None], 0.05, color), body | cabin | wheel])


KINDS = {tree: (10, 6.0, 0.9), person: (10, 1.75, 0.42), pole: (6, 5.5, 0.25), car: (8, 1.55, 2.6)}
"""How many pictures of each there are, height in metres, width over height."""


@lru_cache(maxsize=1)
def bank() -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """The pictures of what may stand before any landmark, and their `(K, 2)` width and height in metres."""
    rng = np.random.default_rng(0)
    pictures: list[np.ndarray] = []
    sizes: list[tuple[float, float]] = []
    for paint, (count, height, aspect) in KINDS.items():
        pictures += [paint(rng) for _ in range(count)]
        sizes += [(height * aspect, height)] * count
    return tuple(pictures), np.array(sizes)


def place_obstacles(rng: Generator, scene: Scene, camera: Camera) -> Mesh:
    """Upright pictures that face the camera, between it and the landmark or beside it."""
    sizes = bank()[1]
    count = min(6, rng.poisson(2.5))
    texture = rng.integers(len(sizes), size=count)
    forward = scene.middle[:2] - camera.position[:2]
    forward /= np.linalg.norm(forward)
    away, right = np.linalg.norm(scene.middle[:2] - camera.position[:2]), np.array([-forward[1], forward[0]]) * -1
    along = away * rng.uniform(0.3, 0.85, (count, 1))
    aside = rng.uniform(-0.45, 0.45, (count, 1)) * along / camera.focal
    foot = camera.position[:2] + along * forward + aside * right
    half = right * sizes[texture, :1] / 2 * rng.uniform(0.8, 1.2, (count, 1))
    left, rise = np.column_stack([foot - half, np.zeros(count)]), sizes[texture, 1] * rng.uniform(0.8, 1.2, count)
    across, up = np.column_stack([2 * half, np.zeros(count)]), rise[:, None] * [0, 0, 1]
    quads = np.stack([left, left + across, left + across + up, left + up], 1)
    halves, st = [[0, 1, 2], [0, 2, 3]], np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    return Mesh(quads[:, halves].reshape(-1, 3, 3), np.tile(st[halves], (count, 1, 1)), np.repeat(texture, 2))
