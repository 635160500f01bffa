"""What losses over tuples share. T tuples, N negatives, D dimensions."""

import torch

from largescale.losses.base import Loss, at_least_float32
from largescale.losses.choices import Reduction


class TupleLoss(Loss):
    """A loss that is a sum over the pairs of a tuple.

    Tuples of which a negative is the query itself, or its copy, are counted in `degenerate`: nothing can push them apart.

    Args:
        reduction: `mean` over tuples, or `sum` (as cirtorch).
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(
        self, queries: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor, **extra: torch.Tensor
    ) -> torch.Tensor:
        """`(T, D)`, `(T, D)`, `(T, N, D)` and what else a loss wants to know of its tuples, to a scalar in float32 or float64."""
        self.degenerate += (negatives == queries[:, None]).all(2).any(1).sum()
        total = self.per_tuple(*at_least_float32(queries, positives, negatives), **extra).sum()
        return total / max(len(queries), 1) if self.reduction == "mean" else total

    def per_tuple(self, queries: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """The loss of each tuple, `(T,)`."""
        raise NotImplementedError
