"""Google Landmarks v2: training landmarks (cleaned, or all), and the index and test images of the retrieval task."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from largescale.settings import UserError

from .. import Item, Skipped, Source
from ..files import read_file, require_files
from ..layout import Layout, Request

FOLDERS = ("", "metadata", "train", "index", "test", "ground_truth")
"""Where the CSV files are looked for."""
CLEAN, ALL, INDEX = "train_clean.csv", "train.csv", "index.csv"
SOLUTIONS = ("retrieval_solution_v2.1.csv", "retrieval_solution_v2.csv")
LISTS = {"Public": "public", "Private": "private"}
csv.field_size_limit(1 << 24)  # a landmark of train_clean.csv names all of its images in one field


class GoogleLandmarks(Layout):
    name = "gldv2"
    about = "Google Landmarks v2: train_clean.csv or train.csv, index.csv, retrieval_solution_v2.1.csv; SPLIT/a/b/c/abc….jpg"
    corpora = "train (cleaned where train_clean.csv is there), index, test (its public and private queries); mAP@100"

    def recognize(self, source: Path) -> str | None:
        found = [name for name in (CLEAN, ALL, INDEX, *SOLUTIONS) if _find(source, name)]
        known = [name for name in found if name not in (ALL, INDEX) or _header(_find(source, name)) in HEADERS]
        return ", ".join(known) or None

    def read(self, request: Request) -> Mapping[str, Source]:
        found = {name: path for name in (CLEAN, ALL, INDEX, *SOLUTIONS) if (path := _find(request.source, name))}
        solution = next((found[name] for name in SOLUTIONS if name in found), None)
        train = found.get(CLEAN, found.get(ALL))
        corpora: dict[str, Source] = {}
        if train:
            corpora["train"] = Training(_images(request.source, "train"), train)
        if INDEX in found:
            corpora["index"] = IndexImages(_images(request.source, "index"), found[INDEX])
        if solution:
            corpora["test"] = Queries(_images(request.source, "test"), solution)
        if not corpora:
            raise UserError(f"{request.source} is no {self.name}: expected {CLEAN}, {ALL}, {INDEX} or {SOLUTIONS[0]} in it")
        return corpora


@dataclass(frozen=True)
class Images(Source):
    """Images by their ids."""

    root: Path
    table: Path
    layout: str = "gldv2"

    def ids(self) -> Iterator[tuple[str, str | None]]:
        """Each image and its landmark."""
        raise NotImplementedError

    def items(self) -> Iterator[Item | Skipped]:
        found = list(self.ids())
        require_files(self.root, (place_of(id) for id, _ in found))
        yield from (Item(id, landmark, place_of(id)) for id, landmark in found)

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)


class Training(Images):
    """Labels are landmarks: of `landmark_id, images` (a row each landmark) or `id, url, landmark_id` (a row each image)."""

    labeled = True

    def ids(self) -> Iterator[tuple[str, str | None]]:
        for row in _rows(self.table):
            for id in row["images"].split() if "images" in row else [row["id"]]:
                yield id, row["landmark_id"]


class IndexImages(Images):
    def ids(self) -> Iterator[tuple[str, str | None]]:
        return ((row["id"], None) for row in _rows(self.table))


class Queries(Images):
    """The test images that are asked, public and private; the others are left out."""

    def ids(self) -> Iterator[tuple[str, str | None]]:
        return ((row["id"], None) for row in _rows(self.table) if row["Usage"] in LISTS)

    def items(self) -> Iterator[Item | Skipped]:
        yield from super().items()
        yield from (Skipped(row["id"], f"usage {row['Usage']}") for row in _rows(self.table) if row["Usage"] not in LISTS)

    def ground_truth(self) -> dict[str, Any]:
        asked = [row for row in _rows(self.table) if row["Usage"] in LISTS]
        queries = [{"key": row["id"], "box": None, LISTS[row["Usage"]]: row["images"].split()} for row in asked]
        return {"protocol": "gldv2", "queries": queries, "gallery": None}


def place_of(id: str) -> str:
    return f"{id[0]}/{id[1]}/{id[2]}/{id}.jpg"


HEADERS = ({"id", "url", "landmark_id"}, {"id", "landmark_id"}, {"id"})


def _header(path: Path | None) -> set[str]:
    assert path is not None
    with path.open(encoding="utf-8", newline="") as file:
        return set(next(csv.reader(file), []))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _find(source: Path, name: str) -> Path | None:
    return next((path for folder in FOLDERS if (path := source / folder / name).is_file()), None)


def _images(source: Path, split: str) -> Path:
    """`SPLIT/`, or the source itself where it is the folder of one split."""
    return source / split if (source / split).is_dir() else source
