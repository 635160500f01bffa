"""The columns of a corpus, memory-mapped, and the file that describes them.

A corpus is a folder: `manifest.json`, `images.arrow`, `labels.arrow`, WebDataset tars, and where the source knows them
`pairs.arrow`, `boxes.arrow` and `ground_truth.json`. Image id = row number of `images.arrow`. Images of one label are
contiguous and the images of a shard are contiguous and in the order of the tar. `manifest.json` is written last: it is the
marker.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from pydantic import Field, NonNegativeInt, ValidationError

from largescale.commit import DamagedError, checksum_of, committed_file, parse_json, read_json, write_json
from largescale.names import Component, Sha256
from largescale.settings import Settings, UserError

FORMAT = "largescale corpus"
VERSION = 2
IMAGE_COLUMNS = {
    "key": pa.large_string(),
    "shard": pa.int32(),
    "offset": pa.int64(),
    "size": pa.int32(),
    "width": pa.int32(),
    "height": pa.int32(),
    "label": pa.int32(),
    "checksum": pa.uint64(),
}
PAIR_COLUMNS = {
    "query": pa.int64(),
    "positive": pa.int64(),
    "inliers": pa.int32(),
    "overlap": pa.float32(),
    "scale": pa.float32(),
    "distance": pa.float32(),
}
BOX_COLUMNS = dict.fromkeys(("x0", "y0", "x1", "y1"), pa.float32())
"""Where the object of an image is, in stored pixels; NaN for an image without a box."""


class Storage(Protocol):
    """Where the files of a corpus live; `largescale.corpus.storage.storage` opens one from a path or URL."""

    @property
    def location(self) -> str: ...

    @property
    def open_shards(self) -> int:
        """How many shards a process keeps open."""
        ...

    def local(self, name: str, size: int | None = None, sha256: str | None = None) -> Path:
        """The path of a complete, verified local copy of the file `name` of the corpus."""
        ...

    def open(self, name: str, size: int, sha256: str) -> int:
        """A descriptor to read the shard `name`, verified; while it is open, the shard stays."""
        ...


@dataclass(frozen=True)
class Shard:
    """One tar of the corpus."""

    name: Component
    samples: NonNegativeInt
    bytes: NonNegativeInt
    sha256: Sha256


class FileFacts(Settings):
    """What is known of a file of columns."""

    size: NonNegativeInt
    sha256: Sha256
    xxh3: str
    """Checked each time before the file is mapped, as fast as it can be read."""


class ManifestFile(Settings):
    """`manifest.json`, as somebody sent it: every name in it is a plain one."""

    format: Literal["largescale corpus"]
    version: Literal[2]
    name: Component
    fingerprint: str = Field(pattern="^[0-9a-f]{16}$")
    images: NonNegativeInt
    labels: NonNegativeInt
    made: Mapping[str, Any]
    files: Mapping[Literal["images.arrow", "labels.arrow", "pairs.arrow", "boxes.arrow", "ground_truth.json"], FileFacts]
    shards: tuple[Shard, ...]


def parse_manifest(data: bytes, where: str) -> ManifestFile:
    """The contents of `manifest.json`.

    Raises:
        UserError: it is damaged, of another format or version, or names what is no plain file.
    """
    _check_version(data, where)
    values = parse_json(data, where)
    try:
        manifest = ManifestFile.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise UserError(f"{where}: {place}: {fault['msg']}; this is no manifest that make shards wrote") from None
    files: dict[str, Any] = {name: facts.model_dump() for name, facts in manifest.files.items()}
    if fingerprint_of(manifest.shards, files) != manifest.fingerprint:
        raise DamagedError(
            f"{where}: its fingerprint is not that of its shards and files; copy it again or run make shards again"
        )
    return manifest


def _check_version(data: bytes, where: str) -> None:
    try:
        values = json.loads(data)
        kind, version = values["format"], values["version"]
    except (ValueError, RecursionError, LookupError, TypeError):
        raise UserError(f"{where} is damaged, or no manifest of a corpus; copy it again or run make shards again") from None
    if (kind, version) != (FORMAT, VERSION):
        found = f"{kind!r:.60} version {version!r:.20}"
        raise UserError(f"{where}: expected {FORMAT!r} version {VERSION}, found {found}; run make shards again")


@dataclass(frozen=True)
class Manifest:
    """A corpus without its pixels. Columns are zero-copy views of memory-mapped files."""

    storage: Storage
    name: str
    fingerprint: str
    shards: tuple[Shard, ...]
    made: Mapping[str, Any]
    """How the source was read: layout, longest side, filter, quality, undecodable images."""
    files: Mapping[str, Mapping[str, Any]]
    columns: Mapping[str, Any] = field(repr=False)

    @staticmethod
    def open(storage: Storage) -> "Manifest":
        """Read `manifest.json` and map the columns.

        Raises:
            UserError: no manifest, another format version, or columns from another build.
        """
        manifest = Manifest.read(storage)
        if not _rows_fit(manifest):
            raise UserError(f"{storage.location}/images.arrow names places that its shards have not; run make shards again")
        return manifest

    @staticmethod
    def read(storage: Storage) -> "Manifest":
        """As `open`, but places that the shards have not are left for `shards.verify` to name."""
        where = f"{storage.location}/manifest.json"
        try:
            found = parse_manifest(storage.local("manifest.json").read_bytes(), where)
        except FileNotFoundError:
            raise UserError(f"{where} does not exist: no corpus; `make shards SOURCE=… LAYOUT=… OUT=…` builds one") from None
        files = {name: facts.model_dump() for name, facts in found.files.items()}
        manifest = _mapped(storage, found.name, found.fingerprint, found.shards, found.made, files)
        expected, rows = sum(shard.samples for shard in found.shards), len(manifest)
        if rows != expected:
            raise UserError(f"{where} counts {expected:,} images but images.arrow has {rows:,} rows; run make shards again")
        return manifest

    def __reduce__(self) -> Any:
        """Another process maps the columns itself: they are not copied."""
        return _mapped, (self.storage, self.name, self.fingerprint, self.shards, self.made, self.files)

    def __len__(self) -> int:
        return len(self.columns["key"])

    @property
    def keys(self) -> pa.Array:
        return self.columns["key"]

    @property
    def shard(self) -> np.ndarray:
        """`(images,)` index of each image's shard; non-decreasing."""
        return self.columns["shard"]

    @property
    def offset(self) -> np.ndarray:
        """`(images,)` byte position of the encoded image in its tar."""
        return self.columns["offset"]

    @property
    def size(self) -> np.ndarray:
        """`(images,)` bytes of the encoded image."""
        return self.columns["size"]

    @property
    def width(self) -> np.ndarray:
        return self.columns["width"]

    @property
    def height(self) -> np.ndarray:
        return self.columns["height"]

    @property
    def label(self) -> np.ndarray:
        """`(images,)` label number, or -1; images of one label are contiguous."""
        return self.columns["label"]

    @property
    def checksum(self) -> np.ndarray:
        """`(images,)` XXH3 of the encoded image."""
        return self.columns["checksum"]

    @cached_property
    def shard_start(self) -> np.ndarray:
        """`(shards + 1,)`: images `shard_start[s] : shard_start[s + 1]` are those of shard s."""
        return np.concatenate([[0], np.cumsum([shard.samples for shard in self.shards], dtype=np.int64)])

    @cached_property
    def label_names(self) -> pa.Array:
        """`(labels,)` the source's names of the labels."""
        return self._table("labels.arrow")["name"]

    @cached_property
    def super_labels(self) -> np.ndarray | None:
        """`(labels,)` number of each label's super-label: of the part of its name before the first slash; None unless all
        names have one."""
        names = self.label_names.to_pylist()
        if not names or not all("/" in name for name in names):
            return None
        return np.unique([name.split("/")[0] for name in names], return_inverse=True)[1]

    @cached_property
    def pairs(self) -> Mapping[str, np.ndarray] | None:
        """Columns of `pairs.arrow` (`query` and `positive` are image ids), or None for a corpus without pairs."""
        if "pairs.arrow" not in self.files:
            return None
        pairs = self._table("pairs.arrow")
        largest = max((int(pairs[name].max()) for name in ("query", "positive") if len(pairs[name])), default=-1)
        if largest >= len(self):
            raise UserError(
                f"{self.storage.location}/pairs.arrow names image {largest:,} but images.arrow has {len(self):,} rows: "
                "these files are from different builds; run make shards again"
            )
        return pairs

    @cached_property
    def weights(self) -> np.ndarray | None:
        """`(images,)` how often an image is drawn relative to others, where corpora were joined with weights; else None."""
        weights = self.made.get("weights", [1.0])
        if len(set(weights)) == 1:
            return None
        return np.repeat(np.array(weights), np.diff(self.made["images"]))

    @cached_property
    def boxes(self) -> np.ndarray | None:
        """`(images, 4)` x0, y0, x1, y1 in stored pixels, NaN for an image without a box; None for a corpus without boxes."""
        if "boxes.arrow" not in self.files:
            return None
        table = self._table("boxes.arrow")
        return np.stack([table[side] for side in BOX_COLUMNS], axis=1)

    @cached_property
    def ground_truth(self) -> Mapping[str, Any] | None:
        """`ground_truth.json` of a test set (see `shards.sources`), or None."""
        if "ground_truth.json" not in self.files:
            return None
        return read_json(_checked(self.storage, "ground_truth.json", self.files))

    def _table(self, name: str) -> Mapping[str, Any]:
        return map_table(_checked(self.storage, name, self.files))


def _checked(storage: Storage, name: str, files: Any) -> Path:
    """The path of a file of columns whose bytes are right at this moment: a wrong one could end the process that maps it."""
    facts = files[name]
    path = storage.local(name, facts["size"], facts["sha256"])
    if (found := checksum_of(path)) != facts["xxh3"]:
        raise DamagedError(
            f"{path} is damaged: its checksum is {found}, expected {facts['xxh3']}; copy it again or run make shards again"
        )
    return path


def _mapped(storage: Storage, name: str, fingerprint: str, shards: tuple[Shard, ...], made: Any, files: Any) -> Manifest:
    columns = map_table(_checked(storage, "images.arrow", files))
    if missing := IMAGE_COLUMNS.keys() - columns.keys():
        raise UserError(f"{storage.location}/images.arrow has no column {', '.join(sorted(missing))}; run make shards again")
    return Manifest(storage, name, fingerprint, shards, made, files, columns)


def _rows_fit(manifest: Manifest) -> bool:
    """Whether each image lies in its shard, and the images of a shard side by side."""
    number, end = manifest.shard, manifest.offset + manifest.size
    if not np.array_equal(number, np.repeat(np.arange(len(manifest.shards)), np.diff(manifest.shard_start))):
        return False
    bytes_of = np.array([shard.bytes for shard in manifest.shards], np.int64)
    return bool(
        ((manifest.offset >= 0) & (manifest.size >= 0) & (end <= bytes_of[number])).all() and (manifest.label >= -1).all()
    )


def write_manifest(
    directory: Path,
    name: str,
    shards: Sequence[Shard],
    images: Mapping[str, Any],
    label_names: Sequence[str],
    made: Mapping[str, Any],
    pairs: Mapping[str, Any] | None = None,
    ground_truth: Mapping[str, Any] | None = None,
    boxes: Mapping[str, Any] | None = None,
) -> None:
    """Write the columns of a corpus whose tars are in place, then `manifest.json`, which makes it complete.

    Args:
        images: the columns of `IMAGE_COLUMNS`, `(images,)` each.
        pairs: the columns of `PAIR_COLUMNS` that the source knows, `(pairs,)` each.
        boxes: the columns of `BOX_COLUMNS`, `(images,)` each.
    """
    write_table(directory / "images.arrow", images, IMAGE_COLUMNS)
    write_table(directory / "labels.arrow", {"name": label_names}, {"name": pa.large_string()})
    written = ["images.arrow", "labels.arrow"]
    if pairs is not None:
        write_table(directory / "pairs.arrow", pairs, PAIR_COLUMNS)
        written.append("pairs.arrow")
    if boxes is not None:
        write_table(directory / "boxes.arrow", boxes, BOX_COLUMNS)
        written.append("boxes.arrow")
    if ground_truth is not None:
        write_json(directory / "ground_truth.json", ground_truth)
        written.append("ground_truth.json")
    files = {file: facts_of(directory / file) for file in written}
    values = {"format": FORMAT, "version": VERSION, "name": name, "fingerprint": fingerprint_of(shards, files)}
    values["images"] = len(images["key"])
    values |= {"labels": len(label_names), "made": dict(made), "files": files, "shards": [asdict(shard) for shard in shards]}
    write_json(directory / "manifest.json", values)


def facts_of(path: Path) -> dict[str, Any]:
    """The `FileFacts` of a file."""
    return {"size": path.stat().st_size, "sha256": sha256_of(path), "xxh3": checksum_of(path)}


def fingerprint_of(shards: Sequence[Shard], files: Mapping[str, Mapping[str, Any]]) -> str:
    """What a corpus is known by: changes with any byte of its images, keys, sizes, labels, pairs or ground truth."""
    tars = (f"{shard.name} {shard.samples} {shard.bytes} {shard.sha256}" for shard in shards)
    parts = [*tars, *(f"{name} {sorted(files[name].items())}" for name in sorted(files))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_table(path: Path, columns: Mapping[str, Any], types: Mapping[str, pa.DataType]) -> None:
    """The columns that are there, in the order of the types."""
    known = {name: pa.array(columns[name], type=kind) for name, kind in types.items() if name in columns}
    batch = pa.record_batch(list(known.values()), names=list(known))
    with committed_file(path) as temporary, pa.ipc.new_file(str(temporary), batch.schema) as writer:
        writer.write_batch(batch)


def map_table(path: Path) -> Mapping[str, Any]:
    """Numeric columns as zero-copy numpy views, text columns as Arrow arrays; nothing is read until it is touched."""
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    columns = {name: batch.column(name) for name in batch.schema.names}
    return {name: c if pa.types.is_large_string(c.type) else np.from_dlpack(c) for name, c in columns.items()}
