"""What a source of images offers to the writer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the file as it is stored."""


class Item(NamedTuple):
    """One image of a source."""

    key: str
    """Its name in the tar, without extension: unique, no dot after the last slash, e.g. `oak/leaf_12`."""
    label: str | None
    """The name of its label; None becomes label -1."""
    place: str
    """Where `Source.read` finds it, e.g. its path below the source; recorded beside the image."""
    box: Box | None = None
    """Where the object is, if the source says so."""


class Skipped(NamedTuple):
    """What a source holds and does not offer; counted by reason and reported."""

    place: str
    reason: str


class Source(ABC):
    """Images with what is known about them. Picklable: worker processes read from copies of it."""

    layout: str
    labeled: bool = False
    """Labels are expected: a build that finds none stops."""

    @abstractmethod
    def items(self) -> Iterable[Item | Skipped]:
        """Every image, always in the same order. The writer sorts by label (stably, images without label first)."""

    @abstractmethod
    def read(self, place: str) -> bytes:
        """The encoded image at a place: any format that Pillow decodes."""

    def pairs(self) -> Mapping[str, np.ndarray] | None:
        """Columns of `PAIR_COLUMNS`, `(pairs,)` each; `query` and `positive` are positions among the images of `items()`."""
        return None

    def groups(self) -> Iterable[tuple[str, str]]:
        """Label and group, where labels of one group must not be divided between training and test."""
        return ()

    def ground_truth(self) -> dict[str, Any] | None:
        """What `ground_truth.json` holds; boxes in pixels of the source image as it is stored in its file.

        `{"protocol": name, "queries": [{"key", "box": [x0, y0, x1, y1] or None, "good"/"ok"/"easy"/"hard"/"junk": [keys]}],
        "gallery": None (every image) or [keys]}`
        """
        return None
