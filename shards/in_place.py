"""A source of images as a corpus without shards: listed once, and read from where it is.

The list is a committed folder, so that a pass that was stopped goes on with the same images, whatever has become of the
source; a picture that has changed or is gone since is one that cannot be decoded.

n images
"""

import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from largescale.commit import committed_directory, is_complete
from largescale.corpus.config import StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.decoding.pictures import (
    NO_HEADER,
    Content,
    Header,
    PictureCorpus,
    content_of,
    header_of,
    listed,
    unreadable,
)
from largescale.corpus.decoding.pixels import BadImageError
from largescale.corpus.manifest import map_table, write_table
from largescale.distributed import World
from largescale.settings import UserError

from .sources import Item, Skipped, Source
from .sources.files import image_files
from .sources.folder import Folder
from .sources.layout import Request
from .sources.tables.pictures import Tables
from .sources.tables.table import Table, TableSource
from .sources.tars import Tars, tar_files

COLUMNS = {
    "key": pa.large_string(),
    "place": pa.large_string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "bytes": pa.int64(),
    "as_shown": pa.int8(),
    "fault": pa.large_string(),
}
PART = 1000
"""Most images of what stands for a shard."""
AT_ONCE, BLOCK, SLOW_S = 16, 16, 2e-3
"""Threads that ask for headers where an answer takes so long, as those of a remote disk do; and files that one asks for in a row.
Threads that need not wait would hand the interpreter to one another, and cost more than the headers."""
FILES = (Folder, TableSource)
"""Sources of files below their root."""


@dataclass(frozen=True)
class ListedPlaces:
    """Images in the order of their list."""

    corpus: Corpus
    ids: np.ndarray
    """`(m,)` those that have a header."""
    faults: dict[int, str]
    """What is wrong with the others."""


@dataclass(frozen=True)
class ListedContents:
    """The content of each image of a list, by its id; picklable."""

    folder: Path
    source: Source

    def __call__(self, id: int) -> Content:
        try:
            data = self.source.read(self.columns["place"][id].as_py())
        except OSError as error:
            return partial(unreadable, f"it cannot be read ({error.strerror or error})")
        return content_of(data, bool(self.columns["as_shown"][id]))

    @cached_property
    def columns(self) -> Any:
        return map_table(self.folder / "images.arrow")

    def __reduce__(self) -> Any:
        return ListedContents, (self.folder, self.source)


def open_source(location: str, listing: Path, world: World, storage: StorageConfig | None = None) -> ListedPlaces:
    """Images for which there may be no corpus yet.

    Args:
        location: a corpus (its folder or URL), a folder of images, of tars or of Parquet files, one tar, a Parquet file, or a
            list of images with a line each.
        listing: folder where the list is kept, or already is.

    Raises:
        UserError: no such source, or nothing in it.
    """
    if "://" in location or (Path(location) / "manifest.json").exists():
        corpus = Corpus.open(location, storage)
        return ListedPlaces(corpus, np.arange(len(corpus.manifest)), {})
    source = _source(Path(location))
    if not world.decide(lambda: is_complete(listing)):
        items = world.decide(lambda: list(_items(source)))
        if not items:
            raise UserError(f"{location} holds no image: no file of an image format, no tar with some, no table")
        found = world.gather(_headers([place for _, place in items[world.share(len(items))]], source))
        world.decide(lambda: _write(listing, items, [header for part in found for header in part]))
    return _open(location, listing, source)


def _open(location: str, listing: Path, source: Source) -> ListedPlaces:
    columns = map_table(listing / "images.arrow")
    count = len(columns["key"])
    sizes = np.stack([columns[name].astype(np.int64) for name in ("width", "height", "bytes")], axis=1)
    parts = -(-count // PART)
    bounds = np.arange(parts + 1) * count // parts
    fingerprint = hashlib.sha256((listing / "images.arrow").read_bytes()).hexdigest()[:16]
    manifest = listed(location, columns["key"], sizes, np.diff(bounds).tolist(), fingerprint)
    faults = {id: fault for id, fault in enumerate(columns["fault"].to_pylist()) if fault}
    ids = np.delete(np.arange(count), list(faults))
    return ListedPlaces(PictureCorpus(manifest, ListedContents(listing, source)), ids, faults)


def _write(listing: Path, items: list[tuple[str, str]], headers: list[Header | str]) -> None:
    rows = (_row(key, place, header) for (key, place), header in zip(items, headers, strict=True))
    values = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    with committed_directory(listing) as folder:
        write_table(folder / "images.arrow", values, COLUMNS)


def _row(key: str, place: str, header: Header | str) -> tuple[str | int, ...]:
    """The columns of an image."""
    text = os.fsencode(key).decode(errors="replace")
    if text != key or "\n" in key:
        key, place, header = text, text, "its name has a line break or is not UTF-8"
    good = NO_HEADER if isinstance(header, str) else header
    return key, place, *map(int, good), header if isinstance(header, str) else ""


def _headers(places: list[str], source: Source) -> list[Header | str]:
    def header(place: str) -> Header | str:
        try:
            return header_of(source.root / place if isinstance(source, FILES) else source.read(place))
        except (BadImageError, OSError) as error:
            return str(error)

    def headers(block: list[str]) -> list[Header | str]:
        return [*map(header, block)]

    blocks = deque(places[start : start + BLOCK] for start in range(0, len(places), BLOCK))
    found, slow = list[Header | str](), False
    while blocks and not slow:
        start = time.perf_counter()
        found += headers(block := blocks.popleft())
        slow = time.perf_counter() - start > SLOW_S * len(block)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [*found, *chain.from_iterable(pool.map(headers, blocks))]


def _items(source: Source) -> Iterator[tuple[str, str]]:
    """(key, place) of each image; a file is known by its path."""
    images = (item for item in source.items() if isinstance(item, Item))
    return ((item.place if isinstance(source, FILES) else item.key, item.place) for item in images)


def _source(path: Path) -> Source:
    """
    Raises:
        UserError: there is no such source, or it is of no known kind.
    """
    if not path.exists():
        raise UserError(f"there is no source {path}: give a folder, a corpus, a list, a tar or a Parquet file")
    if path.suffix == ".tar":
        return Tar(path.parent, name=path.name)
    table = Tables()
    if table.recognize(path):
        found = table.read(Request(path))
        if len(found) > 1:
            raise UserError(f"{path} holds {len(found)} collections ({', '.join(found)}): give the file or folder of one of them")
        return next(iter(found.values()))
    if path.is_file():
        return TableSource(Table.open(path, path.parent), path.parent)
    return Tars(path) if tar_files(path) and not any(isinstance(file, str) for file in image_files(path)) else Folder(path, 0)


@dataclass(frozen=True)
class Tar(Tars):
    """The images of one tar."""

    name: str = ""

    def items(self) -> Iterator[Item | Skipped]:
        yield from self.index(self.name)
