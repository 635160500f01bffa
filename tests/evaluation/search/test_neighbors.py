"""The best rows: as FAISS finds them, and whole where ties are cut."""

import numpy as np
import pytest

from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.evaluation.search import neighbors as neighbors
from largescale.evaluation.search.neighbors import Best, nearest
from tests.goldens import Golden, goldens


@pytest.mark.parametrize("case", goldens("evaluation", "pml_knn"))
def test_neighbors_are_those_of_pytorch_metric_learning(case: Golden) -> None:
    """The order of 2 q x - |x|^2 is that of its Euclidean distance."""
    arrays = case.arrays()
    gallery = arrays.get("in_reference", arrays["in_query"])
    own = np.arange(len(gallery)) if "in_reference" not in arrays else None
    rows = np.column_stack([2 * gallery, -np.square(gallery).sum(1)])
    queries = np.column_stack([arrays["in_query"], np.ones(len(arrays["in_query"]), np.float32)])
    found, scores = nearest(queries, GalleryRows.of(rows), case.args["k"], own)
    distances = np.square(arrays["in_query"]).sum(1, keepdims=True) - scores
    np.testing.assert_allclose(distances, arrays["out_distances"], atol=1e-4)
    differ = np.diff(arrays["out_distances"], prepend=-1, append=np.inf) > 1e-4
    clear = differ[:, :-1] & differ[:, 1:]
    np.testing.assert_array_equal(found[clear], arrays["out_indices"][clear])
    assert clear.mean() > 0.5


@pytest.mark.slow
def test_precisions_agree() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3_000, 24)).astype(np.float32)
    gallery = GalleryRows(np.split(rows, [700, 701]), np.where(rng.random(3_000) < 0.1, -1, 0).astype(np.int8))
    single, _ = nearest(rows[:40], gallery, 30, np.arange(40))
    double, _ = nearest(rows[:40].astype(np.float64), gallery, 30, np.arange(40))
    np.testing.assert_array_equal(single, double)


def test_collapsed_rows_come_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "ROWS", 128)
    rows = np.ones((500, 4), np.float32)
    found, _ = nearest(rows[:3], GalleryRows.of(rows), 20, np.array([0, -1, 5]))
    np.testing.assert_array_equal(found, [[*range(1, 21)], [*range(20)], [*range(5), *range(6, 21)]])


@pytest.mark.parametrize("pieces", [1, 7, 400])
def test_best_of_pieces(pieces: int) -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 60, 4_000).astype(np.float32)
    best = Best(100)
    for part in np.array_split(rng.permutation(4_000), pieces):
        best.offer(scores[np.sort(part)], np.sort(part))
    np.testing.assert_array_equal(best.sorted()[1], np.lexsort((np.arange(4_000), -scores))[:100])
