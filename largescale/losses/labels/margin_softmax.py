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

BLOCK = {"cpu": 2048, "cuda": 65536}
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
        self.sampled = None
        if self.sample_rate < 1 and self.training:
            self.sampled = sample(self.num_classes, self.sample_rate, labels, self.holders.own)
            places = _places(self.sampled, places)
        x = unit_rows(x)
        return _Softmax.apply(x, self.centers, _Head(x, self.centers, self.sampled, places, self))

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


class _Softmax(torch.autograd.Function):
    """The loss of unit rows `(B, D)` and some centers `(n_r, K D)`.

    Both gradients are computed beside the value. The exponentials of a step, n_r K B numbers, take the place of the gradient of
    the centers, n_r K D numbers, until they have served: where B is at most D, a step needs no memory beside it.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, centers: torch.Tensor, head: "_Head") -> torch.Tensor:
        ctx.head = head
        value, *ctx.gradients = head.value_and_gradients()
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # given away, so that no copy is made where it is accumulated; a second pass through the same graph computes them again
        gradient_x, gradient = ctx.gradients or ctx.head.value_and_gradients()[1:]
        ctx.gradients = None
        return outputs[0] * gradient_x, ctx.head.placed(gradient if outputs[0] == 1 else gradient.mul_(outputs[0])), None


class _Head:
    """One step: exponentials of all centers held here, block after block, then the softmax over all holders, then gradients.

    Rows of centers are divided by their norms in the products alone: there is no normalized copy of them.

    Args:
        x: `(B, D)` unit rows.
        centers: `(C_r, K D)` all that are held here.
        sampled: `(n_r,)` which of them take part, in order; None: all.
        places: `(B,)` of the labels among those that take part; others: out of range.
    """

    def __init__(
        self, x: torch.Tensor, centers: torch.Tensor, sampled: torch.Tensor | None, places: torch.Tensor, loss: MarginSoftmaxLoss
    ) -> None:
        self.x, self.centers, self.sampled, self.places, self.loss = x.detach(), centers.detach(), sampled, places, loss
        self.count = len(centers) if sampled is None else len(sampled)
        self.blocks = blocks(self.count, max(1, BLOCK[x.device.type] // loss.sub_centers))
        self.images = torch.arange(len(x), device=x.device)

    def value_and_gradients(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The value, and the gradients of the rows `(B, D)` and of the centers that take part `(n_r, K D)`."""
        (B, D), K, holders = self.x.shape, self.loss.sub_centers, self.loss.holders
        gradient = self.x.new_empty(self.count, K, D)
        powers = gradient[:, :, :B] if D >= B else self.x.new_empty(self.count, K, B)
        self.right, self.slopes, self.nearest = self.x.new_zeros(B), self.x.new_ones(B), torch.zeros_like(self.places)
        shifts, total = self._raise(powers)
        largest = holders.max(shifts[-1].clone())
        log_total = largest + holders.sum(total * (shifts[-1] - largest).exp()).log()
        value = (log_total - self.loss.scale * holders.sum(self.right.clone())).mean()
        gradient_x = torch.zeros_like(self.x)
        for rows, shift in zip(self.blocks, shifts[1:], strict=True):
            pulls = self._pulls(powers[rows], shift - log_total, rows)
            self._learn(pulls.flatten(0, 1), gradient[rows].flatten(0, 1), rows, gradient_x)
        return value, holders.sum(gradient_x), gradient.flatten(1)

    def _raise(self, powers: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Exponentials of logits less the largest so far, 0 for centers that are not the nearest of their class `(n_r, K, B)`.

        Returns:
            The largest `(B,)` before the first block and after each; the sum of the exponentials less the last `(B,)`.
        """
        shifts, total = [self.x.new_full((len(self.x),), -torch.inf)], self.x.new_zeros(len(self.x))
        for rows in self.blocks:
            logits, center = self._logits(rows)
            here, places = self._here(rows)
            self.right[here], self.slopes[here] = self.loss.at_label(logits[places, here] / self.loss.scale)
            self.nearest[here] = 0 if center is None else center[places, 0, here]
            logits[places, here] = self.loss.scale * self.right[here]
            shifts.append(torch.maximum(shifts[-1], logits.amax(0)))
            total = total * (shifts[-2] - shifts[-1]).exp() + logits.sub_(shifts[-1]).exp_().sum(0)
            powers[rows] = logits[:, None] if center is None else _only(center, logits, self.loss.sub_centers)
        return shifts, total

    def _pulls(self, powers: torch.Tensor, shift: torch.Tensor, rows: slice) -> torch.Tensor:
        """The gradient of the cosines of a block, `(b, K, B)`."""
        shares = powers * shift.exp()  # of the softmax
        here, places = self._here(rows)
        at_label = places, self.nearest[here], here
        shares[at_label] = (shares[at_label] - 1) * self.slopes[here]
        return shares.mul_(self.loss.scale / len(self.x))

    def placed(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of the centers that took part as one of all that are held here: sparse, where they are some."""
        if self.sampled is None:
            return gradient
        return torch.sparse_coo_tensor(
            self.sampled[None], gradient, self.centers.shape, is_coalesced=True, check_invariants=False
        )

    def _here(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The images whose class is in a block, and its places there."""
        here = self.images[(self.places >= rows.start) & (self.places < rows.stop)]
        return here, self.places[here] - rows.start

    def _block(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Centers `(b K, D)` and their norms `(b K, 1)`, 1 for those of length 0."""
        some = self.centers[rows if self.sampled is None else self.sampled[rows]]
        centers = some.to(self.x).unflatten(1, (self.loss.sub_centers, -1)).flatten(0, 1)
        norms = torch.linalg.vector_norm(centers, dim=1, keepdim=True)
        return centers, torch.where(norms > 0, norms, 1)

    def _logits(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """scale · cosines of a block to the nearest centers `(b, B)`, and which these are `(b, 1, B)`; None: the only ones."""
        centers, norms = self._block(rows)
        logits = (centers @ self.x.T).mul_(self.loss.scale / norms)
        if self.loss.sub_centers == 1:
            return logits, None
        found, center = logits.unflatten(0, (-1, self.loss.sub_centers)).max(1, keepdim=True)
        return found[:, 0], center

    def _learn(self, pulls: torch.Tensor, gradient: torch.Tensor, rows: slice, gradient_x: torch.Tensor) -> None:
        """The gradient of a block of centers `(b K, D)` from that of its cosines `(b K, B)`; what images learn of it is added."""
        centers, norms = self._block(rows)
        pulls /= norms
        gradient_x.addmm_(pulls.T, centers)
        torch.mm(pulls, self.x, out=gradient)
        along = (gradient * centers).sum(1, keepdim=True) / norms.square_()
        gradient.addcmul_(centers, along, value=-1)  # a center's length is no part of its cosines


def _only(center: torch.Tensor, values: torch.Tensor, sub_centers: int) -> torch.Tensor:
    """`(b, K, B)`: the values `(b, B)` at one center of each class `(b, 1, B)`, 0 at the others."""
    return values.new_zeros(len(values), sub_centers, values.shape[1]).scatter_(1, center, values[:, None])
