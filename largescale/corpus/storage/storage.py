"""Where the files of a corpus live: a local folder, or HTTP, S3 and GCS through the cache of the node."""

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import fsspec.callbacks

from largescale.commit import FULL, committed_file
from largescale.corpus.config import StorageConfig
from largescale.corpus.manifest import Storage
from largescale.corpus.storage.cache import check_content, check_once, make_room, remember
from largescale.locks import lock_shared, locked
from largescale.names import require_location, without_secrets
from largescale.settings import UserError

FIRST_PAUSE_S = 0.5
MOST_OF_A_MANIFEST = 2**26
"""Bytes: it is fetched before anything says how long it is."""
PATIENCE_S, SLOWEST = 60, 100_000
"""A fetch may take so many seconds, and one more for so many bytes: a server that drips keeps nobody waiting for ever."""
log = logging.getLogger(__name__)


def open_storage(location: str, config: StorageConfig) -> Storage:
    """The storage of a corpus at a folder or URL (`http`, `https`, `s3`, `gs`).

    Raises:
        UserError: a kind of URL that is not known or whose package is not installed.
    """
    location = require_location(str(location)).rstrip("/")
    if "://" not in location:
        return LocalStorage(location, config)
    try:
        fsspec.get_filesystem_class(urlsplit(location).scheme)
    except (ValueError, ImportError) as error:
        raise UserError(f"cannot read {location}: {error}") from None
    return RemoteStorage(location, config)


@dataclass(frozen=True)
class LocalStorage:
    """A corpus in a folder."""

    location: str
    config: StorageConfig
    open_shards: int = 128

    def local(self, name: str, size: int | None = None, sha256: str | None = None) -> Path:
        path = Path(self.location) / name
        fault = check_once(path, size, sha256, self.config.cache / "verified") if size is not None and sha256 else None
        if fault:
            raise UserError(f"{path}: {fault}; the corpus is incomplete or was changed: copy it again or run make shards again")
        return path

    def open(self, name: str, size: int, sha256: str) -> int:
        return os.open(self.local(name, size, sha256), os.O_RDONLY | os.O_CLOEXEC)


@dataclass(frozen=True)
class RemoteStorage:
    """A corpus behind a URL. Its files are fetched whole and kept under the name of their SHA-256."""

    location: str
    config: StorageConfig
    open_shards: int = 8
    """Few: what a process keeps open cannot be evicted."""

    def local(self, name: str, size: int | None = None, sha256: str | None = None) -> Path:
        if size is not None and sha256:
            return self._cached("columns", name, size, sha256)
        url = f"{self.location}/{name}"
        path = self.config.cache / "manifests" / hashlib.sha256(url.encode()).hexdigest()
        with _writing(self.config.cache), committed_file(path) as temporary:
            try:
                self._download(url, temporary, MOST_OF_A_MANIFEST)
            except TooLongError as error:
                raise UserError(f"{url}: it {error}; it is no manifest of a corpus") from None
        return path

    def open(self, name: str, size: int, sha256: str) -> int:
        while True:
            try:
                path = self._cached("shards", name, size, sha256)
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # another process has evicted it in between
                continue
            lock_shared(descriptor)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)

    def _cached(self, kind: str, name: str, size: int, sha256: str) -> Path:
        cache = self.config.cache
        path, record = cache / kind / sha256, cache / "verified"
        if not path.exists() or check_once(path, size, sha256, record):
            with _writing(cache), locked(cache / "fetching" / sha256) as reservation:
                if not path.exists() or check_once(path, size, sha256, record):
                    make_room(self.config, size, reservation)
                    self._fetch(path, f"{self.location}/{name}", size, sha256)
                    reservation.truncate(0)
        with suppress(OSError):  # of a cache that cannot be written, nothing is evicted
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return path

    def _fetch(self, path: Path, url: str, size: int, sha256: str) -> None:
        """Fetch a file and check it; a wrong one is fetched once more."""
        with committed_file(path) as temporary:
            fault: str | None = None
            for _ in range(2):
                try:
                    self._download(url, temporary, size)
                except FileNotFoundError:
                    raise UserError(f"{url} does not exist, but the manifest names it; upload the corpus again") from None
                except TooLongError as error:
                    fault = f"it {error}"
                else:
                    fault = check_content(temporary, size, sha256)
                if not fault:
                    break
                log.warning("%s: %s", url, fault)
            else:
                raise UserError(f"{url}: {fault}, fetched twice; the file is damaged where it lives: upload it again")
        remember(path, sha256, self.config.cache / "verified")

    def _download(self, url: str, path: Path, most: int) -> None:
        name, host = url.rpartition("/")[2], urlsplit(url).netloc
        for attempt in range(1, self.config.attempts + 1):
            try:
                filesystem, remote = fsspec.url_to_fs(url, **_options(url))
                return filesystem.get_file(remote, str(path), callback=Bound(most))
            except (FileNotFoundError, TooLongError):
                raise
            except Exception as error:  # each kind of storage has its own
                if getattr(error, "errno", None) in FULL:
                    raise  # this disk, not that storage
                # it may tell of a signed URL that the server sent us on to
                problem = without_secrets(f"{type(error).__name__}: {error}")
                if attempt == self.config.attempts:
                    raise UserError(f"cannot fetch {name} from {host}: {attempt} attempts, the last: {problem}") from error
                log.warning("fetching %s from %s, attempt %d: %s", name, host, attempt, problem)
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))


@contextmanager
def _writing(cache: Path) -> Iterator[None]:
    """A cache that is full, or cannot be written, said as a sentence: also a worker process can tell it."""
    try:
        yield
    except FileNotFoundError:  # evicted by another process: fetched again
        raise
    except OSError as error:
        raise UserError(
            f"{error.filename or cache}: {error.strerror} while fetching into the cache; make room there, or set storage.cache "
            "to a folder that has room and can be written"
        ) from error


class TooLongError(Exception):
    """A server sends more than was promised."""


class Bound(fsspec.callbacks.Callback):
    """Ends a fetch that becomes longer than promised, in bytes or in time. fsspec calls it after each piece.

    Raises:
        TooLongError, TimeoutError
    """

    def __init__(self, most: int, **options: Any) -> None:
        super().__init__(**options)
        self.most, self.taken, self.announced = most, 0, 0
        self.seconds = PATIENCE_S + most / SLOWEST
        self.end = time.monotonic() + self.seconds

    def set_size(self, size: int | None) -> None:
        """What the answer says of itself; it may be the page of an error, so nothing follows from it alone."""
        self.announced = size or 0

    def relative_update(self, inc: int = 1) -> None:
        self.taken += inc
        if self.announced > self.most:
            raise TooLongError(f"has {self.announced:,} bytes where {self.most:,} were promised")
        if self.taken > self.most:
            raise TooLongError(f"has more bytes than the {self.most:,} that were promised")
        if time.monotonic() > self.end:
            raise TimeoutError(f"only {self.taken:,} bytes came in {self.seconds:.0f} s")


def _options(url: str) -> dict[str, Any]:
    """aiohttp gives a whole transfer five minutes; a shard may take longer, a silent server may not."""
    if not url.startswith("http"):
        return {}
    import aiohttp  # not for local corpora: it takes half a second

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=PATIENCE_S)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}  # with the passwords of ~/.netrc
