"""Whitening of descriptors after training: from principal components, or learned from matching pairs.

N descriptors, n pairs, D dimensions, d kept dimensions. Moments and decompositions are in float64.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist

from largescale.distributed import World
from largescale.models.pooling import l2_normalize
from largescale.precision import without_autocast
from largescale.settings import UserError

Form = Literal["cirtorch", "paper"]
SHRINKAGE = 2 / 3
"""Chosen on held-back classes of six data sets: docs/results/default-recipe.md."""
BLOCK = 8192
# variances below this share of the largest are rounding errors: nothing divides by them
FLOOR = 1e-10


@dataclass(frozen=True)
class RowParts:
    """Rows in several arrays `(n_i, D)`, side by side: memory maps of shards, of which only what is asked for is read."""

    arrays: Sequence[np.ndarray]

    def __len__(self) -> int:
        return sum(map(len, self.arrays))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.arrays[0].shape[1]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        rows, start = np.arange(len(self))[rows], np.cumsum([0, *map(len, self.arrays)])
        part, found = np.searchsorted(start, rows, "right") - 1, np.empty((len(rows), self.shape[1]), self.arrays[0].dtype)
        for number in np.unique(part).tolist():
            here = part == number
            found[here] = self.arrays[number][rows[here] - start[number]]
        return found


Rows = torch.Tensor | np.ndarray | RowParts


@dataclass(frozen=True)
class Whitening:
    """A center and directions by which descriptors are compared better than by themselves."""

    mean: torch.Tensor
    """`(D,)`."""
    directions: torch.Tensor
    """`(D, D)`, one scaled direction per row, the most telling first; the sign of a row has no meaning."""

    def apply(self, x: torch.Tensor | np.ndarray, dim: int | None = None) -> torch.Tensor:
        """`(N, D) -> (N, d)`: centerd, projected onto the first `dim` directions (None: all), unit rows.

        Computed in the precision of `x`, in float32 at least. A row equal to the mean becomes zero.
        """
        x = x if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x))
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        with without_autocast(x):
            return l2_normalize((x - self.mean.to(x)) @ self.directions[:dim].to(x).T)


class PCAWhitening(Whitening):
    """Principal components, each divided by its variance to a power (cirtorch, Jégou & Chum 2012)."""

    @staticmethod
    def fit(x: Rows, power: float = 0.5, world: World | None = None) -> "PCAWhitening":
        """From descriptors `(N, D)`; read in blocks, so they may be a memory map.

        Args:
            power: 0.5 makes all variances equal, 0.25 is naver's milder choice, 0 only rotates. Directions without variance
                are scaled to zero.
            world: its ranks, which all have `x`, share the work.
        """
        moments = Moments.of(x, world=world)
        variances, components = _eigh_descending(moments.covariance())
        known = variances > FLOOR * variances[0]
        scales = torch.where(known, variances.clamp(min=0) ** -power, 0.0)
        return PCAWhitening(moments.mean, components * scales[:, None])


class LearnedWhitening(Whitening):
    """Discriminative whitening (Mikolajczyk & Matas 2007; Radenović 2018, §3.4): the differences of matching pairs become white.

    Then the principal components are turned to the front of the scatter of all descriptors about the mean query (`cirtorch`,
    the code), or of the differences of all pairs that are not given as matching, about the mean descriptor (`paper`). Whether
    the whitening is by a Cholesky factor or by the symmetric root makes no difference after that.
    """

    @staticmethod
    def fit(
        x: Rows,
        queries: Sequence[int] | np.ndarray,
        positives: Sequence[int] | np.ndarray,
        form: Form = "cirtorch",
        world: World | None = None,
        shrinkage: float = 0.0,
    ) -> "LearnedWhitening":
        """From descriptors `(N, D)` and the row numbers `(n,)` of matching pairs.

        Differences that span fewer than D dimensions (fewer pairs than dimensions, say) leave the others with the floor of
        1e-10 of the largest variance, which magnifies them: fit from many more pairs than dimensions, or shrink.

        Args:
            world: its ranks, which all have `x` and the pairs, share the work.
            shrinkage: the share that a sphere of the mean variance has in the covariance of the differences (Ledoit & Wolf
                2004): 0 takes them as they are, 1 only centers and turns.
        """
        queries, positives = np.asarray(queries), np.asarray(positives)
        if len(queries) != len(positives) or not len(queries):
            raise UserError(
                f"learned whitening needs pairs of a query and a positive, found {len(queries)} and {len(positives)} of them"
            )
        everything, differences = Moments.of(x, world=world), Moments.of(x, queries, minus=positives, world=world)
        mean = everything.mean if form == "paper" else Moments.of(x, queries, outer=False, world=world).mean
        variances, components = _eigh_descending(differences.covariance(about=torch.zeros_like(mean)))
        variances = (1 - shrinkage) * variances + shrinkage * variances.mean()
        floor = FLOOR * (variances[0] if variances[0] > 0 else 1.0)
        whiten = components / variances.clamp(min=floor).sqrt()[:, None]  # (D, D): whiten S whiten' = 1
        spread = everything.between(differences) if form == "paper" else everything.covariance(about=mean)
        _, rotation = _eigh_descending(whiten @ spread @ whiten.T)
        return LearnedWhitening(mean, rotation @ whiten)


@dataclass
class Moments:
    """Number, sum and sum of outer products of rows: all that a whitening needs to know of a collection of any size."""

    count: int
    sum: torch.Tensor
    outer: torch.Tensor

    @staticmethod
    def of(
        x: Rows,
        rows: np.ndarray | None = None,
        minus: np.ndarray | None = None,
        outer: bool = True,
        world: World | None = None,
    ) -> "Moments":
        """Of all rows of `x`, of some, or of the differences between two lists of them.

        Args:
            outer: whether the sum of outer products is wanted, which is all the work.
            world: each of its ranks reads a share of the rows, and their moments are added.
        """
        count, device = len(x) if rows is None else len(rows), x.device if isinstance(x, torch.Tensor) else "cpu"
        total = torch.zeros(x.shape[1], dtype=torch.float64, device=device)
        moments = Moments(count, total, total.new_zeros(x.shape[1], x.shape[1]))
        for block in _blocks(x, world.share(count) if world else slice(0, count), rows, minus):
            moments.sum += block.sum(0)
            if outer:
                moments.outer.addmm_(block.T, block)
        if world:
            for moment in (moments.sum, moments.outer)[: 1 + outer]:
                dist.all_reduce(moment, group=world.group_of(moment))
        return moments

    @property
    def mean(self) -> torch.Tensor:
        return self.sum / self.count

    def covariance(self, about: torch.Tensor | None = None) -> torch.Tensor:
        """`(D, D)` mean of (x - c)(x - c)', about the mean of the rows or another center."""
        center = self.mean if about is None else about
        cross = torch.outer(self.mean, center)
        return self.outer / self.count - cross - cross.T + torch.outer(center, center)

    def between(self, matching: "Moments") -> torch.Tensor:
        """`(D, D)` sum of (x - y)(x - y)' over all pairs of the rows but those whose differences are given."""
        return self.count * self.outer - torch.outer(self.sum, self.sum) - matching.outer


def _blocks(x: Rows, share: slice, rows: np.ndarray | None, minus: np.ndarray | None) -> Iterator[torch.Tensor]:
    for start in range(share.start, share.stop, BLOCK):
        part = slice(start, min(start + BLOCK, share.stop))
        block = _double(x[part] if rows is None else x[rows[part]])
        yield block if minus is None else block.sub_(_double(x[minus[part]]))


def _double(rows: torch.Tensor | np.ndarray) -> torch.Tensor:
    return rows.double() if isinstance(rows, torch.Tensor) else torch.from_numpy(np.array(rows, np.float64))


def _eigh_descending(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues `(D,)`, largest first, and eigenvectors as rows `(D, D)`."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return values.flip(0), vectors.T.flip(0)
