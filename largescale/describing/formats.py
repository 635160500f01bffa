"""Descriptors with the names of their images, in the files that other programs read. Each is committed when it is whole.

n rows, D dimensions
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from largescale.commit import committed_file, write_text
from largescale.describing.config import Format
from largescale.program.extras import Extra, faiss
from largescale.settings import UserError

h5py: Any = Extra("h5py", "hdf5", "format=hdf5")

Rows = Iterable[tuple[list[str], np.ndarray]]
"""Names and `(n, D)` float32 rows, part after part."""
NAMES = "names.txt"


def write_descriptors(out: Path, format: Format, rows: Rows, count: int, dim: int, about: Mapping[str, str]) -> list[str]:
    """Write `count` rows, in one pass over them.

    Returns:
        The names of the files in `out`, that of the descriptors first.

    Raises:
        UserError: a package that is not installed.
    """
    if format == "npy":
        return _write_npy(out, rows, count, dim)
    if format == "fvecs":
        return _write_fvecs(out, rows)
    if format == "hdf5":
        return _write_hdf5(out / "descriptors.h5", rows, about)
    return _write_table(out / f"descriptors.{format}", format, rows, dim, about)


def _write_npy(out: Path, rows: Rows, count: int, dim: int) -> list[str]:
    path, names = out / "descriptors.npy", list[str]()
    with committed_file(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for keys, block in rows:
            file.write(np.ascontiguousarray(block, "<f4").tobytes())
            names += keys
    write_names(out, names)
    return [path.name, NAMES]


def _write_fvecs(out: Path, rows: Rows) -> list[str]:
    """For each row its dimension as int32, then its float32 numbers (TEXMEX)."""
    path, names = out / "descriptors.fvecs", list[str]()
    with committed_file(path) as temporary, temporary.open("wb") as file:
        for keys, block in rows:
            head = np.full((len(block), 1), block.shape[1], "<i4").view("<f4")
            file.write(np.concatenate([head, block.astype("<f4")], axis=1).tobytes())
            names += keys
    write_names(out, names)
    return [path.name, NAMES]


def _write_hdf5(path: Path, rows: Rows, about: Mapping[str, str]) -> list[str]:
    """A group per image with the dataset `global_descriptor` `(D,)`, as hloc's `extract_features` writes and its
    `pairs_from_retrieval` reads it."""
    with committed_file(path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        file.attrs.update(about)
        for keys, block in rows:
            for key, row in zip(keys, block, strict=True):
                file.create_group(key).create_dataset("global_descriptor", data=row)
    return [path.name]


def _write_table(path: Path, format: Format, rows: Rows, dim: int, about: Mapping[str, str]) -> list[str]:
    """Columns `key` and `descriptor`, a list of D float32 in each row."""
    columns = [pa.field("key", pa.large_string(), nullable=False), pa.field("descriptor", pa.list_(pa.float32(), dim))]
    schema = pa.schema(columns, metadata=dict(about))
    with committed_file(path) as temporary, _table_writer(temporary, format, schema) as writer:
        for keys, block in rows:
            flat = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), dim)
            writer.write_batch(pa.record_batch([pa.array(keys, pa.large_string()), flat], schema=schema))
    return [path.name]


def _table_writer(path: Path, format: Format, schema: pa.Schema) -> Any:
    return pq.ParquetWriter(path, schema) if format == "parquet" else pa.ipc.new_file(str(path), schema)


def write_names(out: Path, names: list[str]) -> None:
    """
    Raises:
        UserError: names with line breaks.
    """
    if broken := [name for name in names if "\n" in name]:
        raise UserError(
            f"names.txt: a line is a name, but {len(broken):,} names have line breaks, for instance {broken[0]!r}; rename these "
            "images, or give format=parquet and another out"
        )
    write_text(out / NAMES, "".join(f"{name}\n" for name in names))


def write_pairs(path: Path, names: list[str], neighbors: np.ndarray) -> None:
    """A line `NAME NEIGHBOR` for each, as hloc and COLMAP read them.

    Args:
        neighbors: `(n, k)` row numbers, nearest first.

    Raises:
        UserError: as in `check_pair_names`.
    """
    check_pair_names(names)
    write_text(path, "".join(_lines(names, neighbors)))


def check_pair_names(names: Sequence[str]) -> None:
    """UserError for names with spaces, which end a name in a file of pairs."""
    spaced = [name for name in names if len(name.split()) != 1]
    if spaced:
        raise UserError(
            f"pairs: a line is NAME NAME, but {len(spaced):,} names have spaces, for instance {spaced[0]!r}; rename these "
            "images, or leave pairs out"
        )


def _lines(names: list[str], neighbors: np.ndarray) -> Iterator[str]:
    return (f"{names[query]} {names[other]}\n" for query, others in enumerate(neighbors.tolist()) for other in others)


def nearest_others(rows: np.ndarray, count: int, metric: str) -> np.ndarray:
    """`(n, min(count, n - 1))` row numbers of the nearest other rows `(n, D)`, by FAISS's exact search."""
    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    count = min(count, len(rows) - 1)
    _, found = faiss.knn(rows, rows, count + 1, metric=kind)
    itself = found == np.arange(len(rows))[:, None]
    itself[~itself.any(axis=1), -1] = True  # among equal rows it may come later than these
    return found[~itself].reshape(len(rows), count)
