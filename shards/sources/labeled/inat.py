"""iNaturalist 2018: species; training and test species as in the Smooth-AP benchmark.

The JSON of the competition splits the images of every species; the lists of the benchmark split the species.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from largescale.settings import UserError

from .. import Source
from ..layout import Annotated, DataSet, Entry, Request, roots

LISTS = {split: f"Inat_dataset_splits/Inaturalist_{split}_set1.txt" for split in ("train", "test")}
ANNOTATIONS = ("train2018.json", "train_val2018")


class INaturalist(DataSet):
    name = "inat2018"
    about = "iNaturalist 2018: train_val2018/, train2018.json, val2018.json; Inat_dataset_splits/ of the Smooth-AP benchmark"
    corpora = "train, test by the lists (5,690 and 2,452 species); without them train, val of the JSON; labels SUPER/SPECIES"
    splits = ("train", "test")

    def recognize(self, source: Path) -> str | None:
        markers = (tuple(LISTS.values()), ANNOTATIONS)
        return next((", ".join(names) for names in markers if len(roots(source, names)) == 1), None)

    def read(self, request: Request) -> Mapping[str, Source]:
        listed, annotated = roots(request.source, tuple(LISTS.values())), roots(request.source, ANNOTATIONS)
        if listed:
            return {split: Annotated(listed[0], INaturalist, split, self.name) for split in self.splits}
        if not annotated:
            raise UserError(
                f"{request.source} is no {self.name}: expected {' and '.join(LISTS.values())} (retrieval), or "
                f"{' and '.join(ANNOTATIONS)} (classification)"
            )
        return {split: Annotated(annotated[0], Competition, split, self.name) for split in Competition.splits}

    def entries(self, root: Path) -> Iterator[Entry]:
        for split, listed in LISTS.items():
            for line in (root / listed).read_text(encoding="utf-8").splitlines():
                if path := line.strip():
                    yield Entry(split, path, _species(path))


class Competition(INaturalist):
    """The split of the JSON files: every species is in both."""

    splits = ("train", "val")

    def entries(self, root: Path) -> Iterator[Entry]:
        for split in self.splits:
            content = json.loads((root / f"{split}2018.json").read_text(encoding="utf-8"))
            species = {annotation["image_id"]: annotation["category_id"] for annotation in content["annotations"]}
            for image in content["images"]:
                path = image["file_name"]
                yield Entry(split, path, f"{path.split('/')[1]}/{species[image['id']]}")


def _species(path: str) -> str:
    """`train_val2018/Plantae/7477/3b60….jpg` -> `Plantae/7477`."""
    parts = path.split("/")
    if len(parts) < 3:
        raise UserError(f"{path!r} in the lists of the benchmark has no folders SUPER/SPECIES; download the lists again")
    return "/".join(parts[-3:-1])
