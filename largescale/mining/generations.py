"""The results of mining passes, as committed directories of a run: `negatives/gen-EPOCH-STEP/`.

STEP is that of the weights: an epoch may have several generations, and none is ever changed. Each rank writes the part of its
queries, and its share of the descriptors that the generation carries; rank 0 adds `generation.json` with a checksum of every
part and commits. What is incomplete or damaged is not there.
Letters: Q queries, q of a part, N negatives.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from largescale.commit import (
    DamagedError,
    begin_directory,
    commit_directory,
    is_complete,
    own_paths,
    partial,
    read_json,
    remove_directory,
    write_array,
    write_json,
)
from largescale.corpus.batches.batches import BadImage
from largescale.corpus.manifest import sha256_of
from largescale.mining.stored import StoredPool
from largescale.names import component
from largescale.settings import UserError

HEAD = "generation.json"
NAME = r"gen-\d{6,}-\d{6,}"
ANSWERS, DESCRIPTORS, INDEX = "part-", "stored-", "index.npy"


@dataclass(frozen=True)
class QueryPart:
    """The queries that one rank answered."""

    rows: np.ndarray
    """`(q,)` their rows in the plan of the epoch."""
    queries: np.ndarray
    """`(q,)` image ids."""
    negatives: np.ndarray
    """`(q, N)` image ids, nearest first; random ones last where there were too few."""
    similarities: np.ndarray
    """`(q, N)` float32 inner products; NaN for random negatives."""

    def table(self) -> np.ndarray:
        """`(q,)` records."""
        count = self.negatives.shape[1]
        kinds = [("row", "<i8"), ("query", "<i8"), ("negatives", "<i8", (count,)), ("similarities", "<f4", (count,))]
        records = np.empty(len(self.rows), np.dtype(kinds))
        for (name, *_), column in zip(kinds, (self.rows, self.queries, self.negatives, self.similarities), strict=True):
            records[name] = column
        return records


@dataclass(frozen=True)
class Generation:
    """The negatives of an epoch's queries."""

    epoch: int
    step: int
    """The step of the weights that produced it."""
    fingerprint: str
    """Of the manifest whose image ids it holds."""
    queries: np.ndarray
    """`(Q,)` image ids in the order of the plan."""
    negatives: np.ndarray
    """`(Q, N)` image ids, nearest first; random ones last where there were too few."""
    similarities: np.ndarray
    """`(Q, N)` float32 inner products; NaN for random negatives."""
    faults: list[BadImage] = field(repr=False)
    """Images of the pool and queries without a usable descriptor."""
    statistics: Mapping[str, float] = field(repr=False)
    stored: StoredPool | None = field(default=None, repr=False)
    """Descriptors, where the settings ask for them."""
    index: np.ndarray | None = field(default=None, repr=False)
    """The trained, empty index that found them, as bytes, where it is approximate: the next generation begins with it."""


class Taken(NamedTuple):
    """The negatives that training reads in an epoch."""

    epoch: int
    generation: tuple[int, int] | None
    """(epoch, step) of the generation; None for random clusters."""
    waited: float
    """Seconds."""

    @property
    def own(self) -> bool:
        """Whether they were mined for this epoch."""
        return self.generation is not None and self.generation[0] == self.epoch


class Generations:
    """The generations of a run directory that belong to one manifest."""

    def __init__(self, run_directory: Path, fingerprint: str) -> None:
        self.directory, self.fingerprint = run_directory / "negatives", fingerprint

    def read(self, epoch: int, step: int) -> Generation | None:
        """The generation of an epoch from the weights of a step; None if there is none, or if it is incomplete or damaged.

        Raises:
            UserError: it was mined from another corpus.
        """
        path = self.path(epoch, step)
        if not is_complete(path):
            return None
        try:
            head = read_json(path / HEAD)
            if head["fingerprint"] == self.fingerprint:
                return _parse(head, {name: _load(path / component(name), sha256) for name, sha256 in head["parts"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, DamagedError):
            return None
        raise UserError(
            f"{path} was mined from the corpus {head['fingerprint']}, this run reads the corpus {self.fingerprint}: its "
            "image ids would name other images; use the corpus of the run, or start a new run (name=...)"
        )

    def newest(self, epoch: int) -> Generation | None:
        """The whole generation of an epoch from the newest weights."""
        return self._first((number, step) for number, step in self._names() if number == epoch)

    def latest(self, epoch: int) -> Generation | None:
        """The newest whole generation of this epoch, else of the nearest epoch before it."""
        return self._first((number, step) for number, step in self._names() if number <= epoch)

    def before(self, epoch: int, step: int) -> "Generation | None":
        """The newest whole generation that was mined before that of these weights."""
        return self._first((number, weights) for number, weights in self._names() if (number, weights) < (epoch, step))

    def begin(self, epoch: int, step: int) -> None:
        """Make room for the parts. One rank calls this."""
        self.clear()
        begin_directory(self.path(epoch, step))

    def clear(self) -> None:
        """Remove the remains of what was never finished. One rank calls this."""
        for remains in own_paths(self.directory, rf"\.{NAME}\.partial"):
            remove_directory(remains)

    def write_part(self, epoch: int, step: int, rank: int, part: QueryPart) -> tuple[str, str]:
        """Write the queries of a rank; returns the name and the SHA-256 of the file."""
        return self._write(epoch, step, f"{ANSWERS}{rank:05d}.npy", part.table())

    def write_stored(self, epoch: int, step: int, rank: int, stored: StoredPool) -> tuple[str, str]:
        """Write the descriptors that a rank holds; returns the name and the SHA-256 of the file."""
        return self._write(epoch, step, f"{DESCRIPTORS}{rank:05d}.npy", stored.table())

    def write_index(self, epoch: int, step: int, empty: np.ndarray) -> tuple[str, str]:
        """Write the trained index; one rank calls this. Returns the name and the SHA-256 of the file."""
        return self._write(epoch, step, INDEX, empty)

    def commit(
        self, epoch: int, step: int, parts: Mapping[str, str], faults: Sequence[BadImage], statistics: Mapping[str, float]
    ) -> None:
        """Make the generation visible, once every rank has written its part. One rank calls this."""
        path = self.path(epoch, step)
        head = {"epoch": epoch, "step": step, "fingerprint": self.fingerprint, "parts": dict(parts)}
        named = [asdict(fault) for fault in faults]
        write_json(partial(path) / HEAD, head | {"statistics": dict(statistics), "faults": named})
        commit_directory(path)

    def take(self, epoch: int, found: "Generation | None", waited: float) -> None:
        """Write down what training reads in an epoch, so that it reads the same when it is resumed. One rank calls this."""
        name = None if found is None else (found.epoch, found.step)
        write_json(self._record(epoch), {"epoch": epoch, "generation": name, "waited": waited})

    def taken(self, epoch: int) -> "Taken | None":
        """What training reads in an epoch; None before it has begun."""
        if not self._record(epoch).exists():
            return None
        record = read_json(self._record(epoch))
        return Taken(epoch, record["generation"] and tuple(record["generation"]), record["waited"])

    def fallbacks(self, epoch: int) -> int:
        """Epochs up to this one that training began without a generation of their own."""
        records = (self.taken(number) for number in range(epoch + 1))
        return sum(taken is not None and not taken.own for taken in records)

    def path(self, epoch: int, step: int) -> Path:
        return self.directory / f"gen-{epoch:06d}-{step:06d}"

    def _write(self, epoch: int, step: int, name: str, table: np.ndarray) -> tuple[str, str]:
        path = partial(self.path(epoch, step)) / name
        write_array(path, table)
        return name, sha256_of(path)

    def _record(self, epoch: int) -> Path:
        return self.directory / f"taken-{epoch:06d}.json"

    def _names(self) -> list[tuple[int, int]]:
        """(epoch, step) of all generations, the last first."""
        names = (path.name.split("-") for path in own_paths(self.directory, NAME))
        return sorted(((int(epoch), int(step)) for _, epoch, step in names), reverse=True)

    def _first(self, names: Iterable[tuple[int, int]]) -> Generation | None:
        return next(filter(None, (self.read(*name) for name in names)), None)


def _parse(head: Mapping[str, Any], parts: Mapping[str, np.ndarray]) -> Generation:
    """
    Raises:
        ValueError, KeyError, TypeError, AttributeError, IndexError: it is not what we write.
    """
    rows = np.concatenate([table for name, table in parts.items() if name.startswith(ANSWERS)])
    stored = StoredPool.read([table for name, table in parts.items() if name.startswith(DESCRIPTORS)])
    rows = rows[np.argsort(rows["row"])]
    queries, negatives, similarities = (np.ascontiguousarray(rows[name]) for name in ("query", "negatives", "similarities"))
    if min(queries.min(initial=0), negatives.min(initial=0)) < 0:
        raise ValueError("an image id is negative, which would mean one of the last images")
    return Generation(
        queries=queries,
        negatives=negatives,
        similarities=similarities,
        faults=[BadImage(**fault) for fault in head["faults"]],
        stored=stored,
        index=parts.get(INDEX),
        **{name: head[name] for name in ("epoch", "step", "fingerprint", "statistics")},
    )


def distances(similarities: np.ndarray) -> np.ndarray:
    """Euclidean distances of unit rows from their inner products."""
    return np.sqrt(np.maximum(2 - 2 * similarities, 0))


def _load(path: Path, sha256: str) -> np.ndarray:
    if sha256_of(path) != sha256:
        raise ValueError(f"{path} is damaged")
    return np.load(path)
