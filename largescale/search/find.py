"""What a question finds: filters, expansion of the query and re-ranking around the search itself.

Q queries, N rows of the index, D dimensions, K neighbors, M rows of a shortlist.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow.compute as pc
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.evaluation.search.expansion import combine, without
from largescale.evaluation.search.neighbors import nearest
from largescale.evaluation.search.reranking import K1, K_GRAPH, Diffusion, KReciprocal
from largescale.search.view import IndexView
from largescale.settings import Settings, UserError

if TYPE_CHECKING:
    from largescale.search.verify import Sought

SHORTLIST = 1000


class Options(Settings):
    """What is asked of a search beside the query."""

    k: PositiveInt = Field(default=20, le=10_000)
    """Results, nearest first."""
    label: str | None = None
    """Only rows with this label; * stands for any text, ? for any letter."""
    path: str | None = None
    """Only rows whose key, the path in the source, is like this, e.g. holidays/2019/*."""
    expand: NonNegativeInt = Field(default=0, le=1000)
    """Neighbors that are added to the query before it is searched again (query expansion); 0: none."""
    alpha: float = Field(default=3.0, ge=0)
    """A neighbor weighs its similarity to this power (alpha query expansion); 0: as much as the query (average expansion)."""
    rerank: Literal["none", "k_reciprocal", "diffusion"] = "none"
    """The 1,000 nearest are ranked anew by the neighbors that they share, with the methods of the evaluation stage."""
    verify: NonNegativeInt = Field(default=0, le=1000)
    """So many of the nearest are compared with the picture by local features, and those that are verified come first (spatial
    verification, as in the evaluation stage); with expand, only they are added. Needs largescale[verification]; 0: none."""

    @model_validator(mode="after")
    def _one_order(self) -> "Options":
        if self.verify and self.rerank != "none":
            raise ValueError(f"verify with rerank={self.rerank}: each ranks the nearest anew; choose one")
        return self


class Found(NamedTuple):
    """Rows of the index for each query."""

    ids: np.ndarray
    """`(Q, K)` numbers, -1 where there are no more."""
    scores: np.ndarray
    """`(Q, K)`."""
    inliers: np.ndarray | None = None
    """`(Q, K)` features that agree with the query's, 0 of rows that were not compared; None: none were."""


def find(
    view: IndexView, queries: np.ndarray, options: Options, own: np.ndarray | None = None, sought: Sequence["Sought"] = ()
) -> Found:
    """Rows of the index for each query.

    Args:
        queries: `(Q, D)`.
        own: `(Q,)` the row of the index that a query is, which is not among its results; -1 for none.
        sought: what each query looks like, for verification.

    Raises:
        UserError: queries of another dimension, or not finite; options that the metric has not; pictures that are gone.
    """
    if queries.ndim != 2 or queries.shape[1] != view.manifest.dim or not np.isfinite(queries).all():
        raise UserError(
            f"queries are finite numbers (Q, {view.manifest.dim}) for this index, found {queries.shape}"
            f"{'' if np.isfinite(queries).all() else ', not all of them finite'}"
        )
    if view.manifest.metric == "l2" and (options.expand or options.rerank != "none"):
        raise UserError("expand and rerank are defined by cosines, and this index has the metric l2: leave them out")
    own = np.full(len(queries), -1) if own is None else own
    allowed = matching(view, options)
    if options.verify:
        return _find_verified(view, queries, options, allowed, own, sought)
    if options.expand:
        near, _ = _others(view, queries, options.expand, allowed, own)
        queries = combine(queries, view.gallery, near, options.alpha)
    if options.rerank == "none":
        return Found(*_others(view, queries, options.k, allowed, own))
    short, scores = _others(view, queries, max(SHORTLIST, options.k), allowed, own)
    both = [reranked(view, ids[ids >= 0], of_query[ids >= 0], options) for ids, of_query in zip(short, scores, strict=True)]
    return Found(*(np.stack(column) for column in zip(*both, strict=True)))


def _find_verified(
    view: IndexView,
    queries: np.ndarray,
    options: Options,
    allowed: np.ndarray | None,
    own: np.ndarray,
    sought: Sequence["Sought"],
) -> Found:
    """The nearest, of which the verified come first; with expansion, those of the query with the verified added."""
    from largescale.search.verify import LEAST, Verification  # with torch

    if len(sought) != len(queries):
        raise UserError("verify compares pictures, and descriptors come without: leave it out")
    verified, deep = Verification(view, own, sought), max(options.k, options.expand, options.verify)
    if options.expand:
        near, _, inliers = verified(*_others(view, queries, deep, allowed, own), options.verify)
        trusted = np.where(inliers >= LEAST, near, -1)[:, : options.expand]
        queries = combine(queries, view.gallery, trusted, options.alpha)
    found = verified(*_others(view, queries, deep, allowed, own), options.verify)
    return Found(*(column[:, : options.k] for column in found))


def matching(view: IndexView, options: Options) -> np.ndarray | None:
    """`(N,)` the rows that the filters leave; None without filters."""
    allowed = None
    for name, pattern in (("label", options.label), ("key", options.path)):
        if pattern is not None:
            like = pc.match_like(view.column(name), _like(pattern))
            match = like.fill_null(False).combine_chunks().to_numpy(zero_copy_only=False)
            allowed = match if allowed is None else allowed & match
    return allowed


def _like(pattern: str) -> str:
    for letter, means in (("\\", "\\\\"), ("%", "\\%"), ("_", "\\_"), ("*", "%"), ("?", "_")):
        pattern = pattern.replace(letter, means)
    return pattern


def _others(
    view: IndexView, queries: np.ndarray, count: int, allowed: np.ndarray | None, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows that are not the query itself."""
    ids, scores = view.nearest(queries, count + int((own >= 0).any()), allowed)
    if not (own >= 0).any():
        return ids, scores
    scores = np.where(ids == own[:, None], -np.inf, scores)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return without(ids, own, count), np.take_along_axis(scores, order, axis=1)


def reranked(view: IndexView, ids: np.ndarray, similarity: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """One query's shortlist `(M,)` ranked anew: numbers and scores `(K,)`, padded with -1 and -inf."""
    if not len(ids):
        return np.full(options.k, -1), np.full(options.k, -np.inf)
    order = np.argsort(ids)
    ids, similarity = ids[order], similarity[order].astype(np.float32)
    gallery = GalleryRows.of(view.take(ids))
    near, close = nearest(gallery.parts[0], gallery, K1 if options.rerank == "k_reciprocal" else K_GRAPH, np.arange(len(ids)))
    close = np.where(near < 0, 0, close).astype(np.float64)
    ranker = KReciprocal(near, close, gallery) if options.rerank == "k_reciprocal" else Diffusion(near, close)
    scores = ranker(similarity[None])[0].astype(np.float64)
    best = np.lexsort((ids, -scores))[: options.k]
    missing = options.k - len(best)
    return np.pad(ids[best], (0, missing), constant_values=-1), np.pad(scores[best], (0, missing), constant_values=-np.inf)
