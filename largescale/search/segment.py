"""Rows that were written together: their descriptors, and a table of what is known of their pictures. Never changed.

n rows, D dimensions.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from largescale.commit import FULL, DamagedError, checksum_of, committed_directory, committed_file, read_array, write_array
from largescale.corpus.config import StorageConfig
from largescale.corpus.storage.cache import check_once, remember
from largescale.program.extras import faiss
from largescale.search.manifest import SegmentEntry
from largescale.settings import UserError

ROWS, TABLE = "rows.npy", "table.arrow"
SCHEMA = pa.schema(
    {
        "key": pa.large_string(),
        "label": pa.large_string(),
        "path": pa.large_string(),
        "size": pa.int64(),
        "modified": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "thumbnail": pa.large_binary(),
    }
)
"""A row's name, unique in an index; its label or null; its file or null, the bytes of that, when it was changed (ns), its size in
pixels; a small JPEG or null."""
AT_ONCE = 2**14


def table_of(columns: Mapping[str, Any]) -> pa.Table:
    """The table of rows of which these columns, `(n,)` each, are known."""
    count = len(columns["key"])
    known = {field.name: columns.get(field.name) for field in SCHEMA}
    arrays = [
        pa.nulls(count, SCHEMA.field(name).type) if x is None else pa.array(x, SCHEMA.field(name).type)
        for name, x in known.items()
    ]
    return pa.table(arrays, schema=SCHEMA)


@dataclass(frozen=True)
class Segment:
    """An opened segment; files are mapped, and shared by all processes that read them. They may be deleted from now on."""

    entry: SegmentEntry
    folder: Path
    rows: np.ndarray
    """`(n, D)` float32."""
    table: pa.Table
    """`(n,)` each of `SCHEMA`."""
    removed: np.ndarray
    """Numbers of the rows that are removed, in increasing order."""

    @staticmethod
    def open(folder: Path, entry: SegmentEntry) -> "Segment":
        """
        Raises:
            UserError: a file is not what was written.
        """
        for name, facts in entry.files.items():
            require_whole(folder / name, facts)
        rows, table = np.load(folder / ROWS, mmap_mode="r"), pa.ipc.open_file(pa.memory_map(str(folder / TABLE))).read_all()
        return Segment(entry, folder, rows, table, read_array(folder / entry.removed) if entry.removed else np.empty(0, np.int64))

    @cached_property
    def live(self) -> np.ndarray:
        """`(n,)` whether a row is there."""
        live = np.ones(self.entry.rows, bool)
        live[self.removed] = False
        return live

    def read_lists(self) -> Any:
        """The segment's part of an approximate index; mapped where FAISS can."""
        assert self.entry.lists is not None
        path = str(self.folder / self.entry.lists)
        try:
            return faiss.read_index(path, faiss.IO_FLAG_MMAP)
        except RuntimeError:  # a kind of index that FAISS only reads whole
            return faiss.read_index(path)

    def pieces(self) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """The rows that are there, and their part of the table, some at a time."""
        for start in range(0, self.entry.rows, AT_ONCE):
            kept = np.flatnonzero(self.live[start : start + AT_ONCE])
            rows, table = self.rows[start : start + AT_ONCE], self.table.slice(start, AT_ONCE)
            yield (rows, table) if len(kept) == len(rows) else (rows[kept], table.take(kept))


def write_segment(folder: Path, parts: Sequence[Segment], rows: np.ndarray, table: pa.Table) -> SegmentEntry:
    """A new segment: the rows that are left of other segments, then new ones `(n, D)`."""
    count = sum(part.entry.live for part in parts) + len(rows)
    largest = 0.0
    with (
        committed_directory(folder) as partial,
        (partial / ROWS).open("wb") as file,
        pa.OSFile(str(partial / TABLE), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as out,
    ):
        np.lib.format.write_array_header_2_0(file, _header(count, rows.shape[1]))  # type: ignore[arg-type]
        for piece, of_table in _pieces(parts, rows, table):
            file.write(np.ascontiguousarray(piece).data)
            out.write_table(of_table)
            largest = max(largest, float(np.sqrt(np.einsum("nd,nd->n", piece, piece).max(initial=0))))
    return SegmentEntry(folder.name, count, largest, {name: facts_of(folder / name) for name in (ROWS, TABLE)})


def facts_of(path: Path) -> tuple[int, str]:
    """Bytes of a file and their XXH3. It is taken for verified: who asks has just written it."""
    digest = checksum_of(path)
    remember(path, digest, StorageConfig().cache / "verified")
    return path.stat().st_size, digest


def require_whole(path: Path, facts: Sequence[Any]) -> None:
    """As a shard: read when it is first opened by this user, and when its size or time has changed.

    Raises:
        FileNotFoundError: it is missing.
        DamagedError: it is not what was written.
    """
    path.stat()
    size, digest = facts
    if fault := check_once(path, size, digest, StorageConfig().cache / "verified"):
        raise DamagedError(f"{path}: {fault}: it was altered or is damaged; copy the index again, or build it again")


def _pieces(parts: Sequence[Segment], rows: np.ndarray, table: pa.Table) -> Iterator[tuple[np.ndarray, pa.Table]]:
    for part in parts:
        yield from part.pieces()
    yield rows, table


def _header(rows: int, dim: int) -> dict[str, Any]:
    return {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}


def write_removed(folder: Path, number: str, removed: np.ndarray) -> tuple[str, tuple[int, str]]:
    """The file of a segment's removed rows, and its facts."""
    path = folder / f"removed-{number}.npy"
    write_array(path, removed)
    return path.name, facts_of(path)


def write_faiss(path: Path, index: Any) -> tuple[int, str]:
    """A FAISS index as a file; its facts."""
    with committed_file(path) as temporary, temporary.open("wb") as file:
        # FAISS's own writer does not tell when the disk is full before the file is closed
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
    return facts_of(path)


@contextmanager
def room_on_disk(folder: Path) -> Iterator[None]:
    """A full disk, said as a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"{error.filename or folder}: {error.strerror} while writing, so this part was not added; what was there is "
            "unchanged: make room and run the same command again"
        ) from None
