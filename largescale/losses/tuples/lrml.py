"""Learning to rank and multiple loss (IJGI 2019): a margin for each negative. T tuples, N negatives, D dimensions."""

import torch
from torch.nn.functional import cosine_similarity, pairwise_distance

from largescale.losses.choices import Ranking, Reduction, ThresholdRule
from largescale.losses.tuples.base import TupleLoss
from largescale.settings import UserError


def sequence(queries: torch.Tensor, negatives: torch.Tensor, ranking: Ranking) -> torch.Tensor:
    """`(T, N)` distances by which the negatives of each query are put in order (§4.1.3): Euclidean, or 1 - cosine.

    Of unit vectors both give the same order, and other values.
    """
    if ranking == "cosine":
        return 1 - cosine_similarity(queries[:, None], negatives, dim=2)
    return pairwise_distance(queries[:, None], negatives)


class LRMLLoss(TupleLoss):
    """½ D(q, p)² + Σ ½ wᵢ [τᵢ - D(q, nᵢ)]₊², where the teacher's order of the negatives sets τᵢ (or wᵢ).

    The published text lacks the equation; the rules are the readings that its statements allow. With r = 1 for the
    nearest negative and N for the farthest, and margin τ:

    * `ramp`: τᵢ from `smallest` (r = 1) to τ (r = N) in equal steps; the best of what was measured.
    * `rank/N`: τᵢ = τ r / N, the words of the paper.
    * `weights`: τᵢ = τ and wᵢ proportional to N - r + 1, with mean 1.
    * `teacher_distance`: τᵢ = τ dᵢ / max d, with the teacher's distances d.
    * `flat`: τᵢ = τ, which is the contrastive loss.

    Args:
        margin: τ, a Euclidean distance; None: 0.8 for `ramp`, else 1.25.
        smallest: the threshold of the nearest negative, for `ramp` only; None: three quarters of the margin.
        ranking: what the descriptors themselves are put in order by, where no teacher is given.
    """

    def __init__(
        self,
        margin: float | None = None,
        threshold_rule: ThresholdRule = "ramp",
        smallest: float | None = None,
        ranking: Ranking = "euclidean",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction)
        ramp = threshold_rule == "ramp"
        if smallest is not None and not ramp:
            raise UserError(f"`smallest` belongs to threshold_rule=ramp and to it alone, found {threshold_rule} with {smallest}")
        self.margin = margin or (0.8 if ramp else 1.25)
        self.smallest = round(0.75 * self.margin, 6) if ramp and smallest is None else smallest
        self.threshold_rule, self.ranking = threshold_rule, ranking

    def per_tuple(
        self,
        queries: torch.Tensor,
        positives: torch.Tensor,
        negatives: torch.Tensor,
        ranks: torch.Tensor | None = None,
        distances: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of each tuple, `(T,)`.

        Args:
            ranks: `(T, N)`, the ordinal of each negative in the teacher's sequence, 1 = nearest; None: that of `distances`.
            distances: `(T, N)` of the teacher (see `sequence`); None: the descriptors themselves are the teacher.
        """
        near = pairwise_distance(queries, positives)  # (T,)
        far = pairwise_distance(queries[:, None], negatives)  # (T, N)
        distances = sequence(queries, negatives, self.ranking).detach() if distances is None else distances.to(far)
        ranks = distances.argsort(1).argsort(1) + 1 if ranks is None else ranks
        thresholds, weights = self._thresholds(ranks.to(far), distances)
        return 0.5 * near.square() + 0.5 * (weights * (thresholds - far).clamp(min=0).square()).sum(1)

    def _thresholds(self, ranks: torch.Tensor, distances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """τᵢ and wᵢ, each `(T, N)`."""
        count, ones = ranks.shape[1], torch.ones_like(ranks)
        if self.threshold_rule == "rank/N":
            return self.margin * ranks / count, ones
        if self.threshold_rule == "ramp":
            assert self.smallest is not None
            return self.smallest + (self.margin - self.smallest) * (ranks - 1) / max(count - 1, 1), ones
        if self.threshold_rule == "weights":
            return self.margin * ones, 2 * (count - ranks + 1) / (count + 1)
        if self.threshold_rule == "teacher_distance":
            return self.margin * distances / distances.amax(1, keepdim=True).clamp(min=1e-12), ones
        return self.margin * ones, ones
