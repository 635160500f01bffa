"""Settings of the losses over batches of labels."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from largescale.losses.choices import AnchorInit, TripletMean
from largescale.losses.settings.base import Kind, LossSettings
from largescale.settings import UserError

if TYPE_CHECKING:
    from largescale.losses.labels.metric_learning import MetricLearningLoss


class LabelSettings(LossSettings):
    """A loss over P x K batches of labels."""

    memory: NonNegativeInt = 0
    """Descriptors of earlier batches to compare with (cross-batch memory); 0 = none."""
    memory_weight: PositiveFloat = 1.0
    """Weight of the comparison with the memory."""

    @property
    def kind(self) -> Kind:
        return "labels"

    def for_loss(self) -> dict[str, Any]:
        return self._but(("name", "matryoshka", "memory", "memory_weight"))


class BatchHardConfig(LabelSettings):
    """Triplet loss of the hardest pairs of each image (batch-hard, TriHard)."""

    name: Literal["batch_hard"] = "batch_hard"
    """Triplets of the farthest match and the nearest other image of each image."""
    margin: PositiveFloat = 0.2
    """Distance by which the negative must be farther; descriptors are normalized, distances not squared."""
    mean: TripletMean = "anchors"
    """Mean over all images, or over those whose term is not zero (as pytorch-metric-learning)."""


class MSMLConfig(LabelSettings):
    """Margin sample mining loss: the hardest pairs of the whole batch."""

    name: Literal["msml"] = "msml"
    """The farthest match against the nearest two images of different labels, in the whole batch."""
    margin: PositiveFloat = 0.6
    """Distance by which the negative pair must be farther apart; descriptors are normalized, distances not squared."""


class ClassSettings(LabelSettings):
    """A loss that compares images with what it learns of each class."""

    @property
    def pairs(self) -> bool:
        return False

    @model_validator(mode="after")
    def _no_memory(self) -> "ClassSettings":
        if self.memory:
            raise ValueError(
                f"memory={self.memory}: loss.name={self.name} compares images with what it learns of each class, not with "
                "images; set loss.memory=0"
            )
        return self


class ClassAnchorConfig(ClassSettings):
    """Class anchor margin loss (CAM): attractor, repeller, minimum norm."""

    name: Literal["class_anchor"] = "class_anchor"
    """A learned point for each class; the descriptors must not be normalized (model.normalize=false)."""
    radius: PositiveFloat = 1.0
    """Half the least distance of two anchors (m)."""
    min_norm: NonNegativeFloat = 1.0
    """The least norm of an anchor (p)."""
    init: AnchorInit = "base"
    """First anchors: scaled base vectors and their sums, or random."""
    scale: PositiveFloat = 1.4142135623730951
    """Length of the first anchors."""
    learned: bool = True
    """Learn the anchors, or leave them where they begin."""


class MarginSettings(ClassSettings):
    """Softmax over the classes with a margin for the right one; the centers of the classes are shared among the ranks."""

    scale: PositiveFloat = 64.0
    """Cosines are multiplied by it (s); 30 to 64 in the literature, the more the easier the data."""
    sub_centers: PositiveInt = 1
    """Centers of each class, of which the nearest counts: 3 for noisy labels (sub-center ArcFace)."""
    sample_rate: float = Field(default=1.0, gt=0, le=1)
    """Share of the classes that a step compares with, besides those of its images, drawn anew for each (PartialFC)."""


class ArcFaceConfig(MarginSettings):
    """ArcFace: an angle as margin."""

    name: Literal["arcface"] = "arcface"
    """Softmax over the classes, with a margin on the angle to the right center."""
    margin: NonNegativeFloat = Field(default=0.5, lt=1.5)
    """Radians that are added to the angle (m)."""


class CosFaceConfig(MarginSettings):
    """CosFace: a cosine as margin."""

    name: Literal["cosface"] = "cosface"
    """Softmax over the classes, with a margin on the cosine to the right center."""
    margin: NonNegativeFloat = Field(default=0.35, lt=1)
    """Cosine that is taken from that of the right class (m)."""


class MetricLearningConfig(LabelSettings):
    """Any loss of pytorch-metric-learning over labels."""

    name: Literal["metric_learning"] = "metric_learning"
    """Any loss of pytorch-metric-learning, over P x K batches of labels."""
    loss: str
    """The class of pytorch-metric-learning, for instance MultiSimilarityLoss."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Its arguments; num_classes and embedding_size are filled in. A distance, reducer or regularizer is given by its name,
    or as {name: {argument: value}}."""
    miner: str | None = None
    """A miner of pytorch-metric-learning, for instance BatchHardMiner."""
    miner_arguments: dict[str, Any] = Field(default_factory=dict)
    """The arguments of the miner."""

    @property
    def pairs(self) -> bool:
        return False

    def loss_class(self) -> "type[MetricLearningLoss]":
        """Imported with the library, of which other losses need nothing."""
        from largescale.losses.labels.metric_learning import MetricLearningLoss

        return MetricLearningLoss

    @model_validator(mode="after")
    def _known_to_the_library(self) -> "MetricLearningConfig":
        from largescale.losses.memory import CrossBatchMemory

        try:
            loss = self.loss_class()(**self.for_loss(), num_classes=2, dim=2)
            if self.memory:
                CrossBatchMemory(loss, self.memory, dim=2)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self
