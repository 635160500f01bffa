"""What is right for each query: lists of keys that a benchmark publishes, or labels. Resolved to rows of the gallery.

Q queries, N rows of the gallery, M judged rows of all queries
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from largescale.evaluation.protocol.protocols import landmark_protocols
from largescale.evaluation.protocol.relevance import Judged
from largescale.settings import UserError

LISTS = ("good", "ok", "easy", "hard", "junk", "public", "private")
SAME_LANDMARK = 0.5
Box = tuple[float, float, float, float]


class Truth(ABC):
    """A ground truth in rows of the gallery."""

    lists: Sequence[str]
    """Names of the lists, by the numbers in `Judged.list`."""
    query: np.ndarray
    """`(Q,)` image id of each query in the corpus of the queries."""
    boxes: Sequence[Box | None]
    cluster: Sequence[str]
    """`(Q,)` landmark or label: queries of one cluster are drawn together."""
    left_out: np.ndarray
    """Rows that are stored with the gallery but are no part of it."""
    own: np.ndarray
    """`(Q,)` row of the query's own image where it is left out of the ranking, else -1."""

    @property
    def digest(self) -> str:
        """Of everything that decides counts."""
        digest = hashlib.sha256(self.query.tobytes() + self.left_out.tobytes())
        for first in range(0, len(self.query), 1024):
            judged = self.judged(slice(first, min(first + 1024, len(self.query))))
            for column in (judged.start, judged.row, judged.list):
                digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    @abstractmethod
    def judged(self, queries: slice) -> Judged:
        """What is known of some of the queries."""


@dataclass(frozen=True)
class PublishedQuery:
    key: str
    box: Box | None
    lists: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Published:
    """The ground truth of a benchmark, by keys."""

    family: str
    queries: Sequence[PublishedQuery]
    gallery: Sequence[str] | None
    """None: every image of the corpus."""

    @staticmethod
    def parse(values: Mapping[str, Any], where: str) -> "Published":
        """From the contents of `ground_truth.json` (see `shards.sources`)."""
        try:
            queries = [
                PublishedQuery(query["key"], query["box"] and tuple(query["box"]), {name: query.get(name, []) for name in LISTS})
                for query in values["queries"]
            ]
            published = Published(values["protocol"], queries, values["gallery"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{where} is no ground truth ({error!r}); run make shards again") from None
        if not queries:
            raise UserError(f"{where} has no queries: there is nothing to score")
        _check_lists(published, where)
        return published

    def may_be(self, protocol: str) -> bool:
        """Whether these lists are those of a protocol. Upright Holidays has other photographs, the lists are the same."""
        return protocol in ("auto", self.family, *(["holidays-upright"] if self.family == "holidays" else []))


def _check_lists(published: Published, where: str) -> None:
    used = {name for protocol in landmark_protocols(published.family, True) for name in (*protocol.positive, *protocol.junk)}
    for query in published.queries:
        unused = [name for name, keys in query.lists.items() if keys and name not in used]
        if unused:
            raise UserError(f"{where}: {published.family} does not use the lists {', '.join(unused)}; is it another set's?")
        named = [key for keys in query.lists.values() for key in keys]
        if len(set(named)) < len(named):
            twice = sorted({key for key in named if named.count(key) > 1})
            raise UserError(f"{where} judges {_some(twice)} twice for query {query.key}: right and junk at once has no score")


class ListedTruth(Truth):
    """Published lists, resolved."""

    lists = LISTS

    def __init__(self, published: Published, gallery: pa.Array, queries: pa.Array) -> None:
        """Find every image by its key.

        Args:
            gallery, queries: keys of the two corpora; a row is its position.

        Raises:
            UserError: images that are missing, that nobody asked for, or that are there twice; the lists name them.
        """
        asked = [query.key for query in published.queries]
        _check_images(published, gallery, queries)
        self.query = _find(asked, queries)
        self.boxes = [query.box for query in published.queries]
        self.cluster = _landmarks(published.queries)
        inside = np.ones(len(gallery), dtype=bool)
        if published.gallery is not None:
            inside[:] = False
            inside[_find(published.gallery, gallery)] = True
        self.left_out = np.flatnonzero(~inside)
        lists = [{name: _find(keys, gallery) for name, keys in query.lists.items()} for query in published.queries]
        self._judged = Judged.of(lists, LISTS)
        is_junk = [query.key in query.lists["junk"] for query in published.queries]
        self.own = np.array(
            [
                row[0] if len(row) else -1
                for row in (_find([key] * junk, gallery) for key, junk in zip(asked, is_junk, strict=True))
            ]
        )

    def judged(self, queries: slice) -> Judged:
        start = self._judged.start[queries.start : queries.stop + 1]
        return Judged(start - start[0], self._judged.row[start[0] : start[-1]], self._judged.list[start[0] : start[-1]])


class LabelTruth(Truth):
    """Rows of the query's label are right; with `leave_one_out` the queries are the gallery, each without itself."""

    lists = ("same label", "own image")
    left_out = np.empty(0, dtype=np.int64)

    def __init__(
        self, labels: np.ndarray, gallery: np.ndarray, names: Sequence[str], leave_one_out: bool, own: np.ndarray | None = None
    ) -> None:
        """
        Args:
            labels: `(queries,)` label of every image of the corpus of the queries in the numbers of the gallery, or -1
                for images that are no query.
            gallery: `(N,)`
            names: of the labels.
            own: `(queries,)` row of the gallery that is the image itself, else -1.
        """
        self.query = np.flatnonzero(labels >= 0)
        if not np.isin(labels[self.query], gallery).any():
            raise UserError(
                "no query has a label that is in the gallery: there is nothing to find; are these two corpora a pair?"
            )
        self.label = labels[self.query]
        self.boxes = [None] * len(self.query)
        self.cluster = [names[label] for label in self.label.tolist()]
        self.leave_one_out = leave_one_out
        self.own = self.query if leave_one_out else np.full(len(self.query), -1) if own is None else own[self.query]
        self._order = np.argsort(gallery, kind="stable")
        self._sorted = gallery[self._order]

    def judged(self, queries: slice) -> Judged:
        first = np.searchsorted(self._sorted, self.label[queries])
        counts = np.searchsorted(self._sorted, self.label[queries], "right") - first  # (Q,)
        start = np.concatenate([[0], np.cumsum(counts)])
        row = self._order[np.repeat(first - start[:-1], counts) + np.arange(start[-1])]
        own = row == np.repeat(self.own[queries], counts)
        return Judged(start, row, own.astype(np.uint8))


def labels_in_gallery(labels: np.ndarray, names: pa.Array, gallery_names: pa.Array) -> np.ndarray:
    """Labels of the queries in the numbers of the gallery, matched by name; -1 for images without label.

    A label that the gallery does not have becomes a number beyond its own: such queries have no positive, and are counted.
    """
    number = pc.index_in(names, value_set=gallery_names)
    known = pc.fill_null(number, -1).to_numpy(zero_copy_only=False)
    beyond = len(gallery_names) + np.arange(len(names))
    return np.append(np.where(known >= 0, known, beyond), -1)[labels]


def _find(keys: Sequence[str], among: pa.Array) -> np.ndarray:
    """`(keys,)` position of each key, all of which are there."""
    return pc.index_in(pa.array(keys, pa.large_string()), value_set=among).to_numpy(zero_copy_only=False).astype(np.int64)


def _check_images(published: Published, gallery: pa.Array, queries: pa.Array) -> None:
    asked = {query.key for query in published.queries}
    named = {key for query in published.queries for keys in query.lists.values() for key in keys}
    stored, stored_queries = set(gallery.to_pylist()), set(queries.to_pylist())
    within = stored if published.gallery is None else set(published.gallery)
    faults = [
        ("queries are missing", asked - stored_queries),
        ("images of the gallery are missing", (within | named) - stored),
        ("judged images are not in the gallery", (named & stored) - within),
        ("images are neither in the gallery nor queries", stored - within - asked),
        ("keys are there twice", _repeated(gallery) | _repeated(queries)),
        ("queries are asked twice", _repeated(pa.array([query.key for query in published.queries]))),
    ]
    found = [f"{len(keys):,} {what}: {_some(sorted(keys))}" for what, keys in faults if keys]
    if found:
        raise UserError(
            f"the images are not those of the ground truth of {published.family}, so there is no score:\n  " + "\n  ".join(found)
        )


def _repeated(keys: pa.Array) -> set[str]:
    counts = pc.value_counts(keys)
    return set(counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist())


def _some(keys: Sequence[str], most: int = 20) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most:,} more" if len(keys) > most else "")


def _landmarks(queries: Sequence[PublishedQuery]) -> list[str]:
    """A name per query, the same for queries that have at least half of their positives in common.

    Names of images do not tell: a query of Christ Church may be called oxford_002416.
    """
    positives = [{key for name, keys in query.lists.items() if name != "junk" for key in keys} for query in queries]
    group = list(range(len(queries)))
    for i, mine in enumerate(positives):
        for j, other in enumerate(positives[:i]):
            if mine and len(mine & other) >= SAME_LANDMARK * len(mine | other):
                group = [group[j] if g == group[i] else g for g in group]
    return [queries[g].key for g in group]
