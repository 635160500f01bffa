"""How files come into being, and how they are believed again.

Written to a temporary name, synced, renamed, marker last; deleted marker first. A reader sees complete things or nothing;
killing a writer loses at most what it was writing. What a later stage believes carries a checksum that is compared when it
is read: XXH3, 64 bits, which memory gives out no faster than it is summed. A document (JSON) has it as its last entry, an
array (.npy) behind its last byte, where other readers do not look.
"""

import errno
import json
import mmap
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from largescale.settings import UserError

if TYPE_CHECKING:
    import numpy as np

MARKER = "COMPLETE"
OWNER = ".largescale"
"""In every folder that a program of ours fills and cleans: what the folder is."""
CHECKSUM = "xxh3"
TRAILER = b"\0XXH3-64"
SEAL = "# XXH3 of the lines above: "
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a place that has no more room."""


class DamagedError(UserError):
    """A file is not what was written: bytes have changed, or it was cut."""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A full disk, in whatever words a library tells of it, is an OSError that names the file."""
    try:
        yield
    except Exception as error:
        number = _number_of(error)
        if number not in FULL or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), os.fspath(path)) from error


def _number_of(error: Exception) -> int | None:
    """Of an error of the operating system."""
    found = re.search(r"os error (\d+)", str(error))  # safetensors
    if found is None and isinstance(error, OSError) and error.errno is None and " requested and " in str(error):  # numpy
        return errno.ENOSPC
    return int(found[1]) if found else getattr(error, "errno", None)


@contextmanager
def committed_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it becomes `path`, on an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # machines that share a file system may have the same process ids
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777  # as the user's umask has it, which some writers ignore
        with naming(path):
            yield temporary
            temporary.chmod(mode)
            _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with committed_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_sealed(path: Path, text: str) -> None:
    """A text whose last line, a comment, is the checksum of those before."""
    write_text(path, f"{text}{SEAL}{checksum(text.encode())}\n")


def require_sealed(path: Path) -> None:
    """Raises: DamagedError: a text that has a checksum is not the one that was written."""
    text, seal, expected = path.read_text(encoding="utf-8", errors="replace").rpartition(SEAL)
    if seal and checksum(text.encode()) != expected.strip():
        raise DamagedError(f"{path} is damaged or was changed: its last line is not its checksum; continue the run to write it")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A document with the checksum of its other entries."""
    plain = json.loads(json.dumps(value))
    write_text(path, json.dumps(plain | {CHECKSUM: _checksum_of_values(plain)}, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is something else.
    """
    return parse_json(path.read_bytes(), path)


def parse_json(data: bytes, where: object) -> dict[str, Any]:
    """Raises: DamagedError: the document is not what `write_json` wrote."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(
            f"{where} is damaged: it is not valid JSON ({error}); restore it from a copy or make it anew"
        ) from None
    if not isinstance(values, dict) or CHECKSUM not in values:
        raise DamagedError(f"{where} is none of our files, or damaged: it has no checksum; make it anew")
    expected = values.pop(CHECKSUM)
    if expected != (found := _checksum_of_values(values)):
        raise DamagedError(
            f"{where} is damaged: its checksum is {expected}, that of its content {found}; restore it from a copy or make it anew"
        )
    return values


def _checksum_of_values(values: Mapping[str, Any]) -> str:
    return checksum(json.dumps(values, sort_keys=True).encode())


def write_array(path: Path, array: "np.ndarray") -> None:
    """As .npy, whatever the name."""
    import numpy as np

    with committed_file(path) as temporary:
        with temporary.open("wb") as file:
            np.save(file, array)
        digest = bytes.fromhex(checksum_of(temporary))
        with temporary.open("ab") as file:
            file.write(TRAILER + digest)


def read_array(path: Path, mapped: bool = False) -> "np.ndarray":
    """What `write_array` wrote.

    Args:
        mapped: into memory, so that it costs none; changes stay private.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is something else.
    """
    import numpy as np

    if (fault := array_fault(path)) is not None:
        raise DamagedError(f"{path} is damaged: {fault}; delete it, and the same command makes it anew")
    return np.load(path, mmap_mode="c" if mapped else None)  # torch takes no read-only arrays


def array_fault(path: Path) -> str | None:
    """What is wrong with a file of `write_array`, or None."""
    end = len(TRAILER) + 8
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= end:
            return f"it has {size} bytes"
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            if view[-end:-8] != TRAILER:
                return "it does not end with a checksum"
            expected, found = view[-8:].hex(), checksum(view[:-end])
    return None if expected == found else f"its checksum is {expected}, that of its content {found}"


def checksum(data: Any) -> str:
    """Of bytes."""
    return xxhash.xxh3_64_hexdigest(data)


def checksum_of(path: Path) -> str:
    """Of a file."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def claim_folder(directory: Path, what: str, setting: str) -> None:
    """Make `directory` ours, so that it may be written to and cleaned. One process calls this, before anything else.

    Args:
        what: the folder is, such as "run".
        setting: that names the folder, for the error.

    Raises:
        UserError: it holds something, and is not the same of ours: nothing in it is touched.
    """
    mark = directory / OWNER
    found = mark.read_text(encoding="utf-8").strip() if mark.is_file() else None
    if found == what:
        return
    if found is not None or (directory.exists() and (not directory.is_dir() or any(directory.iterdir()))):
        is_now = f"the folder of another kind ({found})" if found is not None else "not empty, and nothing that this program made"
        raise UserError(
            f"{directory} is {is_now}: it would be written over, so nothing was touched; "
            f"choose a new or empty folder for the {what} with {setting}, or move this one away"
        )
    write_text(mark, what + "\n")


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


def own_paths(parent: Path, pattern: str) -> list[Path]:
    """What is in a folder under names that we give, sorted. Copies that people keep beside it are neither read nor removed."""
    return sorted(path for path in parent.glob("*") if re.fullmatch(pattern, path.name))


def complete_directories(parent: Path, pattern: str) -> list[Path]:
    """The committed directories under `parent` with such names, in the order of their names."""
    return [path for path in own_paths(parent, pattern) if is_complete(path)]


def remove_directory(directory: Path) -> None:
    """Delete a directory, its marker first, so that no reader takes the remains for a whole."""
    (directory / MARKER).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
