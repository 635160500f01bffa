"""Descriptors of a corpus in parts that are committed one by one, so that a pass that was stopped goes on in any world.

n images of a part, D dimensions
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from largescale.commit import DamagedError, array_fault, read_array, read_json, write_array, write_json
from largescale.corpus.batches.batches import BadImage
from largescale.corpus.corpus import Corpus
from largescale.describing.model import Model
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.program.progress import progress_bar
from largescale.settings import UserError


@dataclass(frozen=True)
class PassParts:
    """The parts of a pass over some images of a corpus: one for each shard, and the marker that it is complete."""

    directory: Path
    corpus: Corpus
    ids: np.ndarray
    """`(n,)` sorted image ids."""

    def __len__(self) -> int:
        return len(self.corpus.manifest.shards)

    def images(self, part: int) -> np.ndarray:
        first, last = np.searchsorted(self.ids, self.corpus.manifest.shard_start[part : part + 2])
        return self.ids[first:last]

    def is_done(self, part: int) -> bool:
        """Whether a part is there, and what was written."""
        try:
            return read_json(self._marker(part)) is not None and array_fault(self._file(part)) is None
        except (FileNotFoundError, DamagedError):
            return False

    def write(self, part: int, ids: np.ndarray, rows: np.ndarray, bad: list[BadImage]) -> None:
        """Commit `(n, D)` rows; the marker, with their image ids and those that have none, comes last."""
        write_array(self._file(part), rows)
        write_json(self._marker(part), {"ids": ids.tolist(), "bad": [[image.key, image.error] for image in bad]})

    def read(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`(n,)` image ids and `(n, D)` rows of each part, in the order of ids."""
        for part in range(len(self)):
            yield np.array(self._values(part)["ids"], np.int64), read_array(self._file(part))

    def count(self) -> int:
        """Images that have a descriptor."""
        return sum(len(self._values(part)["ids"]) for part in range(len(self)))

    def bad(self) -> list[tuple[str, str]]:
        """(key, error) of images that have none."""
        return [(key, error) for part in range(len(self)) for key, error in self._values(part)["bad"]]

    def _values(self, part: int) -> dict:
        return read_json(self._marker(part))

    def _file(self, part: int) -> Path:
        return self.directory / f"part-{part:05d}.npy"

    def _marker(self, part: int) -> Path:
        return self._file(part).with_suffix(".json")


def describe_parts(model: Model, parts: PassParts, embedder: Embedder, world: World) -> bool:
    """Describe what is not described yet; each rank a run of parts. Whether everything is.

    Every rank of the world calls this.

    Raises:
        UserError: descriptors that are not finite.
    """
    missing = world.decide(lambda: [part for part in range(len(parts)) if not parts.is_done(part)])
    mine = missing[world.share(len(missing))]
    world.agree(lambda: _describe(model, parts, mine, embedder, world.is_first))
    return not world.any(embedder.should_stop())


def _describe(model: Model, parts: PassParts, mine: list[int], embedder: Embedder, shows: bool) -> None:
    manifest = parts.corpus.manifest
    begun = {part: _Part(parts.images(part), model.dim) for part in mine}
    number = {shard.name: part for part, shard in enumerate(manifest.shards)}
    ids = np.concatenate([np.empty(0, np.int64), *(part.ids for part in begun.values())])
    small = model.too_small(parts.corpus, ids)
    for id, fault in small.items():
        shard = int(manifest.shard[id])
        bad = BadImage(manifest.keys[id].as_py(), manifest.shards[shard].name, fault)
        begun[shard].add(np.empty(0, np.int64), np.empty(0), [bad])
    large = ids[~np.isin(ids, list(small))]
    groups = model.describe(parts.corpus, large, embedder=embedder)
    with progress_bar("embed" if shows else None, len(ids), "image", len(small)) as bar:
        for part in [part for part in mine if begun[part].is_whole]:
            begun.pop(part).commit(parts, part)
        for group in groups:
            part = int(manifest.shard[group.ids[0]]) if len(group.ids) else number[group.bad[0].shard]
            bar.update(begun[part].add(group.ids, group.rows, group.bad))
            if begun[part].is_whole:
                begun.pop(part).commit(parts, part)


@dataclass
class _Part:
    """The rows of a part while its groups come."""

    ids: np.ndarray
    dim: int
    rows: np.ndarray = field(init=False)
    described: np.ndarray = field(init=False)
    bad: list[BadImage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.described = np.zeros(len(self.ids), bool)

    def add(self, ids: np.ndarray, rows: np.ndarray, bad: list[BadImage]) -> int:
        """The number of its images."""
        if not self.described.any():
            self.rows = np.empty((len(self.ids), self.dim), np.float32)
        if not np.isfinite(rows).all():
            raise UserError("the network makes descriptors that are not finite; are its weights damaged?")
        if len(ids):
            places = np.searchsorted(self.ids, ids)
            self.rows[places], self.described[places] = rows, True
        self.bad += bad
        return len(ids) + len(bad)

    @property
    def is_whole(self) -> bool:
        return int(self.described.sum()) + len(self.bad) == len(self.ids)

    def commit(self, parts: PassParts, part: int) -> None:
        rows = self.rows[self.described] if self.described.any() else np.empty((0, self.dim), np.float32)
        parts.write(part, self.ids[self.described], rows, self.bad)
