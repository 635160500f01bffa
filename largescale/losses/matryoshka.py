"""Matryoshka representations (Kusupati 2022): every loss also of the first dimensions of a descriptor. D dimensions, d fewer."""

from collections.abc import Mapping

import torch
from torch import nn

from largescale.losses.base import Loss
from largescale.losses.labels.base import Gallery


class Matryoshka(nn.Module):
    """The mean of a loss of the first d dimensions, for several d. What is left of a descriptor keeps its length.

    Args:
        losses: d -> the loss of d dimensions, increasing; the last is that of the whole descriptor.
    """

    def __init__(self, losses: Mapping[int, Loss]) -> None:
        super().__init__()
        self.dims = list(losses)
        self.losses = nn.ModuleList(losses.values())
        self.reduction = getattr(losses[self.dims[-1]], "reduction", None)

    @property
    def degenerate(self) -> torch.Tensor:
        """What the loss of the whole descriptor could not learn from."""
        whole = self.losses[-1]
        assert isinstance(whole, Loss)
        return whole.degenerate

    def forward(self, *inputs: torch.Tensor | Gallery | None, **extra: torch.Tensor | Gallery | None) -> torch.Tensor:
        """What the loss takes, descriptors of all dimensions, to a scalar in float32 or float64."""
        values = []
        for dim, loss in zip(self.dims, self.losses, strict=True):
            assert isinstance(loss, Loss)
            further = {name: first(x, dim) if name in loss.descriptors else x for name, x in extra.items()}
            values.append(loss(*(first(x, dim) for x in inputs), **further))
        return torch.stack(values).mean()


def first(x: torch.Tensor | Gallery | None, dim: int) -> torch.Tensor | Gallery | None:
    """`(..., D) -> (..., d)` with the norms of the whole rows; labels stay as they are."""
    if isinstance(x, Gallery):
        embeddings = first(x.embeddings, dim)
        assert isinstance(embeddings, torch.Tensor)
        return Gallery(embeddings, x.labels)
    if x is None or not x.is_floating_point() or x.shape[-1] == dim:
        return x
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    cut = x[..., :dim]
    norms, left = (torch.linalg.vector_norm(rows, dim=-1, keepdim=True) for rows in (x, cut))
    return cut * torch.where(left > 0, norms / torch.where(left > 0, left, 1), 1)
