"""What is searched for in what: descriptors with the names of their images.

n images of a corpus, Q queries, D dimensions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np
import pyarrow as pa

from largescale.evaluation.protocol.ground_truth import Truth
from largescale.evaluation.protocol.protocols import Protocol
from largescale.evaluation.results import CorpusUsed, Part
from largescale.models.metric import COSINE, Space


@dataclass(frozen=True)
class Described:
    """Images with their descriptors."""

    used: CorpusUsed
    keys: pa.Array
    parts: Sequence[np.ndarray]
    """`(n_i, D)` each, side by side in the order of the keys; unit rows where the cosine compares them."""

    def __len__(self) -> int:
        return sum(map(len, self.parts))


class QueryRows(Interface):
    """Descriptors of queries by position, `(Q, D)`."""

    def __call__(self, queries: slice) -> np.ndarray: ...


@dataclass(frozen=True)
class Task:
    """What is searched for in what, and how it is scored."""

    truth: Truth
    protocols: Sequence[Protocol]
    rows: QueryRows
    queries: CorpusUsed
    query_keys: pa.Array
    """Of the corpus of the queries."""
    gallery: Described
    distractors: Sequence[Described]
    space: Space = COSINE
    """In which descriptors are compared."""

    def place(self, row: int) -> tuple[Part, int, int, str]:
        """(part, corpus, image id, key) of a row of the gallery and its distractors."""
        if row < len(self.gallery):
            return "gallery", 0, row, self.gallery.keys[row].as_py()
        row -= len(self.gallery)
        corpus = 0
        while row >= len(self.distractors[corpus]):
            row -= len(self.distractors[corpus])
            corpus += 1
        return "distractors", corpus, row, self.distractors[corpus].keys[row].as_py()
