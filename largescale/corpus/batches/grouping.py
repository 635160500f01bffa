"""Which images form a group: those of equal shape, at most a batch of them. Pure functions.

n images, b images of a group, h, w pixels.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Encoded:
    """Images of equal shape that have been read, and not decoded."""

    ids: np.ndarray
    """`(b,)` image ids."""
    shape: Shape
    """(b, h, w) of the decoded images."""
    boxes: np.ndarray | None
    """`(b, 4)` regions to cut out."""
    data: list[bytes]


class Most(NamedTuple):
    """How large a group may be."""

    images: int
    pixels: int = sys.maxsize
    """Of all its images together; an image that has more of them is a group by itself."""


def by_shape(shapes: np.ndarray) -> tuple[np.ndarray, list[Shape]]:
    """Sort `(n, 2)` shapes: `(n,)` positions, group after group, and (b, h, w) of each group."""
    different, group, counts = np.unique(shapes[:, 0] << 32 | shapes[:, 1], return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    return order, [(b, key >> 32, key & 0xFFFFFFFF) for key, b in zip(different.tolist(), counts.tolist(), strict=True)]


def batches_of(shapes: np.ndarray, most: Most) -> list[np.ndarray]:
    """`(n, 2)` shapes -> positions `(b,)` of each group."""
    order, runs = by_shape(shapes)
    ends = np.cumsum([b for b, _, _ in runs])
    lengths = [min(most.images, max(1, most.pixels // (h * w))) for _, h, w in runs]
    of_shape = zip(np.split(order, ends[:-1]), lengths, strict=True)
    return [group for run, length in of_shape for group in np.split(run, range(length, len(run), length))]


def as_completed(groups: list[np.ndarray], stream: Iterable[bytes]) -> Iterator[tuple[np.ndarray, list[bytes]]]:
    """Each group, and the bytes of its images, once the stream, which follows the positions, has brought the last of them."""
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])[np.argsort(np.concatenate(groups))]
    waiting: dict[int, list[bytes]] = {}
    for data, number in zip(stream, group_of.tolist(), strict=True):
        waiting.setdefault(number, []).append(data)
        if len(waiting[number]) == len(groups[number]):
            yield groups[number], waiting.pop(number)


def bundles(groups: Iterable[Encoded], most: int) -> Iterator[list[Encoded]]:
    """Groups in sequence that hold `most` images together: few messages, also where there are many shapes."""
    bundle: list[Encoded] = []
    for group in groups:
        if bundle and sum(len(other.ids) for other in [*bundle, group]) > most:
            yield bundle
            bundle = []
        bundle.append(group)
    if bundle:
        yield bundle
