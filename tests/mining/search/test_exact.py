import numpy as np
import pytest
import torch
from torch import Tensor

from largescale.mining import MiningConfig
from largescale.mining.generations import distances
from largescale.mining.search import exact
from largescale.mining.search.exact import ExactSearch
from largescale.mining.search.select import NO_IMAGE, score_pairs
from tests.goldens import Golden, goldens
from tests.mining.reference import nearest


def brute_force(
    pool: Tensor, queries: Tensor, ids: Tensor, clusters: Tensor, excluded: Tensor, count: int, caps: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    pairs = torch.cartesian_prod(torch.arange(len(queries)), torch.arange(len(pool)))
    similarities = score_pairs(queries, pool, pairs[:, 0], pairs[:, 1]).view(len(queries), -1)
    limits = None if caps is None else caps.numpy()
    return nearest(similarities.numpy(), ids.numpy(), clusters.numpy(), excluded.tolist(), count, limits)


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows)


@pytest.mark.slow
@pytest.mark.parametrize("types", [(torch.bfloat16, torch.float32, torch.float64), (torch.float32, torch.float64)])
@pytest.mark.parametrize("tile", [64, 8192])
@pytest.mark.parametrize("kind", ["spread", "copies", "alike", "equal"])
def test_equals_brute_force(monkeypatch: pytest.MonkeyPatch, kind: str, tile: int, types: tuple[torch.dtype, ...]) -> None:
    """Also where descriptors are so much alike that float32 cannot order them, and where it leaves nothing to order."""
    monkeypatch.setattr(exact, "TILE", tile)
    monkeypatch.setattr(exact, "kinds", lambda device: types)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 48, generator=generator)
    common = torch.randn(1, 48, generator=generator)
    pool = unit(
        {"spread": noise, "copies": noise[torch.arange(400) % 40], "alike": common + 1e-5 * noise, "equal": common + 0 * noise}[
            kind
        ]
    )
    clusters, ids = torch.arange(400) // 7, torch.arange(400) * 3 + 2**31
    clusters[::5] = -2 - ids[::5]
    queries, excluded = pool[::40].clone(), torch.stack([clusters[::40], clusters[20::40]], 1)
    search = ExactSearch(pool, ids, clusters, 5)
    expected = brute_force(pool, queries, ids, clusters, excluded, 5)
    third = torch.from_numpy(expected[1][:, 2].copy())  # equal to the similarity of an image, which is not below it
    for caps in (None, third):
        found = search.nearest(queries, excluded, caps)
        expected = brute_force(pool, queries, ids, clusters, excluded, 5, caps)
        np.testing.assert_array_equal(found.ids, expected[0])
        np.testing.assert_array_equal(found.similarities, expected[1])


def test_clusters_need_not_be_contiguous_nor_enough() -> None:
    generator = torch.Generator().manual_seed(1)
    pool, clusters = torch.randn(200, 16, generator=generator), torch.randint(0, 6, (200,), generator=generator)
    ids, queries = torch.randperm(200, generator=generator), torch.randn(9, 16, generator=generator)
    excluded = torch.randint(0, 6, (9, 2), generator=generator)
    found = ExactSearch(pool, ids, clusters, 7).nearest(queries, excluded)
    np.testing.assert_array_equal(found.ids, brute_force(pool, queries, ids, clusters, excluded, 7)[0])
    assert (found.ids[:, -1] == NO_IMAGE).all()


@pytest.mark.parametrize("case", goldens("mining"))
def test_mines_as_cirtorch(case: Golden) -> None:
    """`compare: none` marks ties, which cirtorch leaves to its sort; where it raises, a row ends in empty places."""
    if case.args["nnum"] == 0:
        with pytest.raises(ValueError, match="greater than 0"):
            MiningConfig(negatives=0)
        return
    arrays = case.arrays()
    vectors, clusters = torch.from_numpy(arrays["in_vectors"]), torch.from_numpy(arrays["in_clusters"])
    drawn = arrays["in_query_permutation"][: case.args["qsize"]]
    queries, pool = arrays["in_qpool"][drawn], torch.from_numpy(arrays["in_image_permutation"][: case.args["poolsize"]])
    excluded = torch.stack([clusters[queries], clusters[arrays["in_ppool"][drawn]]], 1)
    found = ExactSearch(vectors[pool], pool, clusters[pool], case.args["nnum"]).nearest(vectors[queries], excluded)
    complete = found.ids != NO_IMAGE
    if case.raises:
        others = [len(set(clusters[pool].tolist()) - set(row)) for row in excluded.tolist()]
        assert complete.sum(1).tolist() == others
        return
    assert complete.all()
    case.compare("nidxs", found.ids)
    tolerance = case.facts["tolerance"]["float32"]["average_negative_distance"]
    np.testing.assert_allclose(distances(found.similarities.numpy()).mean(), arrays["out_average_negative_distance"], **tolerance)
