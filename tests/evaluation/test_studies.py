"""Studies from weights and corpora: tables of numbers, and a page that plots them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.distributed import World
from largescale.evaluation.config_studies import AnchorsConfig
from largescale.evaluation.studies import Embedder, studies
from largescale.models.config import ModelConfig
from largescale.models.weights import save_weights
from largescale.settings import UserError
from largescale.training.callbacks.checkpointing import _export_anchors
from tests.corpora import make_corpus
from tests.evaluation.small import SIZE, alone


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with alone() as world:
        yield world


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of 6 labels with 4 images each, queries of the same labels, and distractors."""
    folder = tmp_path_factory.mktemp("corpora")
    make_corpus(folder / "gallery", labels=6, per_label=4, size=SIZE)
    make_corpus(folder / "queries", labels=6, per_label=1, size=SIZE)
    make_corpus(folder / "far", labels=0, unlabelled=10, size=SIZE)
    return folder


def settings(corpora: Path, weights: Path, **values: Any) -> dict[str, Any]:
    common = {"images": ImagesConfig(size=SIZE), "batch": 4, "loader": LoaderConfig(workers=0), "out": weights.parent}
    return {"weights": weights, "gallery": str(corpora / "gallery"), "queries": str(corpora / "queries"), **common, **values}


def numbers(out: Path, name: str) -> list[dict[str, Any]]:
    assert "<svg" in (out / f"{name}.html").read_text()
    return json.loads((out / f"{name}.json").read_text())["rows"]


def test_anchors_of_a_network_that_makes_no_unit_rows(world: World, corpora: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ModelConfig(backbone="squeezenet1_1", projection=12, normalise=False).build()
    weights = tmp_path / "step-000004.safetensors"
    save_weights(network, weights, {"step": 4})
    config = AnchorsConfig(**settings(corpora, weights, probes=(1, 6)))
    with pytest.raises(UserError, match=r"train with loss\.name=class_anchor, or give anchors=FILE\.npy"):
        studies["anchors"](config, Embedder(config, world))
    _export_anchors(weights.with_suffix(".anchors.npy"), {"model.loss.anchors": torch.randn(6, 12)})
    study = studies["anchors"](config, Embedder(config, world))
    study.write(tmp_path)
    exhaustive, one, same, every, _ = numbers(tmp_path, "anchors")
    assert (exhaustive["search"], one["search"], same["search"]) == ("exhaustive", "anchors", "IVF6")
    assert one["scanned %"] <= every["scanned %"] == 100
    assert every["map %"] == pytest.approx(exhaustive["map %"])
    assert f"{exhaustive['map %']:.2f}" in study.text()


def test_a_loss_without_anchors_writes_none(tmp_path: Path) -> None:
    _export_anchors(tmp_path / "x.npy", {"model.net.x": torch.zeros(1)})
    assert not (tmp_path / "x.npy").exists()
