"""Half of the classes of a source: training and test corpora without a class in common."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from largescale.settings import UserError

from . import Item, Skipped, Source

SIDES = ("train", "test")


@dataclass(frozen=True)
class ClassSplit(Source):
    """The images of the classes on one side. Which side a class is on follows from the names of all classes and groups."""

    source: Source
    share: float
    """Of the classes, for training."""
    side: str
    labeled = True

    @property
    def layout(self) -> str:  # type: ignore[override]
        return self.source.layout

    def items(self) -> Iterator[Item | Skipped]:
        found = list(self.source.items())
        own = self._own({item.label for item in found if isinstance(item, Item) and item.label is not None})
        for item in found:
            if isinstance(item, Skipped):
                yield item
            elif item.label is None:
                yield Skipped(item.place, "no label to split by")
            elif item.label in own:
                yield item

    def read(self, place: str) -> bytes:
        return self.source.read(place)

    def _own(self, labels: set[str]) -> set[str]:
        sides = split_classes(labels, list(self.source.groups()), self.share)
        return sides[SIDES.index(self.side)]


def split_classes(labels: set[str], groups: list[tuple[str, str]], share: float) -> tuple[set[str], set[str]]:
    """Classes for training and for test. Classes that have a group in common stay together.

    Raises:
        UserError: a side would have no class.
    """
    parts = sorted(_together(sorted(labels), groups), key=lambda part: hashlib.sha256(min(part).encode()).digest())
    train: set[str] = set()
    for part in parts:
        if len(train) + len(part) / 2 <= share * len(labels):
            train |= part
    test = labels - train
    if not train or not test:
        raise UserError(
            f"--split-classes {share}: {len(labels):,} classes in {len(parts):,} groups leave {len(train):,} for training and "
            f"{len(test):,} for test; give another share, or more classes"
        )
    return train, test


def _together(labels: list[str], groups: list[tuple[str, str]]) -> list[set[str]]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number = {label: n for n, label in enumerate(labels)}
    names = {group: len(labels) + n for n, group in enumerate(dict.fromkeys(group for _, group in groups))}
    size = len(labels) + len(names)
    ends = np.array([(number[label], names[group]) for label, group in groups if label in number], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(size, size))
    part = connected_components(graph, directed=False)[1][: len(labels)]
    return [{labels[n] for n in np.flatnonzero(part == one)} for one in np.unique(part)] if len(names) else [{x} for x in labels]
