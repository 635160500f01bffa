"""Class anchor margin loss (CAM, arXiv 2306.00630): a learned point for each class. B batch, C classes, D dimensions."""

import itertools
import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from largescale.losses.labels import Gallery, LabelLoss
from largescale.settings import UserError

AnchorInit = Literal["base", "gaussian", "uniform"]
# anchors of a block: its distances, a square of them, stay in bounded memory
BLOCK = {"cpu": 1024, "cuda": 8192}


class ClassAnchorLoss(LabelLoss):
    """Attractor + repeller + minimum norm, with unit weights; descriptors are compared as they are, not normalised.

    mean of ½ |e - c_y|² over the batch, ½ Σ [2 radius - |c_y - c_y'|]₊² over the ordered pairs of different anchors, and
    ½ Σ [min_norm - |c_y|]₊² over all anchors. Anchors at the same place push each other nowhere: they have no direction.

    Args:
        radius: half the least distance of two anchors, so that what is nearer to its anchor is nearest to it (m).
        min_norm: p.
        init: `base`: scale times base vectors, then sums of two, three, … of them where there are more classes than
            dimensions; `gaussian` and `uniform`: random, of norm about `scale`.
        learned: whether anchors are parameters or stay where they began.
    """

    anchors: torch.Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        radius: float = 1.0,
        min_norm: float = 1.0,
        init: AnchorInit = "base",
        scale: float = math.sqrt(2),
        learned: bool = True,
    ) -> None:
        super().__init__()
        self.radius, self.min_norm, self.init, self.scale, self.learned = radius, min_norm, init, scale, learned
        anchors = initial_anchors(num_classes, dim, init).mul_(scale)
        if learned:
            self.anchors = nn.Parameter(anchors)
        else:
            self.register_buffer("anchors", anchors)

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        if gallery is not None:
            raise UserError("the class anchor loss compares images with anchors, not with other images")
        return AnchorObjective.apply(x, self.anchors.to(x), labels, 2 * self.radius, self.min_norm)


def initial_anchors(num_classes: int, dim: int, init: AnchorInit) -> torch.Tensor:
    """`(C, D)`: sums of different base vectors, or random rows of norm about 1."""
    if init == "gaussian":
        return torch.randn(num_classes, dim) * dim**-0.5
    if init == "uniform":
        return (2 * torch.rand(num_classes, dim) - 1) * (3 / dim) ** 0.5
    subsets = itertools.chain.from_iterable(itertools.combinations(range(dim), size) for size in range(1, dim + 1))
    chosen = list(itertools.islice(subsets, num_classes))
    if len(chosen) < num_classes:
        raise UserError(f"{num_classes} classes need more than {dim} dimensions for init=base; choose gaussian or uniform")
    rows = torch.tensor([row for row, subset in enumerate(chosen) for _ in subset], dtype=torch.int64)
    columns = torch.tensor([column for subset in chosen for column in subset], dtype=torch.int64)
    return torch.zeros(num_classes, dim).index_put_((rows, columns), torch.ones(()))


class AnchorObjective(torch.autograd.Function):
    """The three terms. The anchors' gradient is written beside the value, so that no block of distances outlives its turn."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, anchors: torch.Tensor, labels: torch.Tensor, apart: float, min_norm: float
    ) -> torch.Tensor:
        gradient = torch.zeros_like(anchors)
        away = x - anchors[labels]  # (B, D)
        attract = away.square().sum() / (2 * len(x))
        gradient.index_add_(0, labels, away, alpha=-1 / len(x))
        value = attract + repel(anchors, apart, gradient) + keep_norm(anchors, min_norm, gradient)
        ctx.save_for_backward(away / len(x), gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        away, gradient = ctx.saved_tensors
        return outputs[0] * away, outputs[0] * gradient, None, None, None


def repel(anchors: torch.Tensor, apart: float, gradient: torch.Tensor) -> torch.Tensor:
    """½ Σ [apart - |c - c'|]₊² over ordered pairs of rows `(C, D)`; its gradient is added to `gradient`."""
    norms, total = anchors.square().sum(1), anchors.new_zeros((), dtype=torch.float64)
    for rows, columns in _block_pairs(len(anchors), BLOCK[anchors.device.type]):
        a, b = anchors[rows], anchors[columns]
        distance = (norms[rows, None] + norms[columns] - 2 * (a @ b.T)).clamp_(min=0).sqrt_()  # (b, b)
        gap = (apart - distance).clamp_(min=0)
        if rows == columns:
            gap.fill_diagonal_(0)
        if not gap.any():
            continue
        both = 1.0 if rows == columns else 2.0  # the pairs beyond the diagonal stand for both orders
        total += both * gap.square().sum(dtype=torch.float64) / 2
        pull = torch.where(distance > 0, gap / distance, 0)
        gradient[rows] -= 2 * (pull.sum(1, keepdim=True) * a - pull @ b)
        if rows != columns:
            gradient[columns] -= 2 * (pull.sum(0)[:, None] * b - pull.T @ a)
    return total.to(anchors.dtype)


def keep_norm(anchors: torch.Tensor, least: float, gradient: torch.Tensor) -> torch.Tensor:
    """½ Σ [least - |c|]₊²; its gradient is added to `gradient`."""
    norms = torch.linalg.vector_norm(anchors, dim=1)  # (C,)
    gap = (least - norms).clamp(min=0)
    gradient.addcmul_(torch.where(norms > 0, gap / norms, 0)[:, None], anchors, value=-1)
    return gap.square().sum() / 2


def _block_pairs(count: int, size: int) -> Iterator[tuple[slice, slice]]:
    blocks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    return itertools.combinations_with_replacement(blocks, 2)
