"""Settings of the corpus: where shards live, how images become tensors, what an epoch holds, who loads it."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from largescale.settings import Settings


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "largescale"


class StorageConfig(Settings):
    """Where fetched shards and the memory of verified ones are kept."""

    cache: Path = Field(default_factory=_user_cache)
    """Folder of this node for fetched shards and for the record of verified ones; all processes of the node share it."""
    cache_bytes: PositiveInt = 200_000_000_000
    """Most bytes that fetched shards may take; the least recently opened ones that nobody reads are removed."""
    attempts: PositiveInt = 6
    """How often a fetch is tried before the run stops; the pauses between are 0.5 s, 1 s, 2 s, ..."""


class AugmentConfig(Settings):
    """Random changes of a training image; they depend on (seed, epoch, image id) only."""

    crop_scale: tuple[float, float] | None = None
    """Share of the image's area that a random crop takes, e.g. [0.4, 1]; the crop is scaled to size x size. null: no crop."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Width / height of the random crop."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    rand_augment: tuple[NonNegativeInt, Annotated[int, Field(ge=0, le=30)]] | None = None
    """RandAugment: how many operations, and their magnitude of 30, e.g. [2, 9]. null: none."""
    jitter: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, Annotated[float, Field(ge=0, le=0.5)]] | None = None
    """Color jitter: brightness, contrast, saturation, hue, e.g. [0.4, 0.4, 0.4, 0.1]. null: none."""
    grayscale: float = Field(default=0, ge=0, le=1)
    """Probability of an image without color."""
    blur: float = Field(default=0, ge=0, le=1)
    """Probability of a Gaussian blur (deviation 0.1 to 2 pixels)."""
    erasing: float = Field(default=0, ge=0, le=1)
    """Probability that a random rectangle is erased."""
    test_scale: float = Field(default=1, ge=1, le=2)
    """How much larger than `images.size` images are after training, in evaluations and in use: a random crop shows things larger
    than a whole image does (Touvron et al. 2019)."""

    @property
    def distorts(self) -> bool:
        """Whether pixels are changed, and not only places."""
        return bool(self.rand_augment or self.jitter or self.grayscale or self.blur or self.erasing)

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentConfig":
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale is [least, most] with 0 < least <= most <= 1; {self.crop_scale} leaves no crop to draw")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError(f"crop_ratio is [least, most] with 0 < least <= most; {self.crop_ratio} leaves no crop to draw")
        return self


class ImagesConfig(Settings):
    """How encoded images become uint8 tensors."""

    size: PositiveInt | None = None
    """Longest side in pixels (inside), or both sides (squash, crop, random crops), rounded to what the network bears.
    null: as its weights were trained."""
    fit: Literal["inside", "squash", "crop", "squash_crop"] | None = None
    """inside: aspect kept, longest side shrunk to `size`, never enlarged, never padded; squash: scaled to size x size; crop: the
    central square, scaled to size x size; squash_crop: the central part of both sides (ROADMAP). null: as it was trained."""
    crop_share: float | None = Field(default=None, gt=0, le=1)
    """Share of the shorter side (crop) or of both (squash_crop) that a center crop keeps: 0.875 is 224 of 256. null: as the
    network was trained."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """How pixels are scaled, always with antialiasing. null: as the network's weights were trained."""
    multiple: PositiveInt = 1
    """Sides are rounded to multiples of it; the network's patch or window decides, if that is more."""
    least: PositiveInt = 1
    """A side that would be shorter is stretched to it; the network decides, if it needs more."""
    augment: AugmentConfig | None = None
    """Random crop, flip and distortions in training; null: none. Passes for mining and evaluation never augment."""
    max_megapixels: float = Field(default=100, gt=0)
    """Larger images are refused before they are decoded, and count as bad."""

    def after_training(self) -> "ImagesConfig":
        """How a network that learns from such images sees them in evaluations and in use."""
        scale = self.augment.test_scale if self.augment else 1.0
        return self.model_copy(update={"size": self.size and round(self.size * scale), "augment": None})


class BadImagesConfig(Settings):
    """What happens when images cannot be decoded."""

    budget: float = Field(default=0.001, ge=0, le=1)
    """Share of the images read that may be bad before the run stops; each is logged with its key, shard and reason."""


class TuplePlanConfig(Settings):
    """An epoch of tuples: query, positive, negatives."""

    per_step: PositiveInt = 5
    """Tuples in one step, over all processes."""
    per_epoch: PositiveInt = 2000
    """Queries of one epoch, drawn without replacement; more than the corpus has is cut to that."""
    positive: Literal["given", "descriptor", "max_inliers", "relaxed_inliers"] = "given"
    """given: that of a random pair, or a random image of the label; of a query's pairs, descriptor: the nearest by the network
    as the epoch begins; max_inliers: that with the most shared points; relaxed_inliers: a random one within the two limits."""
    nearest_cameras: PositiveInt | None = None
    """Of a query's pairs only so many with the nearest cameras, for descriptor and max_inliers; null: all."""
    min_overlap: float = Field(default=0.2, ge=0, lt=1)
    """Of relaxed_inliers: share of the query's points that the positive must exceed."""
    max_scale: float = Field(default=1.5, gt=1)
    """Of relaxed_inliers: ratio of scales that the positive must stay below."""
    shuffle_window: PositiveInt | None = None
    """Shards whose queries are mixed at a time: a node needs few shards at once. null: the whole corpus is mixed."""

    @model_validator(mode="after")
    def _whole_step(self) -> "TuplePlanConfig":
        if self.per_epoch < self.per_step:
            raise ValueError(f"per_epoch={self.per_epoch} is less than per_step={self.per_step}: an epoch would have no step")
        return self

    @model_validator(mode="after")
    def _cameras_of_a_pool(self) -> "TuplePlanConfig":
        if self.nearest_cameras is not None and self.positive not in ("descriptor", "max_inliers"):
            raise ValueError(f"nearest_cameras says nothing to positive={self.positive}; use descriptor or max_inliers")
        return self


class LabelPlanConfig(Settings):
    """An epoch of batches with P labels x K images."""

    classes_per_batch: int = Field(default=16, ge=2)
    """Labels in one batch (P), over all processes."""
    images_per_class: PositiveInt = 4
    """Images of each label in a batch (K); with 1 there are no two of a label to compare, which only anchors and proxies bear."""
    balance: Literal["images", "labels"] = "images"
    """What is shown equally often: each image, or each label, its images in turn."""
    per_epoch: PositiveInt | None = None
    """Batches of one epoch, in several passes over the images where one does not make as many. null: one pass."""
    shots: PositiveInt | None = None
    """Train on so many images of each label only, drawn by the seed of the run. null: on all."""
    super_pairs: PositiveInt | None = None
    """Batches of an epoch for each two super-labels, half of the labels from either; labels are named SUPER/LABEL. null: labels
    from the whole corpus."""
    shuffle_window: PositiveInt | None = None
    """Shards whose labels are mixed at a time: a node needs few shards at once. null: the whole corpus is mixed."""

    @model_validator(mode="after")
    def _halves(self) -> "LabelPlanConfig":
        if self.super_pairs and (self.classes_per_batch % 2 or self.per_epoch or self.shuffle_window):
            raise ValueError(
                f"super_pairs={self.super_pairs} takes half of the labels of a batch from either super-label and has so many "
                "batches for each pair; use an even number of labels, and neither per_epoch nor shuffle_window"
            )
        return self


class LoaderConfig(Settings):
    """The processes that read and decode."""

    workers: int | Literal["auto"] = "auto"
    """Worker processes of each rank; auto: this rank's share of the node's cores; 0: decode in the training process.
    Without a GPU, descriptors need none: the cores that compute them decode."""
    prefetch: PositiveInt = 2
    """Steps or groups that each worker holds ready, in shared memory."""

    @model_validator(mode="after")
    def _not_negative(self) -> "LoaderConfig":
        if self.workers != "auto" and self.workers < 0:
            raise ValueError(f"workers={self.workers}: a number of processes, 0 or more, or auto")
        return self
