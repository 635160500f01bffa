"""Items put into disjoint parts: the largest value of each part, and back from parts to their items. B queries, m parts."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Partition:
    """What belongs to a part need not be contiguous."""

    owner: Tensor
    """`(items,)` the part of each item."""
    order: Tensor
    """`(items,)` the items, those of one part side by side."""
    starts: Tensor
    """`(parts + 1,)` where each part begins in `order`."""

    @staticmethod
    def of(owner: Tensor, parts: int) -> "Partition":
        sizes = torch.bincount(owner, minlength=parts)
        starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        return Partition(owner, torch.argsort(owner, stable=True), starts)

    def maxima(self, values: Tensor) -> Tensor:
        """`(items, B)` -> `(parts, B)`: the largest value in each part."""
        best = values.new_full((len(self.starts) - 1, values.shape[1]), -torch.inf)
        return best.scatter_reduce_(0, self.owner[:, None].expand_as(values), values, "amax")

    def members(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """`(m,)` parts -> all items of each, and for each item which of the m it comes from."""
        sizes = self.starts[part + 1] - self.starts[part]
        source = torch.repeat_interleave(sizes)
        place = torch.arange(len(source), device=part.device) - (sizes.cumsum(0) - sizes)[source]
        return self.order[self.starts[part][source] + place], source
