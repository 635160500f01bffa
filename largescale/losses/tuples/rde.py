"""Relative distribution entropy (Entropy 2020): pairs are also compared by the histograms of their descriptors' values.

T tuples, N negatives, D dimensions, K bins; `...` = any leading dimensions.
"""

import torch
from torch.nn.functional import embedding_bag, pairwise_distance

from largescale.losses.choices import RDEDistance, Reduction
from largescale.losses.tuples.base import TupleLoss

_RANGES = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0)}


def histograms(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bins: int, soft: bool) -> torch.Tensor:
    """`(..., D) -> (..., K)`, the share of the values in each of K equal bins from `low` to `high` (`(..., 1)` each).

    Values beyond an end count in the last bin. With `soft`, a value is shared between the two bins whose centers it lies
    between, which gives it a gradient.
    """
    scale = bins / torch.where(high > low, high - low, 1)
    place = torch.addcmul(-low * scale, x, scale)  # (..., D)
    one_hot = torch.eye(bins, dtype=x.dtype, device=x.device)
    if not soft:
        return _mean_row(one_hot, place.int().clamp_(0, bins - 1))
    place = (place - 0.5).nan_to_num(0).clamp(0, bins - 1)
    left = place.detach().int().clamp_(max=bins - 2)
    return _mean_row(one_hot, left, left + 1 - place) + _mean_row(one_hot, left + 1, place - left)


def _mean_row(rows: torch.Tensor, index: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of the (weighted) rows at `(..., D)`; unlike a scatter it needs no atomics, unlike bincount no synchronization."""
    weights = None if weights is None else weights.flatten(0, -2)
    total = embedding_bag(index.flatten(0, -2), rows, mode="sum", per_sample_weights=weights)
    return (total / index.shape[-1]).unflatten(0, index.shape[:-1])


def relative_entropy(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) of distributions `(..., K)`, in nats; bins where either is empty are left out."""
    both = (p > 0) & (q > 0)
    return torch.where(both, p * (torch.where(both, p, 1) / torch.where(both, q, 1)).log(), 0).sum(-1)


def rde(queries: torch.Tensor, samples: torch.Tensor, settings: RDEDistance) -> torch.Tensor:
    """`(T, 1, D)` and `(T, N, D)` to the relative entropy `(T, N)` of the histograms of each pair."""
    if not settings.soft:
        queries, samples = queries.detach(), samples.detach()
    if settings.range == "joint":
        queries = queries.expand_as(samples)
    p, q = (_smoothed(h, settings, samples.shape[-1]) for h in _pair_of_histograms(queries, samples, settings))
    if settings.direction == "query":
        return relative_entropy(p, q)
    if settings.direction == "sample":
        return relative_entropy(q, p)
    return relative_entropy(p, q) + relative_entropy(q, p)


def rde_distance(queries: torch.Tensor, samples: torch.Tensor, settings: RDEDistance) -> torch.Tensor:
    """`(T, 1, D)` and `(T, N, D)` to D' `(T, N)`: Euclidean distance and relative distribution entropy (eq. 15, 16)."""
    entropy, alpha = rde(queries, samples, settings), settings.alpha
    distance = pairwise_distance(queries, samples)
    return distance + alpha * entropy if settings.sum == "add" else alpha * distance + (1 - alpha) * entropy


def _pair_of_histograms(queries: torch.Tensor, samples: torch.Tensor, settings: RDEDistance) -> tuple[torch.Tensor, torch.Tensor]:
    if settings.range in _RANGES:
        low, high = (queries.new_full((1,), end) for end in _RANGES[settings.range])
        ends = [(low, high), (low, high)]
    else:
        ends = [(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)) for x in (queries, samples)]
        if settings.range == "joint":
            ends = [(torch.minimum(ends[0][0], ends[1][0]), torch.maximum(ends[0][1], ends[1][1]))] * 2
    p, q = (histograms(x, *end, settings.bins, settings.soft) for x, end in zip((queries, samples), ends, strict=True))
    return p, q


def _smoothed(shares: torch.Tensor, settings: RDEDistance, dim: int) -> torch.Tensor:
    if settings.smoothing == "skip":
        return shares
    extra = 1 / dim if settings.smoothing == "add_one" else settings.smoothing
    return (shares + extra) / (1 + settings.bins * extra)


class RDEContrastiveLoss(TupleLoss):
    """½ D'(q, p)² + Σ ½ [margin - D'(q, n)]₊² (eq. 14, 17).

    Args:
        margin: 0.95 for ResNet, 0.90 for VGG, 0.75 for AlexNet.
        distance: how D' comes about.
    """

    def __init__(self, margin: float = 0.95, distance: RDEDistance | None = None, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.margin, self.distance = margin, distance or RDEDistance()

    def per_tuple(self, queries: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        samples = torch.cat([positives[:, None], negatives], 1)  # (T, 1 + N, D)
        distances = rde_distance(queries[:, None], samples, self.distance)
        return 0.5 * distances[:, 0].square() + 0.5 * (self.margin - distances[:, 1:]).clamp(min=0).square().sum(1)


class RDETripletLoss(TupleLoss):
    """Σ [margin + D'(q, p) - D'(q, n)]₊ (eq. 18, 19).

    Args:
        margin: 0.5 for ResNet and VGG, 0.3 for AlexNet.
        squared: compare D'² in place of D'.
        distance: how D' comes about.
    """

    def __init__(
        self,
        margin: float = 0.5,
        squared: bool = False,
        distance: RDEDistance | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction)
        self.margin, self.squared, self.distance = margin, squared, distance or RDEDistance()

    def per_tuple(self, queries: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
        samples = torch.cat([positives[:, None], negatives], 1)  # (T, 1 + N, D)
        distances = rde_distance(queries[:, None], samples, self.distance)
        distances = distances.square() if self.squared else distances
        return (self.margin + distances[:, :1] - distances[:, 1:]).clamp(min=0).sum(1)
