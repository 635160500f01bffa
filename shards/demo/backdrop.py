"""What is behind the landmark: ground, hills, roofs and clouds; s pixels on a side, n of them."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .camera import Camera
from .light import Light
from .textures import Generator, noise

GROUNDS = np.array([[0.30, 0.38, 0.18], [0.52, 0.50, 0.47], [0.55, 0.48, 0.38], [0.36, 0.36, 0.37], [0.82, 0.83, 0.86]])


def behind(rng: Generator, camera: Camera, light: Light, wanted: np.ndarray) -> np.ndarray:
    """`(3, s * s)` sky and ground at the pixels that are `wanted (s * s,)`, 0 elsewhere."""
    pixel = np.flatnonzero(wanted)
    rays = camera.rays(math.isqrt(len(wanted)), pixel)
    below = rays[2] < -1e-3
    picture = np.zeros((3, len(wanted)), np.float32)
    put(picture, pixel[~below], _sky(rng, rays.compress(~below, axis=1), light.sky))
    put(picture, pixel[below], _ground(rng, rays.compress(below, axis=1), camera.position.astype(np.float32), light))
    return picture


def put(planes: np.ndarray, pixel: np.ndarray, values: Sequence[np.ndarray] | np.ndarray) -> None:
    for plane, part in zip(planes, values, strict=True):
        plane[pixel] = part


def _ground(rng: Generator, rays: np.ndarray, position: np.ndarray, light: Light) -> np.ndarray:
    """`(3, n)` lawn, paving, gravel, asphalt or snow where `rays (3, n)` from `position` meet it, in the scene's shadow."""
    distance = -position[2] / rays[2]
    places = position[:, None] + rays * distance
    color = (GROUNDS[rng.integers(len(GROUNDS))] * rng.uniform(0.85, 1.15)).astype(np.float32)
    grain = (places[:2] * rng.uniform(2, 8)).astype(np.int32)
    shade = 1 + 0.12 * _look_up(_patterns()[rng.integers(2, 4)], *grain)
    if rng.random() < 0.4:
        side = rng.uniform(0.8, 3)
        shade *= 1 - 0.2 * (places[:2] / side % 1 < 0.12 / side).any(0)
    haze = np.exp(-distance / 150)
    bright = haze * shade * light(places, light.slant(np.array([[0], [0], [1]], np.float32)))
    return bright * color[:, None] + (1 - haze) * (0.8 * light.sky[1, :, None])


@lru_cache(maxsize=1)
def _patterns() -> np.ndarray:
    """`(4, 256, 256)` noise for clouds, hills and ground, the same for all scenes."""
    rng = np.random.default_rng(1)
    return np.stack([noise(rng, 256, 256, *cells) for cells in ((6, 12, 30), (10, 20, 60), (30, 90), (64, 128))])


def _look_up(pattern: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`(n,)` the value of a pattern, which repeats, at whole `x` and `y`."""
    return pattern.take((y & 255) * 256 + (x & 255))


def _sky(rng: Generator, rays: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """`(3, n)` gradient, clouds and a skyline of hills and roofs in the direction of `rays (3, n)`."""
    zenith, horizon = colors[:, :, None]
    up = rays[2] / np.sqrt((rays**2).sum(0))
    sky = horizon + np.sqrt(np.clip(up, 0, 1)) * (zenith - horizon)
    pattern = _patterns()[rng.integers(2)]
    place = rays[:2] / (np.abs(rays[2]) + 0.15) * rng.uniform(15, 50) + rng.uniform(0, 256, 2).astype(np.float32)[:, None]
    cloud = np.clip(_look_up(pattern, *place.astype(np.int32)) * 0.5 + rng.uniform(-0.4, 0.5), 0, 0.9)
    sky += cloud * (0.75 + 0.25 * horizon - sky)
    profile = pattern[rng.integers(256)] * rng.uniform(0.01, 0.05) + rng.uniform(0, 0.08)
    blocks = int(rng.choice([1, 1, 3, 6]))
    angle = (np.arctan2(rays[0], rays[1]) * rng.uniform(20, 60)).astype(np.int32) // blocks * blocks & 255
    hills = horizon * rng.uniform(0.45, 0.8) * rng.uniform(0.9, 1.1, 3).astype(np.float32)[:, None]
    return np.where(up < profile.take(angle), hills, sky)
