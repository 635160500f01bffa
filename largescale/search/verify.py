"""Spatial verification of what a search found: that of the evaluation stage, of files and small pictures.

Q queries, K first rows.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from largescale.corpus.decoding.pictures import Picture, given
from largescale.cpu import one_thread, own_cores, single_threads
from largescale.evaluation.config import VerificationConfig
from largescale.evaluation.search.local_features import LocalFeatures, agreeing
from largescale.evaluation.search.verification import features_of, verified_first
from largescale.search.view import IndexView
from largescale.settings import UserError

RULE = VerificationConfig()
LEAST = RULE.least


class Sought(NamedTuple):
    """What a query looks like."""

    pictures: Sequence[Picture] = ()
    """Those that it was made of; none: it is a row of the index."""
    box: Sequence[float] | None = None
    """The part of the only picture that is looked for."""


class Verification:
    """Compares the queries of one search with rows of the index.

    Args:
        own: `(Q,)` the row that a query is; -1 for none.
        sought: of each query.

    Raises:
        UserError: a query that is not one picture.
    """

    def __init__(self, view: IndexView, own: np.ndarray, sought: Sequence[Sought]) -> None:
        self.view = view
        self.features = [self._of_query(*query) for query in zip(own.tolist(), sought, strict=True)]
        self.compared = [dict[int, int]() for _ in sought]

    def __call__(self, ids: np.ndarray, scores: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, their scores and their features that agree with the query's, `(Q, K)` each: the verified of the `first` come
        before all others.

        Args:
            ids: `(Q, K)` numbers of rows, -1 for none.

        Raises:
            UserError: a row of which neither the file nor a small picture is there.
        """
        inliers = np.zeros(ids.shape, np.int32)
        inliers[:, :first] = self._inliers(ids[:, :first])
        order = verified_first(inliers, LEAST)
        return tuple(np.take_along_axis(column, order, axis=1) for column in (ids, scores, inliers))  # type: ignore[return-value]

    def _inliers(self, ids: np.ndarray) -> np.ndarray:
        counts = np.zeros(ids.shape, np.int32)
        with one_thread(), single_threads(own_cores()) as pool:
            for query, known, rows, out in zip(self.features, self.compared, ids.tolist(), counts, strict=True):
                missing = [row for row in rows if row >= 0 and row not in known]
                known |= zip(missing, pool.map(partial(_agreeing, query), self._pictures(missing)), strict=True)
                out[:] = [known.get(row, 0) for row in rows]
        return counts

    def _of_query(self, own: int, sought: Sought) -> LocalFeatures:
        pictures = sought.pictures or (list(self._pictures([own])) if own >= 0 else ())
        if len(pictures) != 1:
            raise UserError(f"verify compares one picture with what is found, and this query is {len(pictures)}: leave it out")
        return _features(pictures[0], sought.box)

    def _pictures(self, rows: Sequence[int]) -> Iterator[Picture]:
        """The file of each row; where it is gone, the small picture."""
        if not rows:
            return
        table = self.view.table(np.array(rows), "key", "path", "thumbnail")
        for key, path, thumbnail in zip(*table.to_pydict().values(), strict=True):
            if path and Path(path).is_file():
                yield path
            elif thumbnail is not None:
                yield thumbnail
            else:
                raise UserError(
                    f"verify compares pictures, and neither the file of {key!r} nor a small picture of it is there: leave "
                    "it out, or let `remove missing=true` take out the rows whose files are gone"
                )


def _agreeing(query: LocalFeatures, picture: Picture) -> int:
    return agreeing(query, _features(picture, None), RULE.geometry)


def _features(picture: Picture, box: Sequence[float] | None) -> LocalFeatures:
    return features_of(given([picture])[0], 0, None if box is None else np.array(box), RULE)
