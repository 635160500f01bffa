"""What a program leaves behind once it has ended: processes, files, shared memory."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

MARK = "LARGESCALE_TORTURE"
SHARED_MEMORY = Path("/dev/shm")
ENDS_S = 120
OTHERS = ("torchinductor_", "torchelastic_")
"""Folders that torch makes as it is imported and keeps, and that torchrun leaves where it is killed."""


def run(command: Sequence[str], folder: Path) -> tuple[int, dict[str, list[str]]]:
    """Exit status of a command, and what is left of it some seconds later. What other programs do meanwhile in shared memory
    counts too: give the command a mount of its own where that matters.

    Args:
        folder: an empty one, for its temporary files.
    """
    before = _shared()
    status = subprocess.run(command, env={**os.environ, MARK: str(folder), "TMPDIR": str(folder)}, check=False).returncode
    end = time.monotonic() + ENDS_S
    while any((left := _left(folder, before)).values()) and time.monotonic() < end:
        time.sleep(0.5)
    return status, left


def _left(folder: Path, before: set[str]) -> dict[str, list[str]]:
    found = [
        Path(place, name) for place, folders, names in os.walk(folder) for name in (*folders, *names)
    ]  # some may be gone by now
    files = [name for path in sorted(found) if not (name := str(path.relative_to(folder))).startswith(OTHERS)]
    return {"processes": _processes(folder), "files": files, "shared memory": sorted(_shared() - before)}


def _processes(folder: Path) -> list[str]:
    """Those that were started, however indirectly, with the mark."""
    found, mark = [], f"{MARK}={folder}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes().split(b"\0"):
                found.append(f"{place.name} {(place / 'comm').read_text().strip()}")
        except OSError:  # it has ended meanwhile, or is another user's
            continue
    return found


def _shared() -> set[str]:
    return {path.name for path in SHARED_MEMORY.iterdir()}
