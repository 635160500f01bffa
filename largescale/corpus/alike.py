"""Batches of labels that are alike. Pure functions. C labels, P labels of a batch."""

from collections import defaultdict

import numpy as np
from scipy import sparse


def batches_of_alike(chunks: np.ndarray, near: sparse.csr_matrix, P: int, rng: np.random.Generator) -> np.ndarray:
    """`(steps, P)` labels: a batch begins with a random one, and the nearest to all that it has join it, one after the other.

    (As Sohn 2016, section 3.2.3, chooses classes.) Where nothing that is left is near, a random one joins. A label that would
    have more chunks left than batches follow is in every one of them, so that no chunk is left over.

    Args:
        chunks: `(C,)` how often each label is shown; at most `steps` times, `steps * P` in all.
        near: `(C, C)`, how near two labels are, positive.
    """
    left, steps = chunks.copy(), int(chunks.sum()) // P
    pending = _Pending(chunks)
    seeds = rng.permutation(np.repeat(np.arange(len(chunks)), chunks)).tolist()
    score, table = np.where(left > 0, 0.0, -np.inf), np.empty((steps, P), np.int64)
    for step in range(steps):
        batch, touched = pending.due(steps - step), [np.empty(0, np.int64)]
        for due in batch:
            _join(due, near, score, touched)
        while len(batch) < P:
            label = _nearest(score, touched)
            batch.append(_random(seeds, left, batch) if label is None else label)
            _join(batch[-1], near, score, touched)
        for label in batch:
            pending.take(label, int(left[label]))
        left[batch] -= 1
        for labels in (*touched, np.array(batch)):
            score[labels] = np.where(left[labels] > 0, 0.0, -np.inf)
        table[step] = batch
    return table


class _Pending:
    """Labels by the number of their chunks that are left."""

    def __init__(self, chunks: np.ndarray) -> None:
        self._labels: defaultdict[int, set[int]] = defaultdict(set)
        for label, count in enumerate(chunks.tolist()):
            self._labels[count].add(label)

    def due(self, batches: int) -> list[int]:
        """Those that must be in every one of the batches that are left."""
        return sorted(self._labels[batches])

    def take(self, label: int, left: int) -> None:
        self._labels[left].remove(label)
        self._labels[left - 1].add(label)


def _join(label: int, near: sparse.csr_matrix, score: np.ndarray, touched: list[np.ndarray]) -> None:
    """Let a label into a batch: what is near to it scores."""
    inside = slice(near.indptr[label], near.indptr[label + 1])
    touched.append(near.indices[inside])
    score[near.indices[inside]] += near.data[inside]
    score[label] = -np.inf


def _nearest(score: np.ndarray, touched: list[np.ndarray]) -> int | None:
    """The label of the highest score, if any has one."""
    labels = np.concatenate(touched)
    if not len(labels) or score[best := labels[score[labels].argmax()]] == -np.inf:
        return None
    return int(best)


def _random(seeds: list[int], left: np.ndarray, batch: list[int]) -> int:
    """The next of the random order that is left and not in the batch."""
    met = []
    while left[label := seeds.pop()] == 0 or label in batch:
        if left[label]:
            met.append(label)
    seeds.extend(reversed(met))
    return label
