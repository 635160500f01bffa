"""Ground truths resolved to rows; what does not fit has no score."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from largescale.evaluation.protocol.ground_truth import LabelTruth, ListedTruth, Published, labels_in_gallery
from largescale.evaluation.protocol.metrics import evaluate_rankings
from largescale.evaluation.protocol.protocols import landmark_protocols
from largescale.settings import UserError

GALLERY = pa.array([f"g{i}" for i in range(8)] + ["q0", "q1"], pa.large_string())


def published(**changes: Any) -> Published:
    queries = [
        {"key": "q1", "box": [1, 2, 3, 4], "easy": ["g3", "g1"], "hard": ["g0"], "junk": ["g7"]},
        {"key": "q0", "box": None, "easy": [], "hard": ["g2"], "junk": []},
    ]
    values = {"protocol": "roxford5k", "queries": queries, "gallery": [f"g{i}" for i in range(8)], **changes}
    return Published.parse(values, "ground_truth.json")


def test_lists_become_rows() -> None:
    truth = ListedTruth(published(), GALLERY, GALLERY)
    assert truth.query.tolist() == [9, 8]
    assert truth.boxes == [(1, 2, 3, 4), None]
    assert truth.left_out.tolist() == [8, 9]
    judged = truth.judged(slice(0, 2))
    assert judged.row.tolist() == [0, 1, 3, 7, 2]
    assert [truth.lists[code] for code in judged.list] == ["hard", "easy", "easy", "junk", "hard"]
    second = truth.judged(slice(1, 2))
    assert (second.start.tolist(), second.row.tolist()) == ([0, 1], [2])


@pytest.mark.parametrize(
    ("gallery", "error"),
    [
        (GALLERY.filter(pa.compute.not_equal(GALLERY, "g2")), "1 images of the gallery are missing: g2"),
        (pa.array([*GALLERY.to_pylist(), "extra"], pa.large_string()), "1 images are neither in the gallery nor queries: extra"),
        (pa.array([*GALLERY.to_pylist(), "g5"], pa.large_string()), "1 keys are there twice: g5"),
        (GALLERY.filter(pa.compute.not_equal(GALLERY, "q0")), "1 queries are missing: q0"),
    ],
    ids=["missing", "extra", "twice", "no query"],
)
def test_images_that_do_not_fit_are_listed(gallery: pa.Array, error: str) -> None:
    with pytest.raises(UserError, match="so there is no score") as found:
        ListedTruth(published(), gallery, gallery)
    assert error in str(found.value)


def test_long_lists_are_cut() -> None:
    with pytest.raises(UserError, match="7 images of the gallery are missing"):
        ListedTruth(published(), GALLERY.slice(7), GALLERY)
    many = published(gallery=[f"g{i}" for i in range(50)])
    with pytest.raises(UserError, match="and 22 more"):
        ListedTruth(many, GALLERY, GALLERY)


def test_judged_images_outside_the_gallery() -> None:
    with pytest.raises(UserError, match="1 judged images are not in the gallery: g7"):
        ListedTruth(published(gallery=[f"g{i}" for i in range(7)]), GALLERY.filter(pa.compute.not_equal(GALLERY, "x")), GALLERY)


def test_contradictions_in_the_ground_truth() -> None:
    twice = [{"key": "q0", "box": None, "easy": ["g1"], "junk": ["g1"]}]
    with pytest.raises(UserError, match="judges g1 twice for query q0"):
        published(queries=twice)
    with pytest.raises(UserError, match="has no queries"):
        published(queries=[])
    with pytest.raises(UserError, match="roxford5k does not use the lists good, ok"):
        published(queries=[{"key": "q0", "box": None, "good": ["g1"], "ok": ["g2"]}])
    with pytest.raises(UserError, match="is no ground truth"):
        Published.parse({"protocol": "oxford5k"}, "ground_truth.json")
    with pytest.raises(UserError, match="asked twice: q0"):
        ListedTruth(published(queries=[{"key": "q0", "box": None, "easy": ["g1"]}] * 2), GALLERY, GALLERY)


@pytest.mark.parametrize(("name", "sizes"), [("oxford5k", [5] * 11), ("paris6k", [5] * 11), ("rparis6k", [5] * 6 + [8] * 5)])
def test_landmarks_are_found_by_their_positives(shared_data: Path, name: str, sizes: list[int]) -> None:
    """Oxford and Paris have 11 landmarks with 5 queries each; names of images do not say so."""
    values = json.loads((shared_data / "oxford5k" / f"gnd_{name}.json").read_text())
    names = values["imlist"]
    queries = [
        {"key": key, "box": None, **{mark: [names[i] for i in truth[mark]] for mark in truth if mark != "bbx"}}
        for key, truth in zip(values["qimlist"], values["gnd"], strict=True)
    ]
    keys = pa.array(dict.fromkeys([*names, *values["qimlist"]]), pa.large_string())
    truth = ListedTruth(Published.parse({"protocol": name, "queries": queries, "gallery": names}, name), keys, keys)
    assert sorted(np.unique(truth.cluster, return_counts=True)[1]) == sizes


def test_labels_leave_the_query_out_by_its_id() -> None:
    labels = np.array([0, 0, 1, -1, 0, 2])
    truth = LabelTruth(labels, labels, ["a", "b", "c"], leave_one_out=True)
    assert truth.query.tolist() == [0, 1, 2, 4, 5]
    judged = truth.judged(slice(1, 3))
    assert (judged.start.tolist(), judged.row.tolist()) == ([0, 3, 4], [0, 1, 4, 2])
    assert [truth.lists[code] for code in judged.list] == ["same label", "own image", "same label", "own image"]
    assert truth.cluster == ["a", "a", "b", "a", "c"]


def test_labels_of_two_corpora_are_matched_by_name() -> None:
    ours, theirs = pa.array(["cat", "dog", "owl"]), pa.array(["owl", "ant", "cat"])
    assert labels_in_gallery(np.array([0, 1, 2, -1]), theirs, ours).tolist() == [2, 4, 0, -1]


def test_public_and_private_queries_are_scored_apart_among_a_gallery_of_its_own() -> None:
    queries = [{"key": "q1", "box": None, "private": ["a", "c"]}, {"key": "q2", "box": None, "public": ["b"]}]
    published = Published.parse({"protocol": "gldv2", "queries": queries, "gallery": None}, "x")
    truth = ListedTruth(published, pa.array(["a", "b", "c"], pa.large_string()), pa.array(["q1", "q2"], pa.large_string()))
    public, private = landmark_protocols("gldv2", crop=True)
    rankings = np.array([[1, 0, 2], [1, 0, 2]]).T
    judged = truth.judged(slice(0, 2))
    parts = [slice(*judged.start[query : query + 2]) for query in (0, 1)]
    lists = [{truth.lists[code]: judged.row[part] for code in judged.list[part]} for part in parts]
    assert evaluate_rankings(rankings, lists, private).mean["map_at_100"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert evaluate_rankings(rankings, lists, public).mean["map_at_100"] == 1


def test_a_query_that_is_in_the_gallery_is_not_found_by_itself() -> None:
    labels, gallery = np.array([0, 1, 1]), np.array([0, 0, 1, 1])
    truth = LabelTruth(labels, gallery, ["a", "b"], False, np.array([1, -1, 3]))
    judged = truth.judged(slice(0, 3))
    assert judged.row.tolist() == [0, 1, 2, 3, 2, 3]
    assert [truth.lists[code] for code in judged.list] == [
        *("same label", "own image"), *("same label", "same label"), *("same label", "own image")
    ]  # fmt: skip
