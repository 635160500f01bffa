"""Runs that go wrong say so, once, and those that do not say nothing."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from largescale.config import load
from largescale.distributed import World
from largescale.settings import UserError
from largescale.training.callbacks import Callback
from largescale.training.callbacks.health.trouble import Trouble, effective_rank, mean_similarity, share_tied
from largescale.training.callbacks.own import own_callback
from largescale.training.callbacks.quick_score import QuickScore, chosen, leave_one_out
from largescale.training.settings.recipe import TrainConfig, TroubleConfig
from tests.corpora import encode, make_corpus, photograph, write_corpus
from tests.distributed.runs import losses, run, run_alone
from tests.training.test_trainer import train
from tests.world import run_world


def test_what_is_measured() -> None:
    x = normalize(torch.randn(30, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    pairs = [float(x[i] @ x[j]) for i in range(30) for j in range(30) if i != j]
    assert mean_similarity(x) == pytest.approx(np.mean(pairs))
    assert effective_rank(torch.eye(8).repeat(3, 1)) == pytest.approx(7, rel=1e-5)
    assert effective_rank(x[:1].expand(5, 8)) == pytest.approx(1)
    labels = torch.tensor([0, 0, 1, 1])
    assert share_tied(torch.ones(4, 2), labels) == 1
    assert share_tied(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), labels) == 0


def test_the_quick_score_is_that_of_the_definition() -> None:
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.2], [0.1, 1.0]])
    recall, precision = leave_one_out(x, torch.tensor([0, 0, 1, 1, 1]))
    assert recall.tolist() == [1, 1, 1, 0, 1]
    assert precision.tolist() == pytest.approx([1, 1, 1, 0, 1])
    label = np.repeat([-1, 0, 1, 2, 3], [2, 3, 1, 9, 2])
    assert chosen(label, 512).tolist() == [2, 3, 4, *range(6, 14), 15, 16]
    assert chosen(label[:3], 512).tolist() == []


class Flatten(Callback):
    """Makes every descriptor the same, so that only the bias of the projection is left."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, images: Any, outcome: Any) -> None:
        if self.trainer.progress.step >= self.step:
            projection = self.trainer.engine.module.net.projection
            projection.weight.data.zero_()
            projection.bias.data.fill_(1.0)


class Steepen(Callback):
    """Makes the gradient a thousand times larger after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, images: Any, outcome: Any) -> None:
        if self.trainer.progress.step == self.step:
            network: Any = self.trainer.engine.module.net
            network.projection.weight.register_hook(lambda gradient: 1000 * gradient)


def _run(world: World, settings: list[str], first: list[Callback], on_collapse: str) -> dict[str, Any]:
    return train(world, [*settings, f"trouble.on_collapse={on_collapse}"], first)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    corpus = make_corpus(tmp_path_factory.mktemp("corpus"), labels=8, per_label=4, shards=1, size=32)
    plan = ["loss.name=roadmap", "batches={classes_per_batch: 4, images_per_class: 2, per_epoch: 12}", "epochs=2"]
    model = ["model={backbone: 'timm:test_resnet', projection: 8, weights: none}", "images.size=32", "loader.workers=0"]
    return [f"corpus={corpus}", *plan, *model, "tracking={wandb: 'off', every: 1}"]


def _log(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (runs / "default" / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_that_goes_well_says_nothing(settings: list[str], tmp_path: Path) -> None:
    (answer,) = run_world(1, _run, [*settings, f"runs={tmp_path}", "optim.lr=1e-5"], [], "stop")
    assert answer["step"] == 24
    log = _log(tmp_path)
    assert not [line for line in log if any(name.startswith("trouble/") for name in line)]
    assert [line["step"] for line in log if "eval/quick/map_at_r" in line] == [0, 2, 3, 6, 12]
    assert all(math.isfinite(line["train/mean_similarity"]) for line in log if "train/loss" in line)
    assert all("train/effective_rank" in line for line in log if "train/loss" in line)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_collapse_is_named(settings: list[str], tmp_path: Path) -> None:
    (answer,) = run_world(1, _run, [*settings, f"runs={tmp_path}"], [Flatten(3)], "warn")
    assert answer["step"] == 24
    [found] = [line for line in _log(tmp_path) if "trouble/collapse" in line]
    assert found["step"] == 13
    assert "mean similarity of a step's images is 1.000 since step 4" in found["trouble/collapse"]
    assert "100% of its hardest triplets stand at the margin" in found["trouble/collapse"]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_that_ends_collapsed_ends_with_an_error_again_and_again(settings: list[str], tmp_path: Path) -> None:
    flatten = "callbacks=[{name: 'tests.training.callbacks.health.test_trouble:Flatten', step: 3}]"
    given = [*settings, f"runs={tmp_path}", "name=default", flatten]
    for processes in (2, 1):
        output = run([*given, "trouble.on_collapse=stop"], processes, status=1)
        assert "have collapsed since step 4, and the run has ended, its state saved (trouble.on_collapse=stop)" in output
        assert "To go on" not in output
        assert max(losses(tmp_path / "default")) == 13
    assert "is finished: 24 steps" in run_alone([*given, "trouble.on_collapse=warn"])
    assert "have collapsed since step 4" in run_alone([*given, "trouble.on_collapse=stop"], status=2)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("warmup", "said"), [(0, [23]), (24, [])])
def test_gradients_that_explode_are_named_in_short_runs_and_not_in_warmup(
    warmup: int, said: list[int], settings: list[str], tmp_path: Path
) -> None:
    given = [*settings, f"runs={tmp_path}", "optim.lr=1e-6", f"schedule.warmup_steps={warmup}"]
    run_world(1, _run, given, [Steepen(18)], "warn")
    found = [line for line in _log(tmp_path) if "trouble/gradient" in line]
    assert [line["step"] for line in found] == said
    assert all("at 5 of the last 23 steps" in line["trouble/gradient"] for line in found)


@pytest.mark.parametrize(("tied", "rank", "collapsed"), [(0.1, 11.0, 0), (0.9, 11.0, 3), (0.04, 3.3, 3), (math.nan, math.nan, 3)])
def test_descriptors_that_are_drawn_together_and_told_apart_are_no_collapse(tied: float, rank: float, collapsed: int) -> None:
    """The third is proxy-anchor on near-duplicates: R@1 fell from 59 to 12 while no triplet stood at a margin."""
    trouble = Trouble(TroubleConfig())
    trouble._look_for_collapse(0.5, 0.0, 21.4)
    for _ in range(3):
        trouble._look_for_collapse(0.03, tied, rank)
    assert trouble.collapsed == collapsed


@pytest.mark.slow
@pytest.mark.distributed
def test_worse_than_before_training_and_classes_never_drawn(settings: list[str], tmp_path: Path) -> None:
    """Descriptors are equal from the first step on; of half of the labels there is one image, which no batch has."""
    label = np.array([*np.repeat(np.arange(8), 4), *range(8, 16)])
    images = ((encode(photograph(int(own), view, 32, 24)), 32, 24) for view, own in enumerate(label))
    corpus = write_corpus(tmp_path / "corpus", images, label)
    run_world(1, _run, [*settings, f"corpus={corpus}", f"runs={tmp_path}", "epochs=1"], [Flatten(1)], "warn")
    said = {name: text for line in _log(tmp_path) for name, text in line.items() if name.startswith("trouble/")}
    assert "mAP@R of 32 training images was" in said["trouble/worse than before training"]
    assert "8 of 16 classes were in no batch of 1 epochs" in said["trouble/classes never drawn"]
    assert "8 of them have a single image" in said["trouble/classes never drawn"]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((0.3, 0.2, 0.3, 0.6), 1),
        ((0.3, 0.4, 0.45, 0.6), 0),
        ((0.6, 0.7, 0.2, 0.1), 2),
        ((0.4, 0.6, 0.6, 0.7), 0),
        ((0.48, 0.46, 0.43, 0.55), 0),
        ((0.48, 0.46, 0.43, 0.42), 1),
    ],
)
def test_what_is_worse_early_and_rises_is_not_said(scores: tuple[float, ...], said: int) -> None:
    """0.5 before training; the fifth is contrastive loss on near-duplicates, which ends above its start."""
    look, spread = QuickScore(Trouble(TroubleConfig())), np.linspace(-0.1, 0.1, 100)
    found = [look.is_worse(0.5 + spread, mean + spread[::-1], early=place < 3) for place, mean in enumerate(scores)]
    assert sum(found) == said


class Count(Callback):
    """Of a user's own."""

    def __init__(self, every: int, label: str = "own") -> None:
        self.every, self.label = every, label

    def after_step(self, images: Any, outcome: Any) -> None:
        if self.trainer.progress.step % self.every == 0:
            self.trainer.log({f"train/{self.label}": self.trainer.progress.step})


@pytest.mark.slow
@pytest.mark.distributed
def test_a_callback_of_ones_own_by_import_path(settings: list[str], tmp_path: Path) -> None:
    own = "callbacks=[{name: 'tests.training.callbacks.health.test_trouble:Count', every: 5}]"
    with pytest.raises(UserError, match=r"Count: unknown setting 'evry'; did you mean every"):
        own_callback(load(TrainConfig, [*settings, own.replace("}", ", evry: 1}")]).callbacks[0])
    run_world(1, _run, [*settings, f"runs={tmp_path}", own, "epochs=1"], [], "warn")
    assert [line["train/own"] for line in _log(tmp_path) if "train/own" in line] == [5, 10]
