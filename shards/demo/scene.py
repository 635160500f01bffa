"""A scene: textured triangles, and the surface points by which its views are compared.

Metres; x to the right along the front, y away from it, z up; the front faces -y and the ground is z = 0.
T triangles, K textures, P points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .textures import Generator


@dataclass(frozen=True)
class Mesh:
    """Triangles whose corners run counter-clockwise seen from outside."""

    corners: np.ndarray
    """`(T, 3, 3)` positions."""
    st: np.ndarray
    """`(T, 3, 2)` places on the texture, from 0 to 1."""
    texture: np.ndarray
    """`(T,)`"""

    def __add__(self, other: "Mesh") -> "Mesh":
        pairs = ((self.corners, other.corners), (self.st, other.st), (self.texture, other.texture))
        return Mesh(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class Atlas:
    """K textures in one array of texels."""

    texels: np.ndarray
    """`(texels, 4)` float32 red, green, blue, presence."""
    start: np.ndarray
    height: np.ndarray
    width: np.ndarray
    holes: np.ndarray
    """`(K,)` whether the texture is absent anywhere."""

    @staticmethod
    def pack(pictures: Sequence[np.ndarray]) -> "Atlas":
        """Pictures are `(h, w, 3)`, or `(h, w, 4)` where they have holes."""
        height, width = (np.array([picture.shape[axis] for picture in pictures]) for axis in (0, 1))
        start = np.concatenate([[0], np.cumsum(height * width)])
        texels = np.ones((start[-1], 4), np.float32)
        for picture, first in zip(pictures, start[:-1], strict=True):
            channels = picture.shape[2]
            texels[first : first + picture.shape[0] * picture.shape[1], :channels] = picture.reshape(-1, channels)
        return Atlas(texels, start[:-1], height, width, np.array([picture.shape[2] == 4 for picture in pictures]))

    def look(self, texture: np.ndarray, st: np.ndarray) -> np.ndarray:
        """`(n, 4)` nearest texels at `st (n, 2)` of `texture (n,)`."""
        height, width = self.height[texture], self.width[texture]
        column = np.clip((st[:, 0] * width).astype(np.int64), 0, width - 1)
        row = np.clip((st[:, 1] * height).astype(np.int64), 0, height - 1)
        return self.texels[self.start[texture] + row * width + column]


@dataclass(frozen=True)
class Scene:
    mesh: Mesh
    atlas: Atlas
    points: np.ndarray
    """`(P, 3)` on the surface of the landmark, spread evenly over its area."""
    points_st: np.ndarray
    """`(P, 2)`"""
    points_texture: np.ndarray
    """`(P,)`"""
    size: float
    """Metres across what a camera should see of it."""
    middle: np.ndarray
    """`(3,)` where cameras look."""


def _normals(corners: np.ndarray) -> np.ndarray:
    """`(T, 3)` outward, as long as twice the area."""
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def unit_normals(corners: np.ndarray) -> np.ndarray:
    """`(T, 3)` float32"""
    normals = _normals(corners)
    return (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)


def areas(corners: np.ndarray) -> np.ndarray:
    """`(T,)`"""
    return np.linalg.norm(_normals(corners), axis=1) / 2


def sample_points(rng: Generator, mesh: Mesh, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points spread evenly over the surface: `(P, 3)` positions, `(P, 2)` places on the texture, `(P,)` textures."""
    area = areas(mesh.corners)
    triangle = rng.choice(len(area), count, p=area / area.sum())
    b, c = np.sort(rng.random((count, 2)), axis=1).T
    weights = np.stack([b, c - b, 1 - c], 1)[:, :, None]  # (P, 3, 1)
    return (weights * mesh.corners[triangle]).sum(1), (weights * mesh.st[triangle]).sum(1), mesh.texture[triangle]
