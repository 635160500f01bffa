"""CUB-200-2011: birds; the split of the retrieval literature, by classes."""

from collections.abc import Iterator
from pathlib import Path

from ..layout import DataSet, Entry, lines

TRAINED = 100
"""Classes 1 to 100 are trained, 101 to 200 tested. `train_test_split.txt` is that of classification, within classes."""


class Cub(DataSet):
    name = "cub"
    about = "CUB-200-2011: images.txt, image_class_labels.txt, bounding_boxes.txt, images/"
    corpora = "train (classes 1-100), test (101-200), with boxes"
    markers = ("images.txt", "image_class_labels.txt", "classes.txt", "images")
    splits = ("train", "test")

    def entries(self, root: Path) -> Iterator[Entry]:
        classes = dict(lines(root / "classes.txt", 2))
        labels = dict(lines(root / "image_class_labels.txt", 2))
        boxes = _boxes(root / "bounding_boxes.txt")
        for number, path in lines(root / "images.txt", 2):
            label = labels[number]
            yield Entry("train" if int(label) <= TRAINED else "test", f"images/{path}", classes[label], boxes.get(number))


def _boxes(path: Path) -> dict[str, tuple[float, float, float, float]]:
    """x, y, width and height in the file."""
    if not path.is_file():
        return {}
    found = ((number, [float(side) for side in sides]) for number, *sides in lines(path, 5))
    return {number: (x, y, x + w, y + h) for number, (x, y, w, h) in found}
