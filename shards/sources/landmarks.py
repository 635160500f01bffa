"""Oxford and Paris test sets, classic and revisited: images with a ground truth of queries, boxes and lists."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from largescale.corpus.decoding.keys import key_of_name
from largescale.corpus.decoding.pixels import BadImageError
from largescale.settings import UserError

from ..images import size_in_file
from . import Item, Skipped, Source
from .files import MissingImagesError, image_files, key_of, read_file
from .layout import Layout, Request
from .pickles import load_plain

MARKS = ("good", "ok", "easy", "hard", "junk")
TEXTS = ("good", "ok", "junk")
PUBLISHED_SIDE = 1024
"""Longest side of the images of Oxford and Paris."""
SLACK = 1.0
"""Pixels that a box may reach beyond its image, by rounding."""


class TestSet(NamedTuple):
    """A ground truth by names of images."""

    protocol: str
    queries: list[dict[str, Any]]
    images: list[str] | None
    """The gallery in the order of the ground truth; None: every image of the folder."""


class OxfordParis(Layout):
    name = "oxford"
    about = "Oxford/Paris test sets, classic or revisited: images with gnd_*.json, gnd_*.pkl or *_query.txt (--ground-truth)"
    corpora = "one, with its ground truth"

    def recognize(self, source: Path) -> str | None:
        patterns = ("gnd_*.json", "gnd_*.pkl", "*_query.txt")
        return next((p for p in patterns if source.is_dir() and next(source.glob(p), next(source.glob(f"*/{p}"), None))), None)

    def read(self, request: Request) -> Mapping[str, Source]:
        return {"": Landmarks(request.source, request.ground_truth or find_ground_truth(request.source))}


@dataclass(frozen=True)
class Landmarks(Source):
    """The images that a ground truth names (or the whole folder, for text files), without labels.

    Classic queries are images of the gallery. Revisited ones are stored in the same corpus but are no part of the gallery.
    """

    root: Path
    truth: Path
    """`gnd_PROTOCOL.json`, `gnd_PROTOCOL.pkl`, or a folder of `*_query.txt`, `*_good.txt`, `*_ok.txt`, `*_junk.txt`."""
    layout: str = "oxford"

    def items(self) -> Iterator[Item]:
        test_set = read_test_set(self.truth)
        paths = _paths_by_name(self.root)
        named = [name for query in test_set.queries for name in _names(query)]
        stored = list(dict.fromkeys([*(test_set.images or sorted(paths)), *named]))
        missing = [name for name in stored if name not in paths]
        if missing:
            raise MissingImagesError(self.root, missing, len(stored))
        self._check_boxes(test_set, paths)
        return (Item(name, None, paths[name]) for name in stored)

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)

    def _check_boxes(self, test_set: TestSet, paths: Mapping[str, str]) -> None:
        """Raise UserError for a box that reaches beyond its image: it belongs to a picture of another size."""
        for query in (query for query in test_set.queries if query["box"] is not None):
            place, box = paths[query["key"]], query["box"]
            try:
                width, height = size_in_file(self.read(place))
            except BadImageError:
                continue  # counted with the others, and a query's is an error
            if min(box) < -SLACK or box[2] > width + SLACK or box[3] > height + SLACK:
                raise UserError(
                    f"the box of query {query['key']} is {box}, but {place} has {width} x {height} pixels: a resized copy? "
                    f"boxes are in pixels of the published images, whose longest side is {PUBLISHED_SIDE}; use those"
                )

    def ground_truth(self) -> dict[str, Any]:
        protocol, queries, images = read_test_set(self.truth)
        inside = images is None or {query["key"] for query in queries} <= set(images)
        return {"protocol": protocol, "queries": queries, "gallery": None if inside else images}


def read_test_set(truth: Path) -> TestSet:
    if truth.is_dir():
        return _read_texts(truth)
    if not truth.is_file():
        raise UserError(
            f"there is no ground truth {truth}; --ground-truth names gnd_*.json, gnd_*.pkl or a folder of *_query.txt"
        )
    return _read_lists(truth)


def find_ground_truth(root: Path) -> Path:
    """The one ground truth below `root`."""
    files = sorted(path for suffix in ("json", "pkl") for path in root.rglob(f"gnd_*.{suffix}"))
    found = files + sorted({path.parent for path in root.rglob("*_query.txt")})
    if len(found) != 1:
        some = "none" if not found else ", ".join(str(path.relative_to(root)) for path in found)
        raise UserError(
            f"expected one ground truth (gnd_*.json, gnd_*.pkl, *_query.txt) below {root}, found {some}; give --ground-truth"
        )
    return found[0]


def _read_lists(path: Path) -> TestSet:
    """The format of revisitop: names in `imlist` and `qimlist`, positions (or names) in `gnd`."""
    protocol = re.search(r"r?(oxford5k|paris6k)", path.stem.lower())
    if protocol is None:
        raise UserError(
            f"{path.name} does not say which test set it is; name it gnd_PROTOCOL with oxford5k, paris6k, roxford5k or rparis6k"
        )
    values = _json(path) if path.suffix == ".json" else load_plain(path)
    try:
        images, names = ([key_of_name(name) for name in values[part]] for part in ("imlist", "qimlist"))
        position = {name: number for number, name in enumerate(images)}
        if len(position) < len(images):
            raise ValueError("imlist names an image twice")
        queries = [_query(name, truth, images, position) for name, truth in zip(names, values["gnd"], strict=True)]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no ground truth with imlist, qimlist and gnd that fit together ({error!r})") from None
    return TestSet(protocol[0], queries, images)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); download it again") from None


def _query(name: str, truth: dict[str, Any], images: Sequence[str], position: Mapping[str, int]) -> dict[str, Any]:
    lists = {mark: [_image(entry, images, position) for entry in _listed(truth[mark])] for mark in MARKS if mark in truth}
    if not lists:
        raise ValueError(f"query {name} has none of the lists {', '.join(MARKS)}")
    return {"key": name, "box": _box(name, truth.get("bbx")), **lists}


def _listed(entries: Any) -> Any:
    if entries is None:
        return []
    return entries if isinstance(entries, (list, tuple)) else np.ravel(entries).tolist()


def _image(entry: Any, images: Sequence[str], position: Mapping[str, int]) -> str:
    """The key of an image that is given by its position, or by its name."""
    if isinstance(entry, str):
        return images[position[key_of_name(entry)]]
    number = int(entry)
    if number != entry or not 0 <= number < len(images):
        raise IndexError(f"{entry} is no position among {len(images):,} images")
    return images[number]


def _box(name: str, sides: Any) -> list[float] | None:
    """x0, y0, x1, y1; None for the whole image."""
    if sides is None or not len(sides):
        return None
    box = [float(side) for side in sides]
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"the box of query {name} is {box}, which is not left, top, right, bottom of a region")
    return box


def _read_texts(folder: Path) -> TestSet:
    """The original files: `NAME_query.txt` holds an image and a box, `NAME_good.txt` and its sisters a name per line."""
    queries = []
    oxford = False
    for path in sorted(folder.glob("*_query.txt")):
        try:
            name, *sides = _words(path)
            box = _box(name, sides or [math.nan])
        except ValueError as error:
            raise UserError(f"{path} does not hold the name of an image and the four sides of a box ({error})") from None
        oxford |= name.startswith("oxc1_")
        stem = path.name.removesuffix("query.txt")
        # all_souls_1_good.txt of Oxford names an image twice
        lists = {mark: list(dict.fromkeys(map(key_of_name, _words(folder / f"{stem}{mark}.txt")))) for mark in TEXTS}
        queries.append({"key": key_of_name(name.removeprefix("oxc1_")), "box": box, **lists})
    if not queries:
        raise UserError(f"{folder} holds no *_query.txt; give --ground-truth")
    return TestSet("oxford5k" if oxford else "paris6k", queries, None)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").split()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): the ground truth is not whole; download it again") from None


def _names(query: dict[str, Any]) -> Iterator[str]:
    yield query["key"]
    for mark in MARKS:
        yield from query.get(mark, ())


def _paths_by_name(root: Path) -> dict[str, str]:
    paths: dict[str, str] = {}
    for path in (path for path in image_files(root) if not isinstance(path, Skipped)):
        name = key_of(path).rpartition("/")[2]
        if paths.setdefault(name, path) != path:
            raise UserError(f"{paths[name]} and {path} below {root} are both called {name}; the ground truth names one image")
    return paths
