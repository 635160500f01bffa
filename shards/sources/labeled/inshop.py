"""In-Shop Clothes Retrieval (DeepFashion): training items, and query and gallery images of other items."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from largescale.settings import UserError

from .. import Skipped, Source
from ..layout import Annotated, DataSet, Entry, Request, lines, roots

LISTS = ("Eval/list_eval_partition.txt", "list_eval_partition.txt")
HEADER = ["image_name", "item_id", "evaluation_status"]
"""Other data sets of the same laboratory have a file of this name with other columns."""
IMAGES = ("img", "Img/img", "img_highres", "Img/img_highres")


class InShop(DataSet):
    name = "inshop"
    about = "In-Shop Clothes Retrieval: Eval/list_eval_partition.txt (image_name item_id evaluation_status), img/ or img_highres/"
    corpora = "train, query, gallery; labels are items"
    splits = ("train", "query", "gallery")

    def recognize(self, source: Path) -> str | None:
        return next((name for name in LISTS for root in roots(source, (name,)) if _columns(root / name) == HEADER), None)

    def read(self, request: Request) -> Mapping[str, Source]:
        name = self.recognize(request.source)
        if name is None:
            raise UserError(f"{request.source} is no {self.name}: expected {LISTS[0]} with the columns {' '.join(HEADER)}")
        root = roots(request.source, (name,))[0]
        return {split: Annotated(root, InShop, split, self.name) for split in self.splits}

    def entries(self, root: Path) -> Iterator[Entry | Skipped]:
        listed = next(root / name for name in LISTS if (root / name).is_file())
        images = next((name for name in IMAGES if (root / name).is_dir()), None)
        if images is None:
            raise UserError(f"{root} lacks the images: expected one of {', '.join(IMAGES)}; unpack img.zip there")
        for path, item, status in lines(listed, 3, skip=2):
            if status in self.splits:
                yield Entry(status, f"{images}/{path.removeprefix('img/')}", item)
            else:
                yield Skipped(path, f"evaluation status {status}")


def _columns(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig") as file:
        file.readline()  # how many images there are
        return file.readline().split()
