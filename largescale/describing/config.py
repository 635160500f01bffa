"""Settings of a pass that describes pictures, and of an export."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from largescale.corpus.config import LoaderConfig, StorageConfig
from largescale.models.config import ModelConfig
from largescale.names import Location
from largescale.settings import Settings

Format = Literal["npy", "parquet", "arrow", "hdf5", "fvecs"]
Runtime = Literal["onnx", "program", "torchscript"]


class EmbedConfig(Settings):
    """Descriptors of pictures by a trained network; no labels and no shards are needed."""

    model: str
    """A model folder, hub:USER/NAME, or the folder of a run."""
    source: Location
    """A folder of images, of tars or of Parquet files, one tar, a Parquet file, a list with a path per line, or a corpus."""
    out: Path
    """Folder of the result; the same command goes on where it was stopped."""
    format: Format = "npy"
    """npy: descriptors.npy and names.txt; parquet, arrow: a table of keys and descriptors; hdf5: a group per image, as hloc reads
    global descriptors; fvecs: descriptors.fvecs and names.txt."""
    pairs: int = Field(default=0, ge=0)
    """Write pairs.txt with so many nearest others of each image, as hloc and COLMAP match them; 0: none."""
    batch_size: PositiveInt = 64
    """Images of equal shape that go through the network together."""
    loader: LoaderConfig = LoaderConfig()
    storage: StorageConfig = StorageConfig()


class ExportConfig(Settings):
    """A model folder and, where asked, files for other runtimes.

    MODEL is a model folder, hub:USER/NAME, a run, weights of a run, or a checkpoint of cirtorch or dirtorch.
    """

    model: ModelConfig | None = None
    """In place of MODEL: a backbone, model.backbone=NAME, with model.weights=imagenet or a published state dict."""
    formats: tuple[Runtime, ...] = ()
    """onnx: one ONNX file; program: of torch.export; torchscript: for C++. Each is checked against the network first."""
    pictures: str | None = None
    """A folder of photographs of several sizes, to check the formats on."""
    multiscale: bool = False
    """Of a checkpoint of cirtorch or dirtorch: describe at three scales, with the whitening for these."""
    license: str = "other"
    """Of the model card."""
    push: str | None = None
    """USER/NAME on the Hugging Face hub, to which the folder is uploaded."""
