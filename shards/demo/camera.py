"""A pinhole camera; s pixels on a side, n points or pixels."""

from dataclasses import dataclass

import numpy as np

from .scene import cross


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
        right = cross(forward, np.array([0.0, 0.0, 1.0]))
        right /= np.linalg.norm(right)
        turned = np.cos(roll) * right + np.sin(roll) * cross(forward, right)
        return Camera(position, np.stack([turned, cross(forward, turned), forward]), focal)

    def see(self, points: np.ndarray) -> np.ndarray:
        """How far to the right, down and forward of the camera points are, `(3, n)` each."""
        x, y, z = points - self.position.astype(points.dtype)[:, None]
        by_x, by_y, by_z = self.axes.T.astype(points.dtype)[:, :, None]
        return by_x * x + by_y * y + by_z * z

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(3, n)` to `(2, n)` places in the image, 0 to 1 from the top left, and `(n,)` depths."""
        seen = self.see(points)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 0.5 + self.focal * seen[:2] / seen[2], seen[2]

    def rays(self, size: int, pixel: np.ndarray) -> np.ndarray:
        """`(3, n)` float32 directions through pixels of an image, one unit deep, in world coordinates."""
        pixel = pixel.astype(np.int32)
        row = pixel // size
        x, y = (((axis.astype(np.float32) + 0.5) / size - 0.5) / self.focal for axis in (pixel - row * size, row))
        right, down, forward = self.axes.astype(np.float32)[:, :, None]
        return right * x + down * y + forward
