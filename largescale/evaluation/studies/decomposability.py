"""The decomposability gap (ROADMAP §4.1): how much higher average precision is within batches than over all their images.

A loss on the precision of batches is blind to what this gap hides; calibration is there to close it.
N images, B images of a batch, S batches, D dimensions, b queries of a block.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from largescale.corpus.config import LabelPlanConfig
from largescale.corpus.manifest import Manifest
from largescale.corpus.samplers import plan_labels
from largescale.evaluation.report.charts import lines
from largescale.evaluation.report.study import Cell, Study
from largescale.models.metric import COSINE, Space

BLOCK = 512
Embedded = tuple[Path, np.ndarray, Space]
"""Weights, the descriptors `(N, D)` that they give, and how these are compared."""


def measure(networks: Sequence[Embedded], manifest: Manifest, sizes: Sequence[int], images: int) -> Study:
    """Table and curves of some networks, given with the descriptors of a labeled corpus."""
    rows: list[dict[str, Cell]] = []
    for size in sizes:
        batches = batches_of(manifest, size)[: max(1, images // size)]
        if len(batches):
            rows += [_row(network, manifest.label, batches) for network in networks]
    curves = {str(f): [(_number(r["batch"]), _number(r["gap"])) for r in rows if r["weights"] == str(f)] for f, *_ in networks}
    note = (
        "Mean precision (map_rectangle) of each image among those of its batch, itself left out, and among all images of the "
        "batches; the gap between them, in points. Batches are those of training: as many labels as there are, 4 images of each "
        "or more. Bound: the largest gap of batches without a fault of their own, reached where no two share scores."
    )
    if networks:
        curves["bound"] = [(_number(r["batch"]), _number(r["bound"])) for r in rows if r["weights"] == str(networks[0][0])]
    plots = {"gap": lines(curves, "images of a batch", "gap (points)", doubling=True)} if rows else {}
    return Study("decomposability", "Decomposability gap", note, sorted(rows, key=lambda row: str(row["weights"])), plots)


def batches_of(manifest: Manifest, size: int) -> np.ndarray:
    """`(S, B)` image ids, each at most once: those of one epoch; none where no batch of the size has different images."""
    labels = min(size // 4, len(np.unique(manifest.label[manifest.label >= 0])))
    if labels < 2:
        return np.empty((0, size), np.int64)
    config = LabelPlanConfig(classes_per_batch=labels, images_per_class=size // labels)
    steps = plan_labels(manifest, config, seed=0, epoch=0).steps
    ordered = np.sort(steps, axis=1)
    return steps[(ordered[:, 1:] != ordered[:, :-1]).all(1)]


def _row(network: Embedded, label: np.ndarray, batches: np.ndarray) -> dict[str, Cell]:
    file, x, space = network
    within = float(np.mean([mean_precision(x[ids], label[ids], space) for ids in batches]))
    everyone = batches.ravel()
    among_all = mean_precision(x[everyone], label[everyone], space)
    of_batches: dict[str, Cell] = {"batch": batches.shape[1], "batches": len(batches)}
    scores: dict[str, Cell] = {
        "map_rectangle in batches %": 100 * within,
        "map_rectangle %": 100 * among_all,
        "gap": 100 * (within - among_all),
        "bound": 100 * bound_of(label[batches]),
    }
    return {"weights": str(file), **of_batches, **scores}


def bound_of(labels: np.ndarray) -> float:
    """The largest gap that batches can hide, by the labels of their images `(S, B)`: the mean of `bound` over all queries."""
    of_class = np.stack([(labels == label).sum(1) for label in np.unique(labels[labels >= 0])])  # (C, S)
    total = queries = 0.0
    for counts in of_class:
        for own in np.flatnonzero(counts > 1):
            positives = counts - (np.arange(len(counts)) == own)  # the query is no match of itself
            total += counts[own] * bound(positives, labels.shape[1] - counts)
            queries += counts[own]
    return total / max(queries, 1)


def bound(positives: np.ndarray, negatives: np.ndarray) -> float:
    """How much precision a query can lose from batches that are each ranked without a fault to all of them together.

    They lose most where no two batches share scores: all that is in the first stands before all that is in the second, those
    with the smallest share of matches first (ROADMAP, §4.1). Faults within batches can make the gap larger or smaller.

    Args:
        positives, negatives: `(S,)` of the query in each batch.
    """
    order = np.argsort(positives / np.maximum(positives + negatives, 1), kind="stable")
    before = np.repeat(negatives[order].cumsum() - negatives[order], positives[order])  # negatives above each positive
    place = np.arange(1, len(before) + 1)
    return float(1 - np.mean(place / (place + before))) if len(before) else 0.0


def mean_precision(x: np.ndarray, label: np.ndarray, space: Space = COSINE) -> float:
    """Mean average precision of every image of `x` `(N, D)` among the others, over those that have a match."""
    return float(np.concatenate(list(_precisions(torch.from_numpy(x), label, space))).mean())


def _precisions(x: torch.Tensor, label: np.ndarray, space: Space) -> Iterator[np.ndarray]:
    asked, items = space.queries(x).numpy(), space.items(x).numpy()
    for start in range(0, len(x), BLOCK):
        queries = np.arange(start, min(start + BLOCK, len(x)))
        scores = asked[queries] @ items.T  # (b, N)
        scores[np.arange(len(queries)), queries] = -np.inf  # itself comes last, and counts for nothing there
        order = np.argsort(-scores, axis=1, kind="stable")[:, :-1]
        right = label[order] == label[queries, None]
        precision = right.cumsum(1) / np.arange(1, order.shape[1] + 1)
        matches = right.sum(1)
        yield (precision * right).sum(1)[matches > 0] / matches[matches > 0]


def _number(cell: Cell) -> float:
    assert not isinstance(cell, str)
    return float(cell)
