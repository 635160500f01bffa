"""Losses that learn something of each class, of which each of several processes may hold a part. C classes, D dimensions."""

from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

import torch

from largescale.losses.labels.base import LabelLoss

DRAWN = 1024
"""Rows that are drawn at a time, so that who holds a part of them needs no memory for all."""


class Holders(Protocol):
    """Who holds which of the classes, where each of several processes has the rows `(C_r, D)` of some."""

    own: slice
    """The classes whose rows are held here."""

    def of_labels(self, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`(B, D)`: the rows of these labels, wherever they are; the labels are the same for every holder."""
        ...

    def others(self, rows: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
        """The rows of all other holders, `size` at a time at most; every holder asks for all of them."""
        ...

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Over all holders; the tensor itself is overwritten."""
        ...

    def max(self, value: torch.Tensor) -> torch.Tensor:
        """The largest of all holders, element by element; the tensor itself is overwritten."""
        ...


class Alone:
    """Holds everything."""

    def __init__(self, count: int) -> None:
        self.own = slice(0, count)

    def of_labels(self, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return rows[labels]

    def others(self, rows: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
        return iter(())

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def max(self, value: torch.Tensor) -> torch.Tensor:
        return value


class ClassRowsLoss(LabelLoss):
    """A loss whose parameter has a row for each class; value and gradients do not depend on who holds which rows."""

    pairs = False
    rows: ClassVar[str]
    """The name of that parameter."""

    def __init__(self, holders: Holders) -> None:
        super().__init__()
        self.holders = holders


def random_rows(count: int, dim: int, rows: slice, draw: Callable[[int, int], torch.Tensor] = torch.randn) -> torch.Tensor:
    """Some rows of a random `(count, dim)`: the same numbers for all who hold a part."""
    found = torch.empty(rows.stop - rows.start, dim)
    for drawn in blocks(count, DRAWN):
        block = draw(drawn.stop - drawn.start, dim)
        low, high = max(drawn.start, rows.start), min(drawn.stop, rows.stop)
        if low < high:
            found[low - rows.start : high - rows.start] = block[low - drawn.start : high - drawn.start]
    return found


def blocks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
