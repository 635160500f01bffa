"""What losses on average precision share: exact gradients in blocks of bounded memory.

B queries, G gallery, P positives of a query, b queries of a block. Time grows with B · G · P, memory with B · G.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable

from largescale.losses.labels.base import Gallery, LabelLoss, products, same_and_different

# elements of a block: in the cache of a CPU core, and enough to fill a GPU
ELEMENTS = {"cpu": 2**18, "cuda": 2**26}


class RankingLoss(LabelLoss):
    """1 - mean average precision of a batch whose images are queries and gallery at once.

    Queries without a positive take no part and are counted in `degenerate`.

    Args:
        self_in_gallery: whether a query is in its own gallery, as a positive (as the published code has it).
    """

    def __init__(self, self_in_gallery: bool = True) -> None:
        super().__init__()
        self.self_in_gallery = self_in_gallery

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        return self.of_scores(products(x, gallery), *self.relevance(labels, gallery))

    def relevance(self, labels: torch.Tensor, gallery: Gallery | None) -> tuple[torch.Tensor, torch.Tensor]:
        """`(B, G)` masks of positives and negatives."""
        positive, negative = same_and_different(labels, gallery)
        if gallery is None and self.self_in_gallery:
            positive.fill_diagonal_(True)
        return positive, negative

    def of_scores(self, scores: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """The loss of scores `(B, G)`, larger is more similar, and masks that never are both true."""
        has = positive.any(1)
        self.degenerate += (~has).sum()
        precision = torch.where(has, self.precision(scores, positive, negative), 0).sum() / has.sum().clamp(min=1)
        return has.any().to(precision) - precision

    def precision(self, scores: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """The average precision of each query, `(B,)`; anything where there is no positive."""
        raise NotImplementedError


class Steps(Protocol):
    """What takes the place of the step that counts the images ranked above a positive, t = their score minus its own."""

    def positive_step(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Value and slope (None: a constant) of the step for other positives."""
        ...

    def negative_step(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Value and slope of the step for negatives."""
        ...


@dataclass(frozen=True)
class Block:
    """Some queries and their positives."""

    rows: slice
    columns: torch.Tensor
    """`(b, P)` places of the positives in the gallery, filled up with 0."""
    valid: torch.Tensor
    """`(b, P)` bool."""


def blocks(positive: torch.Tensor) -> Iterator[Block]:
    """The queries of a mask `(B, G)` in order, as many at a time as `b · P · G` elements allow."""
    counts, (rows, columns) = positive.sum(1), positive.nonzero(as_tuple=True)
    ends = counts.cumsum(0)
    place = torch.arange(len(rows), device=rows.device) - (ends - counts)[rows]
    per_query = [0, *ends.tolist()]
    for first, last, width in _cuts(counts.tolist(), ELEMENTS[positive.device.type] // max(positive.shape[1], 1)):
        inside = slice(per_query[first], per_query[last])
        padded = columns.new_full((last - first, width), -1)
        padded[rows[inside] - first, place[inside]] = columns[inside]
        yield Block(slice(first, last), padded.clamp(min=0), padded >= 0)


def _cuts(counts: list[int], budget: int) -> Iterator[tuple[int, int, int]]:
    """(first, last, largest count) of runs of queries of which (last - first) · largest is within the budget."""
    first, width = 0, 0
    for row, count in enumerate(counts):
        if row > first and (row + 1 - first) * max(width, count) > budget:
            yield first, row, width
            first, width = row, 0
        width = max(width, count)
    if counts:
        yield first, len(counts), width


class PairwisePrecision(torch.autograd.Function):
    """Average precision with other steps: the mean over positives k of rank⁺ / (rank⁺ + rank⁻).

    rank⁺(k) = 1 + the sum of the positive step over the other positives, rank⁻(k) = that of the negative step over the
    negatives. The gradient is computed beside the value, so that no block outlives its turn.
    """

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, steps: Steps) -> torch.Tensor:
        precision, gradient = scores.new_zeros(len(scores)), torch.zeros_like(scores)
        for block in blocks(positive):
            one = _precision_of_block(scores[block.rows], negative[block.rows].to(scores), block, steps)
            precision[block.rows], gradient[block.rows] = one
        ctx.save_for_backward(gradient)
        return precision

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0][:, None], None, None, None


def _precision_of_block(
    scores: torch.Tensor, negative: torch.Tensor, block: Block, steps: Steps
) -> tuple[torch.Tensor, torch.Tensor]:
    """Precision `(b,)` of some queries and its gradient `(b, G)` with respect to their scores; `negative` is 0 or 1."""
    own, valid = scores.gather(1, block.columns), block.valid.to(scores)  # (b, P)
    above, slope = steps.negative_step(scores[:, None] - own[:, :, None])  # (b, P, G)
    behind = torch.bmm(above, negative[:, :, None])[:, :, 0]  # (b, P), rank⁻
    apart = valid[:, :, None] * valid[:, None] * (1 - torch.eye(own.shape[1]).to(own))
    among, slope_among = steps.positive_step(own[:, None] - own[:, :, None])  # (b, P, P)
    ahead = 1 + (among * apart).sum(2)  # (b, P), rank⁺
    share = valid / valid.sum(1, keepdim=True).clamp(min=1) / (ahead + behind)  # (b, P)
    precision = (share * ahead).sum(1)
    by_behind = -share * ahead / (ahead + behind)
    gradient = torch.bmm(by_behind[:, None], slope)[:, 0] * negative
    by_own = -by_behind * torch.bmm(slope, negative[:, :, None])[:, :, 0]
    if slope_among is not None:
        pull = (share * behind / (ahead + behind))[:, :, None] * slope_among * apart
        by_own += pull.sum(1) - pull.sum(2)
    return precision, gradient.scatter_add_(1, block.columns, by_own * valid)
