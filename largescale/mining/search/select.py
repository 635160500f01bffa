"""The choice of negatives: nearest first, one per cluster, never the query's or the positive's cluster.

Letters: B queries, K candidates, N negatives, D dimensions, M pairs (query, candidate).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NO_IMAGE = torch.iinfo(torch.int64).max
"""The id in a place where there is no image."""
NO_CLUSTER = -1
_TERMS = {"cpu": 2**18, "cuda": 2**24}
_NARROW = 32


class NegativeCandidates(NamedTuple):
    """Images that may be negatives, `(M,)` each, in any order; one may come twice."""

    similarities: Tensor
    ids: Tensor
    clusters: Tensor
    rows: Tensor
    """The query, 0 to B - 1, that each is a candidate for."""


class Found(NamedTuple):
    """Images found for each query, nearest first; places that could not be filled have -inf, `NO_IMAGE`, `NO_CLUSTER`."""

    similarities: Tensor
    """`(B, N)` float64."""
    ids: Tensor
    """`(B, N)`."""
    clusters: Tensor
    """`(B, N)`, all different in a row."""

    def candidates(self) -> NegativeCandidates:
        return listed(self.similarities, self.ids, self.clusters)


def listed(similarities: Tensor, ids: Tensor, clusters: Tensor) -> NegativeCandidates:
    """`(B, K)` each -> the candidates of B queries."""
    rows = torch.arange(len(ids), device=ids.device).repeat_interleave(ids.shape[1])
    return NegativeCandidates(similarities.flatten(), ids.flatten(), clusters.flatten(), rows)


def nothing(queries: int, count: int, device: torch.device) -> Found:
    shape = (queries, count)
    similarities = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
    return Found(similarities, torch.full(shape, NO_IMAGE, device=device), torch.full(shape, NO_CLUSTER, device=device))


def cluster_keys(labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The cluster of each image: its label, or for an unlabeled image (label -1) a key of its own, below -1."""
    return np.where(labels >= 0, labels, -2 - ids)


def norms(descriptors: Tensor) -> Tensor:
    """`(n, D)` -> `(n,)` float32."""
    return torch.linalg.vector_norm(descriptors, dim=1, dtype=torch.float32)


def usable(descriptors: Tensor, zero: bool = False) -> Tensor:
    """`(n, D)` -> `(n,)` whether a descriptor may enter an index: finite and, where the cosine needs a direction, not `zero`."""
    lengths = norms(descriptors)
    return lengths.isfinite() & (zero | (lengths > 0))


def score_pairs(left: Tensor, right: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """`(M,)` float64 inner products of `left[i]` and `right[j]`, computed in one canonical way.

    Products of float32 are exact in float64, and the terms are added as a fixed tree. So the bits depend on the two rows
    alone: not on other pairs, threads, the size of a batch or the device, as those of a matrix product do.

    Args:
        left, right: `(any, D)` float32, float16 or bfloat16.
        i, j: `(M,)` rows of `left` and `right`.
    """
    scores = torch.empty(len(i), dtype=torch.float64, device=left.device)
    at_once = max(1, _TERMS[left.device.type] // left.shape[1])
    for start in range(0, len(i), at_once):  # a chunk stays in the processor's cache
        part = slice(start, start + at_once)
        terms = left.index_select(0, i[part]).double().mul_(right.index_select(0, j[part]))  # (m, D)
        while (width := terms.shape[1]) > _NARROW:
            half = (width + 1) // 2
            terms[:, : width - half] += terms[:, half:]
            terms = terms[:, :half]
        terms = terms.T.contiguous()  # (d, m): the same tree, in long rows
        while (width := len(terms)) > 1:
            half = (width + 1) // 2
            terms[: width - half] += terms[half:]
            terms = terms[:half]
        scores[part] = terms[0]
    return scores


def rough_pairs(left: Tensor, right: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """As `score_pairs`, in float32, added up in any order: a fraction of its time."""
    parts = zip(*(pairs.split(max(1, _TERMS[left.device.type] // left.shape[1])) for pairs in (i, j)), strict=True)
    products = (left.index_select(0, a).float().mul_(right.index_select(0, b)).sum(1) for a, b in parts)
    return torch.cat([i.new_empty(0, dtype=torch.float32), *products])


def select_negatives(
    similarities: Tensor,
    ids: Tensor,
    clusters: Tensor,
    query_clusters: Tensor,
    positive_clusters: Tensor,
    count: int,
) -> Found:
    """The best candidate of each of the `count` nearest eligible clusters, by (similarity descending, image id ascending).

    The rule of "CNN Image Retrieval Learns from BoW" (Radenovic et al., ECCV 2016, section 3.2), without a loop over
    queries. Candidates need no order and may repeat; unlabeled images come with keys of their own (`cluster_keys`).

    Args:
        similarities: `(B, K)` float; a place with -inf is no candidate.
        ids, clusters: `(B, K)` of the candidates.
        query_clusters, positive_clusters: `(B,)` the clusters that are not eligible.
    """
    return select(listed(similarities, ids, clusters), torch.stack([query_clusters, positive_clusters], 1), count)


def select(candidates: NegativeCandidates, excluded: Tensor, count: int) -> Found:
    """`select_negatives` for lists of unequal length; `excluded` `(B, X)` are the clusters that are not eligible."""
    similarities, ids, clusters, rows = candidates
    left = similarities.masked_fill((clusters[:, None] == excluded[rows]).any(1), -torch.inf)  # (M,)
    shape = (len(excluded), count)
    best, chosen = similarities.new_full(shape, -torch.inf), ids.new_full(shape, NO_IMAGE)
    groups = clusters.new_full(shape, NO_CLUSTER)
    for n in range(count):
        best[:, n] = left.new_full(shape[:1], -torch.inf).scatter_reduce_(0, rows, left, "amax")
        tied = ((left == best[rows, n]) & (left > -torch.inf)).nonzero()[:, 0]
        chosen[:, n] = chosen[:, n].scatter_reduce(0, rows[tied], ids[tied], "amin")
        winners = tied[ids[tied] == chosen[rows[tied], n]]
        groups[rows[winners], n] = clusters[winners]
        left.masked_fill_(clusters == groups[rows, n], -torch.inf)
    return Found(best, chosen, groups)
