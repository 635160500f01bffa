"""TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from largescale.commit import remove_directory
from largescale.program.extras import tensorboard
from largescale.tracking.mirrors import numbers


class TensorBoardMirror:
    """Event files, written anew from the record whenever a run goes on: what was measured twice is there once."""

    key = "tensorboard"
    id: str | None = None
    known = 0
    shows_pictures = False

    def __init__(self, directory: Path) -> None:
        writer = tensorboard.summary.Writer
        if directory.exists():
            remove_directory(directory)
        self.writer = writer(str(directory))

    def write(self, number: int, line: Mapping[str, Any]) -> None:
        for name, value in numbers(line).items():
            self.writer.add_scalar(name, value, line["step"])
        self.writer.flush()

    def table(self, number: int, name: str, rows: list[Mapping[str, Any]]) -> None: ...

    def curve(self, number: int, name: str, rows: list[Mapping[str, Any]], axes: tuple[str, str, str]) -> None: ...

    def close(self) -> None:
        self.writer.close()
