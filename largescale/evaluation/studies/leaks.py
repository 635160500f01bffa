"""Near-duplicates between a training corpus and the images of an evaluation: by bytes, by perceptual hash, by descriptor.

Photographs of one source are in both more often than one thinks. They are listed; whoever trains decides what to remove.

n images that are used in an evaluation, N images that were trained on
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from largescale.corpus.corpus import Corpus
from largescale.evaluation.report.study import Cell
from largescale.evaluation.studies.hashes import Hashes
from largescale.models.metric import COSINE, Space
from largescale.program.extras import faiss
from largescale.settings import UserError

MOST = 1_000_000
BLOCK = 8192


@dataclass(frozen=True)
class Used:
    """Images that an evaluation uses."""

    role: str
    corpus: Corpus
    ids: np.ndarray
    """`(n,)` in the corpus."""
    rows: Sequence[np.ndarray]
    """`(n_i, D)` their descriptors, side by side."""

    def listed(self, pair: "LeakPair", trained: Corpus) -> dict[str, Cell]:
        return {
            "used as": self.role,
            "image": self.corpus.manifest.keys[int(self.ids[pair.used])].as_py(),
            "training image": trained.manifest.keys[pair.trained].as_py(),
            "same bytes": "yes" if pair.same_bytes else "no",
            "bits apart": "" if pair.bits is None else str(pair.bits),
            "similarity": "" if pair.similarity is None else f"{pair.similarity:.3f}",
        }


@dataclass
class LeakPair:
    """An image that is used and one that was trained on."""

    used: int
    trained: int
    same_bytes: bool = False
    bits: int | None = None
    """In which their perceptual hashes differ; None where these are too different."""
    similarity: float | None = None
    """Of their descriptors; None where it is too small."""

    @property
    def likeness(self) -> tuple[bool, int, float]:
        return self.same_bytes, -(129 if self.bits is None else self.bits), self.similarity or -1.0


@dataclass
class Pairs:
    """Those found so far, by their two images."""

    found: dict[tuple[int, int], LeakPair] = field(default_factory=dict)

    def at(self, used: int, trained: int) -> LeakPair:
        if len(self.found) >= MOST:
            raise UserError(f"more than {MOST:,} near-duplicates: different images pass for one; lower bits or raise similarity")
        return self.found.setdefault((used, trained), LeakPair(used, trained))

    def sorted(self) -> list[LeakPair]:
        """The most alike first."""
        return sorted(self.found.values(), key=lambda pair: (*(-x for x in pair.likeness), pair.used, pair.trained))


def find_by_hash(pairs: Pairs, used: Hashes, trained: Hashes, bits: int, first: int = 0) -> None:
    """
    Args:
        bits: most in which the perceptual hashes of a pair differ.
        first: number of the first training image that is given.
    """
    for i, j in _equal(used.exact, trained.exact):
        pairs.at(i, first + j).same_bytes = True
    if not (len(used.table) and len(trained.table)):
        return
    index = faiss.IndexBinaryFlat(8 * trained.perceptual.shape[1])
    index.add(trained.perceptual)
    for start in range(0, len(used.table), BLOCK):
        limits, distances, rows = index.range_search(used.perceptual[start : start + BLOCK], bits + 1)
        of_row = np.repeat(np.arange(len(limits) - 1), np.diff(limits).astype(np.int64))
        for i, j, distance in zip((start + of_row).tolist(), rows.tolist(), distances.tolist(), strict=True):
            pairs.at(i, first + j).bits = int(distance)


def find_by_descriptor(
    pairs: Pairs,
    used: Sequence[np.ndarray],
    trained: Sequence[np.ndarray],
    similarity: float,
    first: int = 0,
    space: Space = COSINE,
) -> None:
    """
    Args:
        used, trained: `(n_i, D)` descriptors each, side by side.
        similarity: least of a pair, in `space`.
    """
    for j, theirs in _blocks(trained):
        items = space.items(torch.from_numpy(theirs)).numpy()
        for i, ours in _blocks(used):
            scores = space.queries(torch.from_numpy(ours)).numpy() @ items.T
            for row, column in np.argwhere(scores >= similarity).tolist():
                pairs.at(i + row, first + j + column).similarity = float(scores[row, column])


def _blocks(parts: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first row, rows) in single precision."""
    number = 0
    for part in parts:
        for start in range(0, len(part), BLOCK):
            yield number + start, np.array(part[start : start + BLOCK], dtype=np.float32)
        number += len(part)


def _equal(used: np.ndarray, trained: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of equal rows `(n, 32)`, `(N, 32)`: found by their first eight bytes, then compared."""
    keys, needles = (np.ascontiguousarray(rows[:, :8]).view(np.uint64)[:, 0] for rows in (trained, used))
    order = np.argsort(keys, kind="stable")
    low, high = (np.searchsorted(keys[order], needles, side) for side in ("left", "right"))
    for i in np.flatnonzero(high > low).tolist():
        yield from ((i, j) for j in order[low[i] : high[i]].tolist() if (used[i] == trained[j]).all())
