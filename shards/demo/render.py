"""A z-buffer of textured triangles without a loop.

Homogeneous rasterization (Olano and Greer 1997): with a triangle's corners in camera coordinates as the columns of M, the
rows of the inverse of M give, at the ray d = (x, y, 1) of a pixel, barycentric coordinates divided by depth. They are
linear in the pixel, need no clipping, and the inside of a triangle on a row of pixels is an interval: a span.

T triangles, F of which face the camera, S spans, s pixels on a side, n points or pixels.
"""

from dataclasses import dataclass

import numpy as np

from .camera import Camera
from .scene import Atlas, Mesh, cross


@dataclass(frozen=True)
class Spans:
    """Rows of pixels inside a triangle, along which values are linear."""

    triangle: np.ndarray
    """`(S,)`"""
    pixel: np.ndarray
    """`(S,)` the first."""
    count: np.ndarray
    """`(S,)` how many pixels."""
    start: np.ndarray
    """`(3, S)` float32 at the first pixel: one over the depth, and both coordinates on the texture over the depth."""
    slope: np.ndarray
    """`(3, S)` float32, what they grow by from pixel to pixel."""

    def nearness(self, span: np.ndarray, step: np.ndarray) -> np.ndarray:
        """`(n,)` one over the depth so many steps from the first pixel of such spans."""
        return self.start[0].take(span) + self.slope[0].take(span) * step

    def st(self, span: np.ndarray, step: np.ndarray, nearness: np.ndarray) -> np.ndarray:
        """`(2, n)` places on the texture."""
        return (self.start[1:].take(span, axis=1) + self.slope[1:].take(span, axis=1) * step) / nearness


@dataclass(frozen=True)
class PixelHits:
    """What the pixels of an image see; n of them see a triangle."""

    size: int
    nearness: np.ndarray
    """`(s * s,)` float32, one over the depth, 0 where nothing is."""
    pixel: np.ndarray
    spans: Spans
    span: np.ndarray
    step: np.ndarray
    """`(n,)` from the first pixel of the span."""

    @property
    def triangle(self) -> np.ndarray:
        return self.spans.triangle.take(self.span)

    @property
    def st(self) -> np.ndarray:
        """`(2, n)` the place on the texture."""
        return self.spans.st(self.span, self.step, self.nearness.take(self.pixel))


def rasterize(mesh: Mesh, atlas: Atlas, camera: Camera, size: int) -> PixelHits:
    spans = _spans(mesh, camera, size)
    span = np.repeat(np.arange(len(spans.count)), spans.count)
    along = _count_up(np.zeros_like(spans.count), spans.count)
    pixel, step = np.repeat(spans.pixel, spans.count) + along, along.astype(np.float32)
    nearness = spans.nearness(span, step)
    loose = np.flatnonzero(np.repeat(atlas.holes[mesh.texture[spans.triangle]], spans.count))
    st = spans.st(span[loose], step[loose], nearness[loose])
    absent = atlas.shade.take(atlas.find(mesh.texture[spans.triangle[span[loose]]], st)) == 0
    nearness[loose[absent]] = -1
    buffer = np.zeros(size * size, np.float32)
    np.maximum.at(buffer, pixel, nearness)
    won = np.flatnonzero(nearness == buffer.take(pixel))
    return PixelHits(size, buffer, pixel.take(won), spans, span.take(won), step.take(won))


def visible(points: np.ndarray, camera: Camera, hits: PixelHits, tolerance: float = 0.02) -> np.ndarray:
    """`(n,)` whether each of `points (n, 3)` is in the image and nothing is before it by more than that share of its depth."""
    places, depth = camera.project(points.T)
    inside = (depth > 0) & (places > 0).all(0) & (places < 1).all(0)
    column, row = (np.where(inside, places, 0) * hits.size).astype(np.int64)
    return inside & (hits.nearness[row * hits.size + column] * depth < 1 + tolerance)


def _spans(mesh: Mesh, camera: Camera, size: int) -> Spans:
    """Every row of pixels of every triangle."""
    facing, edges, top, height = _edges(mesh.corners, camera, size)
    s, t = mesh.st[facing].transpose(2, 1, 0)  # (corners, F)
    values = [edges.sum(1), (edges * s).sum(1), (edges * t).sum(1)]
    lines = np.concatenate([edges, np.stack(values, 1)], 1)  # (3, 6, F)
    triangle, row = np.repeat(np.arange(len(facing)), height), _count_up(top, height)
    slope, down, rest = lines.take(triangle, axis=2)  # (6, S) each
    rest += down * row
    first, count = _interval(slope[:3], rest[:3], size)
    start = rest[3:] + slope[3:] * first
    return Spans(facing[triangle], row * size + first, count, start.astype(np.float32), slope[3:].astype(np.float32))


def _interval(slope: np.ndarray, rest: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`(S,)` each: the first x from 0 to size - 1 where slope * x + rest of the three edges is positive, and how many."""
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -rest / slope
    first = np.ceil(np.where(slope > 0, crossing, 0).max(0, initial=0))
    last = np.floor(np.where(slope < 0, crossing, size - 1).min(0, initial=size - 1))
    outside = np.any((slope == 0) & (rest < 0), axis=0)
    return first.astype(np.int64), np.where(outside, 0, np.maximum(0, last - first + 1)).astype(np.int64)


def _edges(corners: np.ndarray, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The triangles that face the camera, and where they are.

    `(F,)` their numbers, `(3, 3, F)` factors of (x, y, 1) that give the barycentric over depth of each corner, `(F,)` the
    first row of pixels that they may touch, `(F,)` how many rows.
    """
    seen = camera.see(corners.transpose(2, 1, 0).reshape(3, -1)).reshape(3, 3, -1)  # (coordinates, corners, T)
    edges = cross(seen[:, [1, 2, 0]], seen[:, [2, 0, 1]])
    volume = (seen[:, 0] * edges[:, 0]).sum(0)
    facing = np.flatnonzero((volume < -1e-9) & (seen[2].max(0) > 0))
    edges = edges.take(facing, axis=2) / volume[facing]
    edges[:2] /= camera.focal * size
    edges[2] += (0.5 - size / 2) * (edges[0] + edges[1])
    down, depth = seen[1:].take(facing, axis=2)
    return facing, edges, *_rows(down, depth, camera, size)


def _rows(down: np.ndarray, depth: np.ndarray, camera: Camera, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`(F,)` the first row and the count of rows between corners so far down and away, `(corners, F)` each."""
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.where(depth.min(0) > 0.05, 0.5 + camera.focal * down / depth, [[0], [1], [1]]) * size
    top, bottom = np.clip(np.ceil(np.stack([y.min(0), y.max(0)]) - 0.5), 0, size).astype(np.int64)
    return top, bottom - top


def _count_up(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, … (count[0] of them), first[1], …"""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
