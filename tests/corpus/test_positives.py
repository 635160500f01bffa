from collections.abc import Mapping

import numpy as np
import pytest

from largescale.corpus.config import TuplePlanConfig
from largescale.corpus.manifest import Manifest
from largescale.corpus.plan import plan_tuples
from largescale.corpus.positives import find_candidates
from largescale.settings import UserError
from tests.corpus.synthetic import manifest_of

# formulas.md §1.2: M(q) = {a, b, c} with overlaps 150, 60, 30 of 200 points, scales 1.1, 1.3, 1.2; and a second query
PAIRS = {
    "query": np.array([0, 5, 0, 0, 5]),
    "positive": np.array([3, 6, 1, 2, 7]),
    "inliers": np.array([30, 12, 150, 60, 90]),
    "overlap": np.array([0.15, 0.06, 0.75, 0.30, 0.45]),
    "scale": np.array([1.2, 1.0, 1.1, 1.3, 1.6]),
    "distance": np.array([1.0, 9.0, 8.0, 2.0, 3.0]),
}


def corpus(pairs: Mapping[str, np.ndarray] | None = PAIRS) -> Manifest:
    manifest = manifest_of(np.full(3, 4))
    vars(manifest)["pairs"] = pairs
    return manifest


def positives(epochs: int = 1, **settings: object) -> dict[int, set[int]]:
    """The positives that a query gets over some epochs."""
    config = TuplePlanConfig(per_step=1, per_epoch=100, **settings)
    plans = [plan_tuples(corpus(), config, 0, epoch) for epoch in range(epochs)]
    found: dict[int, set[int]] = {}
    for plan in plans:
        assert len(np.unique(plan.queries)) == len(plan.queries)
        for query, positive in zip(plan.queries.tolist(), plan.positives.tolist(), strict=True):
            found.setdefault(query, set()).add(positive)
    return found


def test_the_most_inliers() -> None:
    assert positives(3, positive="max_inliers") == {0: {1}, 5: {7}}


def test_the_most_inliers_among_the_nearest_cameras() -> None:
    assert positives(3, positive="max_inliers", nearest_cameras=2) == {0: {2}, 5: {7}}


def test_relaxed_inliers_are_drawn_from_all_within_the_limits() -> None:
    assert positives(40, positive="relaxed_inliers") == {0: {1, 2}}  # of query 5: too little overlap, too large a scale
    assert positives(40, positive="relaxed_inliers", min_overlap=0.1, max_scale=2) == {0: {1, 2, 3}, 5: {7}}


def test_candidates_of_the_nearest_descriptor() -> None:
    plan = plan_tuples(corpus(), TuplePlanConfig(per_step=2, positive="descriptor"), 0, 0)
    assert plan.candidates is not None
    listed = {q: sorted(row[row >= 0].tolist()) for q, row in zip(plan.queries.tolist(), plan.candidates, strict=True)}
    assert listed == {0: [1, 2, 3], 5: [6, 7]}
    assert plan.candidates.shape == (2, 3)
    assert (plan.candidates == plan.positives[:, None]).any(1).all()


def test_each_pair_is_a_tuple_when_positives_are_given() -> None:
    assert plan_tuples(corpus(), TuplePlanConfig(per_step=5), 0, 0).statistics.available == 5
    assert plan_tuples(corpus(), TuplePlanConfig(per_step=2, positive="max_inliers"), 0, 0).statistics.available == 2


@pytest.mark.parametrize(
    ("pairs", "settings", "said"),
    [
        (None, {"positive": "max_inliers"}, "has no pairs, which tuples.positive=max_inliers chooses"),
        (("inliers",), {"positive": "relaxed_inliers"}, "pairs without overlap and scale"),
        (
            ("overlap",),
            {"positive": "descriptor", "nearest_cameras": 4},
            "pairs without distance",
        ),
    ],
)
def test_what_the_corpus_lacks(pairs: tuple[str, ...] | None, settings: Mapping[str, object], said: str) -> None:
    known = None if pairs is None else {name: PAIRS[name] for name in ("query", "positive", *pairs)}
    with pytest.raises(UserError, match=said):
        plan_tuples(corpus(known), TuplePlanConfig(**settings), 0, 0)


def test_cameras_are_asked_for_by_rules_that_have_a_pool() -> None:
    with pytest.raises(ValueError, match="nearest_cameras says nothing to positive=given"):
        TuplePlanConfig(nearest_cameras=3)


@pytest.mark.slow
def test_a_million_pairs_are_grouped_in_seconds() -> None:
    random = np.random.default_rng(0)
    queries = random.integers(0, 400_000, 1_000_000)
    pairs = {"query": queries, "positive": queries + 1, "inliers": random.integers(0, 99, len(queries)).astype(np.int32)}
    manifest = manifest_of(np.full(1000, 500))
    vars(manifest)["pairs"] = pairs
    found = find_candidates(manifest, TuplePlanConfig(positive="max_inliers"))
    assert found.lengths.sum() == 1_000_000
    row = random.integers(len(found.queries))
    own = pairs["inliers"][queries == found.queries[row]]
    assert found.lengths[row] == len(own)
