"""Photographs of a scene: where the photographer stands, what is in the way, the light, and the faults of the picture.

s pixels on a side, n pixels that see a surface, T triangles.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import simplejpeg

from .obstacles import place_obstacles
from .render import Camera, rasterize, visible
from .scene import Mesh, Scene, unit_normals
from .textures import Generator, noise

SUPERSAMPLING = 2
SHADOW_SIZE = 160
SKIES = np.array(
    [[[0.32, 0.50, 0.80], [0.72, 0.82, 0.92]], [[0.62, 0.65, 0.70], [0.80, 0.81, 0.83]], [[0.35, 0.42, 0.62], [0.95, 0.76, 0.58]]]
)
"""Zenith and horizon: clear, overcast, evening."""
GROUNDS = np.array([[0.30, 0.38, 0.18], [0.52, 0.50, 0.47], [0.55, 0.48, 0.38], [0.36, 0.36, 0.37], [0.82, 0.83, 0.86]])


@dataclass(frozen=True)
class Viewpoint:
    """The geometry of a photograph: all that decides which points it sees."""

    camera: Camera
    obstacles: Mesh

    @staticmethod
    def draw(rng: Generator, scene: Scene) -> "Viewpoint":
        azimuth, away = np.deg2rad(rng.triangular(-60, 0, 60)), 1.25 * scene.size * np.exp(rng.uniform(-0.2, 0.5))
        height = 1.7 + rng.random() ** 2 * scene.middle[2]
        ground = scene.middle[:2] + away * np.array([np.sin(azimuth), -np.cos(azimuth)])
        target = scene.middle + rng.normal(0, 0.05, 3) * scene.size
        zoom = 1.15 * np.exp(rng.uniform(0, 0.35))
        camera = Camera.aim(np.array([*ground, height]), target, rng.normal(0, np.deg2rad(3)), zoom)
        return Viewpoint(camera, place_obstacles(rng, scene, camera))

    def photograph(self, rng: Generator, scene: Scene, size: int) -> bytes:
        """A JPEG of `size` pixels on a side, in the light and with the faults that `rng` draws."""
        return _develop(rng, _expose(rng, scene, self, size).reshape(size, size, 3))

    def sees(self, scene: Scene, size: int) -> np.ndarray:
        """`(P,)` which of the scene's points are visible."""
        hits = rasterize(scene.mesh + self.obstacles, scene.atlas, self.camera, size)
        return visible(scene.points, self.camera, hits)


def _expose(rng: Generator, scene: Scene, view: Viewpoint, size: int) -> np.ndarray:
    """`(s * s, 3)` light that reaches the sensor; surfaces are supersampled, sky and ground need not be."""
    light = _Light.draw(rng, scene)
    behind = _sky(rng, view.camera.rays(size), light.sky)
    _lay_ground(rng, behind, view.camera, light)
    fine = size * SUPERSAMPLING
    mesh = scene.mesh + view.obstacles
    hits = rasterize(mesh, scene.atlas, view.camera, fine)
    color = scene.atlas.look(mesh.texture[hits.triangle], hits.st)[:, :3]
    places = view.camera.position.astype(np.float32) + view.camera.rays(fine)[hits.pixel] / hits.nearness[hits.pixel, None]
    color *= light(places, unit_normals(mesh.corners)[hits.triangle])
    row, column = hits.pixel // fine // SUPERSAMPLING, hits.pixel % fine // SUPERSAMPLING
    samples = [np.bincount(row * size + column, part, size * size) for part in (*color.T, None)]
    front = np.stack(samples, 1) / SUPERSAMPLING**2  # (s * s, 4): the last is the share that is covered
    return front[:, :3] + (1 - front[:, 3:]) * behind


class _Light:
    """Sun and sky over a scene; the shade comes from the scene as seen from the sun."""

    def __init__(self, scene: Scene, sun: np.ndarray, strength: float, ambient: float, sky: np.ndarray) -> None:
        far = 20 * scene.size
        self.sun, self.strength, self.ambient, self.sky = sun.astype(np.float32), strength, ambient, sky
        self.camera = Camera.aim(scene.middle + far * sun, scene.middle, 0, far / (2.2 * scene.size))
        self.hits = rasterize(scene.mesh, scene.atlas, self.camera, SHADOW_SIZE)

    @staticmethod
    def draw(rng: Generator, scene: Scene) -> "_Light":
        azimuth, elevation = np.deg2rad(rng.uniform(-100, 100)), np.deg2rad(rng.uniform(15, 65))
        level = np.cos(elevation)
        sun = np.array([np.sin(azimuth) * level, -np.cos(azimuth) * level, np.sin(elevation)])
        kind = rng.integers(len(SKIES))
        strength, ambient = (0.25, 0.75) if kind == 1 else (rng.uniform(0.6, 0.95), rng.uniform(0.35, 0.6))
        return _Light(scene, sun, strength, ambient, SKIES[kind])

    def __call__(self, places: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """`(n, 1)` brightness of white at `places` on surfaces with such normals, `(n, 3)` each."""
        where, depth = self.camera.project(places)
        inside = np.all((where > 0) & (where < 1), axis=1)
        column, row = (np.where(inside[:, None], where, 0) * SHADOW_SIZE).astype(np.int64).T
        shaded = inside & (self.hits.nearness[row * SHADOW_SIZE + column] * (depth - 0.6) > 1)
        return (self.ambient + self.strength * np.maximum(0, normals @ self.sun) * ~shaded)[:, None].astype(np.float32)


def _lay_ground(rng: Generator, picture: np.ndarray, camera: Camera, light: _Light) -> None:
    """Paint lawn, paving, gravel, asphalt or snow, with the shadow of the scene, below the horizon of `picture`."""
    side = round(len(picture) ** 0.5)
    rays = camera.rays(side)
    below = np.flatnonzero(rays[:, 2] < -1e-3)
    distance = -camera.position[2].astype(np.float32) / rays[below, 2]
    places = camera.position.astype(np.float32) + rays[below] * distance[:, None]
    color = GROUNDS[rng.integers(len(GROUNDS))] * rng.uniform(0.85, 1.15)
    grain = (places[:, :2] * rng.uniform(2, 8)).astype(np.int64) % 256
    shade = 1 + 0.12 * _patterns()[rng.integers(2, 4)][grain[:, 1], grain[:, 0]]
    if rng.random() < 0.4:
        shade *= 1 - 0.2 * (places[:, :2] % rng.uniform(0.8, 3) < 0.12).any(1)
    haze = np.exp(-distance / 150)[:, None]
    bright = light(places, np.array([0, 0, 1], np.float32)) * shade[:, None]
    picture[below] = haze * bright * color + (1 - haze) * light.sky[1] * 0.8


@lru_cache(maxsize=1)
def _patterns() -> np.ndarray:
    """`(4, 256, 256)` noise for clouds, hills and ground, the same for all scenes."""
    rng = np.random.default_rng(1)
    return np.stack([noise(rng, 256, 256, *cells) for cells in ((6, 12, 30), (10, 20, 60), (30, 90), (64, 128))])


def _sky(rng: Generator, rays: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """`(s * s, 3)` gradient, clouds and a skyline of hills and roofs."""
    up = rays[:, 2] / np.linalg.norm(rays, axis=1)
    mix = np.sqrt(np.clip(up, 0, 1))[:, None]
    sky = (1 - mix) * colors[1] + mix * colors[0]
    pattern = _patterns()[rng.integers(2)]
    plane = (rays[:, :2] / (np.abs(rays[:, 2:]) + 0.15) * rng.uniform(15, 50) + rng.uniform(0, 256, 2)).astype(np.int64) % 256
    cloud = np.clip(pattern[plane[:, 1], plane[:, 0]] * 0.5 + rng.uniform(-0.4, 0.5), 0, 0.9)[:, None]
    sky = (1 - cloud) * sky + cloud * (0.75 + 0.25 * colors[1])
    profile = pattern[rng.integers(256)] * rng.uniform(0.01, 0.05) + rng.uniform(0, 0.08)
    blocks = rng.choice([1, 1, 3, 6])
    angle = ((np.arctan2(rays[:, 0], rays[:, 1]) * rng.uniform(20, 60)).astype(np.int64) // blocks * blocks) % 256
    sky[up < profile[angle]] = colors[1] * rng.uniform(0.45, 0.8) * rng.uniform(0.9, 1.1, 3)
    return sky


def _develop(rng: Generator, picture: np.ndarray) -> bytes:
    """Exposure, color cast, contrast, blur, grain and JPEG artefacts on `(s, s, 3)`."""
    picture = picture * np.exp(rng.normal(0, 0.15)) * rng.normal(1, 0.04, 3)
    picture = np.clip(picture, 0, 1) ** np.exp(rng.normal(0, 0.12))
    picture = 0.5 + rng.uniform(0.7, 1.15) * (picture - 0.5)
    if rng.random() < 0.5:
        center = rng.uniform(0.4, 0.8)
        for axis in (0, 1):
            side = (1 - center) / 2 * (np.roll(picture, 1, axis) + np.roll(picture, -1, axis))
            picture = center * picture + side
    picture += rng.uniform(0.005, 0.03) * rng.standard_normal(picture.shape, np.float32)
    levels = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(levels, quality=int(rng.integers(40, 91)), colorspace="RGB")
