"""A scene: textured triangles, and the surface points by which its views are compared.

Metres; x to the right along the front, y away from it, z up; the front faces -y and the ground is z = 0.
T triangles, K textures, P points of the surface, n places on textures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .textures import Generator, Texture


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
    """K textures in one array of N texels, C colors."""

    paint: np.ndarray
    """`(N,)` uint16, which of the colors."""
    shade: np.ndarray
    """`(N,)` float32, 0 where a texture is absent."""
    colors: np.ndarray
    """`(3, C)` float32 red, green, blue."""
    start: np.ndarray
    """`(K,)` the first texel."""
    extent: np.ndarray
    """`(2, K)` float32 width and height."""
    holes: np.ndarray
    """`(K,)` whether the texture is absent anywhere."""

    @staticmethod
    def pack(textures: Sequence[Texture]) -> "Atlas":
        first = np.cumsum([0] + [len(texture.colors) for texture in textures])
        paint = [(texture.paint + base).ravel() for texture, base in zip(textures, first.astype(np.uint16), strict=False)]
        shade = [texture.shade.ravel() for texture in textures]
        colors = np.array([color for texture in textures for color in texture.colors], np.float32)
        start = np.cumsum([0] + [part.size for part in shade])[:-1]
        extent = np.array([texture.shade.shape[::-1] for texture in textures], np.float32)
        holes = np.array([not part.all() for part in shade])
        return Atlas(np.concatenate(paint), np.concatenate(shade), colors.T.copy(), start, extent.T.copy(), holes)

    def find(self, texture: np.ndarray, st: np.ndarray) -> np.ndarray:
        """`(n,)` nearest texels at `st (2, n)` of `texture (n,)`."""
        extent = self.extent.take(texture, axis=1)
        column, row = np.clip(st * extent, 0, extent - 0.5).astype(np.int32)
        return self.start.take(texture) + row * extent[0].astype(np.int32) + column

    def color(self, texel: np.ndarray) -> np.ndarray:
        """`(3, n)`"""
        return self.colors.take(self.paint.take(texel), axis=1) * self.shade.take(texel)


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


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of vectors along the first axis; several times as fast as `np.cross` for few."""
    return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _normals(corners: np.ndarray) -> np.ndarray:
    """`(3, T)` outward, as long as twice the area."""
    a, b, c = corners.transpose(1, 2, 0)
    return cross(b - a, c - a)


def unit_normals(corners: np.ndarray) -> np.ndarray:
    """`(3, T)` float32"""
    normals = _normals(corners)
    return (normals / np.linalg.norm(normals, axis=0)).astype(np.float32)


def areas(corners: np.ndarray) -> np.ndarray:
    """`(T,)`"""
    return np.linalg.norm(_normals(corners), axis=0) / 2


def sample_points(rng: Generator, mesh: Mesh, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points spread evenly over the surface: `(P, 3)` positions, `(P, 2)` places on the texture, `(P,)` textures."""
    area = areas(mesh.corners)
    triangle = rng.choice(len(area), count, p=area / area.sum())
    b, c = np.sort(rng.random((count, 2)), axis=1).T
    weights = np.stack([b, c - b, 1 - c], 1)[:, :, None]  # (P, 3, 1)
    return (weights * mesh.corners[triangle]).sum(1), (weights * mesh.st[triangle]).sum(1), mesh.texture[triangle]
