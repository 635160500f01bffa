"""How descriptors are compared: by the cosine, or by Euclidean distance (L2) where they have lengths of their own.

By distance, the similarity of two descriptors is 1 - |q - x|² / 2: that of unit rows is their cosine. A search by it is one
by inner products of longer rows, since 1 - |q - x|² / 2 = (1 - |q|² / 2) · 1 + q · x + 1 · (-|x|² / 2). The squares are kept to
twice the digits of a row, as two columns each, so a sum in double precision is exact to its own rounding.

n rows, D dimensions
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

COLUMNS = 4
"""That a row of a search by distance has beyond its dimensions."""


@dataclass(frozen=True)
class Space:
    """Where the rows of a search lie. Items are what is searched, queries what is asked for."""

    unit: float | None = None
    """Lengths are measured in it, a power of two near the rows' own, so that nothing is rounded; None: rows are compared by the
    cosine, as they are."""

    @staticmethod
    def of_length(length: float) -> "Space":
        """By distance, in the power of two that is nearest to a typical length."""
        return Space(2.0 ** round(math.log2(length)) if math.isfinite(length) and length > 0 else 1.0)

    @property
    def columns(self) -> int:
        return 0 if self.unit is None else COLUMNS

    def items(self, rows: Tensor) -> Tensor:
        """`(n, D)` descriptors -> `(n, D + columns)`."""
        if self.unit is None:
            return rows
        items = rows.new_empty((len(rows), rows.shape[1] + COLUMNS))
        items[:, :-COLUMNS] = rows
        self.complete(items)
        return items

    def complete(self, items: Tensor) -> None:
        """As `items`, in place, of rows that stand in the first D columns."""
        if self.unit is not None:
            items[:, :-COLUMNS] /= self.unit
            items[:, -4:-2] = 1
            items[:, -2:] = _in_two(-_half_squares(items[:, :-COLUMNS]), items.dtype)

    def queries(self, rows: Tensor) -> Tensor:
        """`(n, D)` descriptors -> `(n, D + columns)`, whose products with items are similarities."""
        if self.unit is None:
            return rows
        scaled = rows / self.unit
        squares = _in_two(1 - _half_squares(scaled), rows.dtype)
        return torch.cat([scaled, squares, torch.ones_like(squares)], 1)

    def rows(self, items: Tensor) -> Tensor:
        """`(n, D + columns)` -> `(n, D)` in units of the space; a view."""
        return items if self.unit is None else items[:, :-COLUMNS]

    def descriptors(self, items: Tensor) -> Tensor:
        """`(n, D + columns)` -> `(n, D)`, as they were."""
        return items if self.unit is None else items[:, :-COLUMNS] * self.unit

    def inside(self, similarities: Tensor) -> Tensor:
        """Similarities of descriptors -> those of their rows in this space."""
        return similarities if self.unit is None else 1 - (1 - similarities) / self.unit**2

    def outside(self, similarities: Tensor) -> Tensor:
        """Similarities of rows in this space -> those of the descriptors."""
        return similarities if self.unit is None else 1 - (1 - similarities) * self.unit**2


COSINE = Space()


def _half_squares(rows: Tensor, at_once: int = 2**15) -> Tensor:
    """`(n,)` float64."""
    return torch.cat([part.double().square().sum(1) / 2 for part in rows.split(at_once)] or [rows.new_empty(0).double()])


def _in_two(values: Tensor, kind: torch.dtype) -> Tensor:
    """`(n,)` float64 -> `(n, 2)`: the value in a shorter type, and what that left over."""
    first = values.to(kind)
    return torch.stack([first, (values - first.double()).to(kind)], 1)
