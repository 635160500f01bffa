"""Several corpora as one: their images one after the other, their labels kept apart, their shards where they are.

The columns are written once into the cache of the node and mapped by all of its processes, as those of any corpus.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from largescale.corpus.config import StorageConfig
from largescale.corpus.manifest import IMAGE_COLUMNS, Manifest, Shard, Storage, write_manifest
from largescale.corpus.storage.storage import LocalStorage, open_storage
from largescale.locks import locked
from largescale.settings import UserError


@dataclass(frozen=True)
class JoinedStorage:
    """Columns in a folder of the cache; shard `2-00000.tar` is `00000.tar` of the third corpus."""

    columns: LocalStorage
    parts: tuple[Storage, ...]

    @property
    def location(self) -> str:
        return " + ".join(part.location for part in self.parts)

    @property
    def open_shards(self) -> int:
        return min(part.open_shards for part in self.parts)

    def local(self, name: str, size: int | None = None, sha256: str | None = None) -> Path:
        return self.columns.local(name, size, sha256)

    def open(self, name: str, size: int, sha256: str) -> int:
        number, _, own = name.partition("-")
        return self.parts[int(number)].open(own, size, sha256)


def open_joined(locations: Sequence[str], config: StorageConfig, weights: Sequence[float] | None = None) -> Manifest:
    """The manifest of several corpora.

    Args:
        weights: how often an image of each corpus is drawn, relative to the others; None: alike.

    Raises:
        UserError: a corpus twice, weights for another number of corpora, or pairs in some of them only.
    """
    parts = [Manifest.open(open_storage(location, config)) for location in locations]
    _check(parts, locations, weights)
    names = (f"{part.name} {part.fingerprint}{' grown' if part.made.get('appended') else ''}" for part in parts)
    known = "\n".join([*names, repr(weights and tuple(weights))])
    folder = config.cache / "joined" / hashlib.sha256(known.encode()).hexdigest()[:32]
    with locked(folder.with_suffix(".lock")):
        if not (folder / "manifest.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder, parts, weights)
    return Manifest.open(JoinedStorage(LocalStorage(str(folder), config), tuple(part.storage for part in parts)))


def _check(parts: Sequence[Manifest], locations: Sequence[str], weights: Sequence[float] | None) -> None:
    if len({part.fingerprint for part in parts}) < len(parts):
        raise UserError(f"corpus=[{', '.join(locations)}] has a corpus twice: its labels would be two classes of the same images")
    if weights is not None and len(weights) != len(parts):
        raise UserError(f"corpus_weights has {len(weights)} numbers for {len(parts)} corpora; give one for each")
    without = [part.storage.location for part in parts if part.pairs is None]
    if without and len(without) < len(parts):
        raise UserError(
            f"{', '.join(without)} has no pairs and the other corpora have: an epoch draws queries from pairs or from labels, "
            "not from both; train them apart, or build all of them with pairs or all without"
        )


def _write(folder: Path, parts: Sequence[Manifest], weights: Sequence[float] | None) -> None:
    images = np.cumsum([0, *map(len, parts)])
    shards = np.cumsum([0, *(len(part.shards) for part in parts)])
    labels = np.cumsum([0, *(len(part.label_names) for part in parts)])
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in IMAGE_COLUMNS if name != "key"}
    columns["key"] = pa.concat_arrays([part.keys for part in parts])
    columns["shard"] = np.concatenate([part.shard + first for part, first in zip(parts, shards.tolist(), strict=False)])
    columns["label"] = np.concatenate(
        [np.where(part.label < 0, -1, part.label + first) for part, first in zip(parts, labels.tolist(), strict=False)]
    )
    names = [f"{part.name}:{name}" for part in parts for name in part.label_names.to_pylist()]
    tars = [Shard(f"{n}-{tar.name}", tar.samples, tar.bytes, tar.sha256) for n, part in enumerate(parts) for tar in part.shards]
    drawn = [float(weight) for weight in weights or [1.0] * len(parts)]
    grown = [part.fingerprint for part in parts if part.made.get("appended")]  # their shards hold images of before
    made = {"joined": [part.fingerprint for part in parts], "images": images.tolist(), "weights": drawn, "appended": grown}
    write_manifest(folder, "joined", tars, columns, names, made, _pairs(parts, images))


def _pairs(parts: Sequence[Manifest], images: np.ndarray) -> dict[str, np.ndarray] | None:
    """The pairs of all corpora; columns that some of them lack are left out."""
    found = [part.pairs for part in parts]
    if None in found:
        return None
    names = [name for name in found[0] or () if all(name in (pairs or ()) for pairs in found)]
    first = {"query": images, "positive": images}
    return {
        name: np.concatenate([pairs[name] + (first[name][n] if name in first else 0) for n, pairs in enumerate(found) if pairs])
        for name in names
    }
