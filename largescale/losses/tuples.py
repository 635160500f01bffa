"""What losses over tuples share. T tuples, N negatives, D dimensions."""

from typing import Literal

import torch
from torch import nn

Reduction = Literal["mean", "sum"]


def at_least_float32(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Half precision to float32; float64 stays."""
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


class TupleLoss(nn.Module):
    """A loss that is a sum over the pairs of a tuple.

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
        total = self.per_tuple(*at_least_float32(queries, positives, negatives), **extra).sum()
        return total / max(len(queries), 1) if self.reduction == "mean" else total

    def per_tuple(self, queries: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        """The loss of each tuple, `(T,)`."""
        raise NotImplementedError
