"""Whitening of descriptors after training: from principal components, or learned from matching pairs.

N descriptors, n pairs, D dimensions, d kept dimensions. Moments and decompositions are in float64.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from largescale.models.pooling import l2_normalise
from largescale.settings import UserError

Rows = torch.Tensor | np.ndarray
BLOCK = 8192
# variances below this share of the largest are rounding errors: nothing divides by them
FLOOR = 1e-10


@dataclass(frozen=True)
class Whitening:
    """A centre and directions by which descriptors are compared better than by themselves."""

    mean: torch.Tensor
    """`(D,)`."""
    directions: torch.Tensor
    """`(D, D)`, one scaled direction per row, the most telling first; the sign of a row has no meaning."""

    def apply(self, x: Rows, dim: int | None = None) -> torch.Tensor:
        """`(N, D) -> (N, d)`: centred, projected onto the first `dim` directions (None: all), unit rows.

        Computed in the precision of `x`, in float32 at least. A row equal to the mean becomes zero.
        """
        x = x if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x))
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return l2_normalise((x - self.mean.to(x)) @ self.directions[:dim].to(x).T)


class PCAWhitening(Whitening):
    """Principal components, each divided by its variance to a power (cirtorch, Jégou & Chum 2012)."""

    @staticmethod
    def fit(x: Rows, power: float = 0.5) -> "PCAWhitening":
        """From descriptors `(N, D)`; read in blocks, so they may be a memory map.

        Args:
            power: 0.5 makes all variances equal, 0.25 is naver's milder choice, 0 only rotates. Directions without variance
                are scaled to zero.
        """
        moments = Moments.of(x)
        variances, components = _eigh_descending(moments.covariance())
        known = variances > FLOOR * variances[0]
        scales = torch.where(known, variances.clamp(min=0) ** -power, 0.0)
        return PCAWhitening(moments.mean, components * scales[:, None])


class LearnedWhitening(Whitening):
    """Discriminative whitening (Mikolajczyk & Matas 2007) as cirtorch computes it.

    The differences of matching pairs become white, then the scatter of all descriptors about the mean query is rotated to
    its principal components.
    """

    @staticmethod
    def fit(x: Rows, queries: Sequence[int] | Rows, positives: Sequence[int] | Rows) -> "LearnedWhitening":
        """From descriptors `(N, D)` and the row numbers `(n,)` of matching pairs.

        Differences that span fewer than D dimensions (fewer pairs than dimensions, say) leave the others with the floor of
        1e-10 of the largest variance, which magnifies them: fit from many more pairs than dimensions.
        """
        queries, positives = np.asarray(queries), np.asarray(positives)
        if len(queries) != len(positives) or not len(queries):
            raise UserError(
                f"learned whitening needs pairs of a query and a positive, found {len(queries)} and {len(positives)} of them"
            )
        mean = torch.stack([block.sum(0) for block in _blocks(x, queries)]).sum(0) / len(queries)
        differences = Moments.of(x, queries, minus=positives).covariance(about=torch.zeros_like(mean))
        variances, components = _eigh_descending(differences)
        floor = FLOOR * (variances[0] if variances[0] > 0 else 1.0)
        whiten = components / variances.clamp(min=floor).sqrt()[:, None]  # (D, D): whiten S whiten' = 1
        _, rotation = _eigh_descending(whiten @ Moments.of(x).covariance(about=mean) @ whiten.T)
        return LearnedWhitening(mean, rotation @ whiten)


@dataclass
class Moments:
    """Number, sum and sum of outer products of rows: all that a whitening needs to know of a collection of any size."""

    count: int
    sum: torch.Tensor
    outer: torch.Tensor

    @staticmethod
    def of(x: Rows, rows: np.ndarray | None = None, minus: np.ndarray | None = None) -> "Moments":
        """Of all rows of `x`, or of the differences between two lists of its rows."""
        device = x.device if isinstance(x, torch.Tensor) else "cpu"
        total = torch.zeros(x.shape[1], dtype=torch.float64, device=device)
        moments = Moments(0, total, total.new_zeros(x.shape[1], x.shape[1]))
        for block in _blocks(x, rows, minus):
            moments.count += len(block)
            moments.sum += block.sum(0)
            moments.outer.addmm_(block.T, block)
        return moments

    @property
    def mean(self) -> torch.Tensor:
        return self.sum / self.count

    def covariance(self, about: torch.Tensor | None = None) -> torch.Tensor:
        """`(D, D)` mean of (x - c)(x - c)', about the mean of the rows or another centre."""
        centre = self.mean if about is None else about
        cross = torch.outer(self.mean, centre)
        return self.outer / self.count - cross - cross.T + torch.outer(centre, centre)


def _blocks(x: Rows, rows: np.ndarray | None = None, minus: np.ndarray | None = None) -> Iterator[torch.Tensor]:
    for start in range(0, len(x) if rows is None else len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        block = _double(x[part] if rows is None else x[rows[part]])
        yield block if minus is None else block - _double(x[minus[part]])


def _double(rows: Rows) -> torch.Tensor:
    return rows.double() if isinstance(rows, torch.Tensor) else torch.from_numpy(np.array(rows, np.float64))


def _eigh_descending(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues `(D,)`, largest first, and eigenvectors as rows `(D, D)`."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return values.flip(0), vectors.T.flip(0)
