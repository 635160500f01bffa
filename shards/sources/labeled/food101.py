"""Food-101: dishes; both splits have all classes."""

from collections.abc import Iterator
from pathlib import Path

from ..layout import DataSet, Entry


class Food101(DataSet):
    name = "food101"
    about = "Food-101: meta/train.txt, meta/test.txt (CLASS/NUMBER without .jpg), images/"
    corpora = "train, test"
    markers = ("meta/train.txt", "meta/test.txt", "images")
    splits = ("train", "test")

    def entries(self, root: Path) -> Iterator[Entry]:
        for split in self.splits:
            for line in (root / "meta" / f"{split}.txt").read_text(encoding="utf-8").split():
                yield Entry(split, f"images/{line}.jpg", line.partition("/")[0])
