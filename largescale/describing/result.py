"""The record of an embedding: what was described, by what, and the checksums of the files that came of it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from largescale.commit import DamagedError, checksum_of, read_json, write_json
from largescale.settings import UserError

RESULT = "embed.json"
"""The marker of a complete result."""
NUMPY, ZIP = b"\x93NUMPY", b"PK"
"""How files of NumPy begin."""


def write_result(out: Path, about: Mapping[str, Any], files: Iterable[str] | None) -> None:
    """
    Args:
        files: that are whole, by their names in `out`; None while the pictures are described.
    """
    sums = None if files is None else {name: checksum_of(out / name) for name in files}
    write_json(out / RESULT, {**about, "files": sums})


def changed_files(out: Path, found: Mapping[str, Any]) -> list[str]:
    """Of a complete result: those that are gone, or are not what was written."""
    return [name for name, digest in found["files"].items() if not (out / name).is_file() or checksum_of(out / name) != digest]


def require_described(path: Path) -> None:
    """Raises: DamagedError: a file that has a record beside it is not the one that was written; those of others have none."""
    record = path.parent / RESULT
    expected = (read_json(record)["files"] or {}).get(path.name) if record.exists() else None
    if expected is not None and path.is_file() and checksum_of(path) != expected:
        raise DamagedError(
            f"{path} is damaged or was changed: it is not what {record} says; give the command that made it again, or keep a "
            "changed copy in another folder"
        )


def open_rows(path: Path) -> np.ndarray:
    """An array of numbers that an embedding, or another program, has written as .npy, mapped; or the only one of an .npz.

    Raises:
        UserError: it is something else, such as the .fvecs or .siftgeo of other programs; DamagedError: as `require_described`.
    """
    require_described(path)
    try:
        with path.open("rb") as file:
            begin = file.read(len(NUMPY))
        if begin not in (NUMPY, b"") and not begin.startswith(ZIP):
            raise ValueError("it does not begin as one; write a row for each image with numpy.save")
        stored = np.load(path, mmap_mode="r")
        if not isinstance(stored, np.ndarray):
            if len(stored.files) != 1:
                raise UserError(f"{path} holds {len(stored.files)} arrays ({', '.join(stored.files)}); save one of them as .npy")
            stored = stored[stored.files[0]]
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a .npy file of numbers ({error})") from None
    if stored.dtype.kind not in "fiu":
        raise UserError(f"{path} holds {stored.dtype}, expected numbers")
    return stored
