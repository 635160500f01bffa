"""INRIA Holidays: 500 groups of photographs; the number of an image tells its group, and whether it is the query."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from largescale.settings import UserError

from .. import Item, Skipped, Source
from ..files import image_files, read_file
from ..layout import Layout, Request


class InriaHolidays(Layout):
    name = "holidays"
    about = "INRIA Holidays: 100000.jpg …; the label is number // 100, and the number that 100 divides is the query"
    corpora = "one, with labels and queries"

    def recognize(self, source: Path) -> str | None:
        first = "100000.jpg"
        found = source.is_dir() and any((folder / first).is_file() for folder in (source, *source.glob("*/")))
        return first if found else None

    def read(self, request: Request) -> Mapping[str, Source]:
        return {"": Holidays(request.source)}


@dataclass(frozen=True)
class Holidays(Source):
    """Labels are groups (`number // 100`). The query of a group is the number that 100 divides, and leaves its own ranking."""

    root: Path
    layout: str = "holidays"
    labeled = True

    def items(self) -> Iterator[Item | Skipped]:
        for path in image_files(self.root):
            if isinstance(path, Skipped):
                yield path
                continue
            name = Path(path).stem
            if not name.isdecimal():
                raise UserError(
                    f"{self.root / path} is not named by a number as images of Holidays are; check SOURCE and --layout"
                )
            yield Item(name, str(int(name) // 100), path)

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)

    def ground_truth(self) -> dict[str, Any]:
        groups: dict[str, list[str]] = defaultdict(list)
        for item in (item for item in self.items() if isinstance(item, Item)):
            groups[item.label or ""].append(item.key)
        return {"protocol": "holidays", "queries": [_query(sorted(group, key=int)) for group in groups.values()], "gallery": None}


def _query(group: list[str]) -> dict[str, Any]:
    first, *others = group
    if int(first) % 100:
        raise UserError(f"the group of image {first} has no query (a number that 100 divides); restore the missing image")
    return {"key": first, "box": None, "ok": others, "junk": [first]}
