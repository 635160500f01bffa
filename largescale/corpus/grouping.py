"""Which images form a group: those of equal shape, at most a batch of them. Pure functions.

n images, b images of a group, h, w pixels.
"""

from collections.abc import Iterable, Iterator

import numpy as np

Shape = tuple[int, int, int]
Encoded = tuple[np.ndarray, list[bytes]]
"""Positions of the images of a group, and their bytes."""


def by_shape(shapes: np.ndarray) -> tuple[np.ndarray, list[Shape]]:
    """Sort `(n, 2)` shapes: `(n,)` positions, group after group, and (b, h, w) of each group."""
    different, group, counts = np.unique(shapes[:, 0] << 32 | shapes[:, 1], return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    return order, [(b, key >> 32, key & 0xFFFFFFFF) for key, b in zip(different.tolist(), counts.tolist(), strict=True)]


def batches_of(shapes: np.ndarray, batch: int) -> list[np.ndarray]:
    """`(n, 2)` shapes -> positions `(b,)` of each group, b at most `batch`."""
    order, runs = by_shape(shapes)
    ends = np.cumsum([b for b, _, _ in runs])
    return [part for run in np.split(order, ends[:-1]) for part in np.split(run, range(batch, len(run), batch))]


def as_completed(groups: list[np.ndarray], stream: Iterable[bytes]) -> Iterator[Encoded]:
    """Each group as soon as the stream, which brings the images in the order of their positions, has brought its last."""
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
        if bundle and sum(len(positions) for positions, _ in [*bundle, group]) > most:
            yield bundle
            bundle = []
        bundle.append(group)
    if bundle:
        yield bundle
