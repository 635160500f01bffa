"""What W&B keeps of a run on this machine: a file for each time that the run was started."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from largescale.program.extras import wandb_messages

HEADER, BLOCK, PREFIX = 7, 2**15, 7
"""Bytes of the file's header, of a block of LevelDB's log, and before each piece of a record."""
WHOLE, LAST = 1, 4
"""Kinds of pieces that end a record."""


def lines_kept(directory: Path, id: str) -> int:
    """Lines of the record that the parts of a run hold together, also those of parts that were killed.

    Args:
        directory: of the run, with `wandb/offline-run-20260131_120000-ID/run-ID.wandb`.
        id: that W&B has for it.
    """
    files = directory.glob(f"wandb/*run-*-{id}*/run-{id}.wandb")  # -1 behind it: another of the same second
    return max((step + 1 for file in files for step in _steps(file)), default=0)


def _steps(file: Path) -> Iterator[int]:
    for record in records(file):
        if record.HasField("history"):
            yield record.history.step.num


def records(file: Path) -> Iterator[Any]:
    """The records of a part, up to where it ends, or was torn."""
    data, at, whole = file.read_bytes(), HEADER, b""
    while at + PREFIX <= len(data):
        if (left := BLOCK - at % BLOCK) < PREFIX:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        piece = data[at + PREFIX : at + PREFIX + size]
        if len(piece) < size or not kind:
            return
        whole, at = whole + piece, at + PREFIX + size
        if kind in (WHOLE, LAST):
            record = wandb_messages.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record
