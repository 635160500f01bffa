"""Expansion against dirtorch, PyRetri and fast-reid, and neighbors against a full sort."""

import numpy as np
import pytest

from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.evaluation.search import neighbors as neighbors
from largescale.evaluation.search.expansion import augment_database, combine, expand_queries, without
from largescale.evaluation.search.neighbors import nearest
from largescale.models.metric import Space
from tests.goldens import Golden, goldens


def inputs(case: Golden, *names: str) -> list[np.ndarray]:
    dtype = np.float32 if case.args["dtype"] == "f32" else np.float64
    return [case.arrays()[f"in_{name}"].astype(dtype) for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("case", goldens("expansion", "naver_aqe"))
def test_queries_are_expanded_as_dirtorch_does(case: Golden) -> None:
    if case.facts["compare"] == "none":  # neighbors on the far side
        return
    if case.raises:
        queries, database = np.eye(2), np.eye(3, 2)
        np.testing.assert_allclose(np.linalg.norm(expand_queries(queries, database, case.args["k"]), axis=1), 1)
        return
    queries, database = inputs(case, "queries", "db")
    case.compare("expanded", expand_queries(queries, database, case.args["k"], case.args["alpha"]))


def test_by_distance_a_query_becomes_the_mean_of_itself_and_its_nearest_rows() -> None:
    random = np.random.default_rng(0)
    rows, queries = 9 * random.standard_normal((50, 6)), 9 * random.standard_normal((4, 6))
    gallery = GalleryRows.of(rows, Space(8.0))
    near = np.square(queries[:, None] - rows).sum(2).argsort(1)[:, :3]
    found = nearest(queries, gallery, 3)[0]
    np.testing.assert_array_equal(found, near)
    np.testing.assert_allclose(combine(queries, gallery, found, 0.0), (queries + rows[near].sum(1)) / 4)


@pytest.mark.slow
@pytest.mark.parametrize("case", goldens("expansion", "naver_dba"))
def test_databases_are_augmented_as_dirtorch_does(case: Golden) -> None:
    (database,) = inputs(case, "db")
    case.compare("expanded", augment_database(database, case.args["k"], case.args["alpha"]))


@pytest.mark.slow
@pytest.mark.parametrize("case", goldens("expansion", "naver_dba_then_aqe"))
def test_both_as_dirtorch_does(case: Golden) -> None:
    queries, database = inputs(case, "queries", "db")
    database = augment_database(database, case.args["adba"]["k"], case.args["adba"]["alpha"])
    queries = expand_queries(queries, database, case.args["aqe"]["k"], case.args["aqe"]["alpha"])
    case.compare("db", database)
    case.compare("queries", queries)
    case.compare("scores", queries @ database.T)


@pytest.mark.slow
@pytest.mark.parametrize("case", goldens("expansion", "pyretri_dba"))
def test_databases_are_augmented_as_pyretri_does(case: Golden) -> None:
    (database,) = inputs(case, "db")
    case.compare("expanded", augment_database(database, case.args["enhance_k"]))


@pytest.mark.slow
@pytest.mark.parametrize("case", goldens("expansion", "pyretri_qe_t1_k3", "pyretri_qe_t1_k10"))
def test_average_expansion_ranks_as_pyretri_does(case: Golden) -> None:
    """Once: between two rounds it does not normalize."""
    queries, database = inputs(case, "queries", "db")
    scores = expand_queries(queries, database, case.args["qe_k"]) @ database.T
    case.compare("sorted_index", np.argsort(-scores, axis=1, kind="stable"))


@pytest.mark.parametrize("case", goldens("expansion", "fastreid_aqe_t1_k10_a3", "fastreid_aqe_t1_k5_a0"))
def test_items_are_expanded_as_fastreid_does(case: Golden) -> None:
    """It counts an item among its own neighbors, lets queries be neighbors, and leaves the mean unnormalized."""
    queries, database = inputs(case, "queries", "db")
    ours = augment_database(np.concatenate([queries, database]), case.args["qe_k"] - 1, case.args["alpha"])
    theirs = np.concatenate([case.arrays()["out_queries"], case.arrays()["out_db"]])
    np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [7, 300])
def test_neighbors_are_those_of_a_full_sort(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties by the lower row, rows left out, pieces of any size."""
    rng = np.random.default_rng(0)
    database, queries = rng.integers(-2, 3, (rows, 4)).astype(np.float32), rng.integers(-2, 3, (50, 4)).astype(np.float32)
    group = np.where(rng.random(rows) < 0.2, -1, 0).astype(np.int8)
    own = np.where(rng.random(50) < 0.5, rng.integers(rows, size=50), -1)
    scores = np.where(group >= 0, queries @ database.T, -np.inf)
    scores[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
    for pieces in (16, 64, 4096):
        monkeypatch.setattr(neighbors, "ROWS", pieces)
        monkeypatch.setattr(neighbors, "QUERIES", 1 + pieces // 2)
        found, found_scores = nearest(queries, GalleryRows(np.split(database, [3, 5]), group), 10, own)
        for q in range(50):
            order = np.lexsort((np.arange(rows), -scores[q]))
            order = order[np.isfinite(scores[q][order])][:10]
            np.testing.assert_array_equal(found[q][: len(order)], order)
            assert (found[q][len(order) :] == -1).all()
            np.testing.assert_array_equal(found_scores[q][: len(order)], scores[q][order])


def test_the_querys_own_image_is_no_neighbor() -> None:
    near = np.array([[4, 2, 0], [1, 3, 5], [7, -1, -1]])
    np.testing.assert_array_equal(without(near, np.array([2, -1, 7]), 2), [[4, 0], [1, 3], [-1, -1]])
