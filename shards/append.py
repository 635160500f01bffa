"""A corpus grows: what its source has more is written into new shards, and the shards that are there are used again.

The grown corpus is made beside the old one, which keeps everything under its fingerprint (`photos@0123456789abcdef`; the tars
are the same files), and takes its place when it is complete. All images of a label lie together: those of a label that
grows are written again, and their places in the old shards are no longer named by the manifest.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from largescale.corpus.corpus import Corpus
from largescale.corpus.manifest import IMAGE_COLUMNS, Manifest, Shard, write_manifest
from largescale.settings import UserError

from .images import Encoding
from .plan import Sharding
from .sources import Item, Skipped, Source
from .writer import build

STORED = "stored:"
"""Before the id of an image that is taken from the old corpus."""


def append(source: Source, out: Path, encoding: Encoding, sharding: Sharding, *, workers: int, bad_budget: float) -> None:
    """Add the images of `source` whose keys the corpus `out` lacks. Killed, it goes on when it is called again.

    Raises:
        UserError: no corpus, other options than it was made with, or pairs, boxes or a ground truth, which only a source
            that is read as a whole knows.
    """
    growing = out.with_name(f".{out.name}.growing")
    if not out.exists() and (growing / "manifest.json").exists():  # killed between the two names
        growing.rename(out)
    _corpus.cache_clear()
    old = _corpus(out).manifest
    _require_plain(old, encoding)
    more = Grown(source, out)
    if not any(isinstance(item, Item) for item in more.items()):
        print(f"{out}: the source has no image that the corpus lacks; nothing to do")
        return
    build(more, growing / "new", encoding, sharding, workers=workers, bad_budget=bad_budget)
    fresh = Corpus.open(str(growing / "new")).manifest
    _join(old, fresh, out, growing)
    shutil.rmtree(growing / "new")
    out.rename(out.with_name(f"{out.name}@{old.fingerprint}"))
    growing.rename(out)
    now = Corpus.open(str(out)).manifest
    print(
        f"{out}: {len(now):,} images of {len(now.label_names):,} labels, {len(now) - len(old):,} more; the corpus of before is "
        f"{out.name}@{old.fingerprint}: runs on it go on there, corpus={out}@{old.fingerprint}"
    )


@dataclass(frozen=True)
class Grown(Source):
    """The images that a corpus lacks, and those of its labels that get more."""

    source: Source
    out: Path

    @property
    def layout(self) -> str:  # type: ignore[override]
        return self.source.layout

    def items(self) -> Iterator[Item | Skipped]:
        old = _corpus(self.out).manifest
        keys, names = old.keys.to_pylist(), old.label_names.to_pylist()
        known, growing = set(keys), set()
        for item in self.source.items():
            if isinstance(item, Item) and item.key in known:
                yield Skipped(item.place, "already in the corpus")
                continue
            if isinstance(item, Item):
                growing.add(item.label)
            yield item
        numbers = [number for number, name in enumerate(names) if name in growing]
        for id in np.flatnonzero(np.isin(old.label, numbers)).tolist():
            yield Item(keys[id], names[int(old.label[id])], f"{STORED}{id}")

    def read(self, place: str) -> bytes:
        if place.startswith(STORED):
            return _corpus(self.out).read([int(place.removeprefix(STORED))])[0]
        return self.source.read(place)


@lru_cache(maxsize=1)
def _corpus(out: Path) -> Corpus:
    return Corpus.open(str(out))


def _require_plain(old: Manifest, encoding: Encoding) -> None:
    where = old.storage.location
    asked = {name: value for name, value in encoding.model_dump().items() if old.made.get(name) != value}
    if asked:
        options = ", ".join(f"{name} was {old.made.get(name)!r}, is {value!r}" for name, value in asked.items())
        raise UserError(f"{where} was made with other options ({options}); give the same, so that its images are alike")
    known = [name.partition(".")[0] for name in ("pairs.arrow", "boxes.arrow", "ground_truth.json") if name in old.files]
    if known:
        raise UserError(f"{where} has {' and '.join(known)}, which its source knows as a whole; build it anew into another OUT")


def _join(old: Manifest, fresh: Manifest, out: Path, growing: Path) -> None:
    """Write the grown corpus: the tars of both, and a manifest over them."""
    names = old.label_names.to_pylist()
    number = {name: n for n, name in enumerate(names)}
    names += [name for name in fresh.label_names.to_pylist() if name not in number]
    number = {name: n for n, name in enumerate(names)}
    labels = np.array([*(number[name] for name in fresh.label_names.to_pylist()), -1], np.int32)[fresh.label]
    kept = ~np.isin(old.label, labels[labels >= 0])  # (images,)
    samples = np.bincount(old.shard[kept], minlength=len(old.shards))
    used = np.flatnonzero(samples)
    place = np.cumsum(samples > 0) - 1
    tars = [Shard(tar.name, int(samples[n]), tar.bytes, tar.sha256) for n, tar in enumerate(old.shards) if samples[n]]
    tars += fresh.shards  # their names carry a token of their images
    columns: dict[str, Any] = {
        name: np.concatenate([old.columns[name][kept], fresh.columns[name]]) for name in IMAGE_COLUMNS if name != "key"
    }
    columns["key"] = pa.concat_arrays([old.keys.filter(pa.array(kept)), fresh.keys])
    columns["shard"] = np.concatenate([place[old.shard[kept]], len(used) + fresh.shard])
    columns["label"] = np.concatenate([old.label[kept], labels])
    for tar in tars[: len(used)]:
        _link(out / tar.name, growing / tar.name)
    for tar, named in zip(fresh.shards, tars[len(used) :], strict=True):
        _link(growing / "new" / tar.name, growing / named.name)
    before: Mapping[str, Any] = {"fingerprint": old.fingerprint, "images": len(old)}
    made = {**old.made, "appended": [*old.made.get("appended", []), before]}
    write_manifest(growing, out.name, tars, columns, names, made)


def _link(path: Path, name: Path) -> None:
    """A second name for a file; a copy where the file system has no second names."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        shutil.copy2(path, name)
