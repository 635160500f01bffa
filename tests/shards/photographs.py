"""Folders of small photographs for the tests of this room."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tests.corpora import encode, photograph


def write_photographs(root: Path, names: Iterable[str], width: int = 40, height: int = 30) -> Path:
    """An image per name, each another one, the same on every call; JPEG, or PNG where the name says so."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photograph(number, 0, width, height), "PNG" if path.suffix == ".png" else "JPEG"))
    return root


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder by its path, hidden files included."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shard(out: Path, number: int) -> Path:
    """The tar of a corpus that was built."""
    (path,) = out.glob(f"*-{number:05d}.tar")
    return path
