"""InfoNCE over tuples: mined, stored and in-batch negatives at once. T tuples, N negatives, M others, D dimensions."""

from typing import ClassVar

import torch

from largescale.losses.choices import Reduction
from largescale.losses.labels.base import unit_rows
from largescale.losses.tuples.base import TupleLoss


class InfoNCELoss(TupleLoss):
    """-log softmax(cosines / temperature) of the positive, among it, the negatives of the tuple and the images of all others.

    (van den Oord 2018.) A negative that is more similar to the query than `similarity_cap` is taken for a positive that nobody
    labeled, and left out; so is, of the other tuples, every image of the query's or the positive's own cluster.

    Args:
        temperature: the lower, the more the nearest negatives count alone.
        in_batch: compare with the images of all other tuples of the step too, queries included, over all ranks.
        similarity_cap: cosine; None: no negative is left out for it.
    """

    descriptors: ClassVar = ("others",)

    def __init__(
        self,
        temperature: float = 0.05,
        in_batch: bool = True,
        similarity_cap: float | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction)
        self.temperature, self.in_batch, self.similarity_cap = temperature, in_batch, similarity_cap

    def per_tuple(
        self,
        queries: torch.Tensor,
        positives: torch.Tensor,
        negatives: torch.Tensor,
        others: torch.Tensor | None = None,
        allowed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of each tuple, `(T,)`.

        Args:
            others: `(M, D)` images of other tuples.
            allowed: bool `(T, M)`, which of them are negatives of which query; None: all.
        """
        queries = unit_rows(queries)
        near = (queries * unit_rows(positives)).sum(1, keepdim=True)  # (T, 1)
        far = torch.bmm(unit_rows(negatives.flatten(0, 1)).view_as(negatives), queries[:, :, None])[:, :, 0]  # (T, N)
        far = self._left_out(far, torch.ones_like(far, dtype=torch.bool))
        if others is not None:
            cosines = queries @ unit_rows(others.to(queries)).T  # (T, M)
            far = torch.cat([far, self._left_out(cosines, torch.ones_like(cosines) > 0 if allowed is None else allowed)], 1)
        logits = torch.cat([near, far], 1) / self.temperature
        return torch.logsumexp(logits, 1) - logits[:, 0]

    def _left_out(self, cosines: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Cosines without weight where they are none of a negative."""
        if self.similarity_cap is not None:
            allowed = allowed & (cosines <= self.similarity_cap)
        return cosines.masked_fill(~allowed, -torch.inf)
