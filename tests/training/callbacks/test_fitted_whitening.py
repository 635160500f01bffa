"""The whitening of a run: beside its weights, in its scores and in its model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import largescale
from largescale.config import check, load
from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.embedding import Embedder, gather_by_id
from largescale.evaluation import evaluate, read_results
from largescale.evaluation.config import EvaluateConfig
from largescale.models.network import RetrievalNet
from largescale.models.sharing.sources import open_contents, read_whitening
from largescale.models.whitening import SHRINKAGE, LearnedWhitening
from largescale.settings import UserError
from largescale.training.callbacks import fitted_whitening
from largescale.training.finishing.leaving import leave_model
from largescale.training.planning.sample import describe_sample
from largescale.training.settings.recipe import TrainConfig
from tests.corpora import make_corpus
from tests.evaluation.small import alone
from tests.training.test_trainer import SignalAt, train
from tests.world import run_world


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_corpus(tmp_path_factory.mktemp("whitening") / "corpus", labels=8, per_label=6, shards=3, size=48))


def _settings(corpus: str, runs: Path, *more: str) -> list[str]:
    plan = ["loss.name=smooth_ap", "batches={classes_per_batch: 4, images_per_class: 2, per_epoch: 2}", "epochs=2"]
    model = ["model={backbone: 'timm:test_resnet', weights: none}", "images={size: 40, augment: {test_scale: 1.2}}"]
    usual = ["loader.workers=0", "tracking.wandb=off", "precision=fp32", f"runs={runs}", "name=run"]
    return [f"corpus={corpus}", "whitening=true", "average=mean", *plan, *model, *usual, *more]


def _scored(folder: Path) -> float:
    (protocol,) = read_results(folder).protocols
    return protocol.metrics[protocol.main].value


def _trained(world: World, settings: Sequence[str]) -> dict[str, float]:
    return train(world, settings)["sums"]


def _scored_again(world: World, source: str, corpus: str, out: Path, whitening: str) -> None:
    values = {"weights": source, "gallery": corpus, "out": str(out), "score": {"whitening": whitening}}
    evaluate(source, check(EvaluateConfig, {**values, "loader": {"workers": 0}, "precision": "fp32"}), world)


@pytest.mark.slow
@pytest.mark.distributed
def test_scores_weights_and_model_have_it_and_training_does_not(corpus: str, tmp_path: Path) -> None:
    settings = _settings(corpus, tmp_path, f"evaluation={{gallery: {corpus}, every: 2}}")
    sums = run_world(2, _trained, settings)[0]
    plain = run_world(2, _trained, [*settings, "whitening=false", "name=plain"])[0]
    assert sums == plain
    weights = tmp_path / "run/weights/step-000004.safetensors"
    assert [path.name for path in sorted((tmp_path / "run/weights").glob("*whitening*"))] == [
        "step-000000.whitening.safetensors",
        "step-000004.whitening.safetensors",
    ]
    assert _scored(tmp_path / "run/evaluation/step-000004") != _scored(tmp_path / "plain/evaluation/step-000004")

    model = leave_model(load(TrainConfig, settings))
    for source, whitening, run in ((weights, "own", "run"), (model, "own", "run"), (weights, "none", "plain")):
        out = tmp_path / f"{source.name} {whitening}"
        run_world(1, _scored_again, str(source), corpus, out, whitening)
        assert _scored(out) == pytest.approx(_scored(tmp_path / run / "evaluation/step-000004"), abs=1e-6)
    contents = largescale.load(model, "cpu").contents
    assert contents.settings.whitening == "learned_shrunk"
    assert contents.whitening is not None
    assert "learned_shrunk" in (model / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.distributed
def test_it_is_learned_from_the_images_as_they_are_scored(corpus: str, tmp_path: Path) -> None:
    settings = _settings(corpus, tmp_path, "average=null")
    run_world(2, _trained, settings)
    weights = tmp_path / "run/weights/step-000004.safetensors"
    assert not (tmp_path / "run/weights/step-000000.whitening.safetensors").exists()  # nothing was scored there
    described = largescale.load(weights, "cpu").computing_in("fp32")
    opened = Corpus.open(corpus)
    ids = np.arange(len(opened.manifest))
    whitening = described.contents.whitening
    assert whitening is not None
    bare = open_contents(weights)[0].network
    rows = _rows(bare, opened, ids)
    queries = np.flatnonzero(opened.manifest.label[1:] == opened.manifest.label[:-1])
    expected = LearnedWhitening.fit(rows, queries, queries + 1, shrinkage=SHRINKAGE)
    found, wanted = whitening.apply(rows), expected.apply(rows)
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-4)
    assert np.abs((found @ found.T).numpy() - rows @ rows.T).max() > 0.1


def _rows(network: RetrievalNet, corpus: Corpus, ids: np.ndarray) -> np.ndarray:
    (rows,) = run_world(1, _described, network, corpus, ids)
    return rows


def _described(world: World, network: RetrievalNet, corpus: Corpus, ids: np.ndarray) -> np.ndarray:
    embedder = Embedder.in_world(world, ImagesConfig(size=48), 8, LoaderConfig(workers=0), "fp32")
    return gather_by_id(embedder.embed(network, corpus, ids), world)[1]


def _stopped_at_the_end(world: World, settings: Sequence[str]) -> str:
    return train(world, settings, first=[SignalAt("boundary", 4)])["stopping"]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_stop_while_it_is_fitted_and_a_damaged_file(corpus: str, tmp_path: Path) -> None:
    settings = _settings(corpus, tmp_path)
    file = tmp_path / "run/weights/step-000004.whitening.safetensors"
    assert "stop signal" in run_world(2, _stopped_at_the_end, settings)[0]
    assert not file.exists()
    run_world(2, _trained, settings)
    whole = read_whitening(file.with_name("step-000004.safetensors"))
    assert whole is not None
    written = file.stat().st_mtime_ns
    run_world(2, _trained, settings)
    assert file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:-8])
    run_world(2, _trained, settings)
    again = read_whitening(file.with_name("step-000004.safetensors"))
    assert again is not None
    np.testing.assert_array_equal(again.mean, whole.mean)


def test_what_cannot_be_whitened() -> None:
    for settings in (["model.normalize=false"], ["loss={name: smooth_ap, matryoshka: [64]}"]):
        with pytest.raises(UserError, match="whitening=true"):
            load(TrainConfig, ["whitening=true", *settings])


def _refused(world: World, settings: Sequence[str]) -> None:
    with pytest.raises(UserError, match="neither pairs nor labels of two images; use whitening=false"):
        train(world, settings)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_corpus_without_matching_pairs(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", labels=8, per_label=1, size=40)
    settings = _settings(str(corpus), tmp_path, "loss={name: arcface}", "batches.images_per_class=1")
    run_world(1, _refused, settings)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_large_corpus_costs_no_more_than_a_few_images_for_each_dimension(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    found: list[int] = []

    def fewer(network: RetrievalNet, images: ImagesConfig, most: int, *rest: Any) -> tuple[np.ndarray, np.ndarray]:
        asked.append(most)
        ids, rows = describe_sample(network, images, 24, *rest)
        found.append(len(rows))
        return ids, rows

    monkeypatch.setattr(fitted_whitening, "describe_sample", fewer)
    with alone() as world:
        train(world, _settings(corpus, tmp_path, "epochs=1"))
    assert asked == [8 * 96]
    assert 12 <= found[0] <= 24 < 48
    assert read_whitening(tmp_path / "run/weights/step-000002.safetensors") is not None
