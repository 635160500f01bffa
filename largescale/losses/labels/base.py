"""What losses over labels share. B batch, G gallery, D dimensions."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from largescale.losses.base import Loss, at_least_float32


class Gallery(NamedTuple):
    """Images with which a batch is compared beside itself."""

    embeddings: torch.Tensor
    """`(G, D)`."""
    labels: torch.Tensor
    """int64 `(G,)`."""


class LabelLoss(Loss):
    """A loss over all pairs of a batch that its labels imply.

    A batch is counted in `degenerate` when no two of its images match, when all do, or when all descriptors are equal; a loss
    may count more, for instance each query without a match.
    """

    descriptors: ClassVar = ("gallery",)
    pairs = True
    """Whether images are compared with images, not with something learned for each label."""

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None = None) -> torch.Tensor:
        """A scalar in float32 or float64; NaN where a descriptor is not finite.

        Args:
            embeddings: `(B, D)`.
            labels: int64 `(B,)`.
            gallery: what the batch is compared with; None: with itself.
        """
        (x,) = at_least_float32(embeddings)
        finite = x.isfinite().all()
        counted = self.degenerate.clone()
        value = self.objective(torch.where(finite, x, 0), labels, gallery)
        if self.pairs:
            self.degenerate += _one_sided(x, labels, gallery) & (self.degenerate == counted)
        return torch.where(finite, value, torch.nan)

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        raise NotImplementedError


def _one_sided(x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
    """Whether a batch has no pair that matches, or no other, or no two descriptors that differ."""
    if gallery is not None:
        everyone = torch.cat([labels, gallery.labels])
        return ~torch.isin(labels, gallery.labels).any() | (everyone == everyone[:1]).all()
    ordered = labels.sort().values
    return ~(ordered[1:] == ordered[:-1]).any() | (labels == labels[:1]).all() | (x == x[:1]).all()


def same_and_different(labels: torch.Tensor, gallery: Gallery | None) -> tuple[torch.Tensor, torch.Tensor]:
    """`(B, G)` masks of the pairs that match and of those that do not; an image and itself are neither."""
    same = labels[:, None] == (labels if gallery is None else gallery.labels)
    different = ~same
    return (same.fill_diagonal_(False) if gallery is None else same), different


class _Gram(torch.autograd.Function):
    """x xᵀ, with one product instead of two in its gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x @ x.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return (outputs[0] + outputs[0].T) @ x


def products(x: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
    """`(B, G)` products of a batch's descriptors with those of the gallery, without one with each other."""
    return _Gram.apply(x) if gallery is None else x @ gallery.embeddings.to(x).T


def inverse_norms(x: torch.Tensor) -> torch.Tensor:
    """`(B, D) -> (B,)`; 1 for a zero row, so that its gradient stays finite."""
    norms = torch.linalg.vector_norm(x, dim=1)
    return 1 / torch.where(norms > 0, norms, 1)


def norms_of(x: torch.Tensor, gallery: Gallery | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Inverse norms `(B,)` of a batch and `(G,)` of what it is compared with."""
    own = inverse_norms(x)
    return own, own if gallery is None else inverse_norms(gallery.embeddings.to(x))


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """`(B, D)` divided by their norms; a zero row stays zero."""
    return x * inverse_norms(x)[:, None]
