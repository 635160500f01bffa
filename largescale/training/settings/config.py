"""The settings of training: engine, optimizer, schedule, average of weights, checkpoints."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from largescale.names import Location
from largescale.settings import Settings

Averaging = Literal["mean"] | Annotated[float, Field(gt=0, lt=1)]


class EngineConfig(Settings):
    """Who averages gradients and holds the optimizer's state."""

    kind: Literal["ddp", "deepspeed"] = "ddp"
    """`ddp` keeps everything on every rank; `deepspeed` shards it as `zero_stage` says. Both give the same results."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What DeepSpeed shards over the ranks: 1 = optimizer state, 2 = and gradients, 3 = and weights, 0 = nothing."""
    deepspeed_config: Path | None = None
    """A DeepSpeed JSON file with further settings; those that this configuration decides are errors in it."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Forward and backward passes of a rank per step over tuples, to save memory; the step and its gradient stay the same."""
    gradcache_chunk: int | None = Field(default=None, ge=1)
    """Images that a rank runs through the network at once, for steps larger than memory: descriptors first, the loss over
    all of them, then each chunk again with its gradient. The gradient stays the same; forward passes double. null: all."""
    recompute: bool = False
    """Keep only what enters each block of the backbone and compute the rest again in the backward pass: less than half the
    memory of a step for a third more time, the same gradient."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """Largest L2 norm of the gradient; larger ones are scaled down to it. null: no clipping. Class anchors take no part:
    their gradient grows with the number of classes."""

    @model_validator(mode="after")
    def _file_has_a_reader(self) -> "EngineConfig":
        if self.deepspeed_config is not None and self.kind != "deepspeed":
            raise ValueError("deepspeed_config is read by engine.kind=deepspeed only and would be ignored; remove one of the two")
        return self


class OptimConfig(Settings):
    """The optimizer and its parameter groups."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """AdamW decouples the decay from the gradient; Adam is cirtorch's choice."""
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate of the backbone, before the schedule."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of weights with two and more dimensions; biases and the parameters of normalization layers are not decayed."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam and AdamW."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Each layer of the backbone learns at so much of the rate of the layer after it (layer-wise decay). null: at one rate."""
    gem_lr_mult: float = Field(default=10.0, ge=0)
    """Learning rate of the GeM exponent, times `lr` (cirtorch: 10)."""
    gem_weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the GeM exponent."""
    head_lr_mult: float = Field(default=1.0, ge=0)
    """Learning rate of the projection after pooling, times `lr`."""
    loss_lr_mult: float = Field(default=1.0, ge=0)
    """Learning rate of the loss's own parameters (proxies, class anchors, which have an optimizer of their own), times `lr`."""
    loss_weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the loss's own parameters."""


class ScheduleConfig(Settings):
    """The factor on every learning rate; a pure function of the step, so that a resumed run needs no state."""

    name: Literal["constant", "step", "exponential", "cosine", "range"] = "constant"
    """`exponential` is cirtorch's exp(-decay · epoch); `cosine` falls from 1 to `floor` at the last step; `range` grows from
    `floor` to 1 by the same factor at each step (what the program `rates` does)."""
    warmup_steps: int = Field(default=0, ge=0)
    """The factor is multiplied by one that grows linearly from 0 to 1 over this many steps."""
    milestones: tuple[int, ...] = ()
    """Epochs at which `step` multiplies the factor by `gamma`."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """Of `step`."""
    decay: float = Field(default=0.01, ge=0)
    """Of `exponential`, per epoch."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """The last factor of `cosine`, and the first of `range`."""

    @model_validator(mode="after")
    def _milestones_belong_to_step(self) -> "ScheduleConfig":
        if (self.name == "step") != bool(self.milestones):
            found = f"name={self.name} with milestones={list(self.milestones)}"
            raise ValueError(f"{found}: `step` without milestones stays constant, and no other schedule reads them")
        return self


class OwnCallbackConfig(Settings):
    """A callback of your own; its other settings are the arguments of its class."""

    model_config = ConfigDict(extra="allow")

    name: str
    """package.module:Class, a subclass of largescale.training.callbacks.Callback; or an entry point of largescale.callbacks."""


class CheckpointConfig(Settings):
    """Complete states of a run, from which it goes on."""

    every: int = Field(default=500, ge=1)
    """Steps between two checkpoints; one more is written at the end and on a stop signal."""
    epochs: int = Field(default=1, ge=1)
    """Epochs between two checkpoints, besides."""
    minutes: float = Field(default=20, gt=0)
    """Minutes after which a checkpoint is written if none was."""
    keep: int = Field(default=2, ge=1)
    """How many of the newest stay on disk; the best by evaluation stays too."""
    mirror: Location | None = None
    """A folder in object storage (s3://..., gs://...) that the run is copied to at each checkpoint; on a machine without the run
    directory, the same command goes on from there. null: none."""
    asynchronous: bool = True
    """Write in the background while training goes on; needs memory for one more copy of the state."""

    @model_validator(mode="after")
    def _mirror_is_a_url(self) -> "CheckpointConfig":
        if self.mirror is not None and "://" not in self.mirror:
            raise ValueError(f"mirror={self.mirror} is no URL, as s3://BUCKET/RUN: the run directory itself is a folder already")
        return self

    @model_validator(mode="after")
    def _one_is_always_whole(self) -> "CheckpointConfig":
        if self.asynchronous and self.keep < 2:
            raise ValueError("keep=1 with asynchronous=true: a crash during a write could leave none; use keep=2 or more")
        return self
