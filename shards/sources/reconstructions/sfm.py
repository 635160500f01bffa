"""retrieval-SfM-120k (and -30k): a pickle of clusters and matching pairs, and a tree of images named by their hash.

Beside it lies a second pickle, `…-whiten.pkl`: the pairs that cirtorch learns its whitening from.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from largescale.settings import UserError

from .. import Item, Source
from ..files import read_file, require_files
from ..layout import Layout, Request
from ..pickles import load_plain

log = logging.getLogger(__name__)
COLUMNS = ("cids", "cluster", "qidxs", "pidxs")
WHITEN = "whiten"
"""The split that is a pickle of its own, without splits and without clusters."""


class RetrievalSfm(Layout):
    name = "sfm"
    about = "retrieval-SfM-120k (30k): its folder or pickle, …-whiten.pkl beside it, images in ims/ (--root)"
    corpora = "train, val, and whiten where its pickle is there; with pairs"

    def recognize(self, source: Path) -> str | None:
        return next((path.name for path in _pickles(source) if "sfm" in path.name.lower()), None)

    def read(self, request: Request) -> Mapping[str, Source]:
        path = find_pickle(request.source)
        root = request.root or path.parent / "ims"
        splits = (WHITEN,) if _is_whitening(path) else tuple(split for split in ("train", "val") if split in _load(path))
        corpora: dict[str, Source] = {split: StructureFromMotion(path, root, split) for split in splits}
        if not corpora:
            raise UserError(
                f"{path} has neither 'train' nor 'val' in it: not a retrieval-SfM pickle; it has {', '.join(_load(path))}"
            )
        whitening = path.with_name(f"{path.stem}-{WHITEN}.pkl")
        if whitening.is_file():
            corpora[WHITEN] = StructureFromMotion(whitening, root, WHITEN)
        return corpora


@dataclass(frozen=True)
class StructureFromMotion(Source):
    """One split of the pickle: labels are clusters, pairs are (qidxs, pidxs)."""

    path: Path
    root: Path
    split: str
    layout: str = "sfm"

    @property
    def labeled(self) -> bool:  # type: ignore[override]
        return self.split != WHITEN

    def items(self) -> Iterator[Item]:
        columns = self._columns()
        places = [place_of(cid) for cid in columns["cids"]]
        require_files(self.root, places)
        for cid, cluster, place in zip(columns["cids"], columns["cluster"], places, strict=True):
            yield Item(cid, cluster, place)

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)

    def pairs(self) -> Mapping[str, np.ndarray]:
        """Without those of an image and itself, which teach nothing."""
        columns = self._columns()
        other = columns["qidxs"] != columns["pidxs"]
        if left := int((~other).sum()):
            log.warning("%s: %d of %d pairs are an image and itself, and are left out", self.path, left, len(other))
        return {"query": columns["qidxs"][other], "positive": columns["pidxs"][other]}

    def _columns(self) -> dict[str, Any]:
        splits = _load(self.path)
        found = splits if self.split == WHITEN and "cids" in splits else splits.get(self.split)
        if not isinstance(found, dict):
            raise UserError(f"{self.path} has no split {self.split!r}; it holds: {', '.join(map(str, splits))}")
        expected = COLUMNS if self.split != WHITEN else tuple(name for name in COLUMNS if name != "cluster")
        absent = [name for name in expected if name not in found]
        if absent:
            raise UserError(f"{self.path} lacks {', '.join(absent)} under {self.split!r}: not a retrieval-SfM pickle")
        try:
            return self._checked(found)
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{self.path}: {', '.join(expected)} of {self.split!r} do not fit together ({error})") from None

    def _checked(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Names as texts, indices as `(pairs,)` int64; a query with a list of positives is a pair with each of them."""
        cids = [str(cid) for cid in found["cids"]]
        clusters = [_cluster(value) for value in found.get("cluster", [None] * len(cids))]
        if len(clusters) != len(cids) or any(len(cid) < 6 for cid in cids):
            raise ValueError(f"{len(cids):,} cids, {len(clusters):,} clusters, and a cid is a hash; download it again")
        positives = [np.atleast_1d(np.asarray(some)) for some in found["pidxs"]]
        if len(found["qidxs"]) != len(positives):
            raise ValueError(f"{len(found['qidxs']):,} qidxs, {len(positives):,} pidxs; download it again")
        queries = np.repeat(_indices(found["qidxs"], len(cids)), [len(some) for some in positives])
        return {
            "cids": cids,
            "cluster": clusters,
            "qidxs": queries,
            "pidxs": _indices(np.concatenate([*positives, np.empty(0, np.int64)]), len(cids)),
        }


def place_of(cid: str) -> str:
    """Where cirtorch's image tree keeps an image: `ab/cd/ef/…efcdab`, by the last six characters of its hash."""
    return f"{cid[-2:]}/{cid[-4:-2]}/{cid[-6:-4]}/{cid}"


def find_pickle(source: Path) -> Path:
    """SOURCE itself, or the one pickle in it; that of the whitening belongs to the other."""
    found = _pickles(source)
    main = [path for path in found if not _is_whitening(path)] or found
    if len(main) != 1:
        raise UserError(f"expected one .pkl in {source}, found {len(main)}; give the pickle itself as SOURCE")
    return main[0]


def _pickles(source: Path) -> list[Path]:
    return sorted(source.glob("*.pkl")) if source.is_dir() else [source] if source.suffix == ".pkl" else []


def _is_whitening(path: Path) -> bool:
    return path.stem.endswith(f"-{WHITEN}")


def _load(path: Path) -> dict[str, Any]:
    found = load_plain(path)
    if not isinstance(found, dict):
        raise UserError(
            f"{path} holds a {type(found).__name__}, expected splits with {', '.join(COLUMNS)}: not a retrieval-SfM pickle"
        )
    return found


def _cluster(value: Any) -> str | None:
    """A number, also as a float or a text, or a name; None where there is none."""
    if value is None or value != value or value == "":
        return None
    return value if isinstance(value, str) else str(int(value)) if float(value).is_integer() else str(value)


def _indices(values: Any, images: int) -> np.ndarray:
    numbers = np.asarray(values)
    whole = numbers.astype(np.int64)
    if (whole != numbers).any() or (len(whole) and (whole.min() < 0 or whole.max() >= images)):
        raise ValueError(f"indices of images are whole numbers from 0 to {images - 1:,}; download it again")
    return whole
