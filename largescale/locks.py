"""Locks of files: the operating system takes them back when their holder dies, so none is ever left behind."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol


@contextmanager
def locked(path: Path) -> Iterator[IO[str]]:
    """Wait for, and hold, the lock of a file, which is made if absent, among all processes of the node."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def lock_shared(descriptor: int) -> None:
    """Wait for, and hold until it is closed, a lock that other readers may hold too."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def try_lock(file: IO) -> bool:
    """Take the lock of an open file unless a process holds it; whether this one does now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def this_process() -> str:
    """How it is named to others."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def take(file: IO[str]) -> str | None:
    """Take the lock of an open file, and write into it who this is, unless a process holds it; else who that is."""
    if not try_lock(file):
        file.seek(0)
        return file.read() or "another process"
    file.truncate(0)
    file.write(this_process())
    file.flush()
    return None


class Exclusive(Protocol):
    """Held by one process at a time."""

    def acquire(self) -> str | None:
        """Take it if it is free; else who holds it."""
        ...


class Lease:
    """Held by one process at a time, over all machines that share the file system, until that process ends.

    A POSIX lock: the kernel of the holder, or the NFS server once it has missed the holder's machine for its lease time,
    releases it. It does not pass on to loader workers, which may outlive their parent for a moment.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    def acquire(self) -> str | None:
        """Take the lease if it is free; else who holds it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return os.pread(self._file, 200, 0).decode() or "another process"
        with suppress(OSError):  # who it is, for others to read: on a full disk the lease holds without
            os.truncate(self._file, 0)
            os.pwrite(self._file, this_process().encode(), 0)
        return None
