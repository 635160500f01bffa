"""Contrastive loss over tuples. T tuples, N negatives, D dimensions."""

import torch
from torch.nn.functional import pairwise_distance

from largescale.losses.choices import Reduction
from largescale.losses.tuples.base import TupleLoss


class ContrastiveLoss(TupleLoss):
    """½ D(q, p)² + Σ ½ [margin - D(q, n)]₊² (Hadsell 2006), with cirtorch's D = |a - b + 1e-6|.

    Args:
        margin: Euclidean distance beyond which a negative no longer counts; unit vectors are at most 2 apart.
    """

    def __init__(self, margin: float = 0.7, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def per_tuple(self, queries: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        near = pairwise_distance(queries, positives)  # (T,)
        far = pairwise_distance(queries[:, None], negatives)  # (T, N)
        return 0.5 * near.square() + 0.5 * (self.margin - far).clamp(min=0).square().sum(1)
