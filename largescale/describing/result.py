"""The record of an embedding: what was described, by what, and the checksums of the files that came of it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from largescale.commit import DamagedError, checksum_of, read_json, write_json

RESULT = "embed.json"
"""The marker of a complete result."""


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
