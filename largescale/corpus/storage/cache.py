"""What a node keeps between runs: fetched shards within a bound, and the memory of files that were verified.

A file is hashed once; that it was right is remembered under its path, size and modification time. The processes of a node
share all of it: the lock of a shard lets one of them fetch it while the others wait, and whoever reads a shard holds a
shared lock on it, which keeps it from being evicted. The kernel releases the locks of a process that is killed.

Folders: `shards/` and `columns/` hold files under the name of their SHA-256, `fetching/` a lock per file, with the bytes
that its fetch has reserved, `verified/` a marker per file that was right.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from largescale.commit import checksum_of
from largescale.corpus.config import StorageConfig
from largescale.corpus.manifest import sha256_of
from largescale.locks import locked, try_lock
from largescale.settings import UserError

log = logging.getLogger(__name__)


class NoRoomError(UserError):
    """What other processes read or fetch leaves no room for a shard; it may do so later."""


def make_room(config: StorageConfig, size: int, reservation: IO[str]) -> None:
    """Evict the least recently opened shards that nobody reads until `size` more bytes fit, and reserve those.

    Raises:
        UserError: they do not fit within the bound, or on the disk.
    """
    shards = config.cache / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    with locked(config.cache / "room"):
        _clear(reservation)
        kept = {path: path.stat() for path in _own(shards)}
        reserved = sum(map(_reserved, _own(config.cache / "fetching")))
        evictable = sorted(kept, key=lambda path: kept[path].st_atime_ns)
        while True:
            occupied, free = sum(kept[path].st_size for path in kept) + reserved, shutil.disk_usage(shards).free - reserved
            if occupied + size <= config.cache_bytes and size <= free:
                break
            if not evictable:
                later = size <= config.cache_bytes and bool(kept or reserved)
                raise (NoRoomError if later else UserError)(
                    f"no room in {config.cache} for a shard of {size:,} bytes: {occupied:,} of storage.cache_bytes="
                    f"{config.cache_bytes:,} are in use, {free:,} are free on the disk; raise storage.cache_bytes, put "
                    "storage.cache on a larger disk, or narrow shuffle_window"
                )
            oldest = evictable.pop(0)
            if _evict(oldest):
                del kept[oldest]
        reservation.write(str(size))
        reservation.flush()


def _own(folder: Path) -> list[Path]:
    """The files that the cache has put there: each has the name of a SHA-256. Whatever else is there is left alone."""
    return [path for path in folder.iterdir() if re.fullmatch(r"[0-9a-f]{64}", path.name)]


def _evict(path: Path) -> bool:
    """Remove a shard unless a process reads it."""
    with path.open("rb") as file:
        if not try_lock(file):
            return False
        path.unlink()
        return True


def _reserved(path: Path) -> int:
    """Bytes that the fetch behind a lock file has reserved."""
    with path.open("r+") as file:
        if not try_lock(file):
            return int(file.read() or 0)
        _clear(file)
        return 0


def _clear(reservation: IO[str]) -> None:
    """Remove what a fetch that was killed has left: nobody else holds its lock."""
    lock = Path(reservation.name)
    for leftover in (lock.parents[1] / "shards").glob(f".{lock.name}.*"):
        leftover.unlink()
    reservation.truncate(0)


def check_content(path: Path, size: int, digest: str) -> str | None:
    """What is wrong with a file, or None.

    Args:
        digest: its SHA-256, or its XXH3 (16 digits).
    """
    found_size = path.stat().st_size
    if found_size != size:
        return f"expected {size:,} bytes, found {found_size:,}"
    name, digest_of = ("XXH3", checksum_of) if len(digest) == 16 else ("SHA-256", sha256_of)
    found = digest_of(path)
    return None if found == digest else f"expected {name} {digest}, found {found}"


def check_once(path: Path, size: int, digest: str, record: Path) -> str | None:
    """As `check_content`, but a file that was right and has kept its size and modification time is not read again."""
    try:
        marker = _marker(path, digest, record)
    except FileNotFoundError:
        return "the file does not exist"
    if _is_noted(marker):
        return None
    with _note(marker) as noted:
        if noted is not None and noted.read():
            return None
        fault = check_content(path, size, digest)
        if noted is not None and not fault:
            _write_note(noted)
        return fault


def remember(path: Path, digest: str, record: Path) -> None:
    """Note that a file is right."""
    with _note(_marker(path, digest, record)) as noted:
        if noted is not None:
            _write_note(noted)


def _is_noted(marker: Path) -> bool:
    try:
        return marker.stat().st_size > 0
    except OSError:
        return False


@contextmanager
def _note(marker: Path) -> Iterator[IO[str] | None]:
    """The locked note about a file; None where the cache cannot be written: then each process looks for itself."""
    with ExitStack() as held:
        try:
            noted = held.enter_context(locked(marker))
        except OSError as error:
            log.warning("%s cannot be written (%s), so files that were verified are verified again", marker.parent, error)
            noted = None
        yield noted


def _write_note(noted: IO[str]) -> None:
    try:
        noted.write("right\n")
        noted.flush()
    except OSError as error:  # a full disk: it will be verified again
        log.warning("%s cannot be written: %s", noted.name, error)


def _marker(path: Path, digest: str, record: Path) -> Path:
    status = path.stat()
    identity = f"{os.path.abspath(path)}\n{status.st_size}\n{status.st_mtime_ns}\n{digest}"
    return record / hashlib.sha256(identity.encode()).hexdigest()
