"""ROADMAP (NeurIPS 2021): SupAP and calibration. B batch, G gallery, D dimensions."""

import torch

from largescale.losses.choices import CalibrationMean, HMinus
from largescale.losses.labels.base import Gallery, norms_of, products, same_and_different
from largescale.losses.ranking.calibration import CalibrationLoss
from largescale.losses.ranking.sup_ap import SupAPLoss


class RoadmapLoss(SupAPLoss):
    """supap_weight · SupAP + calibration_weight · calibration; 1 and 1 in the NeurIPS recipes, 0.9 and 0.1 in the journal's.

    Scores are plain products, those of the calibration cosines: one product serves both.
    """

    def __init__(
        self,
        h_minus: HMinus = "formula",
        alpha: float = 0.9,
        beta: float = 0.6,
        calibration_mean: CalibrationMean = "nonzero",
        supap_weight: float = 1.0,
        calibration_weight: float = 1.0,
        self_in_gallery: bool = True,
    ) -> None:
        super().__init__(h_minus, self_in_gallery=self_in_gallery)
        self.alpha, self.beta, self.calibration_mean = alpha, beta, calibration_mean
        self.supap_weight, self.calibration_weight = supap_weight, calibration_weight
        self._calibration = CalibrationLoss(alpha, beta, calibration_mean)

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        scores = products(x, gallery)
        supap = self.of_scores(scores, *self.relevance(labels, gallery))
        calibration = self._calibration.of_products(scores, *norms_of(x, gallery), *same_and_different(labels, gallery))
        return self.supap_weight * supap + self.calibration_weight * calibration
