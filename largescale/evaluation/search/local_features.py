"""Local features of images, and how many of two images agree on one geometry (Philbin 2007, section 4). k features."""

from typing import Literal, NamedTuple

import numpy as np

from largescale.program.extras import cv2

Geometry = Literal["homography", "affine"]
RATIO = 0.8
"""Of the distances of the nearest feature and the second nearest, from which it says nothing (Lowe 2004)."""
TOLERANCE = 5.0
"""Pixels by which a feature may miss its place."""
POINTS = {"homography": 4, "affine": 3}
"""Matches that decide a geometry: it takes more to agree on it."""


class LocalFeatures(NamedTuple):
    """The strongest SIFT features of an image (Lowe 2004)."""

    points: np.ndarray
    """`(k, 2)` float32, x and y in pixels."""
    rows: np.ndarray
    """`(k, 128)` float32, RootSIFT (Arandjelović & Zisserman 2012): unit rows."""

    @staticmethod
    def none() -> "LocalFeatures":
        return LocalFeatures(np.empty((0, 2), np.float32), np.empty((0, 128), np.float32))

    @staticmethod
    def of(pixels: np.ndarray, count: int) -> "LocalFeatures":
        """
        Args:
            pixels: `(h, w, 3)` uint8 RGB.
            count: how many are kept.
        """
        gray = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
        found, rows = cv2.SIFT_create(count).detectAndCompute(gray, None)
        if rows is None:
            return LocalFeatures.none()
        points = np.array([feature.pt for feature in found], np.float32)
        return LocalFeatures(points, np.sqrt(rows / np.maximum(rows.sum(1, keepdims=True), 1e-12)))


def agreeing(query: LocalFeatures, other: LocalFeatures, geometry: Geometry) -> int:
    """Features of the query that find theirs in the other image where one homography, or affine map, puts them; 0 where too few
    match. Always the same for the same features: RANSAC draws from a fixed seed."""
    left, right = _matches(query, other)
    if len(left) <= POINTS[geometry]:
        return 0
    pairs = query.points[left], other.points[right]
    if geometry == "homography":
        _, inside = cv2.findHomography(*pairs, cv2.RANSAC, TOLERANCE)
    else:
        _, inside = cv2.estimateAffine2D(*pairs, method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE)
    return 0 if inside is None else int(inside.sum())


def _matches(query: LocalFeatures, other: LocalFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Features whose nearest is clearly nearer than the next, each of the other image with the nearest of those that claim it."""
    if min(len(query.rows), len(other.rows)) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    distance = 2 - 2 * query.rows @ other.rows.T  # squared, (k, k')
    near = np.argpartition(distance, 1, axis=1)[:, :2]
    two = np.take_along_axis(distance, near, axis=1)
    best = near[np.arange(len(near)), two.argmin(1)]
    left = np.flatnonzero(two.min(1) < RATIO**2 * two.max(1))
    left = left[np.argsort(two.min(1)[left], kind="stable")]
    _, first = np.unique(best[left], return_index=True)
    left = left[np.sort(first)]
    return left, best[left]
