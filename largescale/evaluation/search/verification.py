"""Spatial verification: the first rows of a ranking are put in order by the local features that agree with the query's.

What was compared is kept in the store, a file for each query: it depends on the images alone, and serves every network, every
number of distractors and the ranking after query expansion.

Q queries, K first rows, M judged rows of all queries, G groups of rows
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from largescale.commit import committed_file
from largescale.corpus.config import ImagesConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.decoding.pixels import BadImageError
from largescale.corpus.images import Region, decode_into, target_shapes
from largescale.cpu import one_thread, own_cores, single_threads
from largescale.distributed import World
from largescale.evaluation.config import VerificationConfig
from largescale.evaluation.descriptors.derived import digest_of, readable
from largescale.evaluation.protocol.relevance import GalleryRows, Judged
from largescale.evaluation.search.counting import Counted
from largescale.evaluation.search.local_features import LocalFeatures, agreeing
from largescale.processes import StoppedError
from largescale.program.progress import progress_bar

REMEMBERED = 512
"""Images whose features are held: half a megabyte each."""


@dataclass(frozen=True)
class Photographs:
    """The images of an evaluation."""

    queries: Corpus
    ids: np.ndarray
    """`(queries,)` image id of each query."""
    boxes: np.ndarray | None
    """`(queries, 4)` regions that are asked for; None: whole images."""
    searched: Sequence[Corpus]
    """The gallery and its distractors: a row is an image of the first, or of the next."""

    @property
    def digest(self) -> str:
        boxes = None if self.boxes is None else self.boxes.tolist()
        corpora = [corpus.manifest.fingerprint for corpus in (self.queries, *self.searched)]
        return digest_of(corpora, self.ids.tolist(), boxes)


class Verifier:
    """Compares queries with rows; every rank has one, and takes its share of the queries."""

    def __init__(
        self,
        config: VerificationConfig,
        images: Photographs,
        store: Path,
        world: World,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config, self.images, self.world, self.should_stop = config, images, world, should_stop
        compared = config.model_dump(mode="json", exclude={"first", "least"})
        self.directory = store / f"verified-{digest_of(images.digest, compared)}"
        self._start = np.cumsum([0, *(len(corpus.manifest) for corpus in images.searched)])
        self._of_row = lru_cache(REMEMBERED)(self._row_features)

    def __call__(self, first: int, rows: np.ndarray) -> np.ndarray:
        """`(Q, K)` features that agree, the same on every rank and for every number of ranks; 0 for row -1.

        Args:
            first: the number of the first query.
            rows: `(Q, K)` row numbers, the same on every rank.

        Raises:
            StoppedError: `should_stop` said so on some rank; what was compared stays.
        """
        world, found = self.world, list[tuple[int, np.ndarray]]()
        label = "verification" if world.is_first else None
        with one_thread(), single_threads(own_cores()) as pool, progress_bar(label, len(rows), "query") as bar:
            for place in range(world.rank, len(rows) + world.rank, world.size):  # as many turns on every rank
                if world.any(self.should_stop()):
                    raise StoppedError
                if place < len(rows):
                    found.append((place, self._compare(first + place, rows[place], pool)))
                bar.update(min(world.size, len(rows) - (place - world.rank)))
        counts = np.zeros(rows.shape, np.int32)
        for part in world.gather(found):
            for place, agreeing_features in part:
                counts[place] = agreeing_features
        return counts

    def _compare(self, query: int, rows: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
        """`(K,)` of one query, of which those that were compared before are read."""
        path = self.directory / f"query-{query:08d}.npz"
        known = dict(zip(*_read(path), strict=True)) if readable(path, ("row", "count")) else {}
        missing = sorted({row for row in rows.tolist() if row >= 0} - known.keys())
        if missing:
            box = None if self.images.boxes is None else self.images.boxes[query]
            own = features_of(self.images.queries, int(self.images.ids[query]), box, self.config)
            others = pool.map(self._of_row, missing)
            known |= zip(missing, (agreeing(own, other, self.config.geometry) for other in others), strict=True)
            with committed_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, row=np.array(sorted(known)), count=np.array([known[row] for row in sorted(known)]))
        return np.array([known.get(row, 0) for row in rows.tolist()], np.int32)

    def _row_features(self, row: int) -> LocalFeatures:
        part = int(np.searchsorted(self._start, row, "right")) - 1
        return features_of(self.images.searched[part], row - int(self._start[part]), None, self.config)


def features_of(corpus: Corpus, id: int, box: np.ndarray | None, config: VerificationConfig) -> LocalFeatures:
    """Of an image, or of a region `(4,)` of it; none of one that cannot be decoded: it agrees with nothing."""
    images, manifest = ImagesConfig(size=config.size), corpus.manifest
    stored, region = (int(manifest.width[id]), int(manifest.height[id])), None if box is None else _whole_pixels(box)
    width, height = (np.array([side]) for side in stored)
    [shape] = target_shapes(width, height, images, None if region is None else np.array([region]))
    pixels = np.empty((*shape.tolist(), 3), np.uint8)
    try:
        decode_into(pixels, corpus.read([id])[0], images, stored, region)
    except BadImageError:
        return LocalFeatures.none()
    return LocalFeatures.of(pixels, config.features)


def _whole_pixels(box: np.ndarray) -> Region:
    x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def verified_first(inliers: np.ndarray, least: int) -> np.ndarray:
    """`(Q, K)` places of the first rows in their new order: the verified, those with the most agreeing features before; all
    others, and equal ones, as they stood.

    Args:
        inliers: `(Q, K)` of the first rows.
        least: so many make a row a verified one.
    """
    return np.argsort(-np.where(inliers >= least, inliers, 0), axis=1, kind="stable")


def in_order_of(inliers: np.ndarray, least: int, counted: Counted, judged: Judged, gallery: GalleryRows) -> Counted:
    """The counts of rankings in which the verified of the first rows come first, those with the most agreeing features before.

    Equal ones, and all others, stay in the order of their similarity; a wrong row stands before an equal judged one.

    Args:
        inliers: `(Q, K)` of the first rows.
        least: so many make a row a verified one.
    """
    verified = np.where(inliers >= least, inliers, 0)
    order = verified_first(inliers, least)
    top_row, top_score = counted.top_row.copy(), counted.top_score.copy()
    for column in (top_row, top_score):
        column[:, : order.shape[1]] = np.take_along_axis(column, order, axis=1)
    between = counted.score / (1 + np.abs(counted.score, dtype=np.float64))  # in (-1, 1), in the same order
    before, score = counted.before.copy(), 0.5 + 0.5 * between
    for q, (first, last) in enumerate(zip(judged.start[:-1], judged.start[1:], strict=True)):
        own = slice(int(first), int(last))
        places = np.flatnonzero(verified[q])
        rows, counts, similar = counted.top_row[q, places], verified[q, places], counted.top_score[q, places]
        by_row = dict(zip(rows.tolist(), counts.tolist(), strict=True))
        mine = np.array([by_row.get(row, 0) for row in judged.row[own].tolist()], np.int64)  # (m,)
        wrong = ~np.isin(rows, judged.row[own])
        group = (gallery.group[rows[wrong]][:, None] == np.arange(before.shape[1])).astype(np.int64)  # (w, G)
        stood = similar[wrong] >= counted.score[own][:, None]  # (m, w)
        counts = counts[wrong] - mine[:, None]
        ahead = (counts > 0) | ((counts == 0) & stood)
        before[own] = np.where(mine[:, None] > 0, 0, before[own] - stood @ group) + ahead @ group
        score[own] += mine
    shown = np.take_along_axis(inliers, order, axis=1)
    return replace(counted, score=score, before=before, top_row=top_row, top_score=top_score, inliers=shown)


def _read(path: Path) -> tuple[list[int], list[int]]:
    with np.load(path) as file:
        return file["row"].tolist(), file["count"].tolist()
