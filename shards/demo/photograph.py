"""Photographs of a scene: where the photographer stands, what is in the way, and the faults of the picture.

s pixels on a side, n of them or n places in the scene, T triangles.
"""

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np
import simplejpeg

from .backdrop import behind, put
from .camera import Camera
from .light import Light
from .obstacles import place_obstacles
from .render import rasterize, visible
from .scene import Mesh, Scene, unit_normals
from .textures import Generator

SUPERSAMPLING = 2


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
        zoom = 1.15 * math.exp(rng.uniform(0, 0.35))
        camera = Camera.aim(np.array([*ground, height]), target, rng.normal(0, np.deg2rad(3)), zoom)
        return Viewpoint(camera, place_obstacles(rng, scene, camera))

    def photograph(self, rng: Generator, scene: Scene, size: int) -> bytes:
        """A JPEG of `size` pixels on a side, in the light and with the faults that `rng` draws."""
        return _develop(rng, _expose(rng, scene, self, size))

    def sees(self, scene: Scene, size: int) -> np.ndarray:
        """`(P,)` which of the scene's points are visible."""
        hits = rasterize(scene.mesh + self.obstacles, scene.atlas, self.camera, size)
        return visible(scene.points, self.camera, hits)


def _expose(rng: Generator, scene: Scene, view: Viewpoint, size: int) -> np.ndarray:
    """`(3, s, s)` float32 light that reaches the sensor; surfaces are supersampled, sky and ground need not be."""
    light = Light.draw(rng, scene)
    samples = _shrink(_sample_front(scene, view, light, size * SUPERSAMPLING)).reshape(4, -1)
    picture, share = samples[:3], samples[3]
    return (picture + (1 - share) * behind(rng, view.camera, light, share < 1)).reshape(3, size, size)


def _shrink(samples: np.ndarray) -> np.ndarray:
    """Means of squares of samples in `(4, s, s)`."""
    columns = reduce(np.add, (samples[:, :, i::SUPERSAMPLING] for i in range(SUPERSAMPLING)))
    return reduce(np.add, (columns[:, i::SUPERSAMPLING] for i in range(SUPERSAMPLING))) / SUPERSAMPLING**2


def _sample_front(scene: Scene, view: Viewpoint, light: Light, size: int) -> np.ndarray:
    """`(4, s, s)` float32 light from the landmark and the obstacles, and whether there are any; 0 elsewhere."""
    mesh = scene.mesh + view.obstacles
    hits = rasterize(mesh, scene.atlas, view.camera, size)
    triangle = hits.triangle
    places = view.camera.rays(size, hits.pixel) / hits.nearness.take(hits.pixel)
    places += view.camera.position.astype(np.float32)[:, None]
    bright = light(places, light.slant(unit_normals(mesh.corners)).take(triangle))
    color = scene.atlas.color(scene.atlas.find(mesh.texture.take(triangle), hits.st)) * bright
    samples = np.zeros((4, size * size), np.float32)
    put(samples, hits.pixel, [*color, np.ones_like(bright)])
    return samples.reshape(4, size, size)


def _develop(rng: Generator, picture: np.ndarray) -> bytes:
    """Exposure, color cast, contrast, blur, grain and JPEG artefacts on `(3, s, s)`."""
    gain = math.exp(rng.normal(0, 0.15)) * rng.normal(1, 0.04, 3)
    picture = np.clip(picture * gain.astype(np.float32)[:, None, None], 0, 1) ** math.exp(rng.normal(0, 0.12))
    picture = 0.5 + rng.uniform(0.7, 1.15) * (picture - 0.5)
    if rng.random() < 0.5:
        center = rng.uniform(0.4, 0.8)
        for axis in (1, 2):
            side = (1 - center) / 2 * (np.roll(picture, 1, axis) + np.roll(picture, -1, axis))
            picture = center * picture + side
    strength = rng.uniform(0.005, 0.03)
    grainy = strength * rng.standard_normal((*picture.shape[1:], 3), np.float32)
    grainy += np.moveaxis(picture, 0, 2)
    levels = (np.clip(grainy, 0, 1) * 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(levels, quality=int(rng.integers(40, 91)), colorspace="RGB")
