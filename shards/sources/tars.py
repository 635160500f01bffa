"""Tars of img2dataset, or of any WebDataset: `NNNNN.tar` with `key.jpg`, `key.json` and `key.txt`."""

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from largescale.cpu import own_cores
from largescale.settings import UserError

from ..workers import pool
from . import Item, Source
from .files import IMAGE_SUFFIXES, key_of

PLACE = re.compile(r"(?P<tar>.*?\.tar)/.*@(?P<offset>\d+)\+(?P<size>\d+)")


@dataclass(frozen=True)
class Tars(Source):
    """Every image of every tar below `root`, keyed by tar and name; samples whose download failed have none."""

    root: Path
    label_field: str | None = None
    """The field of `key.json` that is the label; None: no labels."""
    layout: str = "img2dataset"

    def items(self) -> Iterator[Item]:
        tars = tar_files(self.root)
        if not tars:
            raise UserError(f"there is no .tar below {self.root}; check SOURCE and --layout")
        with pool(min(len(tars), own_cores())) as processes:
            for items in processes.map(self.index, tars):
                yield from items

    def read(self, place: str) -> bytes:
        found = PLACE.fullmatch(place)
        assert found, place
        with open(self.root / found["tar"], "rb") as file:
            return os.pread(file.fileno(), int(found["size"]), int(found["offset"]))

    def index(self, path: str) -> list[Item]:
        """The images of one tar."""
        try:
            with tarfile.open(self.root / path, "r:") as tar:
                members = [member for member in tar if member.isfile()]
                labels = self._labels(path, tar, members)
        except tarfile.TarError as error:
            raise UserError(
                f"{self.root / path} is no tar that can be read to its end ({error}); make it again or remove it"
            ) from None
        images = [member for member in members if os.path.splitext(member.name)[1].lower() in IMAGE_SUFFIXES]
        return [self._item(path, member, labels) for member in images]

    def _item(self, path: str, member: tarfile.TarInfo, labels: dict[str, str | None]) -> Item:
        key = f"{path.removesuffix('.tar')}/{key_of(member.name)}"
        return Item(key, labels.get(_sample(member.name)), f"{path}/{member.name}@{member.offset_data}+{member.size}")

    def _labels(self, path: str, tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> dict[str, str | None]:
        """The label of each sample that has a `.json`."""
        labels: dict[str, str | None] = {}
        for member in members if self.label_field else ():
            if member.name.endswith(".json"):
                values = json.loads(tar.extractfile(member).read())  # type: ignore[union-attr]
                if self.label_field not in values:
                    raise UserError(f"{path}/{member.name} has no field {self.label_field!r}; it has: {', '.join(values)}")
                value = values[self.label_field]
                labels[_sample(member.name)] = None if value is None else str(value)
        return labels


def tar_files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.tar") if not path.name.startswith("."))


def _sample(name: str) -> str:
    """What WebDataset takes for the key of a member: its name up to the first dot after the last slash."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
