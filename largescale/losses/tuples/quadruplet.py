"""Quadruplet loss over tuples (Chen et al. 2017). T tuples, N negatives, D dimensions."""

import torch
from torch.nn.functional import pairwise_distance

from largescale.losses.choices import Reduction
from largescale.losses.tuples.base import TupleLoss


class QuadrupletLoss(TupleLoss):
    """Σᵢ [D(q, p) - D(q, nᵢ) + margin]₊ + Σᵢ﹤ⱼ [D(q, p) - D(nᵢ, nⱼ) + margin_negatives]₊.

    The negatives of a tuple are of different clusters, so each two of them are a pair that must be farther apart than the
    matching pair; a tuple with two negatives is the quadruplet of the paper. Euclidean distances, not squared.
    """

    def __init__(self, margin: float = 0.2, margin_negatives: float = 0.2, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.margin, self.margin_negatives = margin, margin_negatives

    def per_tuple(self, queries: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        near = pairwise_distance(queries, positives)[:, None]  # (T, 1)
        far = pairwise_distance(queries[:, None], negatives)  # (T, N)
        first, second = torch.triu_indices(negatives.shape[1], negatives.shape[1], 1, device=negatives.device)
        apart = pairwise_distance(negatives[:, first], negatives[:, second])  # (T, N (N - 1) / 2)
        from_query = (near - far + self.margin).clamp(min=0).sum(1)
        return from_query + (near - apart + self.margin_negatives).clamp(min=0).sum(1)
