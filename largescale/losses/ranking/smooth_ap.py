"""Smooth-AP (Brown et al. 2020). B queries, G gallery."""

import torch

from largescale.losses.ranking.base import PairwisePrecision, RankingLoss


class SmoothAPLoss(RankingLoss):
    """1 - mean AP with σ(t/τ) in place of every step, for positives and negatives.

    Classes may have any sizes. The loss may lie below 1 - AP, and its gradient vanishes for large differences.
    """

    def __init__(self, tau: float = 0.01, self_in_gallery: bool = True) -> None:
        super().__init__(self_in_gallery)
        self.tau = tau

    def precision(self, scores: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        return PairwisePrecision.apply(scores, positive, negative, self)

    def positive_step(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value = (t / self.tau).sigmoid_()
        return value, (value - value * value) / self.tau

    negative_step = positive_step
