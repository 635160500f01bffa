"""Exact search of one rank's share: the product, the best image of every cluster, the nearest clusters.

Letters: P images of the share, T of a tile, C clusters of a tile, G groups of clusters, B queries, N negatives, D dimensions,
M pairs (image, query).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from largescale.mining.select import Candidates, Found, norms, nothing, score_pairs, select

TILE = 16384
"""Images whose similarities to a block of queries are held at a time."""
_GROUPS = 256
_CROWD = 16


@dataclass(frozen=True)
class Partition:
    """Items put into disjoint parts; what belongs to a part need not be contiguous."""

    owner: Tensor
    """`(items,)` the part of each item."""
    order: Tensor
    """`(items,)` the items, those of one part side by side."""
    starts: Tensor
    """`(parts + 1,)` where each part begins in `order`."""

    @staticmethod
    def of(owner: Tensor, parts: int) -> "Partition":
        sizes = torch.bincount(owner, minlength=parts)
        starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        return Partition(owner, torch.argsort(owner, stable=True), starts)

    def maxima(self, values: Tensor) -> Tensor:
        """`(items, B)` -> `(parts, B)`: the largest value in each part."""
        best = values.new_full((len(self.starts) - 1, values.shape[1]), -torch.inf)
        return best.scatter_reduce_(0, self.owner[:, None].expand_as(values), values, "amax")

    def members(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """`(m,)` parts -> all items of each, and for each item which of the m it comes from."""
        sizes = self.starts[part + 1] - self.starts[part]
        source = torch.repeat_interleave(sizes)
        place = torch.arange(len(source), device=part.device) - (sizes.cumsum(0) - sizes)[source]
        return self.order[self.starts[part][source] + place], source


@dataclass(frozen=True)
class _Tile:
    rows: slice
    keys: Tensor
    """`(C,)` the clusters that have images among the rows."""
    clusters: Partition
    """Rows into clusters."""
    groups: Partition
    """Clusters into groups, neighbours apart, because they are often alike."""


class ExactSearch:
    """The nearest eligible clusters of this share for each query, without a depth to guess.

    Args:
        descriptors: `(P, D)` finite, float32, or float16 on a GPU.
        ids, clusters: `(P,)`.
        count: N.
    """

    def __init__(self, descriptors: Tensor, ids: Tensor, clusters: Tensor, count: int) -> None:
        self.descriptors, self.ids, self.clusters, self.count = descriptors, ids, clusters, count
        self._tiles = [self._tile(slice(start, start + TILE)) for start in range(0, len(ids), TILE)]
        self._largest = max((norms(descriptors[tile.rows]).max().item() for tile in self._tiles), default=0.0)

    def nearest(self, queries: Tensor, excluded: Tensor) -> Found:
        """The best image of each of the N nearest clusters.

        Args:
            queries: `(B, D)` of the descriptors' type.
            excluded: `(B, 2)` clusters that are not eligible.
        """
        found = nothing(len(queries), self.count, queries.device)
        for tile in self._tiles:
            row, query = self._near(tile, queries, excluded, found.similarities[:, -1], torch.float32)
            similarities = score_pairs(self.descriptors, queries, row, query)
            near = Candidates(similarities, self.ids[row], self.clusters[row], query)
            both = Candidates(*(torch.cat(pair) for pair in zip(found.candidates(), near, strict=True)))
            found = select(both, excluded, self.count)
        return found

    def _near(self, tile: _Tile, queries: Tensor, excluded: Tensor, floor: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """`(M,)` row and query of every image that can be the best of a cluster that can be among the N nearest.

        Where float32 leaves too many, because the descriptors are nearly equal, float64 tells them apart.
        """
        margin = self._margin(queries, kind)  # (B,)
        scores = _product(self.descriptors[tile.rows], queries, kind)  # (T, B)
        best = tile.clusters.maxima(scores)  # (C, B)
        _exclude(best, tile.keys, excluded)
        groups = tile.groups.maxima(best)  # (G, B)
        floor = torch.maximum(floor.to(kind), _nth_largest(groups, self.count)) - margin  # (B,)
        item, query = torch.nonzero((groups >= floor) & (groups > -torch.inf), as_tuple=True)
        least = floor[query]
        for partition, values in ((tile.groups, best), (tile.clusters, scores)):
            item, query = _descend(partition, item, query, values, least)
            if kind == torch.float32 and len(item) > _CROWD * self.count * len(queries):
                return self._near(tile, queries, excluded, floor, torch.float64)
            least = torch.maximum(floor[query], values[item, query] - margin[query])
        return item + tile.rows.start, query

    def _margin(self, queries: Tensor, kind: torch.dtype) -> Tensor:
        """`(B,)` by how much two inner products may be off together.

        A sum of D products is off by at most D u |q| |x|, where u is half the distance of two numbers, or all of it on hardware
        that cuts off.
        """
        return 2 * queries.shape[1] * torch.finfo(kind).eps * self._largest * norms(queries).to(kind)

    def _tile(self, rows: slice) -> _Tile:
        keys, owner = torch.unique(self.clusters[rows], return_inverse=True)
        groups = min(len(keys), max(_GROUPS, 4 * self.count))
        neighbours_apart = torch.arange(len(keys), device=keys.device) % groups
        return _Tile(rows, keys, Partition.of(owner, len(keys)), Partition.of(neighbours_apart, groups))


def _descend(partition: Partition, part: Tensor, query: Tensor, values: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """`(m,)` parts -> those of their members whose value for the query is not below `least`, and their queries."""
    item, source = partition.members(part)
    query = query[source]
    near = values[item, query] >= least[source]
    return item[near], query[near]


def _exclude(best: Tensor, keys: Tensor, excluded: Tensor) -> None:
    """Take the excluded clusters `(B, X)` out of the maxima `(C, B)`; the keys `(C,)` are sorted."""
    place = torch.searchsorted(keys, excluded.contiguous()).clamp(max=len(keys) - 1)  # (B, X)
    query, column = torch.nonzero(keys[place] == excluded, as_tuple=True)
    best[place[query, column], query] = -torch.inf


def _nth_largest(values: Tensor, n: int) -> Tensor:
    """`(G, B)` -> `(B,)`: the n-th largest of each column; -inf where there are fewer."""
    if len(values) < n:
        return values.new_full(values.shape[1:], -torch.inf)
    return values.T.contiguous().topk(n, dim=1).values[:, -1]


def _product(rows: Tensor, queries: Tensor, kind: torch.dtype) -> Tensor:
    """`(T, D)`, `(B, D)` -> `(T, B)` inner products."""
    if rows.dtype == torch.float16 and kind == torch.float32:
        return torch.mm(rows, queries.T, out_dtype=torch.float32)
    return rows.to(kind) @ queries.to(kind).T
