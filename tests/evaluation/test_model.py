"""Models from elsewhere are scored with what belongs to them, and what an evaluation leaves describes as it scored."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import squeezenet1_1

import largescale
from largescale.config import load
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.evaluation import evaluate, read_results
from largescale.evaluation.config import EvaluateConfig, ScoreConfig
from largescale.evaluation.context import Context
from largescale.evaluation.results import Results
from largescale.models.weights import save_weights
from largescale.settings import UserError
from launch.export import main as export
from tests.corpora import make_corpus
from tests.evaluation.small import SIZE, make_weights, settings, tiny_network
from tests.models.sharing.test_released import cirtorch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_corpus(folder / "labels", labels=5, per_label=4, shards=1, size=SIZE)
    make_corpus(folder / "train", labels=8, per_label=4, shards=1, size=SIZE)
    make_weights(folder / "weights.safetensors")
    return folder


def scored(data: Path, out: Path, world: World, **values: Any) -> Results:
    config = settings(out, gallery=str(data / "labels"), **values)
    assert config.subject is not None
    return evaluate(config.subject, config, world)


def gallery_rows(config: EvaluateConfig, world: World) -> np.ndarray:
    """As they were scored."""
    assert config.subject is not None
    return np.concatenate(Context.open(config.subject, config, world, lambda: False).task.gallery.parts)


@pytest.mark.slow
def test_what_was_scored_is_left_as_a_model(data: Path, tmp_path: Path, world: World) -> None:
    whitened = {"scales": "multi", "score": ScoreConfig(whitening="learned", dim=8), "whitening_corpus": str(data / "train")}
    first = scored(data, tmp_path / "first", world, weights=data / "weights.safetensors", **whitened)
    model = largescale.load(tmp_path / "first" / "model", "cpu")
    encoded = list(Corpus.open(str(data / "labels")).read(np.arange(20)))
    config = settings(tmp_path / "first", weights=data / "weights.safetensors", gallery=str(data / "labels"), **whitened)
    np.testing.assert_array_equal(model.embed(encoded, batch_size=4), gallery_rows(config, world))
    assert (model.dim, model.settings.whitening, model.settings.scales) == (8, "learned", (1.0, 2**-0.5, 0.5))

    (result,) = first.protocols
    stated = model.contents.about["scores"][f"{result.protocol}/{result.main}"]
    assert (stated["value"], stated["low"], stated["protocol"]) == (
        result.metrics[result.main].value,
        result.metrics[result.main].low,
        result.hash,
    )
    assert f"`{result.hash}`" in (tmp_path / "first" / "model" / "README.md").read_text()

    # scored again with nothing said of size, scales or whitening
    folder = tmp_path / "first" / "model"
    again = load(EvaluateConfig, [f"model={folder}", f"gallery={data / 'labels'}", f"out={tmp_path / 'again'}", "batch_size=4"])
    assert evaluate(str(again.model), again, world).protocols == first.protocols
    assert json.loads((tmp_path / "again" / "results.json").read_text())["score"]["whitening"] == "learned"
    bare = {"scales": "single", "score": ScoreConfig(whitening="none")}
    plain = scored(data, tmp_path / "plain", world, model=str(folder), **bare)
    assert plain.protocols == scored(data, tmp_path / "weights", world, weights=data / "weights.safetensors").protocols
    with pytest.raises(UserError, match="descriptors have 8 dimensions; use 8 or fewer"):
        scored(data, tmp_path / "more", world, model=str(folder), score=ScoreConfig(dim=9))


@pytest.mark.slow
def test_a_backbone_that_was_never_trained_here(data: Path, tmp_path: Path, world: World) -> None:
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "published.pth")
    given = ["model.backbone=squeezenet1_1", f"model.weights={tmp_path / 'published.pth'}"]
    config = load(EvaluateConfig, [*given, f"gallery={data / 'labels'}", f"out={tmp_path / 'out'}", f"images.size={SIZE}"])
    assert config.subject is not None
    results = evaluate(config.subject, config, world)
    assert results.source == f"squeezenet1_1, weights={tmp_path / 'published.pth'}"
    assert read_results(tmp_path / "out").digest == results.digest
    model, black = largescale.load(tmp_path / "out" / "model", "cpu"), [np.zeros((SIZE, SIZE, 3), np.uint8)]
    assert (model.dim, model.settings.size) == (512, SIZE)
    assert np.array_equal(model.embed(black), largescale.load(config.subject, "cpu").embed(black))
    export([str(tmp_path / "exported"), *given])
    assert largescale.load(tmp_path / "exported", "cpu").dim == 512
    with pytest.raises(UserError, match="expected a model"):
        export([str(tmp_path / "exported")])


@pytest.mark.slow
def test_a_published_checkpoint_with_the_whitening_for_the_scales(data: Path, tmp_path: Path, world: World) -> None:
    from torchvision.models import resnet18

    random = np.random.default_rng(0)
    ms, ss = ({"m": random.normal(size=(512, 1)), "P": random.normal(size=(512, 512))} for _ in range(2))
    torch.manual_seed(0)
    torch.save(cirtorch(resnet18(weights=None), None, Lw={"retrieval-SfM-120k": {"ss": ss, "ms": ms}}), tmp_path / "gem.pth")
    for scales, whitening in (("single", ss), ("multi", ms)):
        config = settings(tmp_path / scales, model=str(tmp_path / "gem.pth"), gallery=str(data / "labels"), scales=scales)
        context = Context.open(str(config.model), config, world, lambda: False)
        assert context.transform.whitening is not None
        np.testing.assert_array_equal(context.transform.whitening.directions.numpy(), whitening["P"])
        assert context.settings["exponent"] == (pytest.approx(2.7) if scales == "multi" else context.settings["exponent"])
        assert len(context.scales) == (3 if scales == "multi" else 1)


@pytest.mark.slow
def test_a_network_that_was_trained_to_be_cut(data: Path, tmp_path: Path, world: World) -> None:
    save_weights(tiny_network(), tmp_path / "cut.safetensors", {"step": 5, "matryoshka": [8, 16]})
    scored(data, tmp_path / "out", world, weights=tmp_path / "cut.safetensors", score=ScoreConfig(dim=8), precision="auto")
    model = largescale.load(tmp_path / "out" / "model", "cpu")
    whole = largescale.load(tmp_path / "cut.safetensors", "cpu").contents.network
    encoded = list(Corpus.open(str(data / "labels")).read(np.arange(4)))
    rows, expected = model.embed(encoded), largescale.load(data / "weights.safetensors", "cpu").embed(encoded)[:, :8]
    assert whole.dim == 24
    np.testing.assert_allclose(rows, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    scored(data, tmp_path / "again", world, model=str(tmp_path / "out" / "model"), precision="auto")
    assert read_results(tmp_path / "again").protocols == read_results(tmp_path / "out").protocols
    for network, dim in (("cut", 12), ("weights", 8)):
        folder = tmp_path if network == "cut" else data
        with pytest.raises(UserError, match=r"first dimensions of what is not whitened mean nothing"):
            scored(data, tmp_path / "none", world, weights=folder / f"{network}.safetensors", score=ScoreConfig(dim=dim))
