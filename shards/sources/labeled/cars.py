"""Cars196: cars; the split of the retrieval literature, by classes.

Published twice: all images in `car_ims/` with `cars_annos.mat`, or in `cars_train/` and `cars_test/` with the devkit.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from largescale.settings import UserError

from .. import Source
from ..layout import Annotated, DataSet, Entry, Request, roots

TRAINED = 98
"""Classes 1 to 98 are trained, 99 to 196 tested."""
WHOLE = ("cars_annos.mat",)
PARTS = ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_train", "cars_test")
LABELED_TEST = ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")


class Cars(DataSet):
    name = "cars196"
    about = "Cars196: car_ims/ with cars_annos.mat; or cars_train/, cars_test/, devkit/, cars_test_annos_withlabels.mat"
    corpora = "train (classes 1-98), test (99-196), with boxes"
    splits = ("train", "test")

    def recognize(self, source: Path) -> str | None:
        return next((", ".join(markers) for markers in (WHOLE, PARTS) if len(roots(source, markers)) == 1), None)

    def read(self, request: Request) -> Mapping[str, Source]:
        found = roots(request.source, WHOLE) or roots(request.source, PARTS)
        if len(found) != 1:
            raise UserError(f"{request.source} is no {self.name}: expected cars_annos.mat, or {', '.join(PARTS)}")
        return {split: Annotated(found[0], Cars, split, self.name) for split in self.splits}

    def entries(self, root: Path) -> Iterator[Entry]:
        if (root / WHOLE[0]).is_file():
            content = _matlab(root / WHOLE[0])
            yield from _entries(content["annotations"], content["class_names"], "relative_im_path", "")
            return
        names = _matlab(root / "devkit/cars_meta.mat")["class_names"]
        for part, file in ("train", root / "devkit/cars_train_annos.mat"), ("test", _labeled_test(root)):
            yield from _entries(_matlab(file)["annotations"], names, "fname", f"cars_{part}/")


def _entries(annotations: Any, names: Any, path: str, folder: str) -> Iterator[Entry]:
    for row in annotations:
        number = int(row["class"])
        box = tuple(float(row[f"bbox_{side}"]) for side in ("x1", "y1", "x2", "y2"))
        yield Entry("train" if number <= TRAINED else "test", f"{folder}{row[path]}", str(names[number - 1]), box)  # type: ignore[arg-type]


def _labeled_test(root: Path) -> Path:
    found = [root / name for name in LABELED_TEST if (root / name).is_file()]
    if not found:
        raise UserError(
            f"{root} lacks {LABELED_TEST[0]}: cars_test_annos.mat of the devkit has no classes, and the retrieval split "
            "needs those of all images; download it from the same page"
        )
    return found[0]


def _matlab(path: Path) -> Mapping[str, Any]:
    from scipy.io import loadmat

    with path.open("rb") as file:
        return loadmat(file, squeeze_me=True)
