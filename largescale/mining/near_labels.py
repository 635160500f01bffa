"""Which labels are alike, from the negatives that were mined. Q queries, N negatives, C labels."""

import numpy as np
from scipy import sparse

from largescale.corpus.manifest import Manifest
from largescale.mining.generations import Generation


def near_labels(manifest: Manifest, generation: Generation) -> sparse.csr_matrix:
    """`(C, C)` how near two labels are; symmetric, nothing where neither was mined for the other.

    The negatives of each query name the labels that are nearest to its own: the first with N votes, the last with one. Queries
    of a label share its voice. What is random or has no label is not counted.
    """
    label, count = manifest.label, generation.negatives.shape[1]
    asked = np.broadcast_to(label[generation.queries][:, None], generation.negatives.shape)  # (Q, N)
    named, votes = label[generation.negatives], np.broadcast_to(np.arange(count, 0, -1.0), asked.shape)
    mined = ~np.isnan(generation.similarities) & (named >= 0) & (asked >= 0)
    labels = int(label.max(initial=-1)) + 1
    voices = np.bincount(asked[:, 0].clip(0), minlength=labels)
    share = votes[mined] / voices[asked[mined]]
    near = sparse.csr_matrix((share, (asked[mined], named[mined])), shape=(labels, labels))
    return (near + near.T).tocsr()


def nearness(near: sparse.csr_matrix, labels: np.ndarray, K: int) -> float:
    """The share of the pairs of labels in a batch that were mined for each other.

    Args:
        labels: `(steps, P * K)`, K images of a label side by side.
    """
    batches = labels[:, ::K]  # (steps, P)
    P = batches.shape[1]
    found = sum(near[batch][:, batch].count_nonzero() for batch in batches)
    return found / (len(batches) * P * (P - 1))
