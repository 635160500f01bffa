"""Settings of launch/search.py, a class for each of its verbs."""

from pathlib import Path

from pydantic import Field, NonNegativeInt, model_validator

from largescale.search.find import Options
from largescale.search.manifest import IndexManifest, Kind
from largescale.settings import Settings


class OfIndex(Settings):
    """An index."""

    index: Path
    """Folder of the index."""


class OfModel(OfIndex):
    """An index and its model."""

    model: str | None = None
    """The model that made the index; null: where it was when the index was built."""


class BuildConfig(OfIndex):
    """A new index, of the pictures in a folder or of descriptors that are there already."""

    model: str | None = None
    """Model folder that describes the pictures."""
    source: Path | None = None
    """Folder of pictures; the label of one is the folder that it is in, its key the path below this one."""
    rows: Path | None = None
    """In place of model and source: descriptors, an .npy of (n, D) unit rows."""
    names: Path | None = None
    """The keys of `rows`, a line for each."""
    prefix: str = ""
    """What the keys begin with."""
    factory: str = "auto"
    """exact, a FAISS factory string, e.g. IVF4096,SQ8, whose candidates are scored with the rows, or auto: exact while the rows
    fit memory_gb, else lists of codes, by the rule of mining, searched as deep as min_recall takes."""
    memory_gb: float = Field(default=Kind.memory / 2**30, gt=0)
    """auto: gigabytes (2**30 bytes) of rows up to which search is exact."""
    min_recall: float = Field(default=Kind.min_recall, ge=0, le=1)
    """Share of the true 20 neighbors that an approximate index shall find; measured on 256 rows, and said."""
    thumbnails: NonNegativeInt = Field(default=IndexManifest.thumbnails, le=1024)
    """Longest side of the small pictures that are kept to be shown; 0: none."""

    @model_validator(mode="after")
    def _one_source(self) -> "BuildConfig":
        if (self.model is None or self.source is None) == (self.rows is None or self.names is None):
            raise ValueError("an index is built of model=… and source=…, or of rows=… and names=…; give one of the two pairs")
        return self


class AddConfig(OfModel):
    """More pictures: those that are new, and those that have changed since they were added."""

    source: Path
    """Folder of pictures, or one picture."""
    prefix: str = ""
    """What the keys begin with."""


class RemoveConfig(OfIndex):
    """Pictures that leave the index; their files stay."""

    keys: tuple[str, ...] = ()
    """Their keys."""
    label: str | None = None
    """Those with this label; * stands for any text, ? for any letter."""
    path: str | None = None
    """Those whose key is like this."""
    missing: bool = False
    """Those whose files are no longer there."""

    @model_validator(mode="after")
    def _something(self) -> "RemoveConfig":
        if not (self.keys or self.label or self.path or self.missing):
            raise ValueError("which? give keys=[…], label=…, path=… or missing=true")
        return self


class QueryConfig(OfModel, Options):
    """A search."""

    pictures: tuple[Path, ...] = ()
    """Pictures; several are one query, by the mean of their descriptors."""
    key: str | None = None
    """In place of pictures: one of the index, which is not among the results."""
    box: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1: the part of the only picture that is looked for, in pixels of the upright picture."""


class DuplicatesConfig(OfModel):
    """Groups of pictures that are nearly the same."""

    threshold: float | None = None
    """Similarity from which two pictures are duplicates; null: chosen from the similarities of known ones."""
    known: Path | None = None
    """Known duplicates: a text file with two keys in each line, with a tab between. null: pictures of the index are made smaller,
    cut, and compressed."""
    share: float = Field(default=0.95, gt=0, lt=1)
    """Share of the known duplicates that the threshold shall find."""
    out: Path | None = None
    """Text file for the groups, `group, similarity to the first of the group, key` in each line; null: they are printed."""


class UploadConfig(OfIndex):
    """Rows and keys sent to a vector database; what is there already is not sent again, what the index lacks is deleted there."""

    to: str
    """postgresql://USER@HOST/DATABASE (with pgvector), qdrant:FOLDER (its local mode), or the http(s):// address of Qdrant."""
    name: str = Field(default="pictures", pattern=r"^[a-z_][a-z0-9_]{0,40}$")
    """The table, or the collection."""
    approximate: bool = True
    """Make the database's own approximate index (HNSW); false: it compares every row."""
    batch_size: int = Field(default=500, gt=0, le=10_000)
    """Rows of one message."""
    check: NonNegativeInt = 64
    """Rows of the index that are searched in both, to measure how many of the same 20 neighbors are found; 0: none."""
