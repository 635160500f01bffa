"""retrieval-SfM-120k (and -30k): a pickle of clusters and matching pairs, and a tree of images named by their hash."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from largescale.settings import UserError
from shards.sources import Item, Source
from shards.sources.files import require_files
from shards.sources.pickles import load_plain

COLUMNS = ("cids", "cluster", "qidxs", "pidxs")


@dataclass(frozen=True)
class StructureFromMotion(Source):
    """One split of the pickle: labels are clusters, pairs are (qidxs, pidxs)."""

    path: Path
    root: Path
    split: str
    layout: str = "sfm"

    def items(self) -> Iterator[Item]:
        columns = self._columns()
        places = [place_of(cid) for cid in columns["cids"]]
        require_files(self.root, places)
        for cid, cluster, place in zip(columns["cids"], columns["cluster"], places, strict=True):
            yield Item(cid, str(int(cluster)), place)

    def read(self, place: str) -> bytes:
        return (self.root / place).read_bytes()

    def pairs(self) -> Mapping[str, np.ndarray]:
        columns = self._columns()
        return {"query": np.asarray(columns["qidxs"], np.int64), "positive": np.asarray(columns["pidxs"], np.int64)}

    def _columns(self) -> Mapping[str, Any]:
        splits = load_plain(self.path)
        if not isinstance(splits, dict) or self.split not in splits:
            found = ", ".join(map(str, splits)) if isinstance(splits, dict) else type(splits).__name__
            raise UserError(f"{self.path} has no split {self.split!r}; it holds: {found}")
        columns = splits[self.split]
        absent = [name for name in COLUMNS if name not in columns]
        if absent:
            raise UserError(f"{self.path} lacks {', '.join(absent)} under {self.split!r}: not a retrieval-SfM pickle")
        images, last = len(columns["cids"]), max((max(columns[name], default=-1) for name in ("qidxs", "pidxs")), default=-1)
        if len(columns["cluster"]) != images or len(columns["qidxs"]) != len(columns["pidxs"]) or last >= images:
            raise UserError(
                f"{self.path}: cids, cluster, qidxs and pidxs of {self.split!r} do not fit together; download it again"
            )
        return columns


def place_of(cid: str) -> str:
    """Where cirtorch's image tree keeps an image: `ab/cd/ef/…efcdab`, by the last six characters of its hash."""
    return f"{cid[-2:]}/{cid[-4:-2]}/{cid[-6:-4]}/{cid}"


def find_pickle(source: Path) -> Path:
    """SOURCE itself, or the one pickle in it."""
    found = sorted(source.glob("*.pkl")) if source.is_dir() else [source]
    if len(found) != 1:
        raise UserError(f"expected one .pkl in {source}, found {len(found)}; give the pickle itself as SOURCE")
    return found[0]
