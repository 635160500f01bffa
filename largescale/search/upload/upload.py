"""Rows and keys of an index in a vector database: sent, completed where a run was stopped, compared.

n rows, D dimensions, K neighbors.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from largescale.program.progress import progress_bar
from largescale.search.config import UploadConfig
from largescale.search.lists import NEIGHBORS, sample
from largescale.search.view import IndexView
from largescale.settings import UserError

KEYS_AT_ONCE = 10_000
TIED = 1e-6
"""Databases compute in single precision: a row this near to the last of the true neighbors is as good."""


class Target(Protocol):
    """A table of a database. What is written is there when a call returns."""

    def versions(self, keys: Sequence[str]) -> dict[str, str]:
        """Of the keys that are there, the version that was put."""
        ...

    def put(self, rows: np.ndarray, table: pa.Table, versions: Sequence[str]) -> None:
        """Add rows `(n, D)`, or replace those with the same key."""
        ...

    def keys(self) -> Iterable[str]: ...

    def delete(self, keys: Sequence[str]) -> None: ...

    def build(self) -> str:
        """Make the approximate index, unless it is there; says what answers searches now."""
        ...

    def search(self, row: np.ndarray, count: int) -> list[str]:
        """The keys nearest to a row `(D,)`."""
        ...

    def close(self) -> None: ...


@dataclass
class Uploaded:
    """What was done."""

    sent: int = 0
    unchanged: int = 0
    deleted: int = 0
    searched_by: str = ""
    recall: float | None = None

    def __str__(self) -> str:
        counts = f"{self.sent:,} sent, {self.unchanged:,} there already, {self.deleted:,} deleted"
        if self.recall is None:
            return counts
        return f"{counts}\n{100 * self.recall:.2f} % of the {NEIGHBORS} nearest rows are found there ({self.searched_by})"


def upload(config: UploadConfig) -> Uploaded:
    """
    Raises:
        UserError: the database does not answer, lacks what is needed, or has a table of another kind under this name.
    """
    view = IndexView.open(config.index)
    target, done = connect(config, view), Uploaded()
    try:
        with progress_bar("uploading", view.manifest.rows, "row") as bar:
            for rows, table in batches(view, config.batch_size):
                _send(target, rows, table, done)
                bar.update(len(rows))
        done.deleted = _delete(target, view)
        done.searched_by = target.build() if config.approximate else "every row is compared"
        if config.check and view.manifest.rows:
            done.recall = recall(target, view, config.check)
    finally:
        target.close()
    return done


def connect(config: UploadConfig, view: IndexView) -> Target:
    """The table, made if absent."""
    try:
        if config.to.startswith(("postgresql://", "postgres://")):
            from largescale.search.upload.postgres import Postgres

            return Postgres(config.to, config.name, view.manifest.dim, view.manifest.metric)
        if config.to.startswith(("qdrant:", "http://", "https://")):
            from largescale.search.upload.qdrant import Qdrant

            return Qdrant(config.to, config.name, view.manifest.dim, view.manifest.metric)
    except ModuleNotFoundError as error:
        extra = "qdrant" if (error.name or "").startswith("qdrant") else "pgvector"
        raise UserError(f"this needs {error.name}: pip install 'largescale[{extra}]'") from None
    raise UserError(
        f"to={config.to.split(':')[0]}:… is no database that is known: postgresql://…, qdrant:FOLDER, http(s)://… of Qdrant"
    )


def batches(view: IndexView, size: int) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """The rows that are there, with their keys, labels and paths."""
    for segment in view.segments:
        for rows, table in segment.pieces():
            for start in range(0, len(rows), size):
                yield rows[start : start + size], table.select(["key", "label", "path"]).slice(start, size)


def version_of(row: np.ndarray, label: str | None, path: str | None) -> str:
    return hashlib.blake2b(row.tobytes() + repr((label, path)).encode(), digest_size=12).hexdigest()


def _send(target: Target, rows: np.ndarray, table: pa.Table, done: Uploaded) -> None:
    known = target.versions(table["key"].to_pylist())
    columns = (table[name].to_pylist() for name in ("key", "label", "path"))
    versions = [(key, version_of(row, label, path)) for row, key, label, path in zip(rows, *columns, strict=True)]
    new = np.array([place for place, (key, version) in enumerate(versions) if known.get(key) != version], np.int64)
    if len(new):
        target.put(rows[new], table.take(new), [versions[place][1] for place in new])
    done.sent, done.unchanged = done.sent + len(new), done.unchanged + len(rows) - len(new)


def _delete(target: Target, view: IndexView) -> int:
    """Delete what the index lacks; how much that was."""
    keys, deleted = list(target.keys()), 0
    for start in range(0, len(keys), KEYS_AT_ONCE):
        part = keys[start : start + KEYS_AT_ONCE]
        gone = [key for key, id in zip(part, view.find(part), strict=True) if id < 0]
        if gone:
            target.delete(gone)
        deleted += len(gone)
    return deleted


def recall(target: Target, view: IndexView, queries: int) -> float:
    """Share of the nearest rows, by an exact search of the index, that the database finds."""
    asked, count = sample(view.segments, queries), min(NEIGHBORS, view.manifest.rows)
    _, scores = view.exact(asked, count, view.live, False)
    good = []
    for row, of_row in zip(asked, scores, strict=True):
        found = view.find(target.search(row, count))
        _, again = view.ranked(row[None], found[None], count, view.live)
        good.append(np.mean(again[0] >= of_row[-1] - TIED))
    return float(np.mean(good))
