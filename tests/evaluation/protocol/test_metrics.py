"""Scores of rankings against cirtorch, revisitop, dirtorch, PyRetri and ROADMAP, and where ours differ on purpose."""

from dataclasses import replace

import numpy as np
import pytest

from largescale.evaluation.protocol.metrics import (
    Ranked,
    average_precision,
    evaluate_rankings,
    measure,
    metric,
    metric_of,
    precision_at_recall,
)
from largescale.evaluation.protocol.protocols import Protocol, landmark_protocols
from largescale.settings import UserError
from tests.goldens import Golden, goldens

EASY, MEDIUM, HARD = landmark_protocols("roxford5k", crop=True)
CLASSIC = replace(landmark_protocols("oxford5k", crop=True)[0], positive=("ok",))


def lists(arrays: dict[str, np.ndarray], *names: str) -> list[dict[str, np.ndarray]]:
    """The stored lists of each query."""
    stored = [name for name in names if f"in_{name}_ptr" in arrays]
    boundaries = {name: arrays[f"in_{name}_ptr"] for name in stored}
    queries = len(boundaries[stored[0]]) - 1
    return [{n: arrays[f"in_{n}_flat"][slice(*boundaries[n][q : q + 2])] for n in stored} for q in range(queries)]


def at(protocol: Protocol, kappas: np.ndarray) -> Protocol:
    return replace(protocol, metrics=("map_trapezoid", *(f"precision_at_{k}_cut" for k in kappas)))


@pytest.mark.parametrize("case", goldens("evaluation", "compute_ap"))
def test_average_precision_is_that_of_cirtorch(case: Golden) -> None:
    arrays = case.arrays()
    ours = average_precision(arrays["in_ranks"], int(arrays["in_nres"]))
    if case.raises:  # it divides by zero; a query with nothing to find has no score
        assert np.isnan(ours)
    else:
        case.compare("ap", ours)


@pytest.mark.parametrize("case", goldens("evaluation", "naver_average_precision"))
def test_average_precision_is_that_of_dirtorch_where_all_were_found(case: Golden) -> None:
    ranks = case.arrays()["in_ranks"]
    if len(ranks):
        case.compare("ap", average_precision(ranks, len(ranks)))
        # dirtorch forgets the positives that were not found
        assert average_precision(ranks, 2 * len(ranks)) == pytest.approx(average_precision(ranks, len(ranks)) / 2)


def test_average_precision_by_hand() -> None:
    assert average_precision(np.array([0, 2, 3]), 4) == pytest.approx((1 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 4)
    assert average_precision(np.array([0, 2, 4]), 3) == pytest.approx(0.711111, abs=1e-6)
    assert average_precision(np.array([2]), 1) == pytest.approx(1 / 6)  # rectangles: 1/3


FAULTS = {"compute_map__junk_and_ok_overlap", "compute_map__ok_with_duplicates"}


@pytest.mark.parametrize("case", goldens("evaluation", "compute_map"))
def test_mean_average_precision_is_that_of_cirtorch(case: Golden) -> None:
    arrays = case.arrays()
    kappas = arrays["in_kappas"]
    truth = lists(arrays, "ok", "junk")
    ours = evaluate_rankings(arrays["in_ranks"], truth, at(CLASSIC, kappas))
    per_query = np.stack([ours.per_query[f"precision_at_{k}_cut"] for k in kappas], axis=1) if len(kappas) else None
    if case.raises:  # no query with a positive (no mean), or a ranking cut before the last positive (it counts as not found)
        assert np.isnan(ours.mean["map_trapezoid"]) == (not any(len(query["ok"]) for query in truth))
        return
    rest = slice(1, None) if case.id in FAULTS else slice(None)  # the faults are in query 0
    case_aps = arrays["out_aps"][rest]
    np.testing.assert_allclose(ours.per_query["map_trapezoid"][rest], case_aps, rtol=1e-12, atol=1e-12)
    if per_query is not None:
        np.testing.assert_allclose(per_query[rest], arrays["out_prs"][rest], rtol=1e-12, atol=1e-12)
    if case.id not in FAULTS:
        case.compare("map", ours.mean["map_trapezoid"])


def test_a_row_named_twice_counts_once() -> None:
    """cirtorch counts it twice in the number of positives, so that a perfect ranking scores less than 1."""
    ranks = np.arange(10)[:, None]
    assert evaluate_rankings(ranks, [{"ok": [0, 1, 1], "junk": [5, 5]}], CLASSIC).mean["map_trapezoid"] == 1


def test_a_row_both_right_and_junk_is_right() -> None:
    """cirtorch counts it as a positive and takes it out of the ranking too, so that later positives move up."""
    ranks = np.arange(10)[:, None]
    both = evaluate_rankings(ranks, [{"ok": [0, 3], "junk": [0]}], CLASSIC).mean["map_trapezoid"]
    assert both == evaluate_rankings(ranks, [{"ok": [0, 3], "junk": []}], CLASSIC).mean["map_trapezoid"] < 1


def test_precision_at_k_is_cut_by_name_only() -> None:
    """Two positives, both found at once: revisitop's precision at 10 is 1, the plain one 0.2."""
    protocol = replace(CLASSIC, metrics=("precision_at_10", "precision_at_10_cut"))
    ours = evaluate_rankings(np.arange(20)[:, None], [{"ok": [0, 1]}], protocol)
    assert (ours.mean["precision_at_10"], ours.mean["precision_at_10_cut"]) == (0.2, 1)


def test_precision_at_1_of_the_first_row() -> None:
    protocol = replace(CLASSIC, metrics=("precision_at_1",))
    ranks = np.array([[0, 1], [1, 0], [2, 2]])  # the first query finds its image at once, the second does not
    ours = evaluate_rankings(ranks, [{"ok": [0, 2]}, {"ok": [2]}], protocol)
    assert ours.per_query["precision_at_1"].tolist() == [1, 0]


@pytest.mark.parametrize("name", ["precision_at_0", "precision_at_", "map_at_5_cut", "recall", "presision_at_1"])
def test_unknown_metrics_name_the_known(name: str) -> None:
    with pytest.raises(UserError, match=f"metrics={name}: there is no such metric; known are map_trapezoid.*precision_at_K,"):
        metric_of(name)


@pytest.mark.parametrize("level", [EASY, MEDIUM, HARD], ids=["easy", "medium", "hard"])
@pytest.mark.parametrize("case", goldens("evaluation", "revisited", "naver_revisited"))
def test_revisited_levels(case: Golden, level: Protocol) -> None:
    arrays = case.arrays()
    letter = level.name.split("-")[1][0].upper()
    ranks = np.argsort(-(arrays["in_X"].astype(float).T @ arrays["in_Q"].astype(float)), axis=0, kind="stable")
    ours = evaluate_rankings(ranks, lists(arrays, "easy", "hard", "junk"), at(level, arrays["in_kappas"]))
    case.compare(f"map_{letter}", ours.mean["map_trapezoid"])
    asked = ~np.isnan(ours.per_query["map_trapezoid"])  # left out: NaN here and there, -1 in dirtorch
    aps = arrays[f"out_aps_{letter}"]
    np.testing.assert_allclose(ours.per_query["map_trapezoid"][asked], aps[asked], atol=1e-12)
    assert (np.isnan(aps[~asked]) | (aps[~asked] < 0)).all()
    for i, k in enumerate(arrays["in_kappas"] if f"out_pr_{letter}" in arrays else []):
        np.testing.assert_allclose(ours.mean[f"precision_at_{k}_cut"], arrays[f"out_pr_{letter}"][i], atol=1e-12)


@pytest.mark.parametrize("case", goldens("evaluation_roadmap", "roadmap_M_H"))
def test_medium_and_hard_are_those_of_roadmap(case: Golden) -> None:
    arrays = case.arrays()
    truth = lists(arrays, "easy", "hard", "junk")
    case.compare("mapM", evaluate_rankings(arrays["in_ranks"], truth, MEDIUM).mean["map_trapezoid"])
    case.compare("mapH", evaluate_rankings(arrays["in_ranks"], truth, HARD).mean["map_trapezoid"])


@pytest.mark.parametrize("case", goldens("evaluation", "rectangle_ap", "pyretri_oxford"))
def test_rectangles_and_pyretri(case: Golden) -> None:
    arrays = case.arrays()
    ranks = np.argsort(-(arrays["in_X"].astype(float).T @ arrays["in_Q"].astype(float)), axis=0, kind="stable")
    protocol = replace(MEDIUM, metrics=("map_rectangle", "map_trapezoid"))
    ours = evaluate_rankings(ranks, lists(arrays, "easy", "hard", "junk"), protocol)
    assert ours.mean["map_trapezoid"] < ours.mean["map_rectangle"]
    if case.facts["group"] == "rectangle_ap":
        case.compare("aps", ours.per_query["map_rectangle"])
    else:
        case.compare("map", ours.mean["map_trapezoid"])


def test_metrics_by_hand() -> None:
    """Two queries: 3 positives at 0, 2, 5; and 2 at 1, 3. From the definitions, term by term."""
    ranked = Ranked(np.array([0, 3, 5]), np.array([0, 2, 5, 1, 3]), np.array([3, 2]))
    expected = {
        "map_rectangle": [(1 + 2 / 3 + 3 / 6) / 3, (1 / 2 + 2 / 4) / 2],
        "map_at_r": [(1 + 2 / 3) / 3, (1 / 2) / 2],
        "map_at_1": [1, 0],
        "recall_at_1": [1, 0],
        "recall_at_2": [1, 1],
        "precision_at_4": [2 / 4, 2 / 4],
        "precision_at_4_cut": [2 / 4, 2 / 4],
        "precision_at_20_cut": [3 / 6, 2 / 4],
        "precision_at_20": [3 / 20, 2 / 20],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(measure(ranked, name), values, err_msg=name)


def test_precision_recall_curve_by_hand() -> None:
    ranked = Ranked(np.array([0, 3, 3, 4]), np.array([0, 2, 5, 1]), np.array([3, 0, 2]))  # the last found one of two
    curve = precision_at_recall(ranked, np.array([1 / 3, 0.5, 2 / 3, 1]))
    np.testing.assert_allclose(curve[0], [1, 2 / 3, 2 / 3, 3 / 6])
    assert np.isnan(curve[1]).all()
    np.testing.assert_allclose(curve[2], [1 / 2, 1 / 2, 0, 0])


@pytest.mark.parametrize("case", goldens("holidays"))
def test_holidays_is_that_of_inria(case: Golden) -> None:
    """The query is taken out of its ranking; what a short list lacks was not found."""
    arrays = case.arrays()
    group, boundaries = arrays["in_group"], arrays["in_ranked_ptr"]
    truth = [{"ok": np.setdiff1d(np.flatnonzero(group == group[q]), q), "junk": [q]} for q in arrays["in_queries"]]
    (protocol,) = landmark_protocols("holidays", crop=True)
    for q, expected in enumerate(arrays["out_aps"]):
        ranks = arrays["in_ranked_flat"][boundaries[q] : boundaries[q + 1], None]
        assert evaluate_rankings(ranks, truth[q : q + 1], protocol).mean["map_trapezoid"] == pytest.approx(expected, abs=1e-12)


def test_ukbench_counts_the_four_of_an_object() -> None:
    ranked = Ranked(np.array([0, 4, 8, 8]), np.array([0, 1, 2, 3, 0, 3, 4, 900]), np.array([4, 4, 0]))
    np.testing.assert_array_equal(measure(ranked, "ns"), [4, 2, np.nan])


def test_mean_average_precision_at_k_is_that_of_google_landmarks() -> None:
    """delf's MeanAveragePrecision: precision at the right places among the first k, over min(k, right images)."""
    rng = np.random.default_rng(0)
    for k in (1, 3, 100):
        right = rng.random((20, 50)) < 0.2
        right[0] = False
        expected = []
        for row in right:
            hits = np.flatnonzero(row)
            found = [(n + 1) / (place + 1) for n, place in enumerate(hits) if place < k]
            expected.append(sum(found) / min(k, len(hits)) if len(hits) else np.nan)
        start = np.concatenate([[0], np.cumsum(right.sum(axis=1))])
        ranked = Ranked(start, np.nonzero(right)[1], right.sum(axis=1))
        np.testing.assert_allclose(measure(ranked, f"map_at_{k}"), expected, rtol=1e-12)


@metric
def first_place(ranked: Ranked) -> np.ndarray:
    return 1 / (1.0 + ranked.first)


def not_marked(ranked: Ranked) -> np.ndarray:
    return first_place(ranked)


def test_a_metric_of_ones_own_by_import_path() -> None:
    ranked = Ranked(np.array([0, 2, 3, 3]), np.array([1, 4, 0]), np.array([2, 1, 0]))
    found = measure(ranked, "tests.evaluation.protocol.test_metrics:first_place")
    np.testing.assert_array_equal(found, [0.5, 1.0, np.nan])
    for name, message in (("not_marked", "not marked"), ("missing", "cannot be imported")):
        with pytest.raises(UserError, match=message):
            measure(ranked, f"tests.evaluation.protocol.test_metrics:{name}")
