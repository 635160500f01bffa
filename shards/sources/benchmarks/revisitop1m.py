"""R1M: the million distractors of the revisited Oxford and Paris benchmark."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import Item, Source
from ..files import key_of, read_file, require_files
from ..layout import Layout, Request, only_root, roots

LIST = "revisitop1m.txt"


class RevisitedDistractors(Layout):
    name = "revisitop1m"
    about = "R1M: revisitop1m.txt (a path per line), images below jpg/"
    corpora = "one, without labels: distractors"

    def recognize(self, source: Path) -> str | None:
        return LIST if len(roots(source, (LIST,))) == 1 else None

    def read(self, request: Request) -> Mapping[str, Source]:
        root = only_root(request.source, (LIST,), self.name)
        return {"": ListedImages(root / LIST, root / "jpg" if (root / "jpg").is_dir() else root)}


@dataclass(frozen=True)
class ListedImages(Source):
    """The images that the list names; the folder may hold others."""

    path: Path
    root: Path
    layout: str = "revisitop1m"

    def items(self) -> Iterator[Item]:
        names = self.path.read_text(encoding="utf-8").split()
        require_files(self.root, names)
        yield from (Item(key_of(name), None, name) for name in names)

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)
