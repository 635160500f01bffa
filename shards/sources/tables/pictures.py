"""Tables that hold the images themselves: Parquet and Arrow files, folders of Hugging Face datasets, Lance and LMDB.

An image is a column of encoded bytes, or of `{bytes, path}` as Hugging Face writes it.
"""

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from largescale.settings import UserError

from .. import Item, Skipped, Source
from ..files import begins_like_image, readable
from ..layout import Layout, Request
from .columns import LABELS, plain, text

IMAGES = ("image", "img", "jpg", "png", "picture", "photo", "bytes")
"""Names of columns of images, where there are several."""
FAILED = "status"
"""The column in which img2dataset says what became of a row."""
OPEN = 8


@dataclass(frozen=True)
class ImageTables(Source):
    """The rows of one table after another."""

    files: tuple[Path, ...]
    layout: str
    label_field: str | None = None
    name: str = ""

    @property
    def labeled(self) -> bool:  # type: ignore[override]
        return self._label(self.schema()) is not None

    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns of the tables."""

    @abstractmethod
    def columns(self, file: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Place and some values of each row, without its image."""

    @abstractmethod
    def image(self, place: str, column: str) -> Any:
        """The cell of a row that holds its image."""

    def items(self) -> Iterator[Item | Skipped]:
        schema = self.schema()
        image, label = image_column(schema, self.files[0]), self._label(schema)
        classes = class_names(schema).get(label or "", ())
        wanted = [name for name in (label, FAILED) if name and name in schema.names]
        number = 0
        for file in self.files:
            for place, values in self.columns(file, wanted):
                status = values.get(FAILED)
                if isinstance(status, str) and status != "success" and image == "jpg":
                    yield Skipped(place, f"img2dataset: {status}")
                    continue
                yield Item(
                    f"{self.name or file.stem.replace('.', '_')}/{number:08d}", _named(values.get(label or ""), classes), place
                )
                number += 1

    def read(self, place: str) -> bytes:
        cell = self.image(place, image_column(self.schema(), self.files[0]))
        return (cell["bytes"] if isinstance(cell, Mapping) else cell) or b""

    def _label(self, schema: pa.Schema) -> str | None:
        known = {plain(name): name for name in schema.names}
        if self.label_field is not None:
            if plain(self.label_field) not in known:
                raise UserError(f"{self.files[0]} has no column {self.label_field!r}; it has: {', '.join(schema.names)}")
            return known[plain(self.label_field)]
        return next((known[name] for name in LABELS if name in known), None)


class Parquet(ImageTables):
    """Place: file number@row group@row. Rows of a group lie together, so a few groups are kept in memory."""

    def schema(self) -> pa.Schema:
        return _parquet(self.files[0]).schema_arrow

    def columns(self, file: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        number, table = self.files.index(file), _parquet(file)
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            columns = table.read_row_group(group, columns=names).to_pydict() if names else {}
            for row in range(rows):
                yield f"{number}@{group}@{row}", {name: columns[name][row] for name in names}

    def image(self, place: str, column: str) -> Any:
        number, group, row = map(int, place.split("@"))
        return _group(self.files[number], group, column)[row].as_py()


class Arrow(ImageTables):
    """Arrow files, in the stream or the file format. Place: file number@row. Memory-mapped."""

    def schema(self) -> pa.Schema:
        return _arrow(self.files[0]).schema

    def columns(self, file: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        number, table = self.files.index(file), _arrow(file)
        columns = table.select(names).to_pydict()
        for row in range(len(table)):
            yield f"{number}@{row}", {name: columns[name][row] for name in names}

    def image(self, place: str, column: str) -> Any:
        number, row = map(int, place.split("@"))
        return _arrow(self.files[number])[column][row].as_py()


class HuggingFace(ImageTables):
    """A folder of `datasets.save_to_disk`. Place: row."""

    def schema(self) -> pa.Schema:
        return _hugging_face(self.files[0]).features.arrow_schema

    def columns(self, file: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        table = _hugging_face(file)
        columns = {name: table.select_columns([name])[name] for name in names}
        for row in range(len(table)):
            yield str(row), {name: columns[name][row] for name in names}

    def image(self, place: str, column: str) -> Any:
        import datasets

        undecoded = _hugging_face(self.files[0]).select_columns([column]).cast_column(column, datasets.Image(decode=False))
        return undecoded[int(place)][column]


class Lance(ImageTables):
    """A Lance data set. Place: row."""

    def schema(self) -> pa.Schema:
        return _lance(self.files[0]).schema

    def columns(self, file: Path, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        table = _lance(file)
        columns = table.to_table(columns=names).to_pydict() if names else {}
        for row in range(table.count_rows()):
            yield str(row), {name: columns[name][row] for name in names}

    def image(self, place: str, column: str) -> Any:
        return _lance(self.files[0]).take([int(place)], columns=[column])[column][0].as_py()


@dataclass(frozen=True)
class KeyValue(Source):
    """An LMDB whose values are encoded images (LSUN's form); the label is the folder in the key, if it has one."""

    path: Path
    layout: str = "lmdb"

    def items(self) -> Iterator[Item | Skipped]:
        with _lmdb(self.path).begin() as transaction:
            for key, value in transaction.cursor():
                name = key.decode("utf-8", "backslashreplace")
                if not begins_like_image(bytes(value[:32])):
                    yield Skipped(name, "value is no encoded image")
                    continue
                folder, _, base = name.rpartition("/")
                stem = base.rpartition(".")[0] or base
                yield Item(f"{folder}/{stem}".strip("/").replace(".", "_"), folder or None, name)

    def read(self, place: str) -> bytes:
        with _lmdb(self.path).begin() as transaction:
            return transaction.get(place.encode()) or b""


def image_column(schema: pa.Schema, where: object) -> str:
    """The column that holds encoded images.

    Raises:
        UserError: none, or several without a usual name.
    """
    found = [field.name for field in schema if _holds_images(field.type)]
    usual = [column for name in IMAGES for column in found if plain(column) == name]
    if not found or (len(found) > 1 and not usual):
        columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise UserError(f"{where}: expected a column of encoded images (binary, or bytes and path); it has {columns}")
    return (usual or found)[0]


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(number).name for number in range(kind.num_fields)}
    storage = getattr(kind, "storage_type", kind)
    return pa.types.is_binary(storage) or pa.types.is_large_binary(storage)


def class_names(schema: pa.Schema) -> Mapping[str, Sequence[str]]:
    """Names of the numbers in a column, where Hugging Face wrote them into the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError):
        return {}
    return {name: feature["names"] for name, feature in features.items() if isinstance(feature, dict) and "names" in feature}


def _named(value: Any, classes: Sequence[str]) -> str | None:
    label = text(value)
    return classes[int(label)] if label is not None and classes else label


@lru_cache(maxsize=OPEN)
def _parquet(path: Path) -> pq.ParquetFile:
    with readable(path):
        return pq.ParquetFile(path, memory_map=True)


@lru_cache(maxsize=OPEN)
def _group(path: Path, group: int, column: str) -> pa.ChunkedArray:
    return _parquet(path).read_row_group(group, columns=[column])[column]


@lru_cache(maxsize=OPEN)
def _arrow(path: Path) -> pa.Table:
    memory = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(memory).read_all()
    except pa.ArrowInvalid:
        memory.seek(0)
        with readable(path):
            return pa.ipc.open_stream(memory).read_all()


@lru_cache(maxsize=OPEN)
def _hugging_face(path: Path) -> Any:
    return _extra("datasets", "datasets").load_from_disk(str(path))


@lru_cache(maxsize=OPEN)
def _lance(path: Path) -> Any:
    return _extra("lance", "lance").dataset(str(path))


@lru_cache(maxsize=OPEN)
def _lmdb(path: Path) -> Any:
    lmdb = _extra("lmdb", "lmdb")
    try:
        return lmdb.open(str(path), readonly=True, lock=False, subdir=path.is_dir(), readahead=False)
    except lmdb.Error as error:
        raise UserError(f"{path} is no LMDB that can be read ({error})") from None


def _extra(module: str, extra: str) -> Any:
    try:
        return __import__(module)
    except ImportError:
        raise UserError(
            f"this source needs the package {module}, which is not installed; pip install 'largescale[{extra}]'"
        ) from None


class Tables(Layout):
    name = "table"
    about = "images in Parquet or Arrow files, a folder of Hugging Face datasets, a Lance data set or an LMDB; --label-field"
    corpora = "one; of Hugging Face splits one each"
    generic = True

    def recognize(self, source: Path) -> str | None:
        if (source / "dataset_dict.json").is_file() or (
            (source / "state.json").is_file() and (source / "dataset_info.json").is_file()
        ):
            return "dataset_dict.json" if (source / "dataset_dict.json").is_file() else "state.json, dataset_info.json"
        if (source / "data.mdb").is_file():
            return "data.mdb"
        if (source / "_versions").is_dir() and (source / "data").is_dir():
            return "a Lance data set"
        files = _files(source, ".parquet") or _files(source, ".arrow")
        return f"{len(files):,} files like {files[0].name} with images" if files and _has_images(files[0]) else None

    def read(self, request: Request) -> Mapping[str, Source]:
        source, field = request.source, request.label_field
        if (source / "dataset_dict.json").is_file():
            names = json.loads((source / "dataset_dict.json").read_text())["splits"]
            return {name: HuggingFace((source / name,), self.name, field, name) for name in names}
        if (source / "state.json").is_file():
            return {"": HuggingFace((source,), self.name, field, "data")}
        if (source / "data.mdb").is_file() or (source.suffix in (".mdb", ".lmdb") and source.is_file()):
            return {"": KeyValue(source)}
        if (source / "_versions").is_dir():
            return {"": Lance((source,), self.name, field, source.stem)}
        for suffix, kind in (".parquet", Parquet), (".arrow", Arrow):
            if files := _files(source, suffix):
                splits = splits_of_names(files)
                return {name: kind(tuple(own), self.name, field, name) for name, own in splits.items()}
        raise UserError(
            f"{source} is no {self.name}: expected .parquet or .arrow files, dataset_info.json, data.mdb or a Lance folder"
        )


def _files(source: Path, suffix: str) -> list[Path]:
    return (
        [source]
        if source.is_file() and source.suffix == suffix
        else sorted(source.rglob(f"*{suffix}"))
        if source.is_dir()
        else []
    )


def _has_images(path: Path) -> bool:
    try:
        schema = pq.read_schema(path) if path.suffix == ".parquet" else _arrow(path).schema
    except (pa.ArrowInvalid, OSError, UserError):
        return False
    return any(_holds_images(field.type) for field in schema)


def splits_of_names(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files of Hugging Face's names (`train-00000-of-00041.parquet`) by split; all in one where they have others."""
    known = ("train", "validation", "val", "test")
    names = [next((name for name in known if path.name.startswith((f"{name}-", f"{name}."))), "") for path in files]
    if not all(names):
        return {"": list(files)}
    return {name: [path for path, own in zip(files, names, strict=True) if own == name] for name in dict.fromkeys(names)}
