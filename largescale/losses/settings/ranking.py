"""Settings of the losses on average precision, and of the calibration that goes with them."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from largescale.losses.choices import CalibrationMean, HMinus
from largescale.losses.settings.labels import LabelSettings


class RankingSettings(LabelSettings):
    """A loss on average precision."""

    self_in_gallery: bool = True
    """Whether a query is in its own gallery, as a positive (as the published code has it)."""


class SupAPConfig(RankingSettings):
    """SupAP: an upper bound of 1 - AP (ROADMAP)."""

    name: Literal["sup_ap"] = "sup_ap"
    """An upper bound of 1 - average precision."""
    h_minus: HMinus = "formula"
    """The step for negatives: of the paper (formula), of the SOP and CUB recipes (cfg), of iNaturalist's (inat), of the code
    at submission (2021)."""
    tau: PositiveFloat = 0.01
    """Width of the smooth part of the step."""
    rho: PositiveFloat = 100.0
    """Slope beyond delta."""
    delta: PositiveFloat = 0.05
    """Similarity by which a negative must lead for the linear part."""


class CalibrationConfig(LabelSettings):
    """Calibration loss (ROADMAP)."""

    name: Literal["calibration"] = "calibration"
    """Matches above alpha, everything else below beta."""
    alpha: float = 0.9
    """Cosine that a match must reach."""
    beta: float = 0.6
    """Cosine that images of different labels must not exceed."""
    mean: CalibrationMean = "nonzero"
    """Mean over the terms that are not zero (the published code), or over all pairs (the paper)."""


class RoadmapConfig(RankingSettings):
    """ROADMAP: SupAP and calibration."""

    name: Literal["roadmap"] = "roadmap"
    """An upper bound of 1 - average precision, and calibration."""
    h_minus: HMinus = "formula"
    """The step for negatives: of the paper (formula), of the SOP and CUB recipes (cfg), of iNaturalist's (inat), of the code
    at submission (2021)."""
    alpha: float = 0.9
    """Cosine that a match must reach."""
    beta: float = 0.6
    """Cosine that images of different labels must not exceed."""
    calibration_mean: CalibrationMean = "nonzero"
    """Mean over the terms that are not zero (the published code), or over all pairs (the paper)."""
    supap_weight: NonNegativeFloat = 1.0
    """Weight of SupAP; 0.9 in the journal's recipes."""
    calibration_weight: NonNegativeFloat = 1.0
    """Weight of the calibration; 0.1 in the journal's recipes."""


class SmoothAPConfig(RankingSettings):
    """Smooth-AP."""

    name: Literal["smooth_ap"] = "smooth_ap"
    """Average precision with sigmoids for steps."""
    tau: PositiveFloat = 0.01
    """Width of the sigmoid."""


class SoftBinAPConfig(RankingSettings):
    """Average precision over soft bins."""

    name: Literal["soft_bin_ap"] = "soft_bin_ap"
    """Average precision of scores in soft histogram bins."""
    bins: int = Field(default=20, ge=2)
    """Bins between low and high."""
    low: float = -1.0
    """Score of the lowest bin."""
    high: float = 1.0
    """Score of the highest bin."""

    @model_validator(mode="after")
    def _ordered(self) -> "SoftBinAPConfig":
        if self.low >= self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}: there is no room for bins")
        return self


class BlackboxAPConfig(RankingSettings):
    """Average precision with the blackbox gradient of ranks."""

    name: Literal["blackbox_ap"] = "blackbox_ap"
    """Exact average precision; the gradient of the ranks by interpolation."""
    strength: PositiveFloat = 4.0
    """How far the backward pass interpolates (lambda)."""
    margin: NonNegativeFloat = 0.02
    """Random margin between positives and negatives."""
