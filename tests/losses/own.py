"""Losses of a user's own, as a package outside of the project would have them."""

import torch
from torch.nn.functional import relu

from largescale.losses.labels.base import Gallery, LabelLoss, products, same_and_different
from largescale.losses.tuples.base import TupleLoss


class GapLoss(LabelLoss):
    """Mean over all pairs of [margin - s]₊ where labels match, and of [s]₊ where they do not."""

    def __init__(self, margin: float, weight: float = 1.0) -> None:
        super().__init__()
        self.margin, self.weight = margin, weight

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        s, (same, different) = products(x, gallery), same_and_different(labels, gallery)
        near = (relu(self.margin - s) * same).sum() / same.sum().clamp(min=1)
        far = (relu(s) * different).sum() / different.sum().clamp(min=1)
        return near + self.weight * far


class FarthestLoss(TupleLoss):
    """[s(q, n) - s(q, p)]₊ summed over negatives."""

    def per_tuple(self, queries: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        near, far = (queries * positives).sum(1), (queries[:, None] * negatives).sum(2)
        return relu(far - near[:, None]).sum(1)


class OfThePartOfTheBatch(LabelLoss):
    """Breaks a law: the first image of the batch counts more than the others."""

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        return products(x, gallery)[0].square().sum()


def gap_loss() -> GapLoss:
    return GapLoss(0.5)


def first_counts_more() -> OfThePartOfTheBatch:
    return OfThePartOfTheBatch()
