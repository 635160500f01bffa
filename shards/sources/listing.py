"""A CSV or text file with a line per image: path, and label if there is one."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from largescale.settings import UserError
from shards.sources import Item, Source
from shards.sources.files import IMAGE_SUFFIXES, key_of, require_files


@dataclass(frozen=True)
class Listing(Source):
    """The lines of `path`: an image below `root`, its label, and columns that are left alone.

    The first line decides what separates columns: a tab, else a comma, else blanks. It is a header if it names no image.
    """

    path: Path
    root: Path
    layout: str = "list"

    def items(self) -> Iterator[Item]:
        require_files(self.root, (place for place, _ in self._rows()))
        for place, label in self._rows():
            yield Item(key_of(place), label, place)

    def read(self, place: str) -> bytes:
        return (self.root / place).read_bytes()

    def _rows(self) -> Iterator[tuple[str, str | None]]:
        if not self.path.is_file():
            raise UserError(f"there is no list {self.path}")
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            separator = next((mark for mark in "\t," if mark in first), " ")
            for number, row in enumerate(csv.reader(file, delimiter=separator, skipinitialspace=True)):
                if row and not (number == 0 and self._is_header(row[0])):
                    yield self._below_root(row[0].strip()), (row[1].strip() or None) if len(row) > 1 else None

    def _is_header(self, cell: str) -> bool:
        return os.path.splitext(cell)[1].lower() not in IMAGE_SUFFIXES and not (self.root / cell).is_file()

    def _below_root(self, path: str) -> str:
        place = os.path.relpath(self.root / path, self.root) if os.path.isabs(path) or "./" in path else path
        if place.startswith(".."):
            raise UserError(f"{self.path} names {path}, which is not below {self.root}; give a --root above all images")
        return place
