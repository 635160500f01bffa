"""Triplets of the hardest pairs in a batch: for each image, or for the whole batch. B batch, G gallery, D dimensions."""

from dataclasses import dataclass

import torch

from largescale.losses.choices import TripletMean
from largescale.losses.labels.base import Gallery, LabelLoss, same_and_different, unit_rows


@dataclass(frozen=True)
class _Hardest:
    """For each image of a batch, `(B,)` each; meaningless where it has no such pair."""

    positive: torch.Tensor
    """Distance to its farthest match."""
    negative: torch.Tensor
    """Distance to its nearest image of another label."""
    has_positive: torch.Tensor
    has_negative: torch.Tensor


def _hardest(x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> _Hardest:
    x = unit_rows(x)
    others = x if gallery is None else unit_rows(gallery.embeddings.to(x))
    same, different = same_and_different(labels, gallery)
    with torch.no_grad():
        closeness = x @ others.T - others.square().sum(1) / 2  # (B, G), falls with the distance also from a zero row
        farthest = closeness.masked_fill(~same, torch.inf).argmin(1)
        nearest = closeness.masked_fill(~different, -torch.inf).argmax(1)
    positive = torch.linalg.vector_norm(x - others[farthest], dim=1)
    negative = torch.linalg.vector_norm(x - others[nearest], dim=1)
    return _Hardest(positive, negative, same.any(1), different.any(1))


class BatchHardTripletLoss(LabelLoss):
    """Mean over images of [max D(a, p) - min D(a, n) + margin]₊ (Hermans 2017, "TriHard"); unit rows, not squared.

    Images without a positive or without a negative take no part.

    Args:
        mean: over all images (`anchors`), or over those whose term is not zero (`nonzero`, as pytorch-metric-learning).
    """

    def __init__(self, margin: float = 0.2, mean: TripletMean = "anchors") -> None:
        super().__init__()
        self.margin, self.mean = margin, mean

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        hardest = _hardest(x, labels, gallery)
        usable = hardest.has_positive & hardest.has_negative
        terms = torch.where(usable, hardest.positive - hardest.negative + self.margin, 0).clamp(min=0)  # (B,)
        count = usable.sum() if self.mean == "anchors" else (terms > 0).sum()
        return terms.sum() / count.clamp(min=1)


class MSMLLoss(LabelLoss):
    """[max D(+) - min D(-) + margin]₊ over the hardest positive and the hardest negative pair of the whole batch (Xiao 2017).

    The two pairs need not share an image; unit rows, not squared. Of a batch without both it is zero.
    """

    def __init__(self, margin: float = 0.6) -> None:
        super().__init__()
        self.margin = margin

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        hardest = _hardest(x, labels, gallery)
        usable = hardest.has_positive.any() & hardest.has_negative.any()
        positive = torch.where(hardest.has_positive, hardest.positive, 0).max()
        negative = torch.where(hardest.has_negative, hardest.negative, torch.inf).min()
        return torch.where(usable, positive - negative + self.margin, 0).clamp(min=0)
