"""The calibration loss of ROADMAP (NeurIPS 2021). B batch, G gallery."""

import torch

from largescale.losses.choices import CalibrationMean
from largescale.losses.labels.base import Gallery, LabelLoss, norms_of, products, same_and_different


class CalibrationLoss(LabelLoss):
    """Mean of [alpha - s]₊ over the matching pairs and of [s - beta]₊ over the others, s = cosine, added.

    So that batches are comparable, all matches are pushed above alpha and everything else below beta.

    Args:
        mean: over the terms that are not zero (the published code), or over all pairs (the paper).
    """

    def __init__(self, alpha: float = 0.9, beta: float = 0.6, mean: CalibrationMean = "nonzero") -> None:
        super().__init__()
        self.alpha, self.beta, self.mean = alpha, beta, mean

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        return self.of_products(products(x, gallery), *norms_of(x, gallery), *same_and_different(labels, gallery))

    def of_products(
        self, products: torch.Tensor, first: torch.Tensor, second: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor
    ) -> torch.Tensor:
        """The loss of products `(B, G)` of rows with the inverse norms `(B,)` and `(G,)`; the masks are never both true."""
        with torch.no_grad():
            cosines = products * first[:, None] * second
            low, high = positive & (cosines < self.alpha), negative & (cosines > self.beta)
            few, many = (low, high) if self.mean == "nonzero" else (positive, negative)
            pull, push = (1 / mask.sum().clamp(min=1).to(products) for mask in (few, many))
            weights = push * high - pull * low  # (B, G)
        # linear between its hinges: the sum of weights * cosines and a constant
        return first @ ((weights * products) @ second) + pull * low.sum() * self.alpha - push * high.sum() * self.beta
