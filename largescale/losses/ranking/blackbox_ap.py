"""AP with the blackbox gradient of ranks (Rolínek et al. 2020). B queries, G gallery, P positives, b queries of a block."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from largescale.losses.ranking.base import Block, RankingLoss, blocks

EPSILON = 1e-5


class BlackboxAPLoss(RankingLoss):
    """1 - mean AP of exact ranks; backward: (r(s + λ ∂L/∂r) - r(s)) / λ with ranks divided by the size of the gallery.

    Ties count against a positive, so that equal scores are no success.

    Args:
        strength: λ, how far the backward pass interpolates.
        margin: positives are moved down and negatives up by half of this times |ε|, ε normal and new for each pair.
    """

    def __init__(self, strength: float = 4.0, margin: float = 0.02, self_in_gallery: bool = True) -> None:
        super().__init__(self_in_gallery)
        self.strength, self.margin = strength, margin

    def precision(self, scores: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        if self.margin:
            scores = scores - self.margin * torch.randn_like(scores).abs() * (positive.to(scores) - 0.5)
        return RankedPrecision.apply(scores, positive, negative, self.strength)


class RankedPrecision(torch.autograd.Function):
    """AP `(B,)` by counting: the rank of an item is the number of items with at least its score."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, strength: float) -> torch.Tensor:
        precision = scores.new_zeros(len(scores))
        for block in blocks(positive):
            own, valid = scores[block.rows].gather(1, block.columns), block.valid.to(scores)  # (b, P)
            among, ranks = _ranks(own, own, scores[block.rows], negative[block.rows].to(scores), valid)
            precision[block.rows] = (among / ranks * valid).sum(1) / (valid.sum(1) + EPSILON)
        ctx.save_for_backward(scores, positive, negative)
        ctx.strength = strength
        return precision

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scores, positive, negative = ctx.saved_tensors
        gradient = torch.zeros_like(scores)
        for block in blocks(positive):
            row = scores[block.rows], negative[block.rows].to(scores), outputs[0][block.rows, None]
            gradient[block.rows] = _interpolated(*row, block, ctx.strength)
        return gradient, None, None, None


def _ranks(
    own: torch.Tensor, positives: torch.Tensor, scores: torch.Tensor, negative: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For thresholds `own` `(b, P)`: how many positives, and how many items, have at least that score."""
    among = torch.bmm((positives[:, None] >= own[:, :, None]).to(own), valid[:, :, None])[:, :, 0]
    behind = torch.bmm((scores[:, None] >= own[:, :, None]).to(own), negative[:, :, None])[:, :, 0]
    return among, among + behind


def _interpolated(
    scores: torch.Tensor, negative: torch.Tensor, upstream: torch.Tensor, block: Block, strength: float
) -> torch.Tensor:
    """The gradient `(b, G)` of some queries; only the positives are moved, so that the others' ranks change by these alone."""
    own, valid = scores.gather(1, block.columns), block.valid.to(scores)  # (b, P)
    size = valid.sum(1, keepdim=True) + negative.sum(1, keepdim=True)
    among, ranks = _ranks(own, own, scores, negative, valid)
    by_rank = -upstream * size * among / ranks.square() / (valid.sum(1, keepdim=True) + EPSILON)
    moved = own + strength * by_rank
    _, moved_ranks = _ranks(moved, moved, scores, negative, valid)
    overtaken = (moved[:, :, None] >= scores[:, None]).to(own) - (own[:, :, None] >= scores[:, None]).to(own)  # (b, P, G)
    change = torch.bmm(valid[:, None], overtaken)[:, 0] * negative
    change.scatter_add_(1, block.columns, (moved_ranks - ranks) * valid)
    return change / size / (strength + 1e-8)
