"""What losses over labels share. B batch, G gallery, D dimensions."""

from typing import NamedTuple

import torch
from torch import nn

from largescale.losses.tuples import at_least_float32


class Gallery(NamedTuple):
    """Images with which a batch is compared beside itself."""

    embeddings: torch.Tensor
    """`(G, D)`."""
    labels: torch.Tensor
    """int64 `(G,)`."""


class LabelLoss(nn.Module):
    """A loss over all pairs of a batch that its labels imply.

    `degenerate` counts what had nothing to learn from (each loss says what: batches, or rows of one) and gave zero instead
    of an error or a NaN.
    """

    degenerate: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("degenerate", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None = None) -> torch.Tensor:
        """A scalar in float32 or float64; NaN where a descriptor is not finite.

        Args:
            embeddings: `(B, D)`.
            labels: int64 `(B,)`.
            gallery: what the batch is compared with; None: with itself.
        """
        (x,) = at_least_float32(embeddings)
        finite = x.isfinite().all()
        value = self.objective(torch.where(finite, x, 0), labels, gallery)
        return torch.where(finite, value, torch.nan)

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        raise NotImplementedError


def same_and_different(labels: torch.Tensor, gallery: Gallery | None) -> tuple[torch.Tensor, torch.Tensor]:
    """`(B, G)` masks of the pairs that match and of those that do not; an image and itself are neither."""
    same = labels[:, None] == (labels if gallery is None else gallery.labels)
    different = ~same
    return (same.fill_diagonal_(False) if gallery is None else same), different


def inverse_norms(x: torch.Tensor) -> torch.Tensor:
    """`(B, D) -> (B,)`; 1 for a zero row, so that its gradient stays finite."""
    norms = torch.linalg.vector_norm(x, dim=1)
    return 1 / torch.where(norms > 0, norms, 1)


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """`(B, D)` divided by their norms; a zero row stays zero."""
    return x * inverse_norms(x)[:, None]
