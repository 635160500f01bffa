"""Studies from weights and corpora: tables of numbers, and a page that plots them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.distributed import World
from largescale.evaluation.studies.config import AnchorsConfig, LeaksConfig
from largescale.evaluation.studies.studies import StudyContext, studies
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.weights import save_weights
from largescale.settings import UserError
from largescale.training.callbacks.checkpointing import _export_anchors
from tests.corpora import encode, make_corpus, photograph, write_corpus
from tests.evaluation.small import SIZE, make_weights
from tests.world import run_world


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of 6 labels with 4 images each, queries of the same labels, and distractors."""
    folder = tmp_path_factory.mktemp("corpora")
    make_corpus(folder / "gallery", labels=6, per_label=4, size=SIZE)
    width, height = SIZE, SIZE * 3 // 4
    queries = [(encode(photograph(label, 0, width, height), quality=95), width, height) for label in range(6)]
    write_corpus(folder / "queries", queries, np.arange(6), shards=2)
    make_corpus(folder / "far", labels=0, unlabeled=10, size=SIZE)
    return folder


def settings(corpora: Path, weights: Path, **values: Any) -> dict[str, Any]:
    where = {"weights": weights, "gallery": str(corpora / "gallery"), "queries": str(corpora / "queries")}
    common = {"images": ImagesConfig(size=SIZE), "batch_size": 4, "loader": LoaderConfig(workers=0)}
    return {**where, **common, "out": weights.parent / "study", **values}


def numbers(out: Path, name: str) -> list[dict[str, Any]]:
    assert "<svg" in (out / f"{name}.html").read_text()
    return json.loads((out / f"{name}.json").read_text())["rows"]


@pytest.mark.slow
def test_anchors_of_a_network_that_makes_no_unit_rows(world: World, corpora: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone="squeezenet1_1", projection=12, normalize=False))
    weights = tmp_path / "step-000004.safetensors"
    save_weights(network, weights, {"step": 4})
    config = AnchorsConfig(**settings(corpora, weights, probes=(1, 6)))
    with pytest.raises(UserError, match=r"train with loss\.name=class_anchor, or give anchors=FILE\.npy"):
        studies["anchors"](config, StudyContext(config, world))
    _export_anchors(weights.with_suffix(".anchors.npy"), {"model.loss.anchors": torch.randn(6, 12)})
    study = studies["anchors"](config, StudyContext(config, world))
    study.write(config.out)
    exhaustive, one, same, every, _ = numbers(config.out, "anchors")
    assert (exhaustive["search"], one["search"], same["search"]) == ("exhaustive", "anchors", "IVF6")
    assert one["scanned %"] <= every["scanned %"] == 100
    assert every["map_rectangle %"] == pytest.approx(exhaustive["map_rectangle %"])
    assert f"{exhaustive['map_rectangle %']:.2f}" in study.text()


def test_a_loss_without_anchors_writes_none(tmp_path: Path) -> None:
    _export_anchors(tmp_path / "x.npy", {"model.net.x": torch.zeros(1)})
    assert not (tmp_path / "x.npy").exists()


def find_leaks(world: World, weights: Path, config: LeaksConfig) -> list[dict[str, Any]]:
    return list(studies["leaks"](config, StudyContext(config, world)).rows)


@pytest.mark.slow
@pytest.mark.distributed
def test_leaks_are_found_by_bytes_by_look_and_by_descriptor(world: World, corpora: Path, tmp_path: Path) -> None:
    """Of five training images two are in the test: one as it is, one at another size and quality."""
    width, height = SIZE, SIZE * 3 // 4
    same, again = encode(photograph(2, 1, width, height)), Image.fromarray(photograph(4, 0, width, height))
    buffer = io.BytesIO()
    again.resize((96, 72), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=70)
    others = [(encode(photograph(label, 0, width, height)), width, height) for label in (20, 21, 22)]
    images = [others[0], (same, width, height), others[1], (buffer.getvalue(), 96, 72), others[2]]
    write_corpus(tmp_path / "train", images, np.arange(5), shards=3)
    weights = make_weights(tmp_path / "w.safetensors")
    config = LeaksConfig(
        **settings(corpora, weights, training=str(tmp_path / "train"), distractors=(str(corpora / "far"),), similarity=0.9999)
    )
    alone = find_leaks(world, weights, config)
    assert run_world(2, find_leaks, weights, config.model_copy(update={"out": tmp_path / "two"})) == [alone, alone]
    found = {(row["used as"], row["image"], row["training image"]): row for row in alone}
    assert set(found) == {("gallery", "000009", "000001"), ("gallery", "000016", "000003"), ("queries", "000004", "000003")}
    copy, resized = found["gallery", "000009", "000001"], found["gallery", "000016", "000003"]
    assert (copy["same bytes"], copy["bits apart"], copy["similarity"]) == ("yes", "0", "1.000")
    assert resized["same bytes"] == "no"
    assert int(resized["bits apart"]) <= 10
