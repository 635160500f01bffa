"""What a loss and its settings both name."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from largescale.settings import Settings

Reduction = Literal["mean", "sum"]
ThresholdRule = Literal["rank/N", "ramp", "weights", "teacher_distance", "flat"]
Ranking = Literal["euclidean", "cosine"]
CalibrationMean = Literal["nonzero", "all"]
HMinus = Literal["formula", "cfg", "inat", "2021"]
TripletMean = Literal["anchors", "nonzero"]
AnchorInit = Literal["base", "gaussian", "uniform"]


class RDEDistance(Settings):
    """Euclidean distance and relative distribution entropy (RDE) of two descriptors."""

    alpha: NonNegativeFloat = 0.9
    """Weight of the entropy."""
    sum: Literal["add", "convex"] = "add"
    """distance + alpha * entropy, or alpha * distance + (1 - alpha) * entropy."""
    bins: int = Field(default=30, ge=2)
    """Bins of the histogram of a descriptor's values."""
    range: Literal["unit", "signed", "own", "joint"] = "own"
    """What the bins cover. own: from the least to the largest value of each descriptor, the best of what was measured; unit: 0 to
    1, the words of the paper; signed: -1 to 1; joint: from the least to the largest value of both descriptors."""
    smoothing: Literal["add_one", "skip"] | PositiveFloat = "add_one"
    """Empty bins: one more value in every bin, no term for them, or this share more in every bin."""
    direction: Literal["query", "sample", "both"] = "query"
    """KL(query to sample), KL(sample to query), or their sum."""
    soft: bool = False
    """Share each value between two bins, so that the entropy has a gradient; else it is a constant."""
