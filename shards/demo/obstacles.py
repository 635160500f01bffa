"""What stands between a camera and a landmark: upright pictures of trees, people, poles and cars."""

from functools import lru_cache

import numpy as np

from .camera import Camera
from .facade import GLASS, WOOD
from .scene import Mesh, Scene
from .textures import WHITE, Generator, Texture, noise


def _cut_out(shape: np.ndarray, color: np.ndarray) -> Texture:
    return Texture.plain(color, shape.astype(np.float32))


def tree(rng: Generator) -> Texture:
    """`(64, 56)`"""
    h, w = 64, 56
    x, y = np.linspace(-1, 1, w), np.linspace(-0.75, 1.25, h)[:, None]
    crown = np.hypot(x / 0.75, (y - 0.35) / 0.7) + 0.16 * noise(rng, h, w, 6, 14) < 0.95
    backbone = (np.abs(x + 0.05 * y) < rng.uniform(0.04, 0.1)) & (y < 0.3)
    green = np.array([0.22, 0.33, 0.14]) * rng.uniform(0.6, 1.3, 3)
    texture = _cut_out(crown | backbone, WOOD)
    texture.cover(crown, green, np.maximum(0.05, 1 + 0.3 * noise(rng, h, w, 8, 20) + 0.25 * y))
    return texture


def person(rng: Generator) -> Texture:
    """`(48, 20)`"""
    x, y = np.linspace(-1, 1, 20), np.linspace(0, 1, 48)[:, None]
    head, coat = np.hypot(x / 0.35, (y - 0.9) / 0.1) < 1, (np.abs(x) < 0.75 - 0.3 * y) & (y > 0.42) & (y < 0.82)
    legs = (np.abs(np.abs(x) - 0.3) < 0.22) & (y <= 0.42)
    coat_color, leg_color = rng.uniform(0.05, 0.8, 3), rng.uniform(0.05, 0.4, 3)
    texture = _cut_out(head | coat | legs, leg_color)
    texture.cover(coat, coat_color)
    texture.cover(head, np.array([0.65, 0.48, 0.38]))
    return texture


def pole(rng: Generator) -> Texture:
    """`(64, 16)`: a lamp post or a sign."""
    x, y = np.linspace(-1, 1, 16), np.linspace(0, 1, 64)[:, None]
    plate = (np.abs(y - rng.uniform(0.75, 0.95)) < rng.uniform(0.04, 0.15)) & (np.abs(x) < 0.9)
    texture = _cut_out(plate | (np.abs(x) < 0.2), np.array([0.2, 0.2, 0.22]))
    texture.cover(plate, rng.uniform(0.1, 0.9, 3))
    return texture


def car(rng: Generator) -> Texture:
    """`(28, 64)`"""
    x, y = np.linspace(-1, 1, 64), np.linspace(0, 1, 28)[:, None]
    body, cabin = (np.abs(x) < 0.97) & (y > 0.15) & (y < 0.58), (np.abs(x + 0.05) < 0.85 - 0.5 * y) & (y >= 0.58)
    wheel = np.hypot((np.abs(x) - 0.6) / 0.17, (y - 0.18) / 0.2) < 1
    texture = _cut_out(body | cabin | wheel, rng.uniform(0.05, 0.85, 3))
    texture.cover(cabin & (y < 0.9), GLASS)
    texture.cover(wheel, WHITE, 0.05)
    return texture


KINDS = {tree: (10, 6.0, 0.9), person: (10, 1.75, 0.42), pole: (6, 5.5, 0.25), car: (8, 1.55, 2.6)}
"""How many pictures of each there are, height in metres, width over height."""


@lru_cache(maxsize=1)
def bank() -> tuple[tuple[Texture, ...], np.ndarray]:
    """The pictures of what may stand before any landmark, and their `(K, 2)` width and height in metres."""
    rng = np.random.default_rng(0)
    pictures: list[Texture] = []
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
