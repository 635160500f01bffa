"""Cameras, and a z-buffer of textured triangles without a loop.

Homogeneous rasterization (Olano and Greer 1997): with a triangle's corners in camera coordinates as the columns of M, the
rows of the inverse of M give, at the ray d = (x, y, 1) of a pixel, barycentric coordinates divided by depth. They are
linear in the pixel, need no clipping, and the inside of a triangle on a row of pixels is an interval.

T triangles, s pixels on a side, n points or pixels.
"""

from dataclasses import dataclass

import numpy as np

from .scene import Atlas, Mesh


@dataclass(frozen=True)
class Camera:
    """A pinhole with square pixels; the principal point is the middle of the image."""

    position: np.ndarray
    axes: np.ndarray
    """`(3, 3)` rows: right, down, forward."""
    focal: float
    """In widths of the image."""

    @staticmethod
    def aim(position: np.ndarray, target: np.ndarray, roll: float, focal: float) -> "Camera":
        forward = (target - position) / np.linalg.norm(target - position)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        down = np.cross(forward, right)
        turned = np.cos(roll) * right + np.sin(roll) * down
        return Camera(position, np.stack([turned, np.cross(forward, turned), forward]), focal)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(n, 3)` to `(n, 2)` places in the image, 0 to 1 from the top left, and `(n,)` depths."""
        seen = points @ self.axes.T.astype(points.dtype) - (self.axes @ self.position).astype(points.dtype)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 0.5 + self.focal * seen[:, :2] / seen[:, 2:], seen[:, 2]

    def rays(self, size: int) -> np.ndarray:
        """`(s * s, 3)` directions through the pixels, one unit deep, in world coordinates."""
        place = (((np.arange(size) + 0.5) / size - 0.5) / self.focal).astype(np.float32)[:, None]
        right, down, forward = self.axes.astype(np.float32)
        return (place * right + (place * down + forward)[:, None]).reshape(-1, 3)


@dataclass(frozen=True)
class PixelHits:
    """What the pixels of an image see; n of them see a triangle."""

    size: int
    nearness: np.ndarray
    """`(s * s,)` one over the depth, 0 where nothing is."""
    pixel: np.ndarray
    triangle: np.ndarray
    planes: np.ndarray
    """`(n, 3, 3)` see `_planes`."""

    @property
    def st(self) -> np.ndarray:
        """`(n, 2)` the place on the texture."""
        return _evaluate(self.planes, self.pixel, self.size)


def rasterize(mesh: Mesh, atlas: Atlas, camera: Camera, size: int) -> PixelHits:
    number, edges = _edges(mesh.corners, camera, size)
    texture, planes = mesh.texture[number], _planes(mesh.st[number], edges)
    triangle, pixel, nearness = _cover(mesh.corners[number], edges, camera, size)
    loose = np.flatnonzero(atlas.holes[texture][triangle])
    st = _evaluate(planes[triangle[loose]], pixel[loose], size)
    nearness[loose] *= atlas.look(texture[triangle[loose]], st)[:, 3]
    buffer = np.zeros(size * size, np.float32)
    np.maximum.at(buffer, pixel, nearness)
    won = np.flatnonzero((nearness == buffer[pixel]) & (nearness > 0))
    found = triangle[won]
    return PixelHits(size, buffer, pixel[won], number[found], planes[found])


def visible(points: np.ndarray, camera: Camera, hits: PixelHits, tolerance: float = 0.02) -> np.ndarray:
    """`(n,)` whether each point is in the image and nothing is before it by more than that share of its depth."""
    places, depth = camera.project(points)
    inside = (depth > 0) & (places > 0).all(1) & (places < 1).all(1)
    column, row = (np.where(inside[:, None], places, 0) * hits.size).astype(np.int64).T
    return inside & (hits.nearness[row * hits.size + column] * depth < 1 + tolerance)


def _edges(corners: np.ndarray, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The `(F,)` triangles that face the camera and the `(F, 3, 3)` rows that give barycentric over depth at (x, y, 1)."""
    a, b, c = np.moveaxis((corners - camera.position) @ camera.axes.T, 1, 0)  # (T, 3) each
    rows = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], 1)  # (T, 3, 3)
    volume = (a * rows[:, 0]).sum(1)
    facing = np.flatnonzero((volume < -1e-9) & (np.stack([a, b, c])[:, :, 2].max(0) > 0))
    rows = rows[facing] / volume[facing, None, None]
    rows[:, :, :2] /= camera.focal * size
    rows[:, :, 2] += (0.5 - size / 2) * (rows[:, :, 0] + rows[:, :, 1])
    return facing, rows


def _cover(corners: np.ndarray, edges: np.ndarray, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pixel of every triangle: `(m,)` triangle, pixel and nearness."""
    triangle, row = _rows(corners, camera, size)
    slope = edges[triangle, :, 0]  # (spans, 3)
    rest = edges[triangle, :, 1] * row[:, None] + edges[triangle, :, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -rest / slope
    first = np.ceil(np.where(slope > 0, crossing, 0).max(1, initial=0))
    last = np.floor(np.where(slope < 0, crossing, size - 1).min(1, initial=size - 1))
    outside = np.any((slope == 0) & (rest < 0), axis=1)
    count = np.where(outside, 0, np.maximum(0, last - first + 1)).astype(np.int64)
    x = _count_up(first.astype(np.int64), count)
    nearness = np.repeat(slope.sum(1), count) * x + np.repeat(rest.sum(1), count)
    return np.repeat(triangle, count), np.repeat(row, count) * size + x, nearness.astype(np.float32)


def _rows(corners: np.ndarray, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every row of pixels that a triangle may touch: `(spans,)` triangle and row."""
    places, depth = camera.project(corners.reshape(-1, 3))
    before = np.all(depth.reshape(-1, 3) > 0.05, axis=1)
    y = np.where(before[:, None], places[:, 1].reshape(-1, 3), [0, 1, 1]) * size
    top, bottom = (np.clip(np.ceil(edge - 0.5), 0, size).astype(np.int64) for edge in (y.min(1), y.max(1)))
    return np.repeat(np.arange(len(top)), bottom - top), _count_up(top, bottom - top)


def _count_up(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, … (count[0] of them), first[1], …"""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)


def _planes(st: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """`(F, 3, 3)`: s over depth, t over depth and one over depth, which are linear in the pixel, as rows for (x, y, 1)."""
    return np.concatenate([st.transpose(0, 2, 1) @ edges, edges.sum(1, keepdims=True)], 1).astype(np.float32)


def _evaluate(planes: np.ndarray, pixel: np.ndarray, size: int) -> np.ndarray:
    """`(n, 2)`"""
    x, y = ((pixel % size)[:, None], (pixel // size)[:, None])
    value = planes[:, :, 0] * x.astype(np.float32) + planes[:, :, 1] * y.astype(np.float32) + planes[:, :, 2]
    return value[:, :2] / value[:, 2:]
