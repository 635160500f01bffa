"""From what a network says of an image to the descriptor that is compared: merged over scales, whitened, cut.

n rows, S scales, D dimensions, d kept dimensions.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from largescale.models.multiscale import merge_scales
from largescale.models.whitening import Whitening


@dataclass(frozen=True)
class Transform:
    """From descriptors of each scale to those that are compared."""

    exponent: float = 1.0
    """Of the mean over scales."""
    whitening: Whitening | None = None
    dim: int | None = None
    unit: bool = True
    """Whether rows are made ones of length 1."""

    def __call__(self, scales: Sequence[np.ndarray]) -> np.ndarray:
        """`(n, D)` per scale -> `(n, d)` float32; a single scale without whitening is what it was.

        Computed in float64: a row does not depend on the others that are computed with it.
        """
        if len(scales) == 1 and self.whitening is None:
            return scales[0]
        rows = merge_scales(torch.stack([torch.from_numpy(rows.astype(np.float64)) for rows in scales]), self.exponent, self.unit)
        return (rows if self.whitening is None else self.whitening.apply(rows, self.dim)).float().numpy()

    @property
    def digest(self) -> str:
        whitening = self.whitening and [self.whitening.mean.numpy().tobytes(), self.whitening.directions.numpy().tobytes()]
        parts = [self.exponent, self.dim, self.unit, *(hashlib.sha256(x).hexdigest() for x in whitening or [])]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
