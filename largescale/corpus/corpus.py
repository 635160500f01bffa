"""The images of a corpus by id: random access into tars, and shards as webdataset streams."""

import itertools
import os
import tarfile
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any

import numpy as np
import xxhash

from largescale.corpus.config import StorageConfig
from largescale.corpus.manifest import Manifest
from largescale.corpus.storage.cache import NoRoomError
from largescale.corpus.storage.joined import open_joined
from largescale.corpus.storage.storage import open_storage
from largescale.settings import UserError

PATIENCE_S = 60
GAP = 16
"""A pass reads through this many images that nobody asked for, rather than start a new stream behind them."""
BLOCK = tarfile.BLOCKSIZE


class Corpus:
    """The images of a corpus by id. May be pickled, and used on both sides of a fork."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._descriptors: OrderedDict[int, int] = OrderedDict()

    @staticmethod
    def open(
        location: str | Sequence[str], storage: StorageConfig | None = None, weights: Sequence[float] | None = None
    ) -> "Corpus":
        """The corpus at a folder or URL, or several of them as one (see `open_joined`)."""
        config = storage or StorageConfig()
        if isinstance(location, str):
            return Corpus(Manifest.open(open_storage(location, config)))
        return Corpus(open_joined(location, config, weights))

    def __reduce__(self) -> Any:
        return Corpus, (self.manifest,)

    def __del__(self) -> None:
        self._close(0)

    def read(self, ids: Sequence[int] | np.ndarray) -> list[bytes]:
        """The encoded images."""
        return list(self.each(ids))

    def each(self, ids: Sequence[int] | np.ndarray) -> Iterator[bytes]:
        """The encoded images, each read when it is asked for: it is still in the processor's cache when it is decoded."""
        rows, manifest = np.asarray(ids), self.manifest
        columns = (column[rows].tolist() for column in (manifest.shard, manifest.offset, manifest.size, manifest.checksum))
        return itertools.starmap(self._pread, zip(*columns, strict=True))

    def stream(self, shard: int, ids: np.ndarray | None = None) -> Iterator[tuple[int, bytes]]:
        """One pass over a shard through webdataset: (image id, encoded image) in the order of the tar.

        Args:
            ids: sorted images of the shard, None for all of them.
        """
        start = self.manifest.shard_start
        wanted = np.arange(start[shard], start[shard + 1]) if ids is None else ids
        for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > GAP) + 1):
            asked = set(run.tolist())
            yield from (sample for sample in self._between(shard, run) if sample[0] in asked)

    def replacement(self, id: int, bad: Collection[int]) -> int:
        """The next image of the same label that is not bad; for an image without a label, the next image of the corpus.

        Raises:
            UserError: all images of the label are bad; one of another label would be taught under its name.
        """
        label, last = self.manifest.label, len(self.manifest)
        if label[id] < 0:
            return next((other for other in itertools.chain(range(id + 1, last), range(id)) if other not in bad), id)
        start = end = id
        while start > 0 and label[start - 1] == label[id]:
            start -= 1
        while end < last and label[end] == label[id]:
            end += 1
        found = next((other for other in itertools.chain(range(id + 1, end), range(start, id)) if other not in bad), None)
        if found is None:
            name, where = self.manifest.label_names[int(label[id])], self.manifest.storage.location
            raise UserError(
                f"all {end - start:,} images of label {name} of {where} "
                "are bad, so none can take the place of another; repair them or take the label out of the source, and build anew"
            )
        return found

    def _between(self, shard: int, run: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """The images from the first to the last of a run."""
        if not len(run):
            return
        manifest, id = self.manifest, int(run[0])
        before = id - 1
        end = 0 if id == manifest.shard_start[shard] else int(manifest.offset[before]) + int(manifest.size[before])
        with os.fdopen(self._open(shard), "rb") as file:
            file.seek(-(-end // BLOCK) * BLOCK)
            for key, data in _samples(file, manifest.shards[shard].name):
                if key != manifest.keys[id].as_py():
                    if manifest.made.get("appended"):  # written again in a newer shard
                        continue
                    raise self._differs(shard, f"expected image {manifest.keys[id]}, found {key}")
                yield id, self._right(data, shard, int(manifest.offset[id]), int(manifest.checksum[id]))
                id += 1
                if id > run[-1]:
                    return
        raise self._differs(shard, f"it ends before image {manifest.keys[id]}")

    def _differs(self, shard: int, what: str) -> UserError:
        location, name = self.manifest.storage.location, self.manifest.shards[shard].name
        return UserError(f"{location}/{name} is not the shard of the manifest: {what}; run make verify-shards to see all faults")

    def _pread(self, shard: int, offset: int, size: int, checksum: int) -> bytes:
        descriptor = self._descriptors.get(shard)
        if descriptor is None:
            self._close(self.manifest.storage.open_shards - 1)
            descriptor = self._descriptors[shard] = self._open(shard)
        self._descriptors.move_to_end(shard)
        data = os.pread(descriptor, size, offset)
        if len(data) != size:
            raise self._differs(shard, f"expected {size:,} bytes at {offset:,}, found {len(data):,}")
        return self._right(data, shard, offset, checksum)

    def _right(self, data: bytes, shard: int, offset: int, checksum: int) -> bytes:
        """The bytes of an image, compared with its checksum: a shard may change after it was verified."""
        if xxhash.xxh3_64_intdigest(data) != checksum:
            id = int(np.flatnonzero((self.manifest.shard == shard) & (self.manifest.offset == offset))[0])
            raise self._differs(shard, f"image {self.manifest.keys[id]} is not the one that was stored, its checksum differs")
        return data

    def _open(self, shard: int) -> int:
        entry, deadline = self.manifest.shards[shard], time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.manifest.storage.open(entry.name, entry.bytes, entry.sha256)
            except NoRoomError:  # what this process holds may be what leaves no room; the other processes do the same
                self._close(0)
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _close(self, most: int) -> None:
        """Close the descriptors that were used longest ago, until `most` are left."""
        while len(self._descriptors) > most:
            os.close(self._descriptors.popitem(last=False)[1])


def _samples(file: IO[bytes], name: str) -> Iterator[tuple[str, bytes]]:
    """(key, encoded image) of each sample of a tar, through webdataset; a damaged tar ends there."""
    from webdataset.tariterators import group_by_keys, tar_file_expander  # with torch, which who builds a corpus can do without

    try:
        members = tar_file_expander([{"url": name, "stream": file}], select_files=lambda member: not member.endswith(".json"))
        for sample in group_by_keys(members):
            yield sample["__key__"], next(data for part, data in sample.items() if not part.startswith("__"))
    except tarfile.TarError:
        return
