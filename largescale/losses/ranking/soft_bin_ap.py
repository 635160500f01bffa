"""AP over soft histogram bins (Revaud et al. 2019). B queries, G gallery, M bins, b queries of a block."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from largescale.losses.ranking.base import ELEMENTS, RankingLoss


class SoftBinAPLoss(RankingLoss):
    """1 - mean AP of scores quantized into bins: Σ precision · Δrecall from the highest bin to the lowest.

    Each score is shared between the two bins whose centers it lies between; beyond the ends it counts in the last bin.

    Args:
        bins: centers, equally spaced from `high` down to `low` (ROADMAP 20 on [-1, 1], naver 25 on [0, 1]).
    """

    def __init__(self, bins: int = 20, low: float = -1.0, high: float = 1.0, self_in_gallery: bool = True) -> None:
        super().__init__(self_in_gallery)
        self.bins, self.low, self.high = bins, low, high

    def precision(self, scores: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        place = (self.high - scores) * ((self.bins - 1) / (self.high - self.low))
        good, every = SoftCounts.apply(place, positive, positive | negative, self.bins)  # (B, M) each
        share = good / positive.sum(1, keepdim=True).clamp(min=1)
        return (good.cumsum(1) / (every.cumsum(1) + 1e-16) * share).sum(1)


class SoftCounts(torch.autograd.Function):
    """How much of two masked sets of places `(B, G)` lies in each bin 0 ... M - 1, `(B, M)` each; one pass per bin, in blocks."""

    @staticmethod
    def forward(
        ctx: Any, place: torch.Tensor, first: torch.Tensor, second: torch.Tensor, bins: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        counts = place.new_empty(2, len(place), bins)
        for rows in _row_blocks(place):
            near, masks = place[rows].clamp(0, bins - 1), torch.stack([first[rows], second[rows]], 2).to(place)  # (b, G, 2)
            for index in range(bins):
                weight = (1 - (near - index).abs_()).clamp_(min=0)
                counts[:, rows, index] = torch.bmm(weight[:, None], masks)[:, 0].T
        ctx.save_for_backward(place, first, second)
        return counts[0], counts[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        place, *masks = ctx.saved_tensors
        gradient = torch.empty_like(place)
        bins = outputs[0].shape[1]
        for rows in _row_blocks(place):
            left = place[rows].floor().clamp_(0, bins - 2).long()  # (b, G)
            rise = sum(mask[rows] * output[rows].diff(dim=1).gather(1, left) for mask, output in zip(masks, outputs, strict=True))
            gradient[rows] = rise * ((place[rows] > 0) & (place[rows] < bins - 1))
        return gradient, None, None, None


def _row_blocks(x: torch.Tensor) -> list[slice]:
    step = max(ELEMENTS[x.device.type] // max(x.shape[1], 1), 1)
    return [slice(start, start + step) for start in range(0, len(x), step)]
