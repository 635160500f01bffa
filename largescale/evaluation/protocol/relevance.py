"""The rows of an evaluation: those that are searched, and those that a ground truth judges.

Q queries, N rows of the gallery, D dimensions, M judged rows of all queries
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from largescale.models.metric import COSINE, Space

Rows = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class GalleryRows:
    """The rows that are searched: those of `parts` one after the other."""

    parts: Sequence[np.ndarray]
    """`(n_i, D)` descriptors each, unit rows where they are compared by the cosine; may be memory-mapped."""
    group: np.ndarray
    """`(N,)` int8: 0 for the gallery, g for the distractors that the g-th nested prefix adds, -1 for rows left out."""
    space: Space = COSINE
    """In which they are compared."""

    @staticmethod
    def of(rows: np.ndarray, space: Space = COSINE) -> "GalleryRows":
        """A gallery in memory, `(N, D)`, without distractors."""
        return GalleryRows([rows], np.zeros(len(rows), dtype=np.int8), space)

    def __len__(self) -> int:
        return len(self.group)

    @property
    def groups(self) -> int:
        return int(self.group.max(initial=0)) + 1

    @cached_property
    def _start(self) -> np.ndarray:
        return np.cumsum([0, *map(len, self.parts)])

    def asked(self, queries: np.ndarray) -> np.ndarray:
        """`(Q, D)` descriptors -> what is multiplied with the rows of a block to give similarities."""
        return self.space.queries(torch.from_numpy(np.ascontiguousarray(queries))).numpy()

    def block(self, first: int, buffer: np.ndarray) -> np.ndarray:
        """Rows `first : first + len(buffer)`, in place where they lie in one part as they are, else in the buffer.

        Beyond the last row there are rows that mean nothing.
        """
        part = int(np.searchsorted(self._start, first, "right")) - 1
        rows = self.parts[part][first - self._start[part] :][: len(buffer)]
        whole = len(rows) == len(buffer) and rows.dtype == buffer.dtype and rows.flags.c_contiguous
        if whole and self.space == COSINE:
            return rows
        self._copy(first, part, buffer[:, : rows.shape[1]])
        self.space.complete(torch.from_numpy(buffer))
        return buffer

    def similarity(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`(..., D)` each -> `(...)` in double precision."""
        if self.space.unit is None:
            return np.einsum("...d,...d->...", queries, rows, dtype=np.float64)
        away = (queries.astype(np.float64) - rows) / self.space.unit
        return 1 - np.einsum("...d,...d->...", away, away) / 2

    def take(self, rows: np.ndarray) -> np.ndarray:
        """`(n, D)` the descriptors of these numbers, in single precision at least."""
        part = np.searchsorted(self._start, rows, "right") - 1
        out = np.empty((len(rows), self.parts[0].shape[1]), np.promote_types(self.parts[0].dtype, np.float32))
        for number in np.unique(part).tolist():
            here = part == number
            out[here] = self.parts[number][rows[here] - self._start[number]]
        return out

    def _copy(self, first: int, part: int, out: np.ndarray) -> None:
        done = 0
        while done < len(out) and part < len(self.parts):
            skip = max(first - int(self._start[part]), 0)
            rows = self.parts[part][skip : skip + len(out) - done]
            # numpy takes ten times as long from half precision
            torch.from_numpy(out[done : done + len(rows)]).copy_(torch.from_numpy(rows))
            done, part = done + len(rows), part + 1
        out[done:] = 0


@dataclass(frozen=True)
class Judged:
    """The rows that the ground truth names: those of query q are `start[q]:start[q + 1]`, in increasing order, each once."""

    start: np.ndarray
    row: np.ndarray
    """`(M,)`"""
    list: np.ndarray
    """`(M,)` uint8: which list of the ground truth names the row."""

    @staticmethod
    def of(ground_truth: Sequence[Mapping[str, Rows]], lists: Sequence[str]) -> "Judged":
        """From lists of rows by name, per query. A row in several counts for the first of `lists` that has it."""
        rows = [np.zeros(0, dtype=np.int64)]
        codes = [np.zeros(0, dtype=np.uint8)]
        for truth in ground_truth:
            named = [np.asarray(truth.get(name, []), dtype=np.int64) for name in lists]
            row, first = np.unique(np.concatenate(named), return_index=True)
            rows.append(row)
            codes.append(np.repeat(np.arange(len(lists), dtype=np.uint8), list(map(len, named)))[first])
        return Judged(np.cumsum(list(map(len, rows))), np.concatenate(rows), np.concatenate(codes))

    @property
    def query(self) -> np.ndarray:
        """`(M,)`"""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))
