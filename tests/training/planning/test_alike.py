"""Batches of labels that are alike: the same on any number of ranks, after a resume, and from a service."""

from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.commit import write_text
from largescale.config import load, to_yaml
from largescale.corpus.corpus import Corpus
from largescale.distributed import StopSignal, World
from largescale.mining.service.service import Service
from largescale.models.build import build_network
from largescale.models.network import RetrievalNet
from largescale.models.weights import save_weights
from largescale.settings import UserError
from largescale.training.planning.planners import LabelPlan, LabelPlanner, build_planner
from largescale.training.progress import Progress
from largescale.training.settings.recipe import TrainConfig
from tests.corpora import make_corpus
from tests.mining.served import Until
from tests.world import run_world

LOSSES = (
    "batch_hard",
    "msml",
    "sup_ap",
    "calibration",
    "roadmap",
    "smooth_ap",
    "soft_bin_ap",
    "blackbox_ap",
    "arcface",
    "cosface",
)
LIBRARY = ("MultiSimilarityLoss", "ProxyAnchorLoss", "NTXentLoss")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("alike") / "corpus", 12, 4, shards=3, unlabeled=5, mixed=True)


def settings(corpus: Path, runs: Path, *more: str) -> list[str]:
    usual = [f"corpus={corpus}", f"runs={runs}", "name=run", "images.size=32", "loader.workers=0", "tracking.wandb=off"]
    plan = ["batches={classes_per_batch: 4, images_per_class: 2}", "mining={negatives: 3, batch_size: 4}", "loss.name=smooth_ap"]
    return [*usual, "model={backbone: 'timm:test_resnet', weights: none}", *plan, *more]


def network() -> RetrievalNet:
    torch.manual_seed(0)
    return build_network(load(TrainConfig, ["model={backbone: 'timm:test_resnet', weights: none}"]).model)


def planner(world: World, arguments: list[str]) -> LabelPlanner:
    config = load(TrainConfig, arguments)
    built = build_planner(config, world, Corpus.open(str(config.corpus)), StopSignal(world))
    assert isinstance(built, LabelPlanner)
    return built


def plans(world: World, corpus: Path, runs: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """The whole plan of epoch 1, read back as a resumed run reads it; and what is said where it is gone."""
    own = planner(world, settings(corpus, runs))
    whole = own.plan(Progress(own.steps, 1, 0), network)
    resumed = planner(world, settings(corpus, runs)).plan(Progress(own.steps + 2, 1, 2), _gone)
    assert whole is not None
    assert resumed is not None
    assert (whole.columns == resumed.columns).all()
    assert whole.statistics == resumed.statistics
    with pytest.raises(UserError, match="no whole generation of epoch 2"):
        own.plan(Progress(2 * own.steps + 1, 2, 1), network)
    columns = np.concatenate(world.gather(whole.columns), 1)
    assert (own.corpus.manifest.label[columns] == whole.labels).all()
    return columns, whole.labels, whole.statistics["near_labels"]


def _gone() -> RetrievalNet:
    raise AssertionError("what was mined is read back")


@pytest.mark.slow
@pytest.mark.distributed
def test_every_world_plans_the_same(corpus: Path, tmp_path: Path) -> None:
    [(columns, labels, near)] = run_world(1, plans, corpus, tmp_path / "1")
    for size in (2, 4):
        for other in run_world(size, plans, corpus, tmp_path / str(size)):
            assert (other[0] == columns).all()
            assert other[2] == near
    assert labels.shape == (6, 8)
    assert all(len(set(batch)) == 4 for batch in labels[:, ::2].tolist())
    # random batches of 4 labels, each near about 5 of 11 others, have less than half of their pairs near
    assert near > 0.6


def served(world: World, corpus: Path, runs: Path) -> tuple[LabelPlan, LabelPlan]:
    """From a service that found the weights of the boundary; and of an epoch for which it found nothing in time."""
    arguments = settings(corpus, runs, "mining.home=service", "mining.wait=always")
    write_text(runs / "run/config.yaml", to_yaml(load(TrainConfig, arguments)))
    fingerprint = Corpus.open(str(corpus)).manifest.fingerprint
    own = planner(world, arguments)
    save_weights(network(), runs / f"run/weights/step-{own.steps:06d}.safetensors", {"step": own.steps, "corpus": fingerprint})
    Service(runs / "run", world, Until(runs / "run", (1, own.steps))).follow()
    found = own.plan(Progress(own.steps, 1, 0), _gone)
    hasty = planner(world, [*arguments, "mining.wait=never"])
    later = hasty.plan(Progress(2 * own.steps, 2, 0), _gone)
    assert found is not None
    assert later is not None
    return found, later


@pytest.mark.slow
@pytest.mark.distributed
def test_a_service_finds_the_same(corpus: Path, tmp_path: Path) -> None:
    [(columns, _, near)] = run_world(1, plans, corpus, tmp_path / "inline")
    [(found, later)] = run_world(1, served, corpus, tmp_path / "served")
    assert (found.columns == columns).all()
    # the labels that were alike an epoch before are taken to be so still, though other images asked
    assert later.statistics["near_labels"] > 0.6
    assert (later.statistics["fallbacks"], later.statistics["age_steps"]) == (1, 6)
    assert near == found.statistics["near_labels"]


def test_every_loss_over_labels_has_it(tmp_path: Path) -> None:
    own = [["loss.name=class_anchor", "model.normalize=false"], *([f"loss.name={name}"] for name in LOSSES)]
    own += [["loss.name=metric_learning", f"loss.loss={name}"] for name in LIBRARY]
    for loss in own:
        config = load(TrainConfig, [*loss, "mining.negatives=7"])
        assert (config.mining is not None, config.batches is not None, config.tuples) == (True, True, None)
        assert load(TrainConfig, loss).mining is None
