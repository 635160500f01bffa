"""How files come into being: temporary name, synced, renamed, marker last; deleted marker first.

A reader sees complete things or nothing; killing a writer loses at most what it was writing.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MARKER = "COMPLETE"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def committed_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it becomes `path`, on an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # machines that share a file system may have the same process ids
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with committed_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_array(path: Path, array: "np.ndarray") -> None:
    """As .npy, whatever the name."""
    import numpy as np

    with committed_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def partial(directory: Path) -> Path:
    """The name under which `directory` is written until it is committed; the same on every rank."""
    return directory.with_name(f".{directory.name}.partial")


def begin_directory(directory: Path) -> Path:
    """An empty partial directory: what a killed writer left there is removed. One rank calls this."""
    remove_directory(directory)
    shutil.rmtree(partial(directory), ignore_errors=True)
    partial(directory).mkdir(parents=True)
    return partial(directory)


def sync_directory(directory: Path) -> None:
    """Flush every file under `directory`. Each rank that wrote into a partial directory calls this."""
    for path in sorted(directory.rglob("*")):
        _sync(path)
    _sync(directory)


def commit_directory(directory: Path) -> None:
    """Rename the partial directory to its name and set the marker. One rank calls this, after all have synced."""
    sync_directory(partial(directory))
    partial(directory).rename(directory)
    _sync(directory.parent)
    with committed_file(directory / MARKER) as temporary:
        temporary.touch()


@contextmanager
def committed_directory(directory: Path) -> Iterator[Path]:
    """Yield a partial directory to fill; on success it is committed, on an error nothing is left."""
    path = begin_directory(directory)
    try:
        yield path
        commit_directory(directory)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def is_complete(directory: Path) -> bool:
    return (directory / MARKER).exists()


def complete_directories(parent: Path, prefix: str) -> list[Path]:
    """The committed directories under `parent` whose names start with `prefix`, in the order of their names."""
    return sorted(path for path in parent.glob(f"{prefix}*") if is_complete(path))


def remove_directory(directory: Path) -> None:
    """Delete a directory, its marker first, so that no reader takes the remains for a whole."""
    (directory / MARKER).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
