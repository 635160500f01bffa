"""Settings of the losses over mined tuples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from largescale.losses.choices import Ranking, RDEDistance, Reduction, ThresholdRule
from largescale.losses.settings.base import Kind, LossSettings


class TupleSettings(LossSettings):
    """A loss over tuples of a query, a positive and mined negatives."""

    @property
    def kind(self) -> Kind:
        return "tuples"


class ContrastiveConfig(TupleSettings):
    """Contrastive loss over tuples."""

    name: Literal["contrastive"] = "contrastive"
    """Contrastive loss over mined tuples."""
    margin: PositiveFloat = 0.7
    """Distance beyond which a negative no longer counts; unit vectors are at most 2 apart."""
    reduction: Reduction = "mean"
    """Mean over the tuples of a step, or their sum (as cirtorch)."""


class TripletConfig(TupleSettings):
    """Triplet loss over tuples."""

    name: Literal["triplet"] = "triplet"
    """Triplet loss over mined tuples."""
    margin: PositiveFloat = 0.1
    """Squared distance by which a negative must be farther than the positive."""
    reduction: Reduction = "mean"
    """Mean over the tuples of a step, or their sum (as cirtorch)."""


class QuadrupletConfig(TupleSettings):
    """Quadruplet loss over tuples."""

    name: Literal["quadruplet"] = "quadruplet"
    """Quadruplet loss over mined tuples."""
    margin: PositiveFloat = 0.2
    """Distance by which a negative must be farther from the query than the positive."""
    margin_negatives: PositiveFloat = 0.2
    """Distance by which two negatives must be farther apart than query and positive."""
    reduction: Reduction = "mean"
    """Mean over the tuples of a step, or their sum."""


def _three_quarters(values: Mapping[str, Any]) -> float | None:
    return round(0.75 * values["margin"], 6) if values["threshold_rule"] == "ramp" else None


class LRMLConfig(TupleSettings):
    """Learning to rank and multiple loss (LRML) over tuples."""

    name: Literal["lrml"] = "lrml"
    """Contrastive loss with a threshold for each negative, by its rank."""
    threshold_rule: ThresholdRule = "ramp"
    """How rank r of N sets the threshold of a negative. ramp: in equal steps from `smallest` to the margin, the best of what was
    measured; rank/N: margin r / N, the words of the paper; weights: one threshold and weights that fall with the rank;
    teacher_distance: the teacher's distance by its largest; flat: one threshold."""
    margin: PositiveFloat = Field(default_factory=lambda values: 0.8 if values["threshold_rule"] == "ramp" else 1.25)
    """The largest threshold, a distance; by default 0.8 for a ramp, else the paper's 1.25 (which also gives 0.7 for AlexNet)."""
    smallest: NonNegativeFloat | None = Field(default_factory=lambda values: _three_quarters(values))
    """The threshold of the nearest negative of a ramp; by default three quarters of the margin."""
    teacher: Path | None = None
    """What puts the negatives in order, frozen: a model folder, which describes the corpus once, whitened as it says; or a
    weights file, which sees the images of each step. null: the network in training itself."""
    teacher_neighbors: NonNegativeInt = 0
    """Nearest images of the corpus that are added to a query before a model folder orders its negatives (average expansion)."""
    ranking: Ranking = "euclidean"
    """The distance by which it does; the order differs only where descriptors are not normalized, the values always."""
    reduction: Reduction = "mean"
    """Mean over the tuples of a step, or their sum."""

    @model_validator(mode="after")
    def _floor_of_a_ramp(self) -> "LRMLConfig":
        if self.smallest is not None and self.threshold_rule != "ramp":
            raise ValueError("`smallest` belongs to threshold_rule=ramp, and to it alone")
        return self

    @model_validator(mode="after")
    def _pupil_of_a_teacher(self) -> "LRMLConfig":
        if self.threshold_rule == "flat" and self.teacher is not None:
            raise ValueError("threshold_rule=flat needs no order of the negatives, a teacher would only cost time; remove it")
        if self.teacher_neighbors and self.teacher is None:
            raise ValueError(f"teacher_neighbors={self.teacher_neighbors} belongs to a teacher; give teacher=MODEL_FOLDER")
        return self

    def for_loss(self) -> dict[str, Any]:
        return self._but(("name", "matryoshka", "teacher", "teacher_neighbors"))


class InfoNCEConfig(TupleSettings):
    """InfoNCE over tuples: mined, stored and in-batch negatives at once."""

    name: Literal["infonce"] = "infonce"
    """Softmax over the positive, the mined and stored negatives, and the images of all other tuples of the step."""
    temperature: PositiveFloat = 0.05
    """Cosines are divided by it: the lower, the more the nearest negatives count alone."""
    in_batch: bool = True
    """Compare with the images of all other tuples too, over all processes, but not with those of the query's own cluster."""
    similarity_cap: float | None = Field(default=None, gt=-1, le=1)
    """Negatives with a larger cosine to the query are taken for positives that nobody labeled, and left out. null: none."""
    reduction: Reduction = "mean"
    """Mean over the tuples of a step, or their sum."""


class RDEContrastiveConfig(TupleSettings):
    """Contrastive loss on the distance with relative distribution entropy (RDE)."""

    name: Literal["rde_contrastive"] = "rde_contrastive"
    """Contrastive loss, descriptors compared by their distributions too."""
    margin: PositiveFloat = 0.95
    """Distance beyond which a negative no longer counts: 0.95 for ResNet, 0.90 for VGG, 0.75 for AlexNet."""
    distance: RDEDistance = RDEDistance()
    reduction: Reduction = "mean"
    """Mean over the tuples of a step, or their sum."""


class RDETripletConfig(TupleSettings):
    """Triplet loss on the distance with relative distribution entropy (RDE)."""

    name: Literal["rde_triplet"] = "rde_triplet"
    """Triplet loss, descriptors compared by their distributions too."""
    margin: PositiveFloat = 0.5
    """Distance by which a negative must be farther: 0.5 for ResNet and VGG, 0.3 for AlexNet."""
    squared: bool = False
    """Compare squared distances."""
    distance: RDEDistance = RDEDistance()
    reduction: Reduction = "mean"
    """Mean over the tuples of a step, or their sum."""
