"""Rankings made anew from the neighbors of neighbors; nothing here sees the ground truth.

The graph holds the nearest others of every row of the gallery. A query meets it by its own nearest rows, alone: what other
queries are asked changes nothing.

Q queries, N rows of the gallery, K neighbors
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import sparse

from largescale.distributed import World
from largescale.evaluation.descriptors.derived import gallery_parts
from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.evaluation.search.neighbors import nearest

Rerank = Callable[[np.ndarray], np.ndarray]
"""`(Q, N)` similarities -> scores by which the rows are ranked, in [-1, 1]."""
K1, K2, LAMBDA = 20, 6, 0.3
"""Zhong et al. 2017, section 4: neighbors, neighbors whose encodings are averaged, share of the first distance."""
K_GRAPH, K_QUERY, GAMMA, ALPHA, STEPS = 50, 10, 3, 0.99, 20
"""Iscen et al. 2017, section 5: neighbors in the graph and of the query, exponent of similarities, what diffuses, steps."""


def reranker(method: str, gallery: GalleryRows, directory: Path, world: World) -> Rerank:
    """The graph of a gallery; its lists of neighbors are kept in `directory`.

    Args:
        method: k_reciprocal or diffusion.
    """
    count = K1 if method == "k_reciprocal" else K_GRAPH

    def neighbors(rows: np.ndarray, numbers: slice) -> np.ndarray:
        found = nearest(rows, gallery, count, np.arange(numbers.start, numbers.stop))
        return np.stack(found, axis=2).astype(np.float64)  # (n, K, 2): row and similarity

    lists = np.concatenate(gallery_parts(directory, gallery, neighbors, world))
    near, similarity = lists[..., 0].astype(np.int64), np.where(lists[..., 0] < 0, 0, lists[..., 1])
    return KReciprocal(near, similarity, gallery) if method == "k_reciprocal" else Diffusion(near, similarity)


class Diffusion:
    """Similarities spread over the graph of mutual neighbors (Iscen et al. 2017): (1 - alpha S) f = y."""

    def __init__(self, near: np.ndarray, similarity: np.ndarray) -> None:
        """
        Args:
            near, similarity: `(N, K)` of the nearest others of each row; -1 for none.
        """
        weights = _sparse(near, similarity.clip(0) ** GAMMA)
        weights = weights.minimum(weights.T)  # an edge where both are neighbors of each other
        degree = np.asarray(weights.sum(axis=1)).ravel()
        scale = sparse.diags(np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0))
        self.system = (sparse.identity(len(near)) - ALPHA * (scale @ weights @ scale)).tocsr()

    def __call__(self, similarity: np.ndarray) -> np.ndarray:
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :K_QUERY]
        start = np.zeros(similarity.shape)
        np.put_along_axis(start, best, np.take_along_axis(similarity, best, axis=1).clip(0) ** GAMMA, axis=1)
        reached = _solve(self.system, start.T).T  # (Q, N)
        top = reached.max(axis=1, keepdims=True).clip(1e-12)
        # what diffusion does not reach follows in the order of its similarity
        return np.where(reached > 1e-12 * top, 0.5 + 0.5 * reached / top, 0.5 * similarity.clip(-1, 1) - 0.5).astype(np.float32)


def _solve(system: sparse.csr_matrix, y: np.ndarray) -> np.ndarray:
    """Conjugate gradients for each column of `(N, Q)`."""
    x, residual = np.zeros_like(y), y.copy()
    direction, square = residual.copy(), (y * y).sum(axis=0)
    for _ in range(STEPS):
        spread = system @ direction
        step = _ratio(square, (direction * spread).sum(axis=0))
        x += step * direction
        residual -= step * spread
        before, square = square, (residual * residual).sum(axis=0)
        direction = residual + _ratio(square, before) * direction
    return x


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


class KReciprocal:
    """Jaccard distance of k-reciprocal neighbors (Zhong et al. 2017), with 1 - similarity as the first distance."""

    def __init__(self, near: np.ndarray, similarity: np.ndarray, gallery: GalleryRows) -> None:
        count, self.floors = len(near), [similarity[:, K1 - 1], similarity[:, K1 // 2 - 1]]
        # in the graph a row is the first of its own neighbors
        near = np.concatenate([np.arange(count)[:, None], near], axis=1)
        mutual, half = (_mutual(near[:, : k + 1]) for k in (K1, K1 // 2))
        self.half, self.half_size = half, np.asarray(half.sum(axis=1)).ravel()
        pattern = self._widened(mutual).tocoo()
        weights = np.exp(_pair_similarity(gallery, pattern.row, pattern.col) - 1)
        self.first = _normalized(sparse.csr_matrix((weights, (pattern.row, pattern.col)), shape=(count, count)))
        self.code = _sparse(near[:, :K2], np.full((count, K2), 1 / K2)) @ self.first
        self.columns = self.code.tocsc()

    def __call__(self, similarity: np.ndarray) -> np.ndarray:
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :K1]
        value = np.take_along_axis(similarity, best, axis=1)
        mutual = _sparse(np.where(value >= self.floors[0][best], best, -1), np.ones(best.shape), similarity.shape[1])
        pattern = self._widened(mutual).tocoo()
        weights = np.exp(similarity[pattern.row, pattern.col] - 1)
        first = _normalized(sparse.csr_matrix((weights, (pattern.row, pattern.col)), shape=similarity.shape))
        near = _sparse(best[:, : K2 - 1], np.full((len(best), K2 - 1), 1 / K2), similarity.shape[1])
        code = (first / K2 + near @ self.first).tocsr()
        distance = np.stack([self._jaccard(code[q]) for q in range(len(similarity))])
        return (1 - (1 - LAMBDA) * distance - LAMBDA * (1 - similarity)).clip(-1, 1).astype(np.float32)

    def _widened(self, mutual: sparse.csr_matrix) -> sparse.csr_matrix:
        """With the neighbors of those neighbors that share two thirds of theirs."""
        shared = (mutual @ self.half.T).multiply(mutual).tocoo()
        near = shared.data > 2 / 3 * self.half_size[shared.col]
        taken = sparse.csr_matrix((np.ones(near.sum()), (shared.row[near], shared.col[near])), shape=mutual.shape)
        return ((mutual + taken @ self.half) > 0).astype(np.float64).tocsr()

    def _jaccard(self, code: sparse.csr_matrix) -> np.ndarray:
        """`(N,)` distances of one query's encoding `(1, N)` to those of all rows."""
        columns = self.columns[:, code.indices]
        of_query = np.repeat(code.data, np.diff(columns.indptr))
        shared = np.bincount(columns.indices, np.minimum(columns.data, of_query), minlength=columns.shape[0])
        return 1 - shared / (2 - shared)


def _sparse(near: np.ndarray, values: np.ndarray, width: int | None = None) -> sparse.csr_matrix:
    """`(Q, K)` lists as a matrix `(Q, N)`; -1 is left out."""
    row, column = np.nonzero(near >= 0)
    return sparse.csr_matrix((values[row, column], (row, near[row, column])), shape=(len(near), width or len(near)))


def _mutual(near: np.ndarray) -> sparse.csr_matrix:
    """1 where two rows are neighbors of each other."""
    lists = _sparse(near, np.ones(near.shape))
    return lists.multiply(lists.T).tocsr()


def _normalized(weights: sparse.csr_matrix) -> sparse.csr_matrix:
    sums = np.asarray(weights.sum(axis=1)).ravel()
    return (sparse.diags(np.divide(1, sums, out=np.zeros_like(sums), where=sums > 0)) @ weights).tocsr()


def _pair_similarity(gallery: GalleryRows, a: np.ndarray, b: np.ndarray, at_once: int = 4096) -> np.ndarray:
    parts = [slice(start, start + at_once) for start in range(0, len(a), at_once)]
    found = [gallery.similarity(gallery.take(a[part]), gallery.take(b[part])) for part in parts]
    return np.concatenate([np.zeros(0), *found])
