"""A finished run can be loaded."""

from pathlib import Path

import numpy as np
import pytest

import largescale
from largescale.config import load
from largescale.evaluation import read_results
from largescale.training.finishing.leaving import leave_model
from largescale.training.settings.recipe import TrainConfig
from tests.corpora import make_corpus, photograph
from tests.evaluation.small import alone
from tests.training.test_trainer import train


@pytest.mark.slow
def test_a_finished_run_leaves_a_model_of_its_best_weights(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", labels=8, per_label=4, shards=3, size=48)
    plan = ["tuples={per_step: 4, per_epoch: 8}", "mining.negatives=2", "epochs=1", f"evaluation.gallery={corpus}"]
    model = ["model={backbone: 'timm:test_resnet', weights: none}", "images={size: 40, augment: {test_scale: 1.2}}"]
    usual = ["average=mean", "loader.workers=0", "tracking.wandb=off", f"runs={tmp_path}", "name=first", "precision=fp32"]
    settings = [f"corpus={corpus}", *plan, *model, *usual]
    with alone() as world:
        train(world, settings)
    folder = leave_model(load(TrainConfig, settings))
    weights = largescale.load(tmp_path / "first/weights/step-000002.safetensors", "cpu").computing_in("fp32")
    found, pictures = largescale.load(tmp_path / "first", "cpu"), [photograph(1, 0, 48, 40)]
    assert np.array_equal(found.embed(pictures), weights.embed(pictures))
    about = found.contents.about
    (result,) = read_results(tmp_path / "first/evaluation/step-000002").protocols
    score = about["scores"][f"{result.protocol}/{result.main}"]
    assert score["value"] == result.metrics[result.main].value
    assert score["low"] <= score["value"] <= score["high"]
    assert (about["run"], about["corpus"], about["scored in"]) == ("first", str(corpus), "fp32")
    assert found.settings.precision == found.precision == "fp32"
    assert found.images.size == weights.images.size == 48
    assert read_results(tmp_path / "first/evaluation/step-000002").preprocess["size"] == 48
    assert score["protocol"] == result.hash
    assert f"| {result.protocol}/{result.main} | {score['value']:.4f} |" in (folder / "README.md").read_text()
    with pytest.raises(FileNotFoundError):
        (folder / "anchors.safetensors").read_bytes()
