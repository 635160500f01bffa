"""ILIAS: object instances, each with query and positive images; YFCC100M in tars as distractors."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import Item, Skipped, Source
from ..files import image_files, read_file
from ..layout import Layout, Request, only_root, roots
from ..tars import Tars, tar_files

CORE, DISTRACTORS = "ilias_core", "yfcc100m"
NAME = re.compile(r"(?P<object>[^/]+)/(?P<kind>query|pos)/[QP]\d+_\d+\.jpg")


class Ilias(Layout):
    name = "ilias"
    about = "ILIAS: ilias_core/NAME_000/query/Q000_00.jpg and pos/P000_00.jpg, yfcc100m/*.tar"
    corpora = "query, gallery, and distractors where yfcc100m/ is there; mAP@1k"

    def recognize(self, source: Path) -> str | None:
        return CORE if len(roots(source, (CORE,))) == 1 else None

    def read(self, request: Request) -> Mapping[str, Source]:
        root = only_root(request.source, (CORE,), self.name)
        corpora: dict[str, Source] = {kind: Core(root / CORE, kind) for kind in ("query", "gallery")}
        if (root / DISTRACTORS).is_dir() and tar_files(root / DISTRACTORS):
            corpora["distractors"] = Tars(root / DISTRACTORS, layout=self.name)
        return corpora


@dataclass(frozen=True)
class Core(Source):
    """The query images, or the positive images of all objects; labels are objects."""

    root: Path
    kind: str
    layout: str = "ilias"
    labeled = True

    def items(self) -> Iterator[Item | Skipped]:
        wanted = "query" if self.kind == "query" else "pos"
        for path in image_files(self.root):
            if isinstance(path, Skipped):
                yield path
            elif (found := NAME.fullmatch(path)) is None:
                yield Skipped(path, "name is not OBJECT/query/Q….jpg or OBJECT/pos/P….jpg")
            elif found["kind"] == wanted:
                yield Item(path.removesuffix(".jpg"), found["object"], path)

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)

    def ground_truth(self) -> dict[str, Any] | None:
        if self.kind != "query":
            return None
        right = defaultdict(list)
        for item in Core(self.root, "gallery").items():
            if isinstance(item, Item):
                right[item.label].append(item.key)
        asked = [item for item in self.items() if isinstance(item, Item)]
        queries = [{"key": item.key, "box": None, "good": right[item.label]} for item in asked]
        return {"protocol": "ilias", "queries": queries, "gallery": None}
