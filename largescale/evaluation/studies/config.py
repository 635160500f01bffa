"""Settings of what is measured beside the scores: two-stage search, leaks, studies of descriptors."""

from pathlib import Path

from pydantic import Field, PositiveInt, model_validator

from largescale.evaluation.config import EvaluateConfig
from largescale.settings import Settings


class StudyConfig(EvaluateConfig):
    """A study: what an evaluation scores, with the same settings; descriptors are embedded once, into `store`."""

    @model_validator(mode="after")
    def _of_weights(self) -> "StudyConfig":
        if self.subject is None or self.gallery is None:
            raise ValueError("weights (or model) and gallery: a study embeds a corpus; give both")
        return self


class AnchorsConfig(StudyConfig):
    """Two-stage search over class anchors, beside exhaustive search and FAISS's inverted file."""

    anchors: Path | None = None
    """.npy file (C, D); null: those of the model, which training with loss.name=class_anchor left."""
    probes: tuple[PositiveInt, ...] = Field(default=(1, 2, 5, 10), min_length=1)
    """How many anchors a query visits, one after the other setting."""


class ConventionsConfig(Settings):
    """One file of rankings scored by this project's protocols and by other tools, those that are installed."""

    scores: Path
    """CSV or Parquet with the columns query, image, score (larger is nearer; empty: the ranking was cut before it) and relevant
    (1 right, 0 wrong, -1 junk)."""
    k: PositiveInt = 5
    """Of the measures at k."""
    out: Path = Path("evaluation")
    """Folder of the table."""


class DecomposabilityConfig(StudyConfig):
    """The decomposability gap: how much higher precision is within batches than over all images (ROADMAP §4.1)."""

    against: tuple[Path, ...] = ()
    """Further weights, for instance of a run without calibration: a curve each."""
    sizes: tuple[PositiveInt, ...] = Field(default=(16, 32, 64, 128, 256, 512), min_length=1)
    """Images of a batch; sizes of which the gallery gives no batch of different images are left out."""
    sample: PositiveInt = 5000
    """Most images of the gallery that the batches of one size hold."""


class LeaksConfig(StudyConfig):
    """Near-duplicates between a training corpus and what an evaluation uses: queries, gallery, distractors."""

    training: str = Field(min_length=1)
    """Corpus that was trained on."""
    bits: int = Field(default=10, ge=0, le=128)
    """Perceptual hashes of 128 bits that differ in at most so many are near-duplicates."""
    similarity: float = Field(default=0.95, gt=0, le=1)
    """Descriptors at least so similar are near-duplicates."""


class PoolingConfig(StudyConfig):
    """Pooling, whitening and dimension: GeM, MAC, SPoC and R-MAC over one backbone (RDE, figure 9, tables 2 and 3)."""

    dims: tuple[PositiveInt, ...] = Field(default=(16, 32, 64, 128, 256, 512, 1024, 2048), min_length=1)
    """Dimensions that are kept after whitening; those that the descriptors do not have are left out. The rows of each are in
    the store."""

    @model_validator(mode="after")
    def _of_a_training_corpus(self) -> "PoolingConfig":
        if self.whitening_corpus is None:
            raise ValueError("whitening is fitted on descriptors of a training corpus; give whitening_corpus=CORPUS")
        return self


class NeighborsConfig(StudyConfig):
    """Number of neighbors of average and of weighted query expansion (LRML, figure 10)."""

    neighbors: tuple[PositiveInt, ...] = Field(default=(1, 2, 5, 10, 20, 50, 100), min_length=1)
    alpha: float = Field(default=3.0, gt=0)
    """Of the weighted one."""


class ScalesConfig(StudyConfig):
    """A single scale against several; with whitening too, where there is a whitening_corpus."""


class DistractorsConfig(StudyConfig):
    """Scores among 0, 1,000, 10,000 ... distractors, each number with the ones before."""

    @model_validator(mode="after")
    def _some(self) -> "DistractorsConfig":
        if not self.distractors:
            raise ValueError("the curve needs distractors=CORPUS")
        return self
