"""Class anchor margin loss (CAM, arXiv 2306.00630): a learned point for each class. B batch, C classes, D dimensions."""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from largescale.losses.choices import AnchorInit
from largescale.losses.labels.base import Gallery
from largescale.losses.labels.class_rows import Alone, ClassRowsLoss, Holders, blocks, random_rows
from largescale.settings import UserError

# anchors of a block: its distances, a square of them, stay in bounded memory
BLOCK = {"cpu": 1024, "cuda": 8192}


class ClassAnchorLoss(ClassRowsLoss):
    """Attractor + repeller + minimum norm, with unit weights; descriptors are compared as they are, not normalized.

    mean of ½ |e - c_y|² over the batch, ½ Σ [2 radius - |c_y - c_y'|]₊² over the ordered pairs of different anchors, and
    ½ Σ [min_norm - |c_y|]₊² over all anchors. Anchors at the same place push each other nowhere: they have no direction.

    Args:
        radius: half the least distance of two anchors, so that what is nearer to its anchor is nearest to it (m).
        min_norm: p.
        init: `base`: scale times base vectors, then sums of two, three, … of them where there are more classes than
            dimensions; `gaussian` and `uniform`: random, of norm about `scale`.
        learned: whether anchors are parameters or stay where they began.
        holders: who holds which anchors; None: this process all of them, as it does where they are not learned.
    """

    rows = "anchors"
    anchors: torch.Tensor
    """`(C_r, D)`."""

    def __init__(
        self,
        num_classes: int,
        dim: int,
        radius: float = 1.0,
        min_norm: float = 1.0,
        init: AnchorInit = "base",
        scale: float = math.sqrt(2),
        learned: bool = True,
        holders: Holders | None = None,
    ) -> None:
        super().__init__(holders if holders is not None and learned else Alone(num_classes))
        self.radius, self.min_norm, self.init, self.scale, self.learned = radius, min_norm, init, scale, learned
        anchors = initial_anchors(num_classes, dim, init, self.holders.own).mul_(scale)
        if learned:
            self.anchors = nn.Parameter(anchors)
        else:
            self.register_buffer("anchors", anchors)

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        if gallery is not None:
            raise UserError("the class anchor loss compares images with anchors, not with other images")
        return AnchorObjective.apply(x, self.anchors.to(x), labels, 2 * self.radius, self.min_norm, self.holders)


def initial_anchors(num_classes: int, dim: int, init: AnchorInit, rows: slice | None = None) -> torch.Tensor:
    """`(C_r, D)`, some rows (None: all) of: sums of different base vectors, or random rows of norm about 1."""
    rows = rows or slice(0, num_classes)
    if init == "base":
        return _base_anchors(num_classes, dim, rows)
    draw = torch.randn if init == "gaussian" else _uniform
    return random_rows(num_classes, dim, rows, draw).mul_(dim**-0.5 if init == "gaussian" else (3 / dim) ** 0.5)


def _uniform(count: int, dim: int) -> torch.Tensor:
    return 2 * torch.rand(count, dim) - 1


def _base_anchors(num_classes: int, dim: int, rows: slice) -> torch.Tensor:
    if num_classes >= 2 ** min(dim, 62):
        raise UserError(f"{num_classes} classes need more than {dim} dimensions for init=base; choose gaussian or uniform")
    subsets = itertools.chain.from_iterable(itertools.combinations(range(dim), size) for size in range(1, dim + 1))
    chosen = list(itertools.islice(subsets, rows.start, rows.stop))
    places = torch.tensor([place for place, subset in enumerate(chosen) for _ in subset], dtype=torch.int64)
    columns = torch.tensor([column for subset in chosen for column in subset], dtype=torch.int64)
    return torch.zeros(len(chosen), dim).index_put_((places, columns), torch.ones(()))


class AnchorObjective(torch.autograd.Function):
    """The three terms. The anchors' gradient is written beside the value, so that no block of distances outlives its turn."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        anchors: torch.Tensor,
        labels: torch.Tensor,
        apart: float,
        min_norm: float,
        holders: Holders,
    ) -> torch.Tensor:
        gradient = torch.zeros_like(anchors)
        away = x - holders.of_labels(anchors, labels)  # (B, D)
        attract = away.square().sum() / (2 * len(x))
        places = labels - holders.own.start
        own = (places >= 0) & (places < len(anchors))
        gradient.index_add_(0, places[own], away[own], alpha=-1 / len(x))
        others = holders.others(anchors, BLOCK[anchors.device.type])
        anchored = repel(anchors, apart, gradient, others) + keep_norm(anchors, min_norm, gradient)
        ctx.save_for_backward(away / len(x), gradient)
        return attract + holders.sum(anchored)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        away, gradient = ctx.saved_tensors
        return outputs[0] * away, outputs[0] * gradient, None, None, None, None


def repel(anchors: torch.Tensor, apart: float, gradient: torch.Tensor, others: Iterable[torch.Tensor] = ()) -> torch.Tensor:
    """½ Σ [apart - |c - c'|]₊² over ordered pairs of rows `(C_r, D)`, and over the pairs of them with each block of `others`.

    The gradient is added to `gradient`: that of all pairs in which a row is, in either order.
    """
    own, total = blocks(len(anchors), BLOCK[anchors.device.type]), anchors.new_zeros((), dtype=torch.float64)
    for rows, columns in itertools.combinations_with_replacement(own, 2):
        a, b = anchors[rows], anchors[columns]
        value, push = _push(a, b, apart, same=rows == columns)
        if not value:
            continue
        total += value if rows == columns else 2 * value  # the pairs beyond the diagonal stand for both orders
        gradient[rows] -= _drawn(push, a, b)
        if rows != columns:
            gradient[columns] -= _drawn(push.T, b, a)
    for b in others:
        for rows in own:
            value, push = _push(anchors[rows], b, apart, same=False)
            if value:
                total += value
                gradient[rows] -= _drawn(push, anchors[rows], b)
    return total.to(anchors.dtype)


def _push(a: torch.Tensor, b: torch.Tensor, apart: float, same: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """½ Σ [apart - distance]₊² of two blocks, and `(b, b)` how hard each pair pushes: the gap over the distance."""
    distance = torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1), a, b.T, alpha=-2).clamp_(min=0).sqrt_()
    gap = (apart - distance).clamp_(min=0)
    if same:
        gap.fill_diagonal_(0)
    value = gap.square().sum(dtype=torch.float64) / 2
    return value, torch.where(distance > 0, gap.div_(distance), 0)


def _drawn(push: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return 2 * (push.sum(1, keepdim=True) * a - push @ b)


def keep_norm(anchors: torch.Tensor, least: float, gradient: torch.Tensor) -> torch.Tensor:
    """½ Σ [least - |c|]₊²; its gradient is added to `gradient`."""
    norms = torch.linalg.vector_norm(anchors, dim=1)  # (C,)
    gap = (least - norms).clamp(min=0)
    gradient.addcmul_(torch.where(norms > 0, gap / norms, 0)[:, None], anchors, value=-1)
    return gap.square().sum() / 2
