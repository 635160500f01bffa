"""Files below a folder: finding them, naming them, and noticing those that are missing."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from largescale.corpus.decoding.pixels import FORMATS, BadImageError, open_regular
from largescale.settings import UserError

from . import Skipped

IMAGE_SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes}
OTHER_SUFFIXES = {".txt", ".json", ".csv", ".tsv", ".xml", ".html", ".md", ".py", ".yaml", ".yml", ".mat", ".npy", ".pkl"}
OTHER_SUFFIXES |= {".parquet", ".arrow", ".db", ".zip", ".tar", ".gz", ".tgz", ".pdf", ".mp4", ".mov"}
"""What is not even opened. A file with any other suffix, or none, is an image if it begins like one."""
LARGEST = 2**31 - 1
"""Bytes of an image."""
PREFIX = 32
"""Bytes by which Pillow tells formats apart."""


class MissingImagesError(UserError):
    """Images that a list or a ground truth names and the folder lacks; `paths` holds all of them."""

    def __init__(self, root: Path, paths: list[str], named: int) -> None:
        shown = "".join(f"\n  {path}" for path in paths[:10]) + ("\n  …" if len(paths) > 10 else "")
        super().__init__(f"{len(paths):,} of the {named:,} images that the source names are not below {root}:{shown}")
        self.paths = paths


@contextmanager
def readable(what: object) -> Iterator[None]:
    """Whatever a parser stumbles on in a file that is damaged, missing, or not as published becomes a UserError."""
    try:
        yield
    except (ValueError, LookupError, TypeError, FileNotFoundError) as error:
        raise UserError(
            f"{what} cannot be read: {type(error).__name__}: {str(error)[:200]}; a file of it is damaged, or not as it is "
            "published: unpack or download it again"
        ) from error


def image_files(root: Path) -> Iterator[str | Skipped]:
    """Paths below `root`, relative and in sorted order, of images, by suffix or content. Hidden files are left out."""
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    return (path if _is_image(root, path) else not_taken(path) for path in _walk(str(root), ""))


def read_file(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        BadImageError: a pipe, a device, a folder; or more bytes than a corpus can hold.
    """
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST:
            raise BadImageError(f"{size:,} bytes are more than an image of a corpus may have ({LARGEST:,})")
        return file.read(LARGEST)


def not_taken(path: str) -> Skipped:
    return Skipped(path, f"no image ({os.path.splitext(path)[1].lower() or 'no suffix'})")


def _is_image(root: Path, path: str) -> bool:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in IMAGE_SUFFIXES or suffix in OTHER_SUFFIXES:
        return suffix in IMAGE_SUFFIXES
    try:
        with open_regular(root / path) as file:
            return begins_like_image(file.read(PREFIX))
    except BadImageError:
        return False


def begins_like_image(prefix: bytes) -> bool:
    """Whether Pillow takes a file that begins so for an image."""
    Image.init()
    tests = (Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN)
    return any(test is not None and test(prefix) is True for test in tests)


def _walk(folder: str, below: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except PermissionError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}), and its images would be missing: let this user read it, or move it away"
        ) from None
    for entry in entries:
        if not entry.is_dir():
            yield below + entry.name
        elif not (entry.is_symlink() and os.path.realpath(folder).startswith(os.path.realpath(entry.path))):
            yield from _walk(entry.path, f"{below}{entry.name}/")


def key_of(path: str) -> str:
    """The key of a file: its path without extension; WebDataset cuts a name at its first dot, so dots become `_`."""
    folder, _, name = path.replace(os.sep, "/").rpartition("/")
    stem = os.path.splitext(name)[0].replace(".", "_")
    return f"{folder}/{stem}" if folder else stem


def require_files(root: Path, paths: Iterable[str]) -> None:
    """Raise MissingImagesError unless every path is a file below `root`; lists each folder once instead of asking per file."""
    named = list(paths)
    listed: dict[str, set[str]] = {}
    missing = []
    for path in named:
        folder, name = os.path.split(path)
        if folder not in listed:
            place = root / folder
            listed[folder] = set(os.listdir(place)) if place.is_dir() else set()
        if name not in listed[folder]:
            missing.append(path)
    if missing:
        raise MissingImagesError(root, missing, len(named))
