"""Triplet loss over tuples. T tuples, N negatives, D dimensions."""

import torch

from largescale.losses.choices import Reduction
from largescale.losses.tuples.base import TupleLoss


class TripletLoss(TupleLoss):
    """Σ [D(q, p)² - D(q, n)² + margin]₊ over the negatives of a tuple (Schroff 2015, eq. 2; cirtorch).

    Args:
        margin: squared Euclidean distance by which a negative must be farther than the positive.
    """

    def __init__(self, margin: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def per_tuple(self, queries: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        near = (queries - positives).square().sum(1, keepdim=True)  # (T, 1)
        far = (queries[:, None] - negatives).square().sum(2)  # (T, N)
        return (near - far + self.margin).clamp(min=0).sum(1)
