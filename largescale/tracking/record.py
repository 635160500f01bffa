"""`log.jsonl`: the record of a run, one JSON object per line."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from largescale.commit import naming


class Record:
    """One line per write, flushed at once; cut back to `position` when a run resumes."""

    def __init__(self, path: Path, position: int) -> None:
        self.path, self.file = path, path.open("a", encoding="utf-8")
        if path.stat().st_size > position:
            self.file.truncate(position)

    def write(self, line: Mapping[str, Any]) -> None:
        with naming(self.path):
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()

    def position(self) -> int:
        """Bytes of the record so far, on the disk when this returns."""
        os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        self.file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a record; one that is still being written is left out."""
    with path.open(encoding="utf-8") as file:
        for text in file:
            if text.endswith("\n"):
                yield json.loads(text)
