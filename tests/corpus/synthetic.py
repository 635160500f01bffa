"""Manifests without images, of any size."""

from pathlib import Path
from typing import Any

import numpy as np

from largescale.corpus.config import StorageConfig
from largescale.corpus.manifest import Manifest, Shard, write_manifest
from largescale.corpus.storage.storage import LocalStorage


def manifest_of(sizes: np.ndarray, shards: int = 1, unlabeled: int = 0) -> Manifest:
    """A manifest without images: labels of the given sizes, spread evenly over shards."""
    label = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(unlabeled, -1)]).astype(np.int32)
    parts = [len(part) for part in np.array_split(label, shards)]
    columns = {"key": np.zeros(len(label), np.int8), "label": label}
    columns["shard"] = np.repeat(np.arange(shards, dtype=np.int32), parts)
    entries = tuple(Shard(f"{i}.tar", count, 0, "") for i, count in enumerate(parts))
    return Manifest(LocalStorage("synthetic", StorageConfig()), "synthetic", "0123456789abcdef", entries, {}, {}, columns)


def write_large_manifest(folder: Path, rows: int = 1_000_000) -> None:
    """The manifest, with its columns, of a corpus of so many images that are nowhere."""
    columns: dict[str, Any] = {name: np.arange(rows) for name in ("offset", "size", "width", "height", "label")}
    columns |= {"key": np.arange(rows).astype(str), "shard": np.zeros(rows, int), "checksum": np.arange(rows)}
    write_manifest(folder, "large", [Shard("a.tar", rows, 2 * rows, "0" * 64)], columns, [], {})


def shards_at_a_time(manifest: Manifest, steps: np.ndarray, span: int) -> int:
    """The most shards that any `span` steps in sequence touch."""
    shard = manifest.shard[steps.reshape(len(steps), -1)]
    return max(len(np.unique(shard[start : start + span])) for start in range(len(steps) - span + 1))
