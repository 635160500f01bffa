"""What happens between descriptors and scores: each setting against the same by hand, and nothing is embedded again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from largescale.distributed import World
from largescale.evaluation import (
    Published,
    evaluate,
    evaluate_descriptors,
    evaluate_rankings,
    read_records,
    read_results,
    stage,
)
from largescale.evaluation.config import EvaluateConfig, ExpansionConfig, ScoreConfig, TwoStageConfig
from largescale.evaluation.context import Context
from largescale.evaluation.descriptors.fitting import images_to_fit, matching_pairs
from largescale.evaluation.protocol.protocols import landmark_protocols
from largescale.evaluation.report import write_report
from largescale.evaluation.results import Results, lost_by_compression
from largescale.evaluation.scoring import query_search
from largescale.evaluation.search.expansion import augment_database, expand_queries
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.transform.multiscale import merge_scales
from largescale.models.whitening import LearnedWhitening, PCAWhitening
from largescale.settings import UserError
from launch.evaluate import table
from shards.sources.landmarks import read_test_set
from tests.corpora import make_corpus
from tests.evaluation.small import evaluate_in_world, make_landmarks, make_weights, settings, tiny_network, what_was_found
from tests.world import run_world


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_corpus(folder / "labels", labels=6, per_label=4, shards=3, size=48, mixed=True)
    make_corpus(folder / "far", labels=0, per_label=0, shards=2, size=48, unlabeled=20)
    make_corpus(folder / "train", labels=12, per_label=5, shards=2, size=48)
    make_landmarks(folder / "landmarks")
    make_weights(folder / "weights.safetensors")
    return folder


def scored(data: Path, out: Path, **values: Any) -> EvaluateConfig:
    corpora = {"gallery": str(data / "labels"), "distractors": str(data / "far"), "whitening_corpus": str(data / "train")}
    return settings(out, **{**corpora, "scales": "multi", "store": data / "store", **values})


def raw(data: Path, world: World, role: str) -> np.ndarray:
    """`(S, n, D)` stored descriptors."""
    context = Context.open(tiny_network(), scored(data, data / "none"), world, lambda: False)
    stage.embed(context)
    return np.stack([np.concatenate(described.parts()) for described in context.sets[role]])


def found_by(results: Results, out: Path, places: int = 10) -> np.ndarray:
    """`(queries, places)` rows of the gallery with its distractors."""
    records = read_records(out / results.protocols[0].records)
    return np.array([[x.id + 24 * (x.part == "distractors") for x in record.top[:places]] for record in records])


def agree(found: np.ndarray, queries: np.ndarray, rows: np.ndarray) -> None:
    """The rows `(Q, places)` are the best by these scores; of two that float32 cannot tell apart either may come first."""
    scores = queries.astype(np.float64) @ rows.T.astype(np.float64)
    best = -np.sort(-scores, axis=1)[:, : found.shape[1]]
    np.testing.assert_allclose(np.take_along_axis(scores, found, axis=1), best, atol=3e-7)
    assert all(len(set(places)) == found.shape[1] for places in found.tolist())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "pca", "learned"])
def test_pooling_of_scales_and_whitening(kind: str, data: Path, tmp_path: Path, world: World) -> None:
    score = ScoreConfig(exponent=3, whitening=kind, dim=None if kind == "none" else 8)
    results = evaluate(tiny_network(), scored(data, tmp_path, score=score), world)
    rows, train = (
        merge_scales(torch.from_numpy(x), 3).numpy()
        for x in (
            np.concatenate([raw(data, world, "gallery"), raw(data, world, "distractors 0")], axis=1),
            raw(data, world, "whitening"),
        )
    )
    if kind == "pca":
        rows = PCAWhitening.fit(train).apply(rows, 8).numpy()
    if kind == "learned":
        query = np.array([i for i in range(60) if i % 5 < 4])  # each image with the next of its label
        rows = LearnedWhitening.fit(train, query, query + 1).apply(rows, 8).numpy()
    agree(found_by(results, tmp_path), rows[:24], rows)
    assert results.score["whitening"] == kind
    assert results.score["scales"] == [1.0, 2**-0.5, 0.5]
    assert not results.tuned


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["k_reciprocal", "diffusion"])
def test_a_new_ranking_among_no_distractors_is_that_of_a_gallery_without_them(
    data: Path, tmp_path: Path, world: World, kind: str
) -> None:
    rules = ScoreConfig(rerank=kind)
    (among,) = evaluate(tiny_network(), scored(data, tmp_path / "among", score=rules), world).protocols
    (alone,) = evaluate(tiny_network(), scored(data, tmp_path / "alone", distractors=(), score=rules), world).protocols
    assert [point.distractors for point in among.distractor_curve] == [0, 20]
    assert among.distractor_curve[0] == alone.distractor_curve[0]
    assert among.distractor_curve[1].metrics == among.metrics


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [True, False])
def test_two_stages_rank_the_nearest_lists_first(data: Path, tmp_path: Path, world: World, normalize: bool) -> None:
    """By hand: rows in the two nearest lists by similarity, then list after list."""
    torch.manual_seed(1)
    network = build_network(ModelConfig(backbone="squeezenet1_1", projection=24, normalize=normalize))
    plain = scored(data, tmp_path / "plain", scales="single", store=tmp_path / "store")
    context = Context.open(network, plain, world, lambda: False)
    stage.embed(context)
    sets = [context.sets[role][0].parts() for role in ("gallery", "distractors 0")]
    rows = np.concatenate([part for parts in sets for part in parts]).astype(np.float64)
    anchors = rows[[0, 9, 17, 30]] + 0.01
    np.save(tmp_path / "anchors.npy", anchors)
    two_stage = TwoStageConfig(anchors=tmp_path / "anchors.npy", probes=2)
    config = scored(data, tmp_path / "two", scales="single", store=tmp_path / "store", score=ScoreConfig(two_stage=two_stage))
    results = evaluate(network, config, world)
    if normalize:
        anchors = anchors / np.linalg.norm(anchors, axis=1, keepdims=True)
    to_anchor = np.square(rows[:, None] - anchors).sum(2)  # of unit rows in the order of the cosine
    filed = to_anchor.argmin(1)
    found = found_by(results, tmp_path / "two", places=20)
    for query in range(24):
        place = np.argsort(np.argsort(to_anchor[query], kind="stable"))
        tier = (place - 1).clip(0)[filed]
        far = np.square(rows - rows[query]).sum(1)
        expected = np.lexsort((far, tier))[:20]
        np.testing.assert_array_equal(tier[found[query]], tier[expected])
        np.testing.assert_allclose(far[found[query]], far[expected], rtol=1e-3, atol=1e-6)
    exhaustive = evaluate(network, plain, world)
    assert results.protocols[0].metrics != exhaustive.protocols[0].metrics
    everything = TwoStageConfig(anchors=tmp_path / "anchors.npy", probes=4)
    all_lists = scored(data, tmp_path / "all", scales="single", store=tmp_path / "store", score=ScoreConfig(two_stage=everything))
    assert evaluate(network, all_lists, world).protocols[0].metrics == exhaustive.protocols[0].metrics


@pytest.mark.slow
def test_expansion_and_augmentation(data: Path, tmp_path: Path, world: World) -> None:
    rows = merge_scales(
        torch.from_numpy(np.concatenate([raw(data, world, r) for r in ("gallery", "distractors 0")], axis=1))
    ).numpy()
    three = ExpansionConfig(neighbors=3, alpha=2)
    results = evaluate(tiny_network(), scored(data, tmp_path / "a", score=ScoreConfig(database_augmentation=three)), world)
    augmented = augment_database(rows, 3, 2)
    agree(found_by(results, tmp_path / "a"), rows[:24], augmented)
    assert [point.distractors for point in results.protocols[0].distractor_curve] == [0, 20]
    alone = scored(data, tmp_path / "alone", distractors=(), score=ScoreConfig(database_augmentation=three))
    (without,) = evaluate(tiny_network(), alone, world).protocols
    assert results.protocols[0].distractor_curve[0] == without.distractor_curve[0]
    results = evaluate(tiny_network(), scored(data, tmp_path / "q", score=ScoreConfig(query_expansion=three)), world)
    others = [expand_queries(rows[q : q + 1], np.delete(rows, q, axis=0), 3, 2)[0] for q in range(24)]  # not with itself
    agree(found_by(results, tmp_path / "q"), np.stack(others), rows)


@pytest.mark.slow
def test_what_compression_loses_stands_beside_its_score(data: Path, tmp_path: Path, world: World) -> None:
    plain = evaluate(tiny_network(), scored(data, tmp_path / "plain"), world).protocols[0]
    config = scored(data, tmp_path / "bits", score=ScoreConfig(compression="binary", rescored=2))
    results = evaluate(tiny_network(), config, world)
    (bits,) = results.protocols
    assert plain.full is None
    assert bits.full is not None
    assert bits.full.metrics == plain.metrics
    assert bits.full.lost["map_rectangle"] == plain.metrics["map_rectangle"].value - bits.metrics["map_rectangle"].value != 0
    assert read_results(tmp_path / "bits").protocols[0].full == bits.full
    said = lost_by_compression(bits)
    assert said is not None
    assert said in table(results)
    assert said in write_report(tmp_path / "bits", None).read_text()
    assert "compression loses" not in table(replace(results, protocols=[plain]))


@pytest.mark.slow
def test_neighbors_of_all_have_a_bound_and_compression_none(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_search, "MOST", 40)  # of 44 rows
    assert evaluate(tiny_network(), scored(data, tmp_path / "bytes", score=ScoreConfig(compression="int8")), world).protocols
    for rules in (ScoreConfig(rerank="diffusion"), ScoreConfig(database_augmentation=ExpansionConfig())):
        with pytest.raises(UserError, match=r"need the neighbors of all images, .*at most 40; here are 44"):
            evaluate(tiny_network(), scored(data, tmp_path / "again", store=tmp_path / "store", score=rules), world)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["k_reciprocal", "diffusion"])
def test_reranking_changes_the_order_and_what_is_counted(method: str, data: Path, tmp_path: Path, world: World) -> None:
    plain = evaluate(tiny_network(), scored(data, tmp_path / "plain"), world)
    results = evaluate(tiny_network(), scored(data, tmp_path / "again", score=ScoreConfig(rerank=method)), world)
    assert (found_by(plain, tmp_path / "plain", 20) != found_by(results, tmp_path / "again", 20)).any()
    for record in read_records(tmp_path / "again" / results.protocols[0].records):
        kept = [x for x in record.top if x.mark != "self"]
        hits = [place for place, x in enumerate(kept) if x.mark == "right"]
        assert (hits[0] if hits else record.first_hit) == record.first_hit
        assert [x.score for x in record.top] == sorted((x.score for x in record.top), reverse=True)


@pytest.mark.slow
def test_nothing_is_embedded_again(data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(tiny_network(), scored(data, tmp_path / "first"), world)
    monkeypatch.setattr("largescale.embedding.Embedder.embed", None)
    score = ScoreConfig(whitening="pca", dim=6, query_expansion=ExpansionConfig(neighbors=2, alpha=0), rerank="diffusion")
    results = evaluate(tiny_network(), scored(data, tmp_path / "second", score=score), world)
    assert results.score["query_expansion"] == {"neighbors": 2, "alpha": 0}
    evaluate(tiny_network(), scored(data, tmp_path / "third", scales="single"), world)  # one of the three


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [2])
def test_number_of_ranks_changes_nothing(size: int, data: Path, tmp_path: Path) -> None:
    two = ExpansionConfig(neighbors=2, alpha=1)
    score = ScoreConfig(whitening="learned", dim=12, query_expansion=two, database_augmentation=two, rerank="diffusion")
    for ranks in (1, size):
        config = scored(data, tmp_path / str(ranks), score=score, store=tmp_path / f"store{ranks}")
        run_world(ranks, evaluate_in_world, data / "weights.safetensors", config)
    assert what_was_found(tmp_path / "1") == what_was_found(tmp_path / str(size))


@pytest.mark.slow
def test_settings_of_one_test_set_are_marked(data: Path, tmp_path: Path, world: World) -> None:
    """At scale 1: a query that was cut out of 48 pixels is too small for less."""
    both = {"tuned": {"oxford5k": ScoreConfig(query_expansion=ExpansionConfig(neighbors=1))}, "scales": "single"}
    labels = evaluate(tiny_network(), scored(data, tmp_path / "labels", **both), world)
    landmarks = evaluate(tiny_network(), scored(data, tmp_path / "landmarks", gallery=str(data / "landmarks"), **both), world)
    assert (labels.tuned, landmarks.tuned) == (False, True)
    assert landmarks.score["query_expansion"] == {"neighbors": 1, "alpha": 3}
    assert json.loads((tmp_path / "landmarks" / "results.json").read_text())["tuned"] is True


@pytest.mark.slow
def test_ukbench_asks_every_image_for_its_four(data: Path, tmp_path: Path, world: World) -> None:
    results = evaluate(tiny_network(), scored(data, tmp_path, protocol="ukbench"), world)
    (protocol,) = results.protocols
    assert (protocol.protocol, protocol.main, protocol.queries) == ("ukbench", "ns", 24)
    found = found_by(results, tmp_path, 4)
    assert protocol.metrics["ns"].value == pytest.approx((found // 4 == np.arange(24)[:, None] // 4).sum(1).mean())
    with pytest.raises(UserError, match="labels have 4 images; found 12 of another size"):
        evaluate(tiny_network(), scored(data, tmp_path / "five", gallery=str(data / "train"), protocol="ukbench"), world)


def test_images_that_whitening_is_fitted_on(data: Path) -> None:
    from largescale.corpus.loading import Corpus

    manifest = Corpus.open(str(data / "train")).manifest
    assert len(images_to_fit(manifest, 60)) == 60
    some = images_to_fit(manifest, 20)
    np.testing.assert_array_equal(some, images_to_fit(manifest, 20))
    assert 10 <= len(some) <= 20
    pairs = matching_pairs(manifest)
    assert (manifest.label[pairs[:, 0]] == manifest.label[pairs[:, 1]]).all()
    assert np.isin(pairs, some).all(axis=1).sum() >= 10


def test_real_descriptors_among_their_neighbors(shared_data: Path, tmp_path: Path, world: World) -> None:
    """Oxford5k, 128 dimensions of CaffeNet: few neighbors help, and ten harm, of which half are wrong; as by hand."""
    folder = shared_data / "oxford5k"
    found = read_test_set(folder / "gnd_oxford5k.json")
    published = Published.parse({"protocol": found.protocol, "queries": found.queries, "gallery": found.images}, "gnd")
    given = {"descriptors": folder / "oxford5k_caffenet_fc7_pca128.npy", "names": folder / "oxford5k_names.txt"}

    def score(name: str, **rules: Any) -> float:
        rest = {**given, "ground_truth": folder / "gnd_oxford5k.json", "score": ScoreConfig(**rules)}
        (protocol,) = evaluate_descriptors(settings(tmp_path / name, **rest), published, world).protocols
        return round(100 * protocol.metrics["map_trapezoid"].value, 2)

    assert score("plain") == 40.29
    assert score("diffused", rerank="diffusion") == 40.58
    rows = np.load(given["descriptors"]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    place = {name: row for row, name in enumerate(given["names"].read_text().split())}
    asked = rows[[place[query.key] for query in published.queries]]
    lists = [{name: [place[key] for key in keys] for name, keys in query.lists.items()} for query in published.queries]
    for neighbors, alpha, expected in [(2, 0, 41.50), (5, 1, 41.50), (10, 0, 36.96)]:
        queries = expand_queries(asked, rows, neighbors, alpha)  # a query's own image is one of its neighbors
        order = np.argsort(-queries @ rows.T, axis=1, kind="stable")
        by_hand = evaluate_rankings(order.T, lists, landmark_protocols("oxford5k", False)[0])
        expansion = ExpansionConfig(neighbors=neighbors, alpha=alpha)
        assert score(f"{neighbors}-{alpha}", query_expansion=expansion) == expected
        assert round(100 * by_hand.mean["map_trapezoid"], 2) == expected
