"""From what a network says of an image to the descriptor that is compared: merged over scales, whitened, cut.

n rows, S scales, D dimensions, d kept dimensions.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from largescale.models.transform.multiscale import merge_scales
from largescale.models.whitening import Whitening


@dataclass(frozen=True)
class Transform:
    """From descriptors of each scale to those that are compared."""

    exponent: float = 1.0
    """Of the mean over scales."""
    whitening: Whitening | None = None
    dim: int | None = None
    """The first so many dimensions are kept; None: all."""
    unit: bool = True
    """Whether rows are made ones of length 1."""

    @property
    def changes(self) -> bool:
        """Whether the descriptors of a single scale do not stay what they were."""
        return self.whitening is not None or self.dim is not None

    def __call__(self, scales: Sequence[np.ndarray]) -> np.ndarray:
        """`(n, D)` per scale -> `(n, d)` float32; a single scale without whitening is what it was.

        Computed in float64: a row does not depend on the others that are computed with it.
        """
        if len(scales) == 1 and not self.changes:
            return scales[0]
        rows = merge_scales(torch.stack([torch.from_numpy(rows.astype(np.float64)) for rows in scales]), self.exponent, self.unit)
        return (
            (cut(rows, self.dim, self.unit) if self.whitening is None else self.whitening.apply(rows, self.dim)).float().numpy()
        )

    @property
    def digest(self) -> str:
        whitening = self.whitening and [self.whitening.mean.numpy().tobytes(), self.whitening.directions.numpy().tobytes()]
        parts = [self.exponent, self.dim, self.unit, *(hashlib.sha256(x).hexdigest() for x in whitening or [])]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def cut(rows: torch.Tensor, dim: int | None, unit: bool) -> torch.Tensor:
    """`(n, D) -> (n, d)`: the first dimensions, in rows of length 1 where `unit` says so."""
    kept = rows[:, :dim]
    return kept / torch.linalg.vector_norm(kept, dim=1, keepdim=True) if unit and dim is not None else kept
