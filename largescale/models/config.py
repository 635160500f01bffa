"""Which descriptor network a run trains."""

import difflib
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from largescale.settings import Settings

TORCHVISION = (
    "alexnet",
    "vgg16",
    "vgg19",
    "resnet18",
    "resnet50",
    "resnet101",
    "squeezenet1_1",
    "mobilenet_v2",
    "swin_t",
    "vit_b_16",
)
Pooling = Literal["gem", "mac", "spoc", "rmac", "class_token", "class_mean", "own"]
Metric = Literal["cosine", "l2"]


class LoRAConfig(Settings):
    """Of each linear layer, a product of two small matrices learns in its place."""

    rank: PositiveInt = 16
    """Rows of the one, columns of the other."""
    alpha: PositiveInt = 32
    """The product counts alpha / rank times."""


class ModelConfig(Settings):
    """The descriptor network: backbone, pooling, optional projection, and its first weights."""

    backbone: str = "resnet18"
    """Backbone: alexnet, vgg16, vgg19, resnet18, resnet50, resnet101, squeezenet1_1, mobilenet_v2, swin_t, vit_b_16
    (torchvision's), timm:NAME for any model of timm, or package.module:function of your own."""
    pooling: Pooling | None = None
    """How a feature map becomes a vector: gem (generalized mean), mac (maximum), spoc (mean), rmac (regions); of transformers
    class_token, class_mean (it and the mean of the patches side by side); own (as timm's model pools by itself: attention,
    class token, normalized mean ...). null: own of transformers, spoc of maps with negative numbers (ConvNeXt, Swin),
    which gem would take for 0, gem of all others."""
    gem_p: PositiveFloat = 3.0
    """The exponent of GeM, or its initial value; other poolings have none."""
    gem_exponent: Literal["learned", "fixed", "per_channel"] = "learned"
    """One learned exponent, a fixed one, or one learned per channel."""
    projection: PositiveInt | None = None
    """Dimensions of a learned linear layer between two normalizations; null: the descriptor has the channels of the backbone."""
    projection_start: Literal["random", "pca", "learned"] = "random"
    """First weights of the projection: random, or a whitening of what it projects, fitted on the training corpus as the run
    begins: from principal components, or learned from matching pairs (end-to-end whitening)."""
    layer_norm: bool = False
    """Layer normalization without parameters after pooling, in place of L2 (ROADMAP's ResNet-50 for CUB)."""
    normalize_pooled: bool = True
    """Normalize between pooling and projection, as cirtorch; dirtorch projects what was pooled as it is."""
    normalize: bool = True
    """Make unit rows; class anchors (loss.name=class_anchor) need descriptors as they are."""
    metric: Metric = Field(default_factory=lambda values: "cosine" if values["normalize"] else "l2")
    """How descriptors are compared in mining, search and scores: by cosine, or by Euclidean distance. By default by cosine where
    rows are normalized, else by distance."""
    weights: str = "none"
    """none (random), imagenet (downloaded), or a file: a torchvision or timm state dict (.pth, .pt, .safetensors),
    or a weights file of an earlier run."""
    freeze: int = Field(default=0, ge=-1)
    """The first so many layers of the backbone (stem, then stages or blocks) do not learn, nor do statistics of their batch
    normalization; -1: none of them does."""
    unfreeze_at: PositiveInt | None = None
    """Update of the weights from which the frozen layers learn as well; null: never."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of timm's models: the share of blocks that an image skips in training, rising with depth."""
    lora: LoRAConfig | None = None
    """Adapters on the linear layers that are not frozen learn in place of the backbone, e.g. {rank: 16}, of transformers;
    exported weights have them merged. null: the backbone learns."""
    freeze_batchnorm: bool = True
    """Keep the running statistics of batch normalization as they are while training; scale and shift are still learned."""
    channels_last: bool = True
    """Keep the channels of a pixel together in memory: faster convolutions, on CPUs and on tensor cores."""

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, name: str) -> str:
        if name not in TORCHVISION and ":" not in name:
            near = difflib.get_close_matches(name, TORCHVISION, 1, 0)[0]
            raise ValueError(f"no such backbone; the nearest is {near}, and timm's models are written timm:NAME")
        return name

    @model_validator(mode="after")
    def _lengths_to_compare(self) -> "ModelConfig":
        if self.metric == "l2" and self.normalize:
            raise ValueError("metric=l2 puts unit rows in the order that metric=cosine does: use that, or normalize=false")
        return self

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> "ModelConfig":
        if self.unfreeze_at is not None and (self.freeze == 0 or self.lora is not None):
            raise ValueError("unfreeze_at: nothing is frozen that could learn later; set freeze, and no lora, or leave it out")
        if self.drop_path and not self.backbone.startswith("timm:"):
            raise ValueError(f"drop_path is of timm's models; {self.backbone} has none: use timm:NAME or leave it out")
        return self

    @model_validator(mode="after")
    def _projection_to_start(self) -> "ModelConfig":
        if self.projection is None and self.projection_start != "random":
            raise ValueError(f"projection_start={self.projection_start}: there is no projection; give projection=DIMENSIONS")
        return self
