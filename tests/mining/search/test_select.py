import math

import numpy as np
import pytest
import torch

from largescale.mining.search.select import NO_CLUSTER, NO_IMAGE, cluster_keys, score_pairs, select_negatives, usable
from tests.mining.reference import nearest


def draw(seed: int, queries: int, candidates: int, clusters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Similarities with many ties, ids in no order, clusters, excluded clusters."""
    rng = np.random.default_rng(seed)
    similarities = rng.integers(-8, 8, (queries, candidates)) / 8
    ids = rng.permutation(10 * candidates)[:candidates] + 2**33
    return similarities, ids, rng.integers(0, clusters, candidates), rng.integers(0, clusters, (queries, 2))


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "clusters", "count"), [(0, 30, 5), (1, 4, 5), (2, 1, 3), (3, 200, 1), (4, 30, 0)])
def test_selects_as_loops_do(seed: int, clusters: int, count: int) -> None:
    similarities, ids, of_cluster, excluded = draw(seed, 40, 120, clusters)
    expected, values = nearest(similarities, ids, of_cluster, excluded.tolist(), count)
    rows = (torch.from_numpy(np.broadcast_to(column, similarities.shape).copy()) for column in (similarities, ids, of_cluster))
    found = select_negatives(*rows, *torch.from_numpy(excluded).unbind(1), count)
    np.testing.assert_array_equal(found.ids, expected)
    np.testing.assert_array_equal(found.similarities, values)
    key_of = dict(zip(ids.tolist(), of_cluster.tolist(), strict=True)) | {NO_IMAGE: NO_CLUSTER}
    assert found.clusters.tolist() == [[key_of[i] for i in row] for row in expected.tolist()]


def test_order_and_repetition_of_candidates_do_not_matter() -> None:
    similarities, ids, clusters, excluded = (torch.from_numpy(array) for array in draw(5, 20, 60, 15))
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(0)).repeat(2)
    both = torch.from_numpy(excluded.numpy()).unbind(1)
    once = select_negatives(similarities, ids.expand(20, -1), clusters.expand(20, -1), *both, 5)
    twice = select_negatives(similarities[:, shuffled], ids[shuffled].expand(20, -1), clusters[shuffled].expand(20, -1), *both, 5)
    assert torch.equal(once.ids, twice.ids)


def test_unlabeled_images_are_clusters_of_their_own() -> None:
    keys = cluster_keys(np.array([7, 7, -1, -1, 0]), np.array([3, 4, 5, 6, 2**40]))
    assert keys[0] == keys[1] == 7
    assert len(set(keys.tolist())) == 4
    assert keys[2] < NO_CLUSTER
    assert keys[3] < NO_CLUSTER


@pytest.mark.slow
def test_scores_are_exact_to_a_bit_and_depend_on_two_rows_only() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(50, 333, generator=generator), torch.randn(700, 333, generator=generator)
    i, j = torch.randint(0, 50, (1500,), generator=generator), torch.randint(0, 700, (1500,), generator=generator)
    scores = score_pairs(left, right, i, j)
    exact = [math.fsum((left[a].double() * right[b].double()).tolist()) for a, b in zip(i.tolist(), j.tolist(), strict=True)]
    np.testing.assert_allclose(scores, exact, rtol=0, atol=1e-13)
    order = torch.randperm(1500, generator=generator)
    assert torch.equal(score_pairs(left, right, i[order], j[order]), scores[order])
    assert torch.equal(score_pairs(left, right, i[7:8], j[7:8]), scores[7:8])
    assert torch.equal(score_pairs(right, left, j, i), scores)


def test_scores_of_half_precision_are_those_of_its_values() -> None:
    rows = torch.randn(20, 64, generator=torch.Generator().manual_seed(0)).half()
    i = torch.arange(20)
    assert torch.equal(score_pairs(rows, rows, i, i.flip(0)), score_pairs(rows.float(), rows.float(), i, i.flip(0)))


def test_only_finite_rows_with_a_length_are_usable() -> None:
    rows = torch.eye(4)
    rows[1, 0], rows[2], rows[3, 0] = torch.nan, 0, torch.inf
    assert usable(rows).tolist() == [True, False, False, False]
