"""Settings of the losses over batches of labels."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from largescale.losses.config_base import Kind, LossSettings, Objective
from largescale.settings import UserError

if TYPE_CHECKING:
    from largescale.losses.labels import LabelLoss


class LabelSettings(LossSettings):
    """A loss over P x K batches of labels."""

    kind: ClassVar[Kind] = "labels"
    memory: NonNegativeInt = 0
    """Descriptors of earlier batches to compare with (cross-batch memory); 0 = none."""
    memory_weight: PositiveFloat = 1.0
    """Weight of the comparison with the memory."""

    def plain(self, num_classes: int, dim: int) -> "LabelLoss":
        """The loss without a memory."""
        raise NotImplementedError

    def build(self, num_classes: int, dim: int) -> "Objective":
        from largescale.losses.memory import CrossBatchMemory

        loss = self.plain(num_classes, dim)
        return CrossBatchMemory(loss, self.memory, dim, self.memory_weight) if self.memory else loss


class BatchHardConfig(LabelSettings):
    """Triplet loss of the hardest pairs of each image (batch-hard, TriHard)."""

    name: Literal["batch_hard"] = "batch_hard"
    """Triplets of the farthest match and the nearest other image of each image."""
    margin: PositiveFloat = 0.2
    """Distance by which the negative must be farther; descriptors are normalized, distances not squared."""
    mean: Literal["anchors", "nonzero"] = "anchors"
    """Mean over all images, or over those whose term is not zero (as pytorch-metric-learning)."""

    def plain(self, num_classes: int, dim: int) -> "LabelLoss":
        from largescale.losses.batch_hard import BatchHardTripletLoss

        return BatchHardTripletLoss(**self._arguments())


class MSMLConfig(LabelSettings):
    """Margin sample mining loss: the hardest pairs of the whole batch."""

    name: Literal["msml"] = "msml"
    """The farthest match against the nearest two images of different labels, in the whole batch."""
    margin: PositiveFloat = 0.6
    """Distance by which the negative pair must be farther apart; descriptors are normalized, distances not squared."""

    def plain(self, num_classes: int, dim: int) -> "LabelLoss":
        from largescale.losses.batch_hard import MSMLLoss

        return MSMLLoss(**self._arguments())


class ClassAnchorConfig(LabelSettings):
    """Class anchor margin loss (CAM): attractor, repeller, minimum norm."""

    name: Literal["class_anchor"] = "class_anchor"
    """A learned point for each class; the descriptors must not be normalized (model.normalize=false)."""
    radius: PositiveFloat = 1.0
    """Half the least distance of two anchors (m)."""
    min_norm: NonNegativeFloat = 1.0
    """The least norm of an anchor (p)."""
    init: Literal["base", "gaussian", "uniform"] = "base"
    """First anchors: scaled base vectors and their sums, or random."""
    scale: PositiveFloat = 1.4142135623730951
    """Length of the first anchors."""
    learned: bool = True
    """Learn the anchors, or leave them where they begin."""

    @model_validator(mode="after")
    def _no_memory(self) -> "ClassAnchorConfig":
        if self.memory:
            raise ValueError(
                f"memory={self.memory}: class anchors compare images with anchors, not with images; set loss.memory=0"
            )
        return self

    def plain(self, num_classes: int, dim: int) -> "LabelLoss":
        from largescale.losses.class_anchor import ClassAnchorLoss

        return ClassAnchorLoss(num_classes, dim, **self._arguments())


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

    @model_validator(mode="after")
    def _known_to_the_library(self) -> "MetricLearningConfig":
        try:
            self.build(num_classes=2, dim=2)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    def plain(self, num_classes: int, dim: int) -> "LabelLoss":
        from largescale.losses.metric_learning import MetricLearningLoss

        return MetricLearningLoss(self.loss, self.arguments, self.miner, self.miner_arguments, num_classes=num_classes, dim=dim)
