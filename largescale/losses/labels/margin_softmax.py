"""Softmax over the classes with a margin for the right one: ArcFace, CosFace, sub-centers, sampled classes.

B batch, D dimensions, C classes, K centers of a class, n classes that a step compares with (of those held here: n_r).
"""

import math
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from largescale.losses.labels.base import Gallery, unit_rows
from largescale.losses.labels.class_rows import Alone, ClassRowsLoss, Holders, blocks, random_rows
from largescale.settings import UserError

BLOCK = {"cpu": 1024, "cuda": 65536}
"""Classes whose cosines are at hand at a time."""


class MarginSoftmaxLoss(ClassRowsLoss):
    """Mean of -log softmax(scale · cosines)[label], where the cosine to the right class is lowered by a margin.

    The cosine to a class is that to the nearest of its centers (sub-center ArcFace, Deng 2020). With a sample rate below 1 a
    step compares with the classes of its images and a random share of the others, drawn alike on every rank (PartialFC, An
    2021); the centers of the others stay as they are. A zero row has cosine 0 to everything.

    Args:
        scale: s.
        margin: m.
        sample_rate: share of all classes that is drawn.
        holders: who holds the centers of which classes; None: this process all of them.
    """

    rows = "centers"
    sampled: torch.Tensor | None = None
    """`(n_r,)` the rows of `centers` that the last step compared with, in order; None: all."""

    def __init__(
        self,
        num_classes: int,
        dim: int,
        scale: float = 64.0,
        margin: float = 0.5,
        sub_centers: int = 1,
        sample_rate: float = 1.0,
        holders: Holders | None = None,
    ) -> None:
        super().__init__(holders or Alone(num_classes))
        self.num_classes, self.scale, self.margin = num_classes, scale, margin
        self.sub_centers, self.sample_rate = sub_centers, sample_rate
        self.centers = nn.Parameter(random_rows(num_classes, sub_centers * dim, self.holders.own).mul_(0.01))
        """`(C_r, K * D)`, of any length: only directions count."""

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        if gallery is not None:
            raise UserError(f"{type(self).__name__} compares images with the centers of classes, not with other images")
        places = labels - self.holders.own.start
        centers: torch.Tensor = self.centers
        self.sampled = None
        if self.sample_rate < 1 and self.training:
            self.sampled = sample(self.num_classes, self.sample_rate, labels, self.holders.own)
            places = _places(self.sampled, places)
            centers = centers[self.sampled] if not centers.requires_grad else _SparseRows.apply(centers, self.sampled)
        centers = centers.to(x).unflatten(1, (self.sub_centers, -1))  # (n_r, K, D)
        return _Softmax.apply(unit_rows(x), centers, places, self)

    def at_label(self, cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines to the right classes with the margin, and their slopes."""
        raise NotImplementedError


class ArcFaceLoss(MarginSoftmaxLoss):
    """The margin is an angle: cos(θ + m), and below cos(π - m), where it would rise again, cos θ - m sin m (Deng 2019)."""

    def at_label(self, cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cosines = cosines.clamp(-1, 1)
        sines = (1 - cosines.square()).clamp(min=1e-8).sqrt()
        turned = cosines * math.cos(self.margin) - sines * math.sin(self.margin)
        slope = math.cos(self.margin) + cosines / sines * math.sin(self.margin)
        within = cosines > math.cos(math.pi - self.margin)
        value = torch.where(within, turned, cosines - self.margin * math.sin(self.margin))
        return value, torch.where(within, slope, 1)


class CosFaceLoss(MarginSoftmaxLoss):
    """The margin is a cosine: cos θ - m (Wang 2018)."""

    def __init__(
        self,
        num_classes: int,
        dim: int,
        scale: float = 64.0,
        margin: float = 0.35,
        sub_centers: int = 1,
        sample_rate: float = 1.0,
        holders: Holders | None = None,
    ) -> None:
        super().__init__(num_classes, dim, scale, margin, sub_centers, sample_rate, holders)

    def at_label(self, cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return cosines - self.margin, torch.ones_like(cosines)


def sample(num_classes: int, rate: float, labels: torch.Tensor, own: slice) -> torch.Tensor:
    """Places in `own`, increasing: the classes of the labels, and one class of each of `rate * num_classes` equal runs.

    The runs begin at a random class, so that every class is as likely as every other. All who hold a part draw the same numbers.
    """
    count = max(1, round(rate * num_classes))
    edges = torch.arange(count + 1, device=labels.device) * num_classes // count
    drawn = edges[:-1] + (torch.rand(count, dtype=torch.float64).to(labels.device) * edges.diff()).long()
    drawn = drawn + torch.randint(num_classes, ()).to(drawn)
    beyond = int(torch.searchsorted(drawn, num_classes))
    drawn = torch.cat([drawn[beyond:] - num_classes, drawn[:beyond]])
    first, last = torch.searchsorted(drawn, torch.tensor([own.start, own.stop], device=labels.device)).tolist()
    needed = labels[(labels >= own.start) & (labels < own.stop)]
    return torch.cat([drawn[first:last], needed]).unique() - own.start


def _places(sampled: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Where rows stand among the sampled ones; -1 for those that do not."""
    if not len(sampled):
        return torch.full_like(places, -1)
    found = torch.searchsorted(sampled, places).clamp(max=len(sampled) - 1)
    return torch.where(sampled[found] == places, found, -1)


class _SparseRows(torch.autograd.Function):
    """Some rows of a parameter; its gradient is of these rows alone (sparse)."""

    @staticmethod
    def forward(ctx: Any, parameter: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ctx.shape = parameter.shape
        ctx.save_for_backward(rows)
        return parameter[rows]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(rows[None], outputs[0], ctx.shape, is_coalesced=True, check_invariants=False), None


class _Softmax(torch.autograd.Function):
    """The loss of unit rows `(B, D)`, centers `(n_r, K, D)` and the places of the labels among them (others: out of range).

    Both gradients are computed beside the value. The cosines of a step, n_r K B numbers, take the place of the gradient of the
    centers, n_r K D numbers, until they have served: where B is at most D, a step needs no memory beside it.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, centers: torch.Tensor, places: torch.Tensor, loss: MarginSoftmaxLoss) -> torch.Tensor:
        ctx.head = _Head(x, centers, places, loss)
        value, *ctx.gradients = ctx.head.value_and_gradients()
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # given away, so that no copy is made where it is accumulated; a second pass through the same graph computes them again
        gradient_x, gradient = ctx.gradients or ctx.head.value_and_gradients()[1:]
        ctx.gradients = None
        return outputs[0] * gradient_x, gradient if outputs[0] == 1 else gradient.mul_(outputs[0]), None, None


class _Head:
    """One step: cosines of all centers held here, block after block, then the softmax over all holders, then gradients."""

    def __init__(self, x: torch.Tensor, centers: torch.Tensor, places: torch.Tensor, loss: MarginSoftmaxLoss) -> None:
        self.x, self.centers, self.places, self.loss = x, centers, places, loss
        self.images = torch.arange(len(x), device=x.device)
        self.norms = torch.linalg.vector_norm(centers, dim=2, keepdim=True)  # (n_r, K, 1)
        self.norms = torch.where(self.norms > 0, self.norms, 1)

    def value_and_gradients(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        B, scale, holders = len(self.x), self.loss.scale, self.loss.holders
        gradient = torch.empty_like(self.centers)  # (n_r, K, D)
        fits = self.x.shape[1] >= B
        cosines = gradient[:, :, :B] if fits else self.x.new_empty(*self.centers.shape[:2], B)  # (n_r, K, B)
        own = (self.places >= 0) & (self.places < len(self.centers))
        blocked = blocks(len(self.centers), BLOCK[self.x.device.type])
        largest, total = self.x.new_full((B,), -torch.inf), self.x.new_zeros(B)
        right, slopes = self.x.new_zeros(B), self.x.new_ones(B)
        for rows in blocked:
            logits = self._fill(cosines[rows], rows).amax(1)  # (b, B)
            here = self._here(rows)
            right[here], slopes[here] = self.loss.at_label(logits[self.places[here] - rows.start, here])
            logits[self.places[here] - rows.start, here] = right[here]
            logits *= scale
            before, largest = largest, torch.maximum(largest, logits.amax(0))
            total = total * (before - largest).exp() + (logits - largest).exp_().sum(0)
        together = holders.max(largest.clone())
        total = holders.sum(total * (largest - together).exp())
        right = holders.sum(right * own)
        value = (together + total.log() - scale * right).mean()
        gradient_x = self.x.new_zeros(self.x.shape)
        for rows in blocked:
            gradient_x += self._learn(cosines[rows], gradient[rows], rows, together + total.log(), right, slopes)
        return value, holders.sum(gradient_x), gradient

    def _here(self, rows: slice) -> torch.Tensor:
        """The images whose class is in a block."""
        return self.images[(self.places >= rows.start) & (self.places < rows.stop)]

    def _fill(self, cosines: torch.Tensor, rows: slice) -> torch.Tensor:
        """The cosines of a block, `(b, K, B)`."""
        product = (self.centers[rows].flatten(0, 1) @ self.x.T).unflatten(0, cosines.shape[:2])
        torch.div(product, self.norms[rows], out=cosines)
        return cosines

    def _learn(
        self,
        cosines: torch.Tensor,
        gradient: torch.Tensor,
        rows: slice,
        log_total: torch.Tensor,
        right: torch.Tensor,
        slopes: torch.Tensor,
    ) -> torch.Tensor:
        """The gradient of a block of centers is written; its part of that of the images, `(B, D)`."""
        B, scale, here = len(self.x), self.loss.scale, self._here(rows)
        nearest = cosines.argmax(1, keepdim=True)  # (b, 1, B)
        logits = cosines.gather(1, nearest)[:, 0]  # (b, B)
        places = self.places[here] - rows.start
        logits[places, here] = right[here]
        pull = logits.mul_(scale).sub_(log_total).exp_()
        pull[places, here] = (pull[places, here] - 1) * slopes[here]
        pull.mul_(scale / B)
        pulls = torch.zeros_like(cosines).scatter_(1, nearest, pull[:, None]) if self.loss.sub_centers > 1 else pull[:, None]
        along = (pulls * cosines).sum(2, keepdim=True)  # (b, K, 1)
        norms, centers = self.norms[rows], self.centers[rows]
        toward = (pulls.flatten(0, 1) @ self.x).unflatten(0, centers.shape[:2])  # (b, K, D)
        torch.sub(toward, along * centers / norms, out=gradient)
        gradient /= norms
        return (pulls / norms).flatten(0, 1).T @ centers.flatten(0, 1)
