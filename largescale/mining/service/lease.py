"""Who may publish: a lock on a file of the run directory, which the operating system takes back when its holder dies."""

import fcntl
import os
import socket
from pathlib import Path
from typing import Protocol


class Lease(Protocol):
    """Held by one process at a time."""

    def acquire(self) -> str | None:
        """Take the lease if it is free; else who holds it."""
        ...


class FileLease:
    """Held by one process at a time, over all machines that share the file system.

    A POSIX lock: the kernel of the holder, or the NFS server once it has missed the holder's machine for its lease time,
    releases it. It does not pass on to loader workers, which may outlive their parent for a moment.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)

    def acquire(self) -> str | None:
        """Take the lease if it is free; else who holds it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return os.pread(self._file, 200, 0).decode() or "another process"
        os.truncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        return None
