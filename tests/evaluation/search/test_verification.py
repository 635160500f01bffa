"""Spatial verification: geometry that agrees, rankings by its rule, any number of ranks, and what a stopped one leaves."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.evaluation import EvaluateConfig
from largescale.evaluation.config import VerificationConfig
from largescale.evaluation.protocol.relevance import GalleryRows, Judged
from largescale.evaluation.report import write_report
from largescale.evaluation.results import read_records
from largescale.evaluation.search.counting import count
from largescale.evaluation.search.local_features import LocalFeatures, agreeing
from largescale.evaluation.search.verification import Photographs, Verifier, in_order_of
from largescale.processes import StoppedError
from largescale.program.extras import Extra
from largescale.settings import UserError
from tests.evaluation.search.photographs import VIEWS, WALLS, make_walls, seen, wall
from tests.evaluation.small import alone, evaluate_in_world, make_weights, settings, what_was_found
from tests.world import run_world

CONFIG = VerificationConfig(first=12, least=12, features=300, size=160)


@pytest.fixture(scope="module")
def walls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_walls(tmp_path_factory.mktemp("walls") / "walls")


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["homography", "affine"])
def test_views_of_one_wall_agree_and_others_do_not(geometry: str) -> None:
    features = [[LocalFeatures.of(seen(wall(number), view), 300) for view in range(3)] for number in range(3)]
    for number, (first, *others) in enumerate(features):
        assert min(agreeing(first, other, geometry) for other in others) > 30  # type: ignore[arg-type]
        strangers = [view for other, views in enumerate(features) if other != number for view in views]
        assert max(agreeing(first, other, geometry) for other in strangers) < 12  # type: ignore[arg-type]


def test_images_without_features_agree_with_nothing() -> None:
    gray = LocalFeatures.of(np.full((50, 60, 3), 128, np.uint8), 100)
    assert len(gray.points) == 0
    assert agreeing(gray, LocalFeatures.of(wall(0), 100), "homography") == 0
    assert agreeing(LocalFeatures.of(wall(0), 100), gray, "affine") == 0


@pytest.mark.parametrize("seed", range(6))
def test_rankings_by_the_rule(seed: int) -> None:
    """Against a ranking that is sorted as a whole; rows are repeated, so that many are equally similar."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((12, 4))[rng.integers(0, 12, 60)].astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries, group = rows[rng.integers(0, 60, 3)], rng.integers(-1, 3, 60).astype(np.int8)
    gallery = GalleryRows([rows], group)
    lists = [{"good": rng.choice(60, 9, replace=False)} for _ in range(3)]
    judged = Judged.of([{"good": own["good"][group[own["good"]] >= 0]} for own in lists], ["good"])
    counted = count(queries, gallery, judged, 20)
    inliers = np.where(counted.top_row[:, :14] >= 0, rng.integers(0, 6, (3, 14)), 0)
    found = in_order_of(inliers, 3, counted, judged, gallery)
    for q in range(3):
        own, similarity = judged.row[judged.start[q] : judged.start[q + 1]], rows @ queries[q]
        similarity[counted.top_row[q]] = counted.top_score[q]
        agree = np.zeros(60, int)
        agree[counted.top_row[q, :14]] = np.where(inliers[q] >= 3, inliers[q], 0)
        order = np.lexsort((np.isin(np.arange(60), own), -similarity.round(6), -agree))
        order = order[group[order] >= 0]
        wrong = order[~np.isin(order, own)]
        for number, row in enumerate(own, judged.start[q]):
            ahead = wrong[: np.flatnonzero(order == row)[0] - np.isin(order[: np.flatnonzero(order == row)[0]], own).sum()]
            assert found.before[number].tolist() == np.bincount(group[ahead], minlength=gallery.groups).tolist()
        score = found.score[judged.start[q] : judged.start[q + 1]]
        assert (np.diff(agree[own][np.argsort(-score, kind="stable")]) <= 0).all()
        first = found.top_row[q]
        assert (np.diff(agree[first[:14]]) <= 0).all()
        assert (first[14:] == counted.top_row[q, 14:]).all()
        assert found.inliers[q].tolist() == [int(inliers[q][counted.top_row[q, :14] == row][0]) for row in first[:14]]


def verify(world: World, walls: Path, store: Path) -> np.ndarray:
    corpus = Corpus.open(str(walls))
    images = Photographs(corpus, np.arange(5) * VIEWS, None, [corpus])
    rows = np.tile(np.arange(WALLS * VIEWS), (5, 1))
    rows[:, -1] = -1
    return Verifier(CONFIG, images, store, world)(0, rows)


@pytest.mark.slow
@pytest.mark.distributed
def test_every_world_counts_the_same(walls: Path, tmp_path: Path) -> None:
    [expected] = run_world(1, verify, walls, tmp_path / "1")
    own = np.arange(WALLS * VIEWS) // VIEWS == np.arange(5)[:, None]
    assert (expected[own & (expected >= 0)][:-1] > 12).all()
    assert expected[~own].max() < 12
    assert expected[:, -1].tolist() == [0] * 5
    for size in (2, 4):
        for found in run_world(size, verify, walls, tmp_path / str(size)):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_what_was_compared_is_not_compared_again(walls: Path, tmp_path: Path) -> None:
    corpus, turns = Corpus.open(str(walls)), iter([False, True])
    images, rows = Photographs(corpus, np.arange(2) * VIEWS, None, [corpus]), np.tile(np.arange(8), (2, 1))
    with alone() as world:
        with pytest.raises(StoppedError):
            Verifier(CONFIG, images, tmp_path, world, lambda: next(turns))(0, rows)
        [kept] = tmp_path.glob("verified-*/query-*.npz")
        written = kept.stat().st_mtime_ns
        whole = Verifier(CONFIG, images, tmp_path, world)(0, rows)
        assert kept.stat().st_mtime_ns == written
        again = Verifier(CONFIG.model_copy(update={"first": 3, "least": 5}), images, tmp_path, world)
        again.images = None  # type: ignore[assignment]
        np.testing.assert_array_equal(again(0, rows[:, ::-1]), whole[:, ::-1])


def config_of(walls: Path, out: Path, **score: object) -> EvaluateConfig:
    return settings(out, gallery=str(walls), score={"verification": CONFIG.model_dump() | {"first": 20}, **score})


@pytest.mark.slow
@pytest.mark.distributed
def test_an_evaluation_is_verified_on_every_number_of_ranks(walls: Path, tmp_path: Path) -> None:
    weights = make_weights(tmp_path / "weights.safetensors")
    expansion = {"query_expansion": {"neighbors": 2, "alpha": 0.0}}
    for name, score in (("plain", {}), ("expanded", expansion)):
        found = []
        for size in (1, 2):
            out = tmp_path / name / str(size)
            results = run_world(size, evaluate_in_world, weights, config_of(walls, out, **score))[0]
            found.append(what_was_found(out))
        assert found[0] == found[1]
        [result] = results.protocols
        assert result.metrics["map_trapezoid"].value == pytest.approx(1)  # random descriptors alone are far from that
        records = list(read_records(out / result.records))
        assert all(n.inliers is not None and (n.inliers >= 12) == (n.mark == "right") for r in records for n in r.top)
    write_report(out)
    pages = "".join(path.read_text() for path in (out / "report").rglob("*.html"))
    assert "inliers" in pages


def test_what_cannot_be_verified(walls: Path, tmp_path: Path) -> None:
    for other in ({"rerank": "diffusion"}, {"compression": "binary"}, {"two_stage": {}}):
        with pytest.raises(ValueError, match=r"choose one|leave the other settings out"):
            config_of(walls, tmp_path, **other)
    library = Extra("no_cv2", "verification", "score.verification")
    with pytest.raises(UserError, match="needs no_cv2, which is not installed: pip install 'largescale\\[verification\\]'"):
        _ = library.SIFT_create
