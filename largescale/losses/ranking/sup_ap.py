"""SupAP (ROADMAP, NeurIPS 2021): an upper bound of 1 - AP. B queries, G gallery."""

import math

import torch

from largescale.losses.choices import HMinus
from largescale.losses.ranking.base import PairwisePrecision, RankingLoss


class SupAPLoss(RankingLoss):
    """1 - mean SupAP: the positive step is exact and constant, the negative step is H⁻, which grows for ever.

    H⁻(t) = σ(t/τ) for t ≤ 0, σ(t/τ) + start up to δ, then ρ (t - δ) + offset. Published were, beside the formula (start ½,
    continuous at δ): `cfg`, the recipes of SOP and CUB (offset 1.44); `inat` (start 0, offset 1); `2021`, the code at
    submission (ρ t + 1.44, a jump of 5 at δ). At exact ties with a negative H⁻ is ½, and the bound does not hold.
    """

    def __init__(
        self,
        h_minus: HMinus = "formula",
        tau: float = 0.01,
        rho: float = 100.0,
        delta: float = 0.05,
        self_in_gallery: bool = True,
    ) -> None:
        super().__init__(self_in_gallery)
        self.h_minus, self.tau, self.rho, self.delta = h_minus, tau, rho, delta
        continuous = 1 / (1 + math.exp(-delta / tau))
        self._bend = rho - continuous * (1 - continuous) / tau  # what the slope gains at delta
        self._start = 0.0 if h_minus == "inat" else 0.5
        offset = {"formula": continuous + 0.5, "cfg": 1.44, "inat": 1.0, "2021": 1.44 + rho * delta}[h_minus]
        self._jump = offset - continuous - self._start

    def precision(self, scores: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        return PairwisePrecision.apply(scores, positive, negative, self)

    def positive_step(self, t: torch.Tensor) -> tuple[torch.Tensor, None]:
        return (t >= 0).to(t), None

    def negative_step(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        near = t.clamp(max=self.delta).div_(self.tau).sigmoid_()
        beyond = (t - self.delta).clamp_(min=0)
        far = beyond.sign()  # 0 or 1
        slope = torch.ops.aten.sigmoid_backward(t.new_tensor(1 / self.tau), near).add_(far, alpha=self._bend)
        value = near.add_(beyond, alpha=self.rho)
        if self._start:
            value.add_(t.sign().clamp_(min=0), alpha=self._start)
        if self._jump:
            value.add_(far, alpha=self._jump)
        return value, slope
