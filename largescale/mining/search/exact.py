"""Exact search of one rank's share by torch: the product, the best image of every cluster, the nearest clusters.

Letters: P images of the share, T of a tile, C clusters of a tile, G groups of clusters, B queries, N negatives, D dimensions,
M pairs (image, query).
"""

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from largescale.cpu import single_threads
from largescale.mining.search.partition import Partition
from largescale.mining.search.precision import Bounds, Rounded, Slack, kinds, product
from largescale.mining.search.select import Found, NegativeCandidates, nothing, rough_pairs, score_pairs, select

TILE = 16384
"""Images whose similarities to a part of the queries are held at a time."""
TILE_BYTES = 2**25
"""Of a tile in a type of two bytes."""
_GROUPS = 256
_CROWD = 8


@dataclass(frozen=True)
class _Tile:
    rows: slice
    keys: Tensor
    """`(C,)` the clusters that have images among the rows."""
    clusters: Partition
    """Rows into clusters."""
    groups: Partition
    """Clusters into groups, neighbors apart, because they are often alike."""


class _Asked(NamedTuple):
    """Queries, and what is not eligible for them."""

    queries: Tensor
    excluded: Tensor
    caps: Tensor | None


class ExactSearch:
    """The nearest eligible clusters of this share for each query, without a depth to guess.

    The product is taken in the fastest type that tells the candidates apart; those that can be the answer are scored again in
    float64.

    Args:
        descriptors: `(P, D)` finite, float32, or float16 on a GPU.
        ids, clusters: `(P,)`.
        count: N.
        block_bytes: of the similarities that are held at a time.
    """

    def __init__(self, descriptors: Tensor, ids: Tensor, clusters: Tensor, count: int, block_bytes: int = 2**25) -> None:
        self.descriptors, self.ids, self.clusters, self.count = descriptors, ids, clusters, count
        tile = max(1, min(TILE, TILE_BYTES // (2 * descriptors.shape[1])))
        self._threads = 1 if descriptors.is_cuda else torch.get_num_threads()
        self._width = max(1, block_bytes // (4 * tile * self._threads))
        self._tiles = [self._tile(slice(start, start + tile)) for start in range(0, len(ids), tile)]
        self._kinds = kinds(descriptors.device)
        self._bounds = Bounds.of(descriptors, self._kinds[0])
        self._held = descriptors[:0]

    def nearest(self, queries: Tensor, excluded: Tensor, caps: Tensor | None = None) -> Found:
        """The best eligible image of each of the N nearest clusters.

        Args:
            queries: `(B, D)` of the descriptors' type.
            excluded: `(B, X)` clusters that are not eligible.
            caps: `(B,)` float64; images that are as similar are not eligible.
        """
        found = nothing(len(queries), self.count, queries.device)
        parts = [slice(start, start + self._width) for start in range(0, len(queries), self._width)]
        asked = [_Asked(queries[part], excluded[part], None if caps is None else caps[part]) for part in parts]
        places = [Found(*(column[part] for column in found)) for part in parts]
        with single_threads(self._threads) as pool:  # those of one small operation mostly wait for each other
            for tile in self._tiles:
                if self._kinds[0] == torch.bfloat16:
                    self._held = self.descriptors[tile.rows].bfloat16()
                deque(pool.map(partial(self._add, tile), asked, places), maxlen=0)
        self._held = self.descriptors[:0]
        return found

    def _add(self, tile: _Tile, asked: _Asked, found: Found) -> None:
        """Let the images of a tile take their places among those found."""
        row, query = self._near(tile, asked, found.similarities[:, -1], self._kinds)
        if self._kinds[0] == torch.bfloat16:
            row, query = self._nearer(row, query, asked, found.similarities[:, -1])
        similarities = score_pairs(self.descriptors, asked.queries, row, query)
        if asked.caps is not None:
            similarities.masked_fill_(similarities >= asked.caps[query], -torch.inf)
        near = NegativeCandidates(similarities, self.ids[row], self.clusters[row], query)
        both = NegativeCandidates(*(torch.cat(pair) for pair in zip(found.candidates(), near, strict=True)))
        for column, best in zip(found, select(both, asked.excluded, self.count), strict=True):
            column.copy_(best)

    def _near(self, tile: _Tile, asked: _Asked, floor: Tensor, kinds: tuple[torch.dtype, ...]) -> tuple[Tensor, Tensor]:
        """`(M,)` row and query of every image that can be the best of a cluster that can be among the N nearest.

        Where a type leaves too many, because the descriptors are nearly equal, the next one tells them apart.
        """
        kind, *finer = kinds
        queries = Rounded.of(asked.queries, kind)
        slack = self._bounds.slack(queries, kind)
        perhaps, surely = _eligible(self._product(tile, queries.rows, kind), slack, asked.caps)  # (T, B)
        best = tile.clusters.maxima(perhaps)  # (C, B)
        surely_best = best if surely is perhaps else tile.clusters.maxima(surely)
        for values in (best, surely_best):
            _exclude(values, tile.keys, asked.excluded)
        groups, sure_groups = tile.groups.maxima(best), tile.groups.maxima(surely_best)  # (G, B)
        nth = _nth_largest(sure_groups, self.count)
        floor = torch.maximum(slack.below(floor.to(slack.fixed)), slack.below(nth.to(slack.fixed)))
        item, query = torch.nonzero((groups >= floor) & (groups > -torch.inf), as_tuple=True)
        least = floor[query]
        for partition, values, sure in ((tile.groups, best, surely_best), (tile.clusters, perhaps, surely)):
            item, query = _descend(partition, item, query, values, least)
            if finer and len(item) > _CROWD * self.count * len(asked.queries):
                if kind == torch.bfloat16:
                    self._kinds = tuple(finer)
                return self._near(tile, asked, floor, tuple(finer))
            least = torch.maximum(floor[query], slack.below(sure[item, query].to(floor), query))
        return item + tile.rows.start, query

    def _nearer(self, row: Tensor, query: Tensor, asked: _Asked, floor: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the pairs `(M,)` that are still near in single precision: bfloat16 leaves several times as many as can win."""
        slack = self._bounds.slack(Rounded.of(asked.queries, torch.float32), torch.float32)
        rough = rough_pairs(self.descriptors, asked.queries, row, query)
        surely = rough
        if asked.caps is not None:
            surely = rough.masked_fill(rough >= _surely(asked.caps, slack)[query], -torch.inf)
        best = select(NegativeCandidates(surely, self.ids[row], self.clusters[row], query), asked.excluded, self.count)
        floor = torch.maximum(best.similarities[:, -1], floor.to(rough))
        near = rough >= slack.below(floor)[query]
        return row[near], query[near]

    def _product(self, tile: _Tile, queries: Tensor, kind: torch.dtype) -> Tensor:
        """`(T, B)`; the tile in bfloat16 is the same for all queries."""
        rows = self._held if kind == torch.bfloat16 else self.descriptors[tile.rows]
        return product(rows, queries, kind)

    def _tile(self, rows: slice) -> _Tile:
        keys, owner = torch.unique(self.clusters[rows], return_inverse=True)
        groups = min(len(keys), max(_GROUPS, 4 * self.count))
        neighbors_apart = torch.arange(len(keys), device=keys.device) % groups
        return _Tile(rows, keys, Partition.of(owner, len(keys)), Partition.of(neighbors_apart, groups))


def _eligible(scores: Tensor, slack: Slack, caps: Tensor | None) -> tuple[Tensor, Tensor]:
    """Products `(T, B)`: those that may be below the caps, and those that surely are; -inf for the others."""
    if caps is None:
        return scores, scores
    perhaps = -slack.below(-caps.to(slack.fixed))  # (B,)
    return scores.masked_fill(scores > perhaps, -torch.inf), scores.masked_fill(scores >= _surely(caps, slack), -torch.inf)


def _surely(caps: Tensor, slack: Slack) -> Tensor:
    """`(B,)` what is less than this is truly below the caps."""
    return slack.below(caps.to(slack.fixed))


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
