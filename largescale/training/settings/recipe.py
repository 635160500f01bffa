"""The settings of a training run: those of its parts put together, and what contradicts each other."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from largescale.commit import checksum
from largescale.corpus.config import BadImagesConfig, ImagesConfig, LabelPlanConfig, LoaderConfig, StorageConfig, TuplePlanConfig
from largescale.losses.settings.choice import LossConfig
from largescale.losses.settings.tuples import ContrastiveConfig, InfoNCEConfig, LRMLConfig
from largescale.mining.config import MiningConfig
from largescale.models.config import ModelConfig
from largescale.names import Location, Locations, RunName
from largescale.precision import Precision
from largescale.settings import Settings
from largescale.tracking import TrackingConfig
from largescale.training.settings.config import (
    Averaging,
    CheckpointConfig,
    EngineConfig,
    OptimConfig,
    OwnCallbackConfig,
    ScheduleConfig,
)

# settings that do not change what is learned: a run may be continued with others
FREE = (
    *(
        "name",
        "runs",
        "corpus",
        "epochs",
        "storage",
        "loader",
        "bad_images",
        "non_finite",
        "trouble",
        "callbacks",
        "checkpoint",
        "evaluation",
        "evaluate",
        "tracking",
    ),
    *(
        "engine.kind",
        "engine.zero_stage",
        "engine.gradient_accumulation",
        "engine.gradcache_chunk",
        "engine.recompute",
        "model.channels_last",
    ),
    *("mining.block_bytes", "mining.home", "mining.wait", "mining.exchange"),
)


class PeriodicEvaluationConfig(Settings):
    """Evaluation during training; the score decides which checkpoint is the best."""

    every: NonNegativeInt = 1
    """Epochs between two evaluations; one more before the first epoch and after the last. 0 = none."""
    gallery: Location | None = None
    """Corpus that is searched; without `queries` its images are the queries too, each leaving itself out."""
    queries: Location | None = None
    """Corpus of the queries, where they are not in the gallery."""
    distractors: Locations = ()
    """Corpora without right answers, searched together with the gallery."""
    images: ImagesConfig | None = None
    """How images become tensors; null: as in training, without augmentation."""
    strips: NonNegativeInt = 20
    """Rankings shown as a table of pictures in W&B."""

    def is_due(self, epoch: int, last: bool) -> bool:
        """Whether there is one before this epoch, of which 0 is the first, or after the last one."""
        return self.gallery is not None and self.every > 0 and (last or epoch % self.every == 0)


class FinalEvaluationConfig(Settings):
    """An evaluation of the finished run."""

    file: Path
    """Settings of an evaluation, for instance one of configs/evaluation/."""
    settings: Mapping[str, Any] = {}
    """Settings laid over them."""
    paper: Mapping[str, float] = {}
    """What the paper reports, in percent, by PROTOCOL/METRIC: it is printed beside ours."""


class NonFiniteConfig(Settings):
    """What happens when a loss or gradient is not finite: nobody steps, and the images of the step are written down."""

    skip: NonNegativeInt = 3
    """Steps that may be skipped; one more ends the run, and its last checkpoint stays as it is."""


class TroubleConfig(Settings):
    """What is looked for while a run seems to run: collapsed descriptors, exploding gradients, classes never drawn."""

    on_collapse: Literal["warn", "stop"] = "warn"
    """When the descriptors of a step's images have become nearly equal: say so and go on, or end the run."""
    quick_images: NonNegativeInt = 512
    """Training images that are scored before the first step and after 5, 10, 25 and 50 % of them; worse is said. 0 = none."""


def _tuples_only(values: Mapping[str, Any], make: Any) -> Any:
    return make() if values["loss"].kind == "tuples" else None


class TrainConfig(Settings):
    """A training run."""

    name: RunName = "default"
    """Name of the run: its directory is RUNS/NAME, and the same name goes on where it stopped. A run without
    one, or with `auto`, is named after its recipe and its settings."""
    runs: Path = Path("runs")
    """Folder of the run directories."""
    seed: NonNegativeInt = 0
    """Of the initial weights, the order of the data and the augmentation."""
    corpus: Location | tuple[Location, ...] | None = None
    """Folder or URL of the training corpus; null: the one under data/, or where there is none the embedded demo corpus. Several,
    [a, b], train as one: their labels are kept apart."""
    corpus_weights: tuple[PositiveFloat, ...] | None = None
    """How often an image of each of several corpora is drawn, relative to the others. null: each image alike."""
    epochs: PositiveInt = 10
    """Passes over the plan of an epoch."""
    storage: StorageConfig = StorageConfig()
    images: ImagesConfig = ImagesConfig()
    loader: LoaderConfig = LoaderConfig()
    bad_images: BadImagesConfig = BadImagesConfig()
    model: ModelConfig = ModelConfig()
    precision: Precision = "auto"
    """Numbers in which the network runs, in training, mining and evaluation: auto = bf16 where the processor has it fast
    (GPUs, AVX512-BF16, AMX, SVE-BF16), else fp32. Weights, pooling, similarities and losses are always fp32."""
    loss: LossConfig = ContrastiveConfig()
    tuples: TuplePlanConfig | None = Field(default_factory=lambda values: _tuples_only(values, TuplePlanConfig))
    mining: MiningConfig | None = Field(default_factory=lambda values: _tuples_only(values, MiningConfig))
    """Of losses over tuples, their negatives. Of losses over labels, batches of labels that are alike; null: random labels."""
    batches: LabelPlanConfig | None = Field(
        default_factory=lambda values: LabelPlanConfig() if values["loss"].kind == "labels" else None
    )
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    engine: EngineConfig = EngineConfig()
    average: Averaging | None = None
    """What is evaluated, mined with and exported in place of the weights: mean, that of the weights after every update (Polyak);
    or a number, the weight of the old average in an exponential one, for example 0.999. null: the weights themselves."""
    whitening: bool = False
    """Whenever the network is scored, and at the end, fit a whitening that goes with its weights wherever they are used: learned
    from the matching pairs of the training corpus and shrunk, so that in what images of a label differ counts less."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    non_finite: NonFiniteConfig = NonFiniteConfig()
    trouble: TroubleConfig = TroubleConfig()
    evaluation: PeriodicEvaluationConfig = PeriodicEvaluationConfig()
    evaluate: Mapping[str, FinalEvaluationConfig] = {}
    """Evaluations of the finished run by name: its best weights are scored, and the table has the paper's numbers beside ours.
    What is not built by then is left out and named."""
    tracking: TrackingConfig = TrackingConfig()
    callbacks: tuple[OwnCallbackConfig, ...] = ()
    """Callbacks of your own, each {name: "package.module:Class", ...} with the arguments of its class; they come last."""

    @property
    def directory(self) -> Path:
        return self.runs / self.name

    @property
    def scored_images(self) -> ImagesConfig:
        """How the network sees images while it is scored."""
        return self.evaluation.images or self.images.after_training()

    @model_validator(mode="after")
    def _plan_fits_loss(self) -> "TrainConfig":
        kind, name = self.loss.kind, self.loss.name
        if kind == "labels" and self.tuples is not None:
            raise ValueError(
                f"tuples: loss.name={name} learns from labels, its steps are batches of labels; use batches.* instead"
            )
        if kind == "tuples" and self.batches is not None:
            raise ValueError(
                f"batches: loss.name={name} learns from tuples, so batches of labels would never be read; use tuples.*"
            )
        if kind == "labels" and self.engine.gradient_accumulation > 1:
            raise ValueError(
                f"engine.gradient_accumulation={self.engine.gradient_accumulation}: loss.name={name} needs "
                "all images of a step at once, "
                "a part of them would give another gradient; use engine.gradcache_chunk=IMAGES, which keeps it"
            )
        return self

    @model_validator(mode="after")
    def _labels_that_are_alike(self) -> "TrainConfig":
        if self.batches is None or self.mining is None:
            return self
        name = self.loss.name
        if self.mining.stored:
            raise ValueError(
                f"mining.stored={self.mining.stored}: loss.name={name} learns from labels, which mining puts together; "
                "stored negatives would never be read; use loss.memory=DESCRIPTORS where it compares images, or mining.stored=0"
            )
        chosen = [key for key in ("super_pairs", "shots") if getattr(self.batches, key) is not None]
        if chosen:
            raise ValueError(
                f"batches.{chosen[0]} with mining: mining puts labels that are alike, among all images, into a batch, "
                f"batches.{chosen[0]} chooses by itself; remove one of them (mining=null)"
            )
        return self

    @model_validator(mode="after")
    def _whole_step_in_a_batch(self) -> "TrainConfig":
        if isinstance(self.loss, InfoNCEConfig) and self.loss.in_batch and self.engine.gradient_accumulation > 1:
            raise ValueError(
                f"engine.gradient_accumulation={self.engine.gradient_accumulation} with loss.in_batch=true: a part of a step "
                "would be compared with itself alone, which gives another gradient; use "
                "engine.gradcache_chunk=IMAGES, which keeps it"
            )
        return self

    @model_validator(mode="after")
    def _pairs_to_compare(self) -> "TrainConfig":
        if self.batches is not None and self.batches.images_per_class == 1 and self.loss.pairs:
            raise ValueError(
                f"batches.images_per_class=1 with loss.name={self.loss.name}: it compares images of a "
                "label, a batch would have no two; "
                "use batches.images_per_class=2 or more"
            )
        return self

    @model_validator(mode="after")
    def _anchors_see_lengths(self) -> "TrainConfig":
        if self.loss.name == "class_anchor" and self.model.normalize:
            raise ValueError(
                "model.normalize=true with loss.name=class_anchor: unit descriptors could never reach anchors of another length; "
                "use model.normalize=false"
            )
        return self

    @model_validator(mode="after")
    def _rows_to_whiten(self) -> "TrainConfig":
        if self.whitening and self.model.metric == "l2":
            raise ValueError(
                "whitening=true makes unit rows, but these descriptors are compared by distance (model.metric=l2), lengths "
                "included; use whitening=false"
            )
        if self.whitening and self.loss.matryoshka:
            raise ValueError(
                "whitening=true with loss.matryoshka: it mixes the dimensions whose first ones were trained to be enough; use "
                "one of them"
            )
        return self

    @model_validator(mode="after")
    def _statistics_see_an_image_once(self) -> "TrainConfig":
        if self.engine.recompute and not self.model.freeze_batchnorm:
            raise ValueError(
                "engine.recompute=true with model.freeze_batchnorm=false: batch normalization would see each image twice; "
                "use model.freeze_batchnorm=true or engine.recompute=false"
            )
        return self

    @model_validator(mode="after")
    def _chunks_keep_the_gradient(self) -> "TrainConfig":
        if self.engine.gradcache_chunk is not None and not self.model.freeze_batchnorm:
            raise ValueError(
                f"engine.gradcache_chunk={self.engine.gradcache_chunk} with model.freeze_batchnorm=false: "
                "batch normalization would see each chunk "
                "twice and never the batch, which gives another gradient; use model.freeze_batchnorm=true "
                "or no engine.gradcache_chunk"
            )
        return self

    @model_validator(mode="after")
    def _statistics_of_the_whole_step(self) -> "TrainConfig":
        if self.model.freeze_batchnorm:
            return self
        if self.engine.gradient_accumulation > 1:
            raise ValueError(
                f"engine.gradient_accumulation={self.engine.gradient_accumulation} with model.freeze_batchnorm=false: the "
                "statistics of a step would be those of its parts; use model.freeze_batchnorm=true or no accumulation"
            )
        if self.engine.kind == "deepspeed" and self.engine.zero_stage == 3:
            raise ValueError(
                "engine.zero_stage=3 with model.freeze_batchnorm=false: ranks collect the weights of a layer as they come to it, "
                "and would wait there for each other's statistics; use engine.zero_stage=2 or model.freeze_batchnorm=true"
            )
        return self

    @model_validator(mode="after")
    def _stored_negatives_are_pairs(self) -> "TrainConfig":
        stored = 0 if self.mining is None else self.mining.stored
        if stored and self.loss.name == "quadruplet":
            raise ValueError(
                f"mining.stored={stored} with loss.name=quadruplet: it compares every two negatives of a tuple, "
                f"{stored**2 // 2:,} pairs; use a loss over pairs (contrastive, triplet, lrml, rde_*) or mining.stored=0"
            )
        if stored and isinstance(self.loss, LRMLConfig) and self.loss.teacher is not None:
            raise ValueError(
                f"mining.stored={stored} with loss.teacher={self.loss.teacher}: the teacher orders images, and those of stored "
                "negatives are not read; use loss.teacher=null or mining.stored=0"
            )
        return self

    @model_validator(mode="after")
    def _service_knows_positives(self) -> "TrainConfig":
        served = self.mining is not None and self.mining.home == "service"
        if served and self.tuples is not None and self.tuples.positive == "descriptor":
            raise ValueError(
                "tuples.positive=descriptor with mining.home=service: the positives follow from the weights at the epoch's "
                "boundary, which the service may not have yet; use mining.home=inline"
            )
        return self

    @model_validator(mode="after")
    def _service_finds_weights(self) -> "TrainConfig":
        if self.mining is not None and self.mining.wait == "always" and self.checkpoint.epochs > 1:
            raise ValueError(
                f"checkpoint.epochs={self.checkpoint.epochs}: with mining.wait=always the service needs the weights of every "
                "boundary, and training would wait for ever; use checkpoint.epochs=1"
            )
        return self

    @field_validator("runs", mode="before")
    @classmethod
    def _runs_are_a_folder(cls, value: Any) -> Any:
        if "://" in str(value):
            raise ValueError(
                "a run directory needs renames and locks, which file systems (local, NFS) have and object storage has not"
            )
        return value

    def resume_identity(self) -> dict[str, Any]:
        """The settings that decide what is learned, by dotted key: a run is continued with the same ones only."""
        # a cosine ends at the last epoch: with more epochs the steps already taken would have had other rates
        free = [key for key in FREE if key != "epochs" or self.schedule.name != "cosine"]
        flat = _flat(self.model_dump(mode="json"))
        return {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{name}.") for name in free)}


Config = TypeVar("Config", bound=TrainConfig)


def named(config: Config, arguments: Sequence[str]) -> Config:
    """The configuration; where nothing names the run, or `auto` does, named after its recipe and what decides what is learned.

    So the same command goes on, on any number of nodes, and other settings begin another run.

    Args:
        arguments: those that the configuration was loaded from.
    """
    if "name" in config.model_fields_set and config.name != "auto":
        return config
    recipe = next((Path(argument).stem for argument in reversed(arguments) if "=" not in argument), "run")
    decisive = {**config.resume_identity(), "corpus": config.corpus}
    return config.model_copy(update={"name": f"{recipe}-{checksum(json.dumps(decisive, sort_keys=True).encode())[:8]}"})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
