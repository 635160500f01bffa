"""Re-ranking against its definition on dense matrices, and against PyRetri."""

import numpy as np
import pytest

from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.evaluation.search.neighbors import nearest
from largescale.evaluation.search.reranking import ALPHA, GAMMA, K1, K_QUERY, Diffusion, KReciprocal, _solve
from tests.goldens import Golden, goldens


def manifolds(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows along three arcs, `(240, 6)`, and the arc of each; the ends of an arc are far from each other."""
    rng = np.random.default_rng(seed)
    angle, arc = rng.uniform(0, 2.6, 240), np.repeat(np.arange(3), 80)
    rows = 0.02 * rng.standard_normal((240, 6))
    rows[np.arange(240), 2 * arc] += np.cos(angle)
    rows[np.arange(240), 2 * arc + 1] += np.sin(angle)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), arc


def lists(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    near, similarity = nearest(rows, GalleryRows.of(rows), count, np.arange(len(rows)))
    return near, similarity.astype(np.float64)


def test_diffusion_is_the_solution_of_its_system() -> None:
    rows, _ = manifolds()
    near, similarity = lists(rows, 12)
    diffusion = Diffusion(near, similarity)
    adjacency = np.zeros((240, 240))
    adjacency[np.arange(240)[:, None], near] = similarity.clip(0) ** GAMMA
    adjacency = np.minimum(adjacency, adjacency.T)
    degree = adjacency.sum(1)
    system = np.eye(240) - ALPHA * adjacency / np.sqrt(np.outer(degree, degree))
    np.testing.assert_allclose(diffusion.system.toarray(), system, atol=1e-12)
    y = np.random.default_rng(1).random((240, 3))
    near_solution = np.linalg.norm(system @ _solve(diffusion.system, y) - y)
    assert near_solution < 0.05 * np.linalg.norm(y)
    similarity_of_queries = rows[:5] @ rows.T
    start = np.where(np.argsort(np.argsort(-similarity_of_queries, axis=1), axis=1) < K_QUERY, similarity_of_queries, 0)
    exact = np.linalg.solve(system, start.T.clip(0) ** GAMMA).T
    ours = diffusion(similarity_of_queries)
    for q in range(5):  # the same rows first
        assert len({*np.argsort(-exact[q])[:20]} & {*np.argsort(-ours[q])[:20]}) >= 18


@pytest.mark.parametrize(("method", "gain"), [("diffusion", 0.03), ("k_reciprocal", 0)])
def test_rankings_follow_the_manifold(method: str, gain: float) -> None:
    """The other end of the query's own arc comes before nearer rows of other arcs; k-reciprocal codes do not reach as far."""
    rows, arc = manifolds()
    near, similarity = lists(rows, K1)
    rerank = Diffusion(near, similarity) if method == "diffusion" else KReciprocal(near, similarity, GalleryRows.of(rows))
    before = rows[:240:8] @ rows.T
    after = rerank(before)
    right = arc[:240:8, None] == arc
    for scores in (before, after):
        assert scores.shape == right.shape

    def precision(scores: np.ndarray) -> float:
        return float(np.take_along_axis(right, np.argsort(-scores, axis=1)[:, :60], axis=1).mean())

    assert precision(after) >= precision(before) + gain
    assert np.abs(after).max() <= 1
    np.testing.assert_array_equal(after[:1], rerank(before[:1]), "other queries change nothing")


def test_what_diffusion_does_not_reach_keeps_its_order() -> None:
    near, similarity = np.full((30, 3), -1), np.zeros((30, 3))
    near[:3], similarity[:3] = [[1, 2, -1], [0, 2, -1], [0, 1, -1]], [[0.9, 0.9, 0]] * 3
    scores = np.linspace(0.9, -0.5, 30)[None]
    after = Diffusion(near, similarity)(scores)[0]
    assert (np.diff(after[K_QUERY:]) < 0).all()
    assert after[:K_QUERY].min() > after[K_QUERY:].max()


@pytest.mark.parametrize("case", goldens("expansion", "pyretri_k_reciprocal"))
def test_k_reciprocal_is_near_that_of_pyretri(case: Golden) -> None:
    """Near, not equal: there, the queries of a set are neighbors of each other."""
    arrays = case.arrays()
    queries, rows = arrays["in_queries"], arrays["in_db"]
    ours = np.argsort(-KReciprocal(*lists(rows, K1), GalleryRows.of(rows))(queries @ rows.T), axis=1)
    plain, theirs = np.argsort(-(queries @ rows.T), axis=1), arrays["out_sorted_index"]

    def agreement(ranking: np.ndarray) -> float:
        return float(np.mean([len({*a[:10]} & {*b[:10]}) / 10 for a, b in zip(ranking, theirs, strict=True)]))

    assert agreement(ours) > 0.85 > agreement(plain)
