"""Rankings by compressed descriptors, of which the first rows are scored again with the full ones.

Q queries, N rows of the gallery, n rows of a part, D dimensions
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from largescale.distributed import World
from largescale.evaluation.descriptors.derived import gallery_parts
from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.evaluation.search.counting import similarities

Compression = Literal["int8", "binary"]


class Compressed:
    """A gallery in a byte or a bit of each dimension; queries stay as they are (asymmetric comparison).

    int8: each row by its largest value, rounded to 1/127 of it. binary: signs of what differs from the gallery's mean row. The
    rows are decompressed here, so that the numbers are those of an index of that kind, and not its speed.

    Args:
        directory: where the rows are kept.
    """

    def __init__(self, kind: Compression, gallery: GalleryRows, directory: Path, world: World) -> None:
        self.full = gallery
        self.center = mean_row(gallery) if kind == "binary" else np.zeros(gallery.parts[0].shape[1], np.float32)

        def compressed(rows: np.ndarray, _: slice) -> np.ndarray:
            return signs(rows - self.center) if kind == "binary" else rounded(rows)

        self.rows = replace(gallery, parts=gallery_parts(directory, gallery, compressed, world))

    def scores(self, queries: np.ndarray, first: int, workers: int = 1) -> np.ndarray:
        """`(Q, D)` -> `(Q, N)` scores in [-1, 1]: the `first` rows by the compressed ones lead, in full order."""
        coarse = similarities(unit(queries - self.center), self.rows, workers)
        coarse[:, self.full.group < 0] = -1
        return rescored(coarse, similarities(queries, self.full, workers), first) if first else coarse


def rescored(coarse: np.ndarray, full: np.ndarray, first: int) -> np.ndarray:
    """The `first` columns of each row of `coarse` by their `full` score in [0, 1], the others by their own below 0."""
    first = min(first, coarse.shape[1])
    best = np.argpartition(-coarse, first - 1, axis=1)[:, :first]
    scores = 0.5 * coarse.clip(-1, 1) - 0.5
    np.put_along_axis(scores, best, 0.5 + 0.5 * np.take_along_axis(full, best, axis=1).clip(-1, 1), axis=1)
    return scores.astype(np.float32)


def rounded(rows: np.ndarray) -> np.ndarray:
    """`(n, D)` -> unit rows that a byte of each dimension can hold."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return unit(np.rint(127 * np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)))


def signs(rows: np.ndarray) -> np.ndarray:
    """`(n, D)` -> unit rows that a bit of each dimension can hold."""
    return (np.where(rows >= 0, 1, -1) / np.sqrt(rows.shape[1])).astype(np.float32)


def mean_row(gallery: GalleryRows) -> np.ndarray:
    """`(D,)` over all rows that are searched, part after part."""
    total, start = np.zeros(gallery.parts[0].shape[1]), 0
    for part in gallery.parts:
        inside = gallery.group[start : start + len(part)] >= 0
        total += part[inside].sum(axis=0, dtype=np.float64)
        start += len(part)
    return (total / max(1, int((gallery.group >= 0).sum()))).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0).astype(np.float32)
