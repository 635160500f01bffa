"""Settings of an evaluation."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, PositiveInt, model_validator

from largescale.corpus.config import ImagesConfig, LoaderConfig, StorageConfig
from largescale.settings import Settings

ProtocolName = Literal["auto", "labels", "oxford5k", "paris6k", "roxford5k", "rparis6k"]


class EvaluateConfig(Settings):
    """An evaluation: what is scored, on which corpora, how images are prepared, where results go."""

    weights: Path | None = None
    """Weights file of a run (runs/NAME/weights/step-N.safetensors)."""
    descriptors: Path | None = None
    """In place of weights: .npy file of descriptors (rows, D); they are scaled to unit length."""
    names: Path | None = None
    """With descriptors: text file with the name of each row, a line each."""
    ground_truth: Path | None = None
    """With descriptors: gnd_PROTOCOL.json or .pkl, or a folder of *_query.txt; a query is the row of its image, uncropped."""
    gallery: str | None = None
    """Corpus that is searched."""
    queries: str | None = None
    """Corpus of the queries; null: the gallery's ground truth names them, or each of its images is one, leaving itself out."""
    distractors: Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)] = ()
    """Corpus or corpora without right answers, searched with the gallery; scores are given for growing numbers of them."""
    protocol: ProtocolName = "auto"
    """auto: that of the ground truth that comes with the queries, else labels."""
    crop: bool = True
    """Cut queries to the box in their ground truth before they are resized; part of the protocol's name."""
    images: ImagesConfig = ImagesConfig(size=1024)
    batch: PositiveInt = 16
    """Images of equal shape that go through the network together."""
    loader: LoaderConfig = LoaderConfig()
    storage: StorageConfig = StorageConfig()
    store: Path | None = None
    """Folder for descriptors, so that evaluations of the same weights share those of their distractors; null: they are in OUT
    until the results are written."""
    out: Path = Path("evaluation")
    """Folder of the results; the same command goes on where it was stopped."""

    @model_validator(mode="after")
    def _one_source(self) -> "EvaluateConfig":
        if self.weights is not None and self.descriptors is not None:
            raise ValueError("weights and descriptors: one of them is scored, not both; remove one")
        if self.descriptors is not None:
            missing = [name for name in ("names", "ground_truth") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"{' and '.join(missing)}: descriptors say nothing about their rows without it; give it")
            if self.gallery or self.queries or self.distractors:
                raise ValueError("gallery, queries, distractors: corpora are embedded by weights; with descriptors, remove them")
        return self
