"""Cross-batch memory in training: the same on every rank, through chunks, and after a kill."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largescale.distributed import World
from largescale.losses.memory import CrossBatchMemory
from largescale.losses.ranking.roadmap import RoadmapLoss
from largescale.training.callbacks import Callback
from largescale.training.settings.config import EngineConfig
from tests.corpora import make_corpus
from tests.distributed.runs import losses
from tests.training.small import label_batches, small_engine
from tests.training.test_trainer import train
from tests.world import run_world, start_world

SIZE, CHUNK = 30, 3


Outcome = tuple[list[float], dict[str, np.ndarray]]


def _learn(world: World, chunk: int | None) -> Outcome:
    """Losses and norms of four steps of 20 images, and the state with the queue, which they fill more than twice."""
    config = EngineConfig(gradcache_chunk=chunk)
    engine = small_engine(world, config, CrossBatchMemory(RoadmapLoss(), SIZE, 5, weight=0.5), name="sgd")
    numbers = []
    for step in range(4):
        numbers += [float(engine.backward(label_batches(world, step))), engine.step(1.0).norm]
    return numbers, {name: tensor.numpy() for name, tensor in engine.state().items()}


def _both(world: World) -> tuple[Outcome, Outcome]:
    return _learn(world, None), _learn(world, CHUNK)


@pytest.mark.slow
@pytest.mark.distributed
def test_queue_and_gradient_are_those_of_one_process_without_chunks() -> None:
    [((expected, state), alone)] = run_world(1, _both)
    assert state["model.loss.written"] == 80
    two = run_world(2, _both)
    for numbers, found in (alone, *two[0], *two[1]):
        np.testing.assert_allclose(numbers, expected, rtol=2e-5)
        for name, value in state.items():
            np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-6, err_msg=name)
    for (_, first), (_, second) in zip(*two, strict=True):
        for name in ("embeddings", "labels", "written"):
            np.testing.assert_array_equal(first[f"model.loss.{name}"], second[f"model.loss.{name}"])


class _Die(Callback):
    """As by `kill -9`, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, images: Any, outcome: Any) -> None:
        if self.trainer.progress.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.distributed
def test_the_queue_survives_a_kill(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", labels=8, per_label=4, shards=2, size=48)
    settings = [
        *(f"corpus={corpus}", f"runs={tmp_path}", "images.size=48", "loader.workers=0", "epochs=2"),
        "optim={name: sgd, lr: 1e-3}",
        *("model={backbone: 'timm:test_resnet', weights: none}", "tracking={wandb: 'off', every: 1}"),
        *("loss={name: roadmap, memory: 20}", "batches={classes_per_batch: 4, images_per_class: 2}", "checkpoint.every=3"),
    ]
    whole = run_world(2, train, [*settings, "name=whole"])
    members, _ = start_world(2, train, [*settings, "name=killed"], [], [_Die(5)])
    for member in members:
        member.join(300)
        assert member.exitcode == -signal.SIGKILL
    assert max(losses(tmp_path / "killed")) <= 5
    resumed = run_world(2, train, [*settings, "name=killed"])
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    queue = {name: value for name, value in whole[0]["sums"].items() if "loss." in name}
    assert sorted(queue) == ["model.loss.embeddings", "model.loss.labels", "model.loss.written"]
    for run in (*whole, *resumed):
        assert {name: run["sums"][name] for name in queue} == pytest.approx(queue, rel=1e-6)
