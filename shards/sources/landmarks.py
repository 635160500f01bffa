"""Oxford and Paris test sets, classic and revisited: images with a ground truth of queries, boxes and lists."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from largescale.settings import UserError

from . import Item, Skipped, Source
from .files import MissingImagesError, image_files, key_of
from .layout import Layout, Request
from .pickles import load_plain

MARKS = ("good", "ok", "easy", "hard", "junk")


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
        return (Item(name, None, paths[name]) for name in stored)

    def read(self, place: str) -> bytes:
        return (self.root / place).read_bytes()

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
    """The format of revisitop: names in `imlist` and `qimlist`, positions in `gnd`."""
    protocol = re.search(r"r?(oxford5k|paris6k)", path.stem.lower())
    if protocol is None:
        raise UserError(
            f"{path.name} does not say which test set it is; name it gnd_PROTOCOL with oxford5k, paris6k, roxford5k or rparis6k"
        )
    values = json.loads(path.read_text()) if path.suffix == ".json" else load_plain(path)
    try:
        images, names = ([key_of_name(name) for name in values[part]] for part in ("imlist", "qimlist"))
        queries = [_query(name, truth, images) for name, truth in zip(names, values["gnd"], strict=True)]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no ground truth with imlist, qimlist and gnd that fit together ({error!r})") from None
    return TestSet(protocol[0], queries, images)


def _query(name: str, truth: dict[str, Any], images: Sequence[str]) -> dict[str, Any]:
    box = [float(side) for side in truth["bbx"]] if "bbx" in truth else None
    return {"key": name, "box": box, **{mark: [images[number] for number in truth[mark]] for mark in MARKS if mark in truth}}


def _read_texts(folder: Path) -> TestSet:
    """The original files: `NAME_query.txt` holds an image and a box, `NAME_good.txt` and its sisters a name per line."""
    queries = []
    oxford = False
    for path in sorted(folder.glob("*_query.txt")):
        name, *sides = path.read_text().split()
        oxford |= name.startswith("oxc1_")
        stem = path.name.removesuffix("query.txt")
        # all_souls_1_good.txt of Oxford names an image twice
        lists = {mark: list(dict.fromkeys((folder / f"{stem}{mark}.txt").read_text().split())) for mark in ("good", "ok", "junk")}
        queries.append({"key": name.removeprefix("oxc1_"), "box": [float(side) for side in sides], **lists})
    if not queries:
        raise UserError(f"{folder} holds no *_query.txt; give --ground-truth")
    return TestSet("oxford5k" if oxford else "paris6k", queries, None)


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


def key_of_name(name: str) -> str:
    """Names with or without `.jpg`, as different editions of the ground truths have them."""
    return name.removesuffix(".jpg")
