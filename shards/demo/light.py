"""Sun and sky; n places in the scene."""

import numpy as np

from .camera import Camera
from .render import rasterize
from .scene import Scene
from .textures import Generator

SHADOW_SIZE = 160
SKIES = np.array(
    [
        [[0.32, 0.50, 0.80], [0.72, 0.82, 0.92]],
        [[0.62, 0.65, 0.70], [0.80, 0.81, 0.83]],
        [[0.35, 0.42, 0.62], [0.95, 0.76, 0.58]],
    ],
    np.float32,
)
"""Zenith and horizon: clear, overcast, evening."""


class Light:
    """Sun and sky over a scene; the shade comes from the scene as seen from the sun."""

    def __init__(self, scene: Scene, sun: np.ndarray, strength: float, ambient: float, sky: np.ndarray) -> None:
        far = 20 * scene.size
        self.sun, self.strength, self.ambient, self.sky = sun.astype(np.float32), strength, ambient, sky
        self.camera = Camera.aim(scene.middle + far * sun, scene.middle, 0, far / (2.2 * scene.size))
        nearness = rasterize(scene.mesh, scene.atlas, self.camera, SHADOW_SIZE).nearness
        self.nearness = np.pad(nearness.reshape(SHADOW_SIZE, SHADOW_SIZE), 1).ravel()

    @staticmethod
    def draw(rng: Generator, scene: Scene) -> "Light":
        azimuth, elevation = np.deg2rad(rng.uniform(-100, 100)), np.deg2rad(rng.uniform(15, 65))
        level = np.cos(elevation)
        sun = np.array([np.sin(azimuth) * level, -np.cos(azimuth) * level, np.sin(elevation)])
        kind = rng.integers(len(SKIES))
        strength, ambient = (0.25, 0.75) if kind == 1 else (rng.uniform(0.6, 0.95), rng.uniform(0.35, 0.6))
        return Light(scene, sun, strength, ambient, SKIES[kind])

    def slant(self, normals: np.ndarray) -> np.ndarray:
        """`(n,)` the share of the sun's strength that surfaces with such normals `(3, n)` receive."""
        return np.maximum(0, self.sun @ normals)

    def __call__(self, places: np.ndarray, slant: np.ndarray) -> np.ndarray:
        """`(n,)` brightness of white at `places (3, n)`."""
        where, depth = self.camera.project(places)
        column, row = np.clip(where * SHADOW_SIZE + 1, 0, SHADOW_SIZE + 1).astype(np.int32)  # within the padding
        sunny = self.nearness.take(row * (SHADOW_SIZE + 2) + column) * (depth - 0.6) <= 1
        return self.ambient + self.strength * slant * sunny
