"""A layout: how a collection lies in its folder, and which corpora come out of it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from largescale.settings import UserError

from . import Box, Item, Skipped, Source
from .files import key_of, read_file, require_files


@dataclass(frozen=True)
class Request:
    """What a user says about a source."""

    source: Path
    root: Path | None = None
    """What paths are relative to."""
    split: str | None = None
    """The one corpus that is wanted; None: all of them."""
    class_depth: int | None = None
    ground_truth: Path | None = None
    path_field: str | None = None
    label_field: str | None = None


class Layout(ABC):
    """How a collection lies in its folder. A layout of your own is named by its import path, `mypackage.module:MyLayout`."""

    name: ClassVar[str]
    about: ClassVar[str]
    """A line for the list of layouts: what stands there."""
    corpora: ClassVar[str] = "one"
    """A line: which corpora come out."""
    generic: ClassVar[bool] = False
    """Many collections look like this; a layout that is not generic is preferred where both recognize a source."""

    @abstractmethod
    def recognize(self, source: Path) -> str | None:
        """What in `source` shows that it lies so, e.g. the names of its files; None where it does not."""

    @abstractmethod
    def read(self, request: Request) -> Mapping[str, Source]:
        """The corpora by their names; the only one of a layout is named `""`.

        Raises:
            UserError: what is there is not what the layout expects.
        """


class Entry(NamedTuple):
    """An image as an annotation file names it."""

    split: str
    path: str
    """Below the root of the data set."""
    label: str | None
    box: Box | None = None


class DataSet(Layout):
    """A published data set: annotation files that name images, splits and labels."""

    markers: ClassVar[tuple[str, ...]]
    """Files (or folders) by which it is recognized, all of them, in the source or in the one folder of the source with them."""
    splits: ClassVar[tuple[str, ...]]

    @abstractmethod
    def entries(self, root: Path) -> Iterator[Entry | Skipped]:
        """Every image, always in the same order."""

    def recognize(self, source: Path) -> str | None:
        return ", ".join(self.markers) if len(roots(source, self.markers)) == 1 else None

    def read(self, request: Request) -> Mapping[str, Source]:
        root = only_root(request.source, self.markers, self.name)
        return {split: Annotated(root, type(self), split, self.name) for split in self.splits}


@dataclass(frozen=True)
class Annotated(Source):
    """One split of a data set."""

    root: Path
    dataset: type[DataSet]
    split: str
    layout: str
    labeled = True

    def items(self) -> Iterator[Item | Skipped]:
        found = [entry for entry in self.dataset().entries(self.root) if isinstance(entry, Skipped) or entry.split == self.split]
        require_files(self.root, (entry.path for entry in found if isinstance(entry, Entry)))
        for entry in found:
            yield entry if isinstance(entry, Skipped) else Item(key_of(entry.path), entry.label, entry.path, entry.box)

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)


def roots(source: Path, markers: tuple[str, ...]) -> list[Path]:
    """The source or the folders in it that have all of `markers`."""
    if not source.is_dir():
        return []
    folders = [source, *(path for path in sorted(source.iterdir()) if path.is_dir())]
    found = [folder for folder in folders if all((folder / marker).exists() for marker in markers)]
    return found[:1] if found[:1] == [source] else found


def only_root(source: Path, markers: tuple[str, ...], name: str) -> Path:
    found = roots(source, markers)
    if len(found) != 1:
        raise UserError(
            f"{source} is no {name}: expected one folder with {', '.join(markers)} in it, found "
            f"{', '.join(map(str, found)) or 'none'}; check SOURCE and LAYOUT"
        )
    return found[0]


def lines(path: Path, fields: int, skip: int = 0) -> Iterator[list[str]]:
    """The fields of each line, separated by blanks, after `skip` lines of header.

    Raises:
        UserError: a line has another number of fields.
    """
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            found = line.split(maxsplit=fields - 1)
            if number <= skip or not found:
                continue
            if len(found) != fields:
                raise UserError(f"{path}:{number}: expected {fields} fields, found {len(found)}: {line.strip()!r:.80}")
            yield [*found[:-1], found[-1].strip()]
