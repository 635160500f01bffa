"""Settings of an evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, NonNegativeInt, PositiveFloat, PositiveInt, Tag, model_validator

from largescale.corpus.config import ImagesConfig, LoaderConfig, StorageConfig
from largescale.models.config import ModelConfig
from largescale.names import Location, Locations
from largescale.precision import Precision
from largescale.settings import Settings
from largescale.tracking import TrackingConfig

ProtocolName = Literal[
    "auto",
    "labels",
    "oxford5k",
    "paris6k",
    "roxford5k",
    "rparis6k",
    "holidays",
    "holidays-upright",
    "gldv2",
    "ilias",
    "inshop",
    "ukbench",
]
Source = Annotated[
    Annotated[str, Tag("value")] | Annotated[ModelConfig, Tag(ModelConfig.__name__)],
    Discriminator(lambda value: ModelConfig.__name__ if isinstance(value, dict | ModelConfig) else "value"),
]
FITTED = ("pca", "learned", "learned_paper", "learned_shrunk")
SCALES: Mapping[str, tuple[float, ...]] = {"single": (1.0,), "multi": (1.0, 2**-0.5, 0.5), "multi_up": (2**0.5, 1.0, 2**-0.5)}


class ExpansionConfig(Settings):
    """Descriptors are added to their neighbors' (AQE, αQE, DBA)."""

    neighbors: PositiveInt = Field(default=10, le=1000)
    """How many of the most similar images are added. Many where queries have few positives can only harm (Holidays)."""
    alpha: float = Field(default=3.0, ge=0)
    """Each is weighted by its similarity to this power; 0: all alike (average expansion)."""


class TwoStageConfig(Settings):
    """Search over class anchors (CAM): rows are filed under their nearest anchor, and a query visits its nearest lists first."""

    anchors: Path | None = None
    """.npy file (C, D); null: those of the model, which training with loss.name=class_anchor left."""
    probes: PositiveInt = 1
    """Lists that a query visits, ranked together; the others follow in the order of their anchors."""


class VerificationConfig(Settings):
    """Spatial verification: the first rows of a ranking are put in order by the local features that agree with the query's."""

    first: PositiveInt = Field(default=100, le=1000)
    """Rows of each ranking that are compared with the query."""
    least: PositiveInt = 15
    """Features that must agree on one geometry; rows with fewer stay where they are, behind those that are verified."""
    features: PositiveInt = 1000
    """SIFT features of an image, the strongest."""
    size: PositiveInt = 1024
    """Longest side of the images in which they are found; of a query's box, that of its whole image."""
    geometry: Literal["homography", "affine"] = "homography"
    """What they agree on: eight degrees of freedom, or six."""


class ScoreConfig(Settings):
    """What happens between stored descriptors and scores. None of it needs embedding again."""

    exponent: Literal["auto"] | PositiveFloat = "auto"
    """Of the mean over scales; auto: GeM's own where its result is the descriptor, else 1 (cirtorch)."""
    whitening: Literal["own", "none", "pca", "learned", "learned_paper", "learned_shrunk"] = "own"
    """own: that of the model folder or checkpoint, where it has one; else fitted on the descriptors of `whitening_corpus`, at the
    same scales: from principal components, or learned from its matching pairs, as cirtorch computes it, as the paper has it
    (Radenović 2018, §3.4), or shrunk, which bears few pairs and alters a good network the least."""
    dim: PositiveInt | None = None
    """Dimensions that are kept: after whitening, or of a network trained to be cut there (loss.matryoshka); null: all."""
    query_expansion: ExpansionConfig | None = None
    """A query is searched again after its best images were added to it (AQE with alpha 0, else αQE); null: it is not."""
    database_augmentation: ExpansionConfig | None = None
    """Every image of the gallery has its nearest others added (DBA), up to 200,000 images; null: none has."""
    rerank: Literal["none", "k_reciprocal", "diffusion"] = "none"
    """Rankings are made anew from the neighbors of neighbors, up to 200,000 images: k-reciprocal encoding (Zhong 2017), or
    diffusion on the graph of mutual neighbors (Iscen 2017). Both are blind to the ground truth, and need the neighbors of all."""

    verification: VerificationConfig | None = None
    """The first rows are compared with the query by local features, and those that are verified come first. Query expansion then
    adds verified rows alone, and its ranking is verified too. Needs largescale[verification]; null: none are."""

    two_stage: TwoStageConfig | None = None
    """Rankings of a search over class anchors in place of an exhaustive one; null: exhaustive."""
    compression: Literal["none", "int8", "binary"] = "none"
    """The gallery is ranked by descriptors of a byte or a bit for each dimension, queries stay as they are; compared by the
    cosine. What the full descriptors score, and what compression loses, stands beside it."""
    rescored: NonNegativeInt = 100
    """So many rows that are first by the compressed descriptors are put in order by the full ones; 0: none."""

    @model_validator(mode="after")
    def _stages_of_plain_rows(self) -> "ScoreConfig":
        if self.two_stage is not None and (self.mixes_rows or self.is_fitted):
            raise ValueError("two_stage compares descriptors with anchors as they were trained: leave the other settings out")
        return self

    @model_validator(mode="after")
    def _one_order(self) -> "ScoreConfig":
        if self.compression != "none" and self.rerank != "none":
            raise ValueError(
                f"compression={self.compression} with rerank={self.rerank}: each makes the rankings anew; choose one"
            )
        again = [name for name in ("rerank", "compression") if getattr(self, name) != "none"]
        if self.verification is not None and again:
            raise ValueError(f"verification with {again[0]}: each makes the rankings anew; choose one")
        return self

    @property
    def is_fitted(self) -> bool:
        """Whether a whitening is fitted."""
        return self.whitening in FITTED

    @property
    def mixes_rows(self) -> bool:
        """Whether a row's place depends on other rows, so that a ranking without distractors must be made by itself."""
        of_rows = self.query_expansion, self.database_augmentation, self.verification
        return any(of_rows) or self.rerank != "none" or self.compression != "none"


class EvaluateConfig(Settings):
    """An evaluation: what is scored, on which corpora, how images are prepared, where results go."""

    weights: Path | None = None
    """Weights file of a run (runs/NAME/weights/step-N.safetensors)."""
    model: Source | None = None
    """In place of weights: a model folder, hub:USER/NAME, a finished run, or a checkpoint of cirtorch or dirtorch, scored with
    its own size, scales and whitening; or a backbone that was never trained here: model.backbone=NAME model.weights=imagenet."""
    descriptors: Path | None = None
    """In place of weights: .npy file of descriptors (rows, D); they are scaled to unit length."""
    names: Path | None = None
    """With descriptors: text file with the name of each row, a line each."""
    ground_truth: Path | None = None
    """With descriptors: gnd_PROTOCOL.json or .pkl, or a folder of *_query.txt; a query is the row of its image, uncropped."""
    gallery: Location | None = None
    """Corpus that is searched."""
    queries: Location | None = None
    """Corpus of the queries; null: the gallery's ground truth names them, or each of its images is one, leaving itself out."""
    distractors: Locations = ()
    """Corpus or corpora without right answers, searched with the gallery; scores are given for growing numbers of them."""
    protocol: ProtocolName = "auto"
    """auto: that of the ground truth that comes with the queries, else labels."""
    metrics: tuple[str, ...] = ()
    """Further metrics, by name (precision_at_1, recall_at_5, map_at_100) or your own by import path (package.module:function)."""
    crop: bool = True
    """Cut queries to the box in their ground truth before they are resized; part of the protocol's name."""
    images: ImagesConfig = ImagesConfig()
    scales: Literal["single", "multi", "multi_up"] | None = None
    """Images go through the network at scale 1; at 1, 1/√2 and 1/2 (cirtorch); or at √2, 1 and 1/√2. null: as the model says."""
    whitening_corpus: Location | None = None
    """Corpus that whitening is fitted on: a training corpus, never one of a test."""
    whitening_images: PositiveInt = 100_000
    """Most images of it that are described."""
    score: ScoreConfig = ScoreConfig()
    """One for all test sets."""
    tuned: Mapping[ProtocolName, ScoreConfig] = {}
    """Other settings of score for single test sets, by the name of the protocol: their results are marked as tuned."""
    batch_size: PositiveInt = 16
    """Images of equal shape that go through the network together."""
    precision: Precision = "auto"
    """Numbers in which the network runs: auto = bf16 where the processor has it fast, else fp32; it is kept with the scores."""
    loader: LoaderConfig = LoaderConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig(wandb="off")
    """Weights & Biases mirrors the report in tables where tracking.wandb is not off."""
    store: Path | None = None
    """Folder for descriptors, so that evaluations of the same weights share those of their distractors; null: OUT/descriptors."""
    out: Path = Path("evaluation")
    """Folder of the results; the same command goes on where it was stopped."""

    @model_validator(mode="after")
    def _whitening_needs_a_corpus(self) -> "EvaluateConfig":
        whitened = any(score.is_fitted for score in (self.score, *self.tuned.values()))
        if whitened and self.descriptors is not None:
            raise ValueError(
                "score.whitening: a file of descriptors comes without a training corpus to fit it on; whiten its rows before "
                "(largescale.models.PCAWhitening) and leave the setting out, or give weights and whitening_corpus in its place"
            )
        if whitened and self.whitening_corpus is None:
            raise ValueError("whitening is fitted on descriptors of a training corpus; give whitening_corpus=CORPUS")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "EvaluateConfig":
        given = [name for name in ("weights", "model", "descriptors") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: one of them is scored, not both; remove one")
        if isinstance(self.model, ModelConfig) and "weights" not in self.model.model_fields_set:
            raise ValueError("model.weights: which does the backbone have? give imagenet, a file, or none (random)")
        if self.descriptors is not None:
            missing = [name for name in ("names", "ground_truth") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"{' and '.join(missing)}: descriptors say nothing about their rows without it; give it")
            if self.gallery or self.queries or self.distractors or self.whitening_corpus:
                raise ValueError(
                    "gallery, queries, distractors, whitening_corpus: weights embed corpora; with descriptors, remove them"
                )
        return self

    @property
    def subject(self) -> Path | str | ModelConfig | None:
        """The network that is scored; None where descriptors are."""
        return self.weights if self.model is None else self.model

    def rules(self, family: str) -> ScoreConfig:
        """What happens between descriptors and scores under the protocols of a family."""
        return next((score for name, score in self.tuned.items() if name == family), self.score)
