"""A folder of images: `class/….jpg`, deeper trees, a tree for each split, or no classes at all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from largescale.settings import UserError

from . import Item, Skipped, Source
from .files import image_files, key_of, read_file
from .layout import Layout, Request
from .tars import Tars, tar_files

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "query", "gallery", "index"}
LOOKED_AT = 10_000
"""Files by which a folder is recognized."""


class ClassFolders(Layout):
    name = "folder"
    about = "SOURCE/class/….jpg; the folder of an image is its label (--class-depth 1: the first folder only)"
    generic = True

    def recognize(self, source: Path) -> str | None:
        if not source.is_dir() or splits_of(source):
            return None
        return next(("folders of images" for path in islice(image_files(source), LOOKED_AT) if "/" in path), None)

    def read(self, request: Request) -> Mapping[str, Source]:
        return {"": Folder(request.source, request.class_depth)}


class SplitFolders(Layout):
    name = "splits"
    about = "SOURCE/train/class/….jpg, SOURCE/test/class/….jpg, …: a folder of classes for each split"
    corpora = "one for each folder: train, val, test, query, gallery, index"
    generic = True

    def recognize(self, source: Path) -> str | None:
        found = splits_of(source)
        return ", ".join(f"{name}/" for name in found) or None

    def read(self, request: Request) -> Mapping[str, Source]:
        found = splits_of(request.source)
        if not found:
            raise UserError(
                f"{request.source} is no {self.name}: expected folders named {', '.join(sorted(SPLITS))}, and no others"
            )
        return {name: Folder(request.source / name, request.class_depth, self.name) for name in found}


class Unlabeled(Layout):
    name = "distractors"
    about = "images without labels: a folder of images, or of tars"
    corpora = "one, without labels"
    generic = True

    def recognize(self, source: Path) -> str | None:
        if not source.is_dir():
            return None
        flat = [path for path in islice(image_files(source), LOOKED_AT) if isinstance(path, str)]
        return "images in no folder" if flat and not any("/" in path for path in flat) else None

    def read(self, request: Request) -> Mapping[str, Source]:
        if request.source.is_dir() and tar_files(request.source):
            return {"": Tars(request.source, layout=self.name)}
        return {"": Folder(request.source, 0, self.name)}


@dataclass(frozen=True)
class Folder(Source):
    """Every image below `root`; its label is the path of the folder that it is in, or the first parts of that path."""

    root: Path
    class_depth: int | None = None
    """How many leading folders name the class; None: all of them. 0: no labels."""
    layout: str = "folder"

    @property
    def labeled(self) -> bool:  # type: ignore[override]
        """Labels are expected where images lie in folders."""
        some = (path for path in islice(image_files(self.root), LOOKED_AT) if isinstance(path, str))
        return self.class_depth != 0 and any("/" in path for path in some)

    def items(self) -> Iterator[Item | Skipped]:
        for path in image_files(self.root):
            if isinstance(path, Skipped):
                yield path
                continue
            folders = path.split("/")[:-1][: self.class_depth]
            yield Item(key_of(path), "/".join(folders) or None, path)

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)


def splits_of(source: Path) -> list[str]:
    """The folders of `source` where all of them, and two or more, are named like splits."""
    if not source.is_dir():
        return []
    folders = sorted(path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    return folders if len(folders) > 1 and SPLITS.issuperset(map(str.lower, folders)) else []
