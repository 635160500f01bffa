"""A list of images: a text file with a line per image, JSON lines, or a Parquet file; a header names the columns."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from largescale.settings import UserError

from .. import Item, Skipped, Source
from ..files import IMAGE_SUFFIXES, key_of, read_file, require_files
from ..layout import Layout, Request
from .columns import Columns, TableRow, find_columns, names_path, record
from .text import BLANKS, Dialect, encoding_of, find_dialect, rows

TEXTS = {".csv", ".tsv", ".txt", ".lst", ".list"}
JSON = {".json", ".jsonl", ".ndjson"}
PARQUET = {".parquet", ".pq"}
IN_FOLDER = tuple(f"{name}{suffix}" for name in ("metadata", "df") for suffix in (".csv", ".jsonl", ".parquet"))
"""Tables that are found in a folder."""


@dataclass(frozen=True)
class Table:
    """A file of rows and the columns that are read."""

    path: Path
    columns: Columns
    names: tuple[str, ...] | None
    dialect: Dialect | None = None
    """Of a text file."""

    @staticmethod
    def open(path: Path, root: Path, path_field: str | None = None, label_field: str | None = None) -> "Table":
        """
        Raises:
            UserError: no file, no column that is known to hold paths or labels, or a first line that may be a header.
        """
        if path.suffix.lower() not in PARQUET | JSON:
            return _open_text(path, root, path_field, label_field)
        if not path.is_file():
            raise UserError(f"there is no list {path}")
        names = tuple(pq.read_schema(path).names if path.suffix.lower() in PARQUET else _keys(path))
        return Table(path, find_columns(names, path, path_field, label_field), names)

    def records(self) -> Iterator[TableRow]:
        """Every row, in order."""
        for number, cells in self._rows():
            yield record(cells, self.columns, f"{self.path}:{number}")

    def _rows(self) -> Iterator[tuple[int, Sequence[Any]]]:
        if self.dialect:
            found = rows(self.path, self.dialect, len(self.names) if self.names else None)
            next(found) if self.names else None
            yield from found
        elif self.path.suffix.lower() in JSON:
            yield from ((n, [values.get(name) for name in self.names or ()]) for n, values in enumerate(_objects(self.path), 1))
        else:
            with pq.ParquetFile(self.path) as file:
                columns = [self.names[n] for n in self._used()]  # type: ignore[index]
                for batch in file.iter_batches(columns=columns):
                    values = {name: batch.column(name).to_pylist() for name in columns}
                    for row in range(len(batch)):
                        yield row, [values[name][row] if name in values else None for name in self.names or ()]

    def _used(self) -> list[int]:
        single = [number for number in self.columns if isinstance(number, int)]
        return sorted({*single, *(self.columns.box or ())})

    @property
    def described(self) -> str:
        how = self.dialect.described if self.dialect else self.path.suffix[1:].lower()
        return f"{self.path.name} ({how}): {self.columns.described(self.names)}"


class Lists(Layout):
    name = "list"
    about = "CSV, text, JSON lines or Parquet: columns path, label, and split, is_query, is_gallery, category, group, x_1 … y_2"
    corpora = "one; with split or is_query, is_gallery: one each"
    generic = True

    def recognize(self, source: Path) -> str | None:
        if source.is_dir():
            return next((name for name in IN_FOLDER if (source / name).is_file()), None)
        return source.name if source.suffix.lower() in TEXTS | JSON | PARQUET and source.is_file() else None

    def read(self, request: Request) -> Mapping[str, Source]:
        path = request.source
        if path.is_dir():
            path /= self.recognize(path) or "metadata.csv"
        root = request.root or path.parent
        table = Table.open(path, root, request.path_field, request.label_field)
        print(f"read {table.described}", flush=True)
        return {name: TableSource(table, root, name) for name in corpora_of(table)}


def lists_in(folder: Path) -> list[Path]:
    """The lists right in a folder, by a header that names paths: perhaps what its images are labeled by."""
    return [path for path in sorted(folder.glob("*")) if path.suffix.lower() in (".csv", ".tsv") and _names_paths(path)]


def _names_paths(path: Path) -> bool:
    try:
        return names_path(next(rows(path, find_dialect(path), None))[1])
    except UserError:
        return False


@dataclass(frozen=True)
class TableSource(Source):
    """The rows of a table that belong to a corpus; images below `root`."""

    table: Table
    root: Path
    corpus: str = ""
    layout: str = "list"

    @property
    def labeled(self) -> bool:  # type: ignore[override]
        return self.table.columns.label is not None

    def items(self) -> Iterator[Item | Skipped]:
        places: dict[str, TableRow] = {}
        skipped = []
        for row in self._own():
            if not row.path:
                skipped.append(Skipped(self.table.path.name, "row without a path"))
                continue
            place = _below(self.root, row.path, self.table.path)
            before = places.setdefault(place, row)
            if before is not row:
                skipped.append(self._again(place, before, row))
        require_files(self.root, places)
        yield from (Item(key_of(place), row.label, place, row.box) for place, row in places.items())
        yield from skipped

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)

    def groups(self) -> Iterator[tuple[str, str]]:
        yield from ((row.label, row.group) for row in self._own() if row.label and row.group)

    def _own(self) -> Iterator[TableRow]:
        names = corpora_of(self.table)
        return (row for row in self.table.records() if self.corpus in _corpora(row, names))

    def _again(self, place: str, before: TableRow, row: TableRow) -> Skipped:
        for what, first, second in ("labels", before.label, row.label), ("boxes", before.box, row.box):
            if first != second:
                raise UserError(
                    f"{self.table.path} lists the image {place} twice, with the {what} {first!r} and {second!r}; a corpus holds "
                    "an image once: take one of the lines out"
                )
        return Skipped(place, "listed again")


def corpora_of(table: Table) -> tuple[str, ...]:
    """Names of the corpora that the rows of a table make.

    Where all rows that are asked are searched too (open-metric-learning's common case), they are one corpus, in which each
    image leaves itself out; else there are `query` and `gallery`.
    """
    columns = table.columns
    if columns.split is None and columns.is_query is None and columns.is_gallery is None:
        return ("",)
    kinds = Counter((row.split, row.is_query, row.is_gallery) for row in table.records())
    flagged = {kind for kind in kinds if kind[1] or kind[2]}
    apart = any(query != gallery for _, query, gallery in flagged)
    splits = sorted({split or "" for split, query, gallery in kinds if not (apart and (query or gallery))} - {""})
    if not columns.split:
        splits = ["train"] if any(not (query or gallery) for _, query, gallery in kinds) else []
        splits += ["test"] if flagged and not apart else []
    return (*splits, "query", "gallery") if apart else tuple(splits)


def _corpora(row: TableRow, names: tuple[str, ...]) -> tuple[str, ...]:
    """The corpora that a row belongs to."""
    if names == ("",):
        return names
    flagged = row.is_query or row.is_gallery
    if flagged and "query" in names:
        return ("query",) * row.is_query + ("gallery",) * row.is_gallery
    return (row.split or ("test" if flagged else "train"),)


def _open_text(path: Path, root: Path, path_field: str | None, label_field: str | None) -> Table:
    dialect = find_dialect(path)
    _, first = next(rows(path, dialect, None))
    cells = " ".join(first).split() if dialect.separator == BLANKS else [cell.strip() for cell in first]
    if path_field or label_field or (names_path(cells) and not (root / cells[0]).is_file()):
        return Table(path, find_columns(cells, path, path_field, label_field), tuple(cells), dialect)
    shown = f"{dialect.separator.join(cells)!r:.100}"
    if not any(os.path.splitext(cell)[1].lower() in IMAGE_SUFFIXES or _is_file(root, cell) for cell in cells):
        raise UserError(
            f"the first line of {path}, {shown}, names no image below {root}, and no column of a header that is known to hold "
            "paths (path, filename, …); give --path-field COLUMN if it is a header, or --root if it is a path"
        )
    if not _is_file(root, cells[0]) and os.path.splitext(first[0])[1].lower() not in IMAGE_SUFFIXES:
        raise UserError(
            f"the first column of {path} holds no paths (its first line is {shown}), and no header says which one does; "
            "add a header, path,label"
        )
    return Table(path, Columns(0, 1 if len(first) > 1 and any(_rest(path, dialect)) else None), None, dialect)


def _rest(path: Path, dialect: Dialect) -> Iterator[str]:
    """The second field of each line."""
    return (cells[1].strip() for _, cells in rows(path, dialect, None) if len(cells) > 1)


def _is_file(root: Path, cell: str) -> bool:
    return bool(cell) and len(cell) < 1024 and (root / cell).is_file()


def _below(root: Path, path: str, table: Path) -> str:
    if "\\" in path and "/" not in path:
        path = path.replace("\\", "/")
    place = os.path.relpath(root / path, root) if os.path.isabs(path) or "./" in path else path
    if place.startswith(".."):
        raise UserError(f"{table} names {path}, which is not below {root}; give a --root above all images")
    if "://" in path:
        raise UserError(
            f"{table} names {path}: images are read from a disk or a mounted bucket, not by URL; download them (img2dataset "
            "writes what make shards reads), or mount the bucket and list the paths below it"
        )
    return place


def _keys(path: Path) -> dict[str, None]:
    """The names in all objects: a first image without a label must not take it from the others."""
    names = {name: None for values in _objects(path) for name in values}
    if not names:
        raise UserError(f"the list {path} is empty")
    return names


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """JSON objects: a line each, or a list of them."""
    with path.open(encoding=encoding_of(path)) as file:
        try:
            start = file.read(1)
            file.seek(0)
            found = json.load(file) if start == "[" else (json.loads(line) for line in file if line.strip())
            for values in found:
                if not isinstance(values, dict):
                    raise UserError(f"{path}: expected JSON objects with path and label, found {values!r:.60}")
                yield values
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is no JSON lines ({error}); expected an object with path and label on each line") from None
