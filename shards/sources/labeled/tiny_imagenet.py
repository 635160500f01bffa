"""Tiny ImageNet-200: training images in folders, validation images in a list; the labels are the same."""

from collections.abc import Iterator
from pathlib import Path

from .. import Skipped
from ..files import image_files
from ..layout import DataSet, Entry


class TinyImageNet(DataSet):
    name = "tiny-imagenet"
    about = "Tiny ImageNet-200: train/WNID/images/, val/val_annotations.txt, val/images/"
    corpora = "train, val with equal labels; the images of test have none and are left out"
    markers = ("train", "val/val_annotations.txt")
    splits = ("train", "val")

    def entries(self, root: Path) -> Iterator[Entry | Skipped]:
        for path in image_files(root / "train"):
            yield path if isinstance(path, Skipped) else Entry("train", f"train/{path}", path.partition("/")[0])
        with (root / "val/val_annotations.txt").open(encoding="utf-8") as file:
            for line in file:
                name, label, *_ = line.split("\t")
                yield Entry("val", f"val/images/{name}", label.strip())
