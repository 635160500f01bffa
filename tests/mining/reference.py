"""Mining by loops, to compare with."""

from collections.abc import Sequence

import numpy as np

from largescale.mining.search.select import NO_IMAGE


def nearest(
    similarities: np.ndarray,
    ids: np.ndarray,
    clusters: np.ndarray,
    excluded: Sequence[Sequence[int]],
    count: int,
    caps: np.ndarray | None = None,
    duplicate: float = np.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """Ids `(Q, N)` and similarities of the rule: nearest first, lower ids first among equals, one per cluster.

    Args:
        similarities: `(Q, P)`; ids, clusters: `(P,)`.
        caps: `(Q,)`; images that are as similar are passed over.
        duplicate: clusters with an image that is as similar are passed over.
    """
    chosen = np.full((len(similarities), count), NO_IMAGE)
    values = np.full((len(similarities), count), -np.inf)
    for q, row in enumerate(similarities):
        taken, place = {*excluded[q], *clusters[row >= duplicate].tolist()}, 0
        similarity_cap = np.inf if caps is None else caps[q]
        for i in sorted(range(len(ids)), key=lambda i: (-row[i], ids[i])):
            if place < count and -np.inf < row[i] < similarity_cap and clusters[i] not in taken:
                chosen[q, place], values[q, place] = ids[i], row[i]
                taken.add(clusters[i])
                place += 1
    return chosen, values
