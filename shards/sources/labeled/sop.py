"""Stanford Online Products: 22,634 products of 12 categories; training and test products differ."""

from collections.abc import Iterator
from pathlib import Path

from ..layout import DataSet, Entry, lines


class Products(DataSet):
    name = "sop"
    about = "Stanford Online Products: Ebay_train.txt, Ebay_test.txt (image_id class_id super_class_id path)"
    corpora = "train, test; labels CATEGORY/PRODUCT"
    markers = ("Ebay_train.txt", "Ebay_test.txt")
    splits = ("train", "test")

    def entries(self, root: Path) -> Iterator[Entry]:
        for split in self.splits:
            for _, product, _, path in lines(root / f"Ebay_{split}.txt", 4, skip=1):
                category = path.partition("/")[0].removesuffix("_final")
                yield Entry(split, path, f"{category}/{product}")
