"""The whole stage: real corpora, a tiny network, real processes, real kills."""

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.evaluation import QueryRecord, evaluate, read_records
from largescale.evaluation.config import EvaluateConfig, ScoreConfig
from largescale.evaluation.descriptors import store
from largescale.evaluation.protocol.ground_truth import LISTS
from largescale.evaluation.results import read_results
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.processes import StoppedError
from largescale.settings import UserError
from tests.corpora import make_corpus
from tests.evaluation.small import (
    LANDMARKS,
    add_ground_truth,
    evaluate_in_world,
    make_landmarks,
    make_weights,
    settings,
    shuffle_corpus,
    tiny_network,
    what_was_found,
)
from tests.world import run_world, start_world


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_corpus(folder / "labels", labels=8, per_label=5, shards=12, size=48, mixed=True)
    make_corpus(folder / "far", labels=0, per_label=0, shards=8, size=48, unlabeled=40)
    make_landmarks(folder / "landmarks")
    make_weights(folder / "weights.safetensors")
    return folder


def by_labels(data: Path, out: Path, **values: Any) -> EvaluateConfig:
    return settings(out, gallery=str(data / "labels"), distractors=str(data / "far"), **values)


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | str]:
    """Found by one process without interruption."""
    out = tmp_path_factory.mktemp("one")
    run_world(1, evaluate_in_world, data / "weights.safetensors", by_labels(data, out))
    return what_was_found(out)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "landmarks"])
def test_shuffled_shards_change_nothing(kind: str, data: Path, tmp_path: Path, world: World) -> None:
    """The same images, gallery and distractors, in another order and in other shards, under the same names of labels.

    One image at a time: the last bits of a descriptor depend on which images share its group, and with them the ranks of an
    untrained network, whose similarities lie that close together.
    """
    keys = shuffle_corpus(tmp_path / kind, data / kind, shards=5), shuffle_corpus(tmp_path / "far", data / "far", shards=3)
    if kind == "landmarks":
        new = {old: key for key, old in keys[0].items()}
        lists = [
            {name: [new[key] for key in value] if name in LISTS else value for name, value in query.items()}
            for query in LANDMARKS
        ]
        queries = [{**query, "key": new[query["key"]]} for query in lists]
        add_ground_truth(tmp_path / kind, {"protocol": "oxford5k", "queries": queries, "gallery": None})
    found = []
    for folder, names in ((data, None), (tmp_path, keys)):
        corpora = {"gallery": str(folder / kind), "distractors": str(folder / "far")}
        config = settings(tmp_path / f"of-{folder.name}", **corpora, batch_size=1)
        (result,) = evaluate(tiny_network(seed=1), config, world).protocols
        records = [_named(record, names) for record in read_records(config.out / result.records)]
        points = [{name: x.value for name, x in point.metrics.items()} for point in result.distractor_curve]
        found.append((sorted(records), points, result.histogram, result.suspects.number))
    (records, points, histogram, suspects), (again, points_again, histogram_again, suspects_again) = found
    assert [record[:-1] for record in records] == [record[:-1] for record in again]
    for record, other in zip(records, again, strict=True):
        np.testing.assert_allclose(record[-1], other[-1], atol=1e-5)
    assert [sum(histogram.positives), suspects] == [sum(histogram_again.positives), suspects_again]
    for point, other_point in zip(points, points_again, strict=True):
        assert point == pytest.approx(other_point, abs=1e-12)


def _named(record: QueryRecord, keys: tuple[dict[str, str], dict[str, str]] | None) -> tuple[Any, ...]:
    """What a query found, by the keys of the first order; similarities come last."""

    def name(key: str, distractor: bool = False) -> str:
        return keys[distractor][key] if keys else key

    top = [(name(row.key, row.mark == "distractor"), row.mark) for row in record.top]
    missed = [(name(row.key), row.rank) for row in record.missed]
    counts = (record.ap, record.positives, record.first_hit, dict(record.metrics), record.precision)
    return (name(record.key), *counts, top, missed, [row.score for row in (*record.top, *record.missed)])


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [2, 4])
def test_number_of_ranks_changes_nothing(size: int, data: Path, tmp_path: Path, expected: dict[str, bytes | str]) -> None:
    results = run_world(size, evaluate_in_world, data / "weights.safetensors", by_labels(data, tmp_path))
    assert what_was_found(tmp_path) == expected
    assert all(found == results[0] for found in results)


@pytest.mark.slow
@pytest.mark.distributed
def test_number_of_ranks_changes_nothing_in_bf16(data: Path, tmp_path: Path) -> None:
    for size in (1, 2):
        config = by_labels(data, tmp_path / str(size), precision="bf16")
        run_world(size, evaluate_in_world, data / "weights.safetensors", config)
    assert what_was_found(tmp_path / "2") == what_was_found(tmp_path / "1")


@pytest.mark.slow
@pytest.mark.distributed
def test_killed_three_times_and_continued_by_another_number_of_ranks(
    data: Path, tmp_path: Path, expected: dict[str, bytes | str]
) -> None:
    done: dict[Path, int] = {}
    for size in (1, 2, 1):
        _kill_after(len(done) + 1, size, data, tmp_path)
        written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("descriptors/*/shard-*.json")}
        assert done.items() <= written.items(), "what was done was done again"
        done = written
    assert 3 <= len(done) < 20
    assert not (tmp_path / "results.json").exists()
    run_world(3, _evaluate_and_look, data, tmp_path, list(done))
    seen = {Path(name): when for name, when in json.loads((tmp_path / "seen.json").read_text()).items()}
    assert seen == done, "what was done was done again"
    assert what_was_found(tmp_path) == expected


def _kill_after(shards: int, size: int, data: Path, out: Path) -> None:
    members, _ = start_world(size, evaluate_in_world, data / "weights.safetensors", by_labels(data, out))
    deadline = time.monotonic() + 300
    while len(list(out.glob("descriptors/*/shard-*.json"))) < shards:
        assert time.monotonic() < deadline
        assert all(member.is_alive() for member in members)
        time.sleep(0.002)
    for member in members:
        member.kill()
        member.join()


def _evaluate_and_look(world: World, data: Path, out: Path, done: list[Path]) -> None:
    """Evaluate into a store that stays, and note when the shards that were done had been written."""
    config = by_labels(data, out).model_copy(update={"store": out / "descriptors"})
    evaluate(data / "weights.safetensors", config, world)
    if world.is_first:
        (out / "seen.json").write_text(json.dumps({str(path): path.stat().st_mtime_ns for path in done}))


@pytest.mark.slow
@pytest.mark.distributed
def test_a_stop_keeps_what_is_done(data: Path, tmp_path: Path, world: World, expected: dict[str, bytes | str]) -> None:
    asked = iter(range(1000))
    with pytest.raises(StoppedError):
        evaluate(data / "weights.safetensors", by_labels(data, tmp_path), world, lambda: next(asked) > 8)
    assert 1 <= len(list(tmp_path.glob("descriptors/*/shard-*.npy"))) < 12
    evaluate(data / "weights.safetensors", by_labels(data, tmp_path), world)
    assert what_was_found(tmp_path) == expected


@pytest.mark.slow
def test_network_in_memory_is_left_as_it_was(data: Path, tmp_path: Path, world: World) -> None:
    network = tiny_network().train()
    modes = [module.training for module in network.modules()]
    torch.manual_seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1]
    in_memory = evaluate(network, by_labels(data, tmp_path / "memory"), world)
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])
    assert modes == [module.training for module in network.modules()]
    from_file = evaluate(data / "weights.safetensors", by_labels(data, tmp_path / "file"), world)
    assert in_memory.protocols == from_file.protocols
    assert in_memory.digest == from_file.digest
    assert from_file.metadata["step"] == 5


@pytest.mark.slow
def test_the_same_evaluation_is_not_done_again(data: Path, tmp_path: Path, world: World) -> None:
    config = by_labels(data, tmp_path)
    first = evaluate(tiny_network(), config, world)
    written = (tmp_path / "results.json").stat().st_mtime_ns
    assert evaluate(tiny_network(), config, world) == first
    assert (tmp_path / "results.json").stat().st_mtime_ns == written
    assert evaluate(tiny_network(seed=1), config, world).digest != first.digest


@pytest.mark.slow
def test_distractors_are_embedded_once(data: Path, tmp_path: Path, world: World) -> None:
    shared = {"distractors": str(data / "far"), "store": tmp_path / "store"}
    evaluate(tiny_network(), settings(tmp_path / "a", gallery=str(data / "labels"), **shared), world)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("far-*/*.npy")}
    evaluate(tiny_network(), settings(tmp_path / "b", gallery=str(data / "landmarks"), crop=False, **shared), world)
    assert len(written) == 8
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("far-*/*.npy")} == written


@pytest.mark.slow
def test_large_sets_are_stored_in_half_precision(
    data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(tiny_network(), by_labels(data, tmp_path / "single"), world)
    monkeypatch.setattr(store, "HALF_BEYOND", 39)
    evaluate(tiny_network(), by_labels(data, tmp_path / "half"), world)
    single, half = (sorted((tmp_path / kind).glob("descriptors/*/shard-*.npy")) for kind in ("single", "half"))
    assert {np.load(path).dtype for path in single} == {np.dtype(np.float32)}
    assert {np.load(path).dtype for path in half} == {np.dtype(np.float16)}
    assert sum(path.stat().st_size for path in half) < sum(path.stat().st_size for path in single)
    scores = [next(read_records(path)).top[0].score for path in sorted(tmp_path.glob("*/queries-*.jsonl"))]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.slow
def test_published_lists_crop_and_marks(data: Path, tmp_path: Path, world: World) -> None:
    """Every number of a small set by hand, from the network itself."""
    network = tiny_network()
    results = evaluate(network, settings(tmp_path, gallery=str(data / "landmarks"), distractors=str(data / "far")), world)
    (protocol,) = results.protocols
    assert protocol.protocol == "oxford5k-crop"
    assert protocol.incomplete == read_results(tmp_path).protocols[0].incomplete == "24 of 5,063 images"
    assert [point.distractors for point in protocol.distractor_curve] == [0, 40]
    records = list(read_records(tmp_path / protocol.records))
    whole, cut = describe(network, data / "landmarks", {}), describe(network, data / "landmarks", {0: (8, 4, 40, 30)})
    scores = np.concatenate([whole, describe(network, data / "far", {})]) @ cut[0]
    order = np.lexsort((np.arange(64), -scores))
    order = order[~np.isin(order, [3, 10])]
    ranks = np.flatnonzero(np.isin(order, [0, 1, 2]))
    before = np.where(ranks == 0, 1, np.arange(3) / np.maximum(ranks, 1))
    assert records[0].ap == pytest.approx(((before + np.arange(1, 4) / (ranks + 1)) / 2).mean())
    assert records[0].first_hit == ranks[0]
    assert [r.key for r in records] == ["000000", "000004"]
    assert (records[0].positives, records[1].positives) == (3, 3)
    assert protocol.metrics["map_trapezoid"].value == pytest.approx(np.mean([record.ap for record in records]))
    for found, row in zip(records[0].top, np.lexsort((np.arange(64), -scores))[:20], strict=True):
        assert (found.part, found.id) == (("gallery", row) if row < 24 else ("distractors", row - 24))
        marks = {0: "right", 1: "right", 2: "right", 3: "junk", 10: "junk"}
        assert found.mark == marks.get(int(row), "wrong" if row < 24 else "distractor")
        assert found.score == pytest.approx(scores[row], abs=1e-5)
    shown = {found.id for found in records[0].top if found.mark == "right"}
    assert {missed.id for missed in records[0].missed} == {0, 1, 2} - shown


def describe(network: RetrievalNet, location: Path, boxes: dict[int, tuple[int, int, int, int]]) -> np.ndarray:
    """`(n, D)` by Pillow and the network alone; images are not larger than the size of the evaluation."""
    corpus = Corpus.open(str(location))
    rows = []
    with torch.inference_mode():
        for id, encoded in enumerate(corpus.read(np.arange(len(corpus.manifest)))):
            image = Image.open(io.BytesIO(encoded)).crop(boxes[id]) if id in boxes else Image.open(io.BytesIO(encoded))
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
            rows.append(network.eval()(network.contract.normalize(pixels))[0].numpy())
    return np.stack(rows)


@pytest.mark.slow
def test_queries_of_another_corpus_are_matched_by_the_names_of_labels(data: Path, tmp_path: Path, world: World) -> None:
    make_corpus(tmp_path / "queries", labels=8, per_label=5, shards=1, size=48, unlabeled=2, mixed=True)
    config = settings(tmp_path / "out", gallery=str(data / "labels"), queries=str(tmp_path / "queries"))
    (protocol,) = evaluate(tiny_network(), config, world).protocols
    assert (protocol.protocol, protocol.queries, protocol.clusters) == ("labels-query-within-gallery", 40, 8)
    # they are the very same photographs, and leave themselves out
    (alone,) = evaluate(tiny_network(), settings(tmp_path / "alone", gallery=str(data / "labels")), world).protocols
    assert protocol.metrics["recall_at_1"].value == alone.metrics["recall_at_1"].value
    assert protocol.metrics["map_rectangle"].value == pytest.approx(alone.metrics["map_rectangle"].value, abs=1e-6)


@pytest.mark.slow
def test_descriptors_with_lengths_are_ranked_by_distance(data: Path, tmp_path: Path, world: World) -> None:
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone="squeezenet1_1", projection=24, normalize=False))
    results = evaluate(network, by_labels(data, tmp_path), world)
    assert results.score["metric"] == "l2"
    rows = np.concatenate([describe(network, data / name, {}) for name in ("labels", "far")]).astype(np.float64)
    for record in read_records(tmp_path / results.protocols[0].records):
        far = np.square(rows - rows[record.id]).sum(1)
        found = [neighbor.id + 40 * (neighbor.part == "distractors") for neighbor in record.top]
        np.testing.assert_allclose(far[found], np.sort(far)[: len(found)], rtol=1e-4)
    with pytest.raises(UserError, match="compared by distance"):
        evaluate(
            network,
            settings(
                tmp_path, gallery=str(data / "labels"), whitening_corpus=str(data / "far"), score=ScoreConfig(whitening="pca")
            ),
            world,
        )


@pytest.mark.slow
def test_collapsed_network_scores_chance(data: Path, tmp_path: Path, world: World) -> None:
    network = tiny_network()
    assert network.projection is not None
    torch.nn.init.zeros_(network.projection.weight)
    torch.nn.init.ones_(network.projection.bias)
    (protocol,) = evaluate(network, by_labels(data, tmp_path), world).protocols
    assert protocol.metrics["recall_at_1"].value <= 2 / 8  # every ranking begins with the first image


@pytest.mark.slow
def test_nan_gives_a_list_and_no_score(data: Path, tmp_path: Path, world: World) -> None:
    network = tiny_network()
    assert network.projection is not None
    with torch.no_grad():
        network.projection.bias[0] = float("nan")
    with pytest.raises(UserError, match="no score: 80 descriptors") as error:
        evaluate(network, by_labels(data, tmp_path), world)
    assert "000007: its descriptor is not a finite unit vector" in str(error.value)
    assert len((tmp_path / "missing.txt").read_text().splitlines()) == 80
    assert not (tmp_path / "results.json").exists()


@pytest.mark.slow
def test_bad_images_are_named(data: Path, tmp_path: Path, world: World) -> None:
    make_corpus(tmp_path / "bad", labels=4, per_label=3, shards=2, size=48, replace={4: b"no image at all", 9: b"\xff\xd8 cut"})
    with pytest.raises(UserError, match="no score: 2 descriptors") as error:
        evaluate(tiny_network(), settings(tmp_path / "out", gallery=str(tmp_path / "bad")), world)
    assert "000004: no picture of a format that is read: it begins with" in str(error.value)
    assert "000009: " in str(error.value)


@pytest.mark.slow
def test_a_damaged_store_is_not_scored(data: Path, tmp_path: Path, world: World) -> None:
    config = settings(tmp_path / "out", gallery=str(data / "labels"), store=tmp_path / "store")
    asked = iter(range(1000))
    with pytest.raises(StoppedError):
        evaluate(tiny_network(), config, world, lambda: next(asked) > 8)
    path = next((tmp_path / "store").glob("*/shard-00000.npy"))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"shard-00000.npy is not what was written"):
        evaluate(tiny_network(), config, world)


def test_weights_of_the_wrong_kind(data: Path, tmp_path: Path, world: World) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"does not say of which network: give model\.backbone="):
        evaluate(tmp_path / "other.pth", by_labels(data, tmp_path), world)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no weights file of a run"):
        evaluate(tmp_path / "other.safetensors", by_labels(data, tmp_path), world)


@pytest.mark.slow
def test_protocol_that_the_corpora_do_not_have(data: Path, tmp_path: Path, world: World) -> None:
    with pytest.raises(UserError, match=r"protocol=roxford5k, but landmarks has a ground truth of oxford5k"):
        evaluate(tiny_network(), settings(tmp_path, gallery=str(data / "landmarks"), protocol="roxford5k"), world)
    with pytest.raises(UserError, match="neither queries nor gallery have a ground truth"):
        evaluate(tiny_network(), settings(tmp_path, gallery=str(data / "labels"), protocol="oxford5k"), world)
    with pytest.raises(UserError, match="gallery is not set"):
        evaluate(tiny_network(), settings(tmp_path), world)
    with pytest.raises(UserError, match="no query has a label that is in the gallery"):
        evaluate(tiny_network(), settings(tmp_path, gallery=str(data / "far")), world)
