"""A folder of images: `class/…jpg`, deeper trees, or no classes at all."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.sources import Item, Source
from shards.sources.files import image_files, key_of


@dataclass(frozen=True)
class Folder(Source):
    """Every image below `root`; its label is the path of the folder that it is in, or the first parts of that path."""

    root: Path
    class_depth: int | None = None
    """How many leading folders name the class; None: all of them. 0: no labels."""
    layout: str = "folder"

    def items(self) -> Iterator[Item]:
        for path in image_files(self.root):
            folders = path.split("/")[:-1][: self.class_depth]
            yield Item(key_of(path), "/".join(folders) or None, path)

    def read(self, place: str) -> bytes:
        return (self.root / place).read_bytes()
