"""UKBench: 2,550 objects, four photographs each, side by side in the order of their numbers."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from largescale.settings import UserError

from .. import Item, Skipped, Source
from ..files import image_files, read_file
from ..layout import Layout, Request

NAME = re.compile(r"(?:.*/)?ukbench(\d{5})\.jpg")
GROUP = 4


class UKBench(Layout):
    name = "ukbench"
    about = "UKBench: ukbench00000.jpg …; four images in a row show one object"
    corpora = "one; labels of four, evaluate with protocol=ukbench (N-S)"

    def recognize(self, source: Path) -> str | None:
        first = "ukbench00000.jpg"
        found = source.is_dir() and any((folder / first).is_file() for folder in (source, *source.glob("*/")))
        return first if found else None

    def read(self, request: Request) -> Mapping[str, Source]:
        return {"": Objects(request.source)}


@dataclass(frozen=True)
class Objects(Source):
    """Labels are objects (`number // 4`)."""

    root: Path
    layout: str = "ukbench"
    labeled = True

    def items(self) -> Iterator[Item | Skipped]:
        numbers = []
        for path in image_files(self.root):
            if isinstance(path, Skipped):
                yield path
            elif found := NAME.fullmatch(path):
                numbers.append(int(found[1]))
                yield Item(f"ukbench{found[1]}", str(int(found[1]) // GROUP), path)
            else:
                yield Skipped(path, "name is not ukbenchNNNNN.jpg")
        if missing := sorted({n // GROUP * GROUP + k for n in numbers for k in range(GROUP)} - set(numbers)):
            raise UserError(
                f"{self.root}: ukbench{missing[0]:05d}.jpg is missing ({len(missing):,} in all), and a group of {GROUP} is not "
                "complete: the N-S score counts four images of each object; restore them"
            )

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)
