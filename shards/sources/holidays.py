"""INRIA Holidays: 500 groups of photographs; the number of an image tells its group, and whether it is the query."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from largescale.settings import UserError
from shards.sources import Item, Source
from shards.sources.files import image_files


@dataclass(frozen=True)
class Holidays(Source):
    """Labels are groups (`number // 100`). The query of a group is the number that 100 divides, and leaves its own ranking."""

    root: Path
    layout: str = "holidays"

    def items(self) -> Iterator[Item]:
        for path in image_files(self.root):
            name = Path(path).stem
            if not name.isdecimal():
                raise UserError(
                    f"{self.root / path} is not named by a number as images of Holidays are; check SOURCE and --layout"
                )
            yield Item(name, str(int(name) // 100), path)

    def read(self, place: str) -> bytes:
        return (self.root / place).read_bytes()

    def ground_truth(self) -> dict[str, Any]:
        groups: dict[str, list[str]] = defaultdict(list)
        for item in self.items():
            groups[item.label or ""].append(item.key)
        return {"protocol": "holidays", "queries": [_query(sorted(group, key=int)) for group in groups.values()], "gallery": None}


def _query(group: list[str]) -> dict[str, Any]:
    first, *others = group
    if int(first) % 100:
        raise UserError(f"the group of image {first} has no query (a number that 100 divides); restore the missing image")
    return {"key": first, "box": None, "ok": others, "junk": [first]}
