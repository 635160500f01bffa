"""Rows that were written together: their descriptors, a table of what is known of their pictures, and where keys are.

Never changed. n rows, D dimensions.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from largescale.commit import FULL, DamagedError, checksum_of, committed_directory, committed_file, read_array, write_array
from largescale.corpus.config import StorageConfig
from largescale.corpus.storage.cache import check_once, remember
from largescale.program.extras import faiss
from largescale.search.manifest import SegmentEntry
from largescale.settings import UserError

ROWS, TABLE, KEYS = "rows.npy", "table.arrow", "keys.npy"
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
    keys: np.ndarray
    """`(2, n)` uint64: hashes of the keys in increasing order, and their rows. Few pages of it are read to find a key."""
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
        removed = read_array(folder / entry.removed) if entry.removed else np.empty(0, np.int64)
        return Segment(entry, folder, rows, table, np.load(folder / KEYS, mmap_mode="r"), removed)

    @cached_property
    def live(self) -> np.ndarray:
        """`(n,)` whether a row is there."""
        live = np.ones(self.entry.rows, bool)
        live[self.removed] = False
        return live

    def find(self, keys: pa.Array, hashes: np.ndarray) -> np.ndarray:
        """`(n,)` the row of each key, -1 where there is none, or it is removed; with the `hashes_of` the keys."""
        known, rows = self.keys
        place, end = (np.searchsorted(known, hashes, side) for side in ("left", "right"))
        found = np.full(len(keys), -1)
        while len(left := np.flatnonzero((found < 0) & (place < end))):
            row = rows[place[left]].astype(np.int64)
            same = pc.equal(self.take(row, ["key"])["key"].combine_chunks(), keys.take(pa.array(left)))
            hit = same.to_numpy(zero_copy_only=False)
            found[left[hit]] = row[hit]
            place[left] += 1  # another key may have the same hash
        gone = np.searchsorted(self.removed, found)
        return np.where(gone == np.searchsorted(self.removed, found, "right"), found, -1)

    def take(self, rows: np.ndarray, names: Sequence[str]) -> pa.Table:
        """`(n,)` rows -> these columns of the table, of which no more is read: `pa.Table.take` copies all of it first."""
        batches, starts = self._batches

        def part(number: int, of_batch: np.ndarray) -> pa.Table:
            return pa.Table.from_batches([batches[number].select(names).take(pa.array(of_batch))])

        return gathered(starts, rows, names, part)

    @cached_property
    def _batches(self) -> tuple[list[pa.RecordBatch], np.ndarray]:
        """The parts of the table, and the first row of each."""
        batches = self.table.to_batches()
        return batches, np.cumsum([0, *map(len, batches)])

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
    largest, hashes = 0.0, list[np.ndarray]()
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
            hashes.append(hashes_of(of_table["key"].to_pylist()))
            largest = max(largest, float(np.sqrt(np.einsum("nd,nd->n", piece, piece).max(initial=0))))
        of_keys = np.concatenate(hashes)
        order = np.argsort(of_keys, kind="stable")
        np.save(partial / KEYS, np.stack([of_keys[order], order.astype(np.uint64)]))
    return SegmentEntry(folder.name, count, largest, {name: facts_of(folder / name) for name in (ROWS, TABLE, KEYS)})


def gathered(starts: np.ndarray, rows: np.ndarray, names: Sequence[str], part: Callable[[int, np.ndarray], pa.Table]) -> pa.Table:
    """`(n,)` rows of what begins at `starts` -> these columns of each; `part` gives those of some rows of one of them."""
    place = np.searchsorted(starts, rows, "right") - 1
    parts = [part(number, rows[place == number] - starts[number]) for number in np.unique(place).tolist()]
    order = np.argsort(np.argsort(place, kind="stable"))
    return pa.concat_tables([SCHEMA.empty_table().select(names), *parts]).take(pa.array(order))


def hashes_of(keys: Sequence[str]) -> np.ndarray:
    """`(n,)` uint64, XXH3."""
    return np.fromiter((xxhash.xxh3_64_intdigest(key.encode()) for key in keys), np.uint64, len(keys))


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
            f"{error.filename or folder}: {os.strerror(error.errno)} while writing, so this part was not added; what was there "
            "is unchanged: make room and run the same command again; what build has begun, add goes on with"
        ) from None
