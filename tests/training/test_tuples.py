"""What a step of tuples has beside mined negatives: a teacher, and positives that are chosen by the network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.commit import write_array
from largescale.config import load
from largescale.corpus.batches.batches import Step
from largescale.corpus.corpus import Corpus
from largescale.corpus.loading import load_steps
from largescale.corpus.plan import plan_tuples
from largescale.distributed import StopSignal, World
from largescale.evaluation.search.expansion import expand_queries
from largescale.losses.tuples.lrml import sequence
from largescale.models.build import build_network, load_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.models.sharing.folder import Contents, DescriptorConfig, write_folder
from largescale.models.weights import save_weights
from largescale.models.whitening import PCAWhitening
from largescale.settings import UserError
from largescale.training.planning.planners import TuplePlanner, build_planner
from largescale.training.planning.positives import NearestPositives
from largescale.training.planning.teacher import PublishedTeacher, Teacher
from largescale.training.settings.recipe import TrainConfig
from tests.corpora import make_corpus
from tests.distributed.runs import lines, run_alone
from tests.evaluation.small import alone
from tests.world import run_world

MODEL = ModelConfig(backbone="timm:test_resnet.r160_in1k")


def network(seed: int) -> RetrievalNet:
    torch.manual_seed(seed)
    return build_network(MODEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuples")
    make_corpus(folder / "corpus", labels=6, per_label=4, pairs=True, mixed=True)
    save_weights(network(7), folder / "teacher.safetensors", {})
    return folder


def settings(folder: Path, *more: str) -> list[str]:
    common = [f"corpus={folder}/corpus", f"runs={folder}", "images.size=32", "loader.workers=0", "tracking.wandb=off", "epochs=1"]
    model = ["model.backbone=timm:test_resnet.r160_in1k", "tuples.per_step=4", "mining.negatives=3", "precision=fp32"]
    return [*common, *model, *more]


def planner(world: World, arguments: list[str]) -> TuplePlanner:
    config = load(TrainConfig, arguments)
    built = build_planner(config, world, Corpus.open(str(config.corpus)), StopSignal(world))
    assert isinstance(built, TuplePlanner)
    return built


def taught(world: World, folder: Path) -> np.ndarray:
    """The teacher's distances of the first step, Euclidean and by cosine, over all ranks."""
    found = []
    for ranking in ("euclidean", "cosine"):
        lrml = ["loss.name=lrml", f"loss.teacher={folder}/teacher.safetensors", f"loss.ranking={ranking}"]
        own, config = planner(world, settings(folder, *lrml)), load(TrainConfig, settings(folder))
        plan, corpus = own.sample(16), own.miner.corpus
        images = next(load_steps(corpus, plan.columns, config.images, epoch=0, seed=0, loader=config.loader))
        batch = plan.batch(images, 0, 0)
        halves = torch.cat([part.extra["distances"] for part in batch.split(2)])
        assert torch.equal(halves, batch.extra["distances"])
        found.append(torch.cat(world.gather(halves)))
    return torch.stack(found).numpy()


@pytest.mark.slow
@pytest.mark.distributed
def test_a_teacher_orders_the_negatives_on_any_number_of_ranks(folder: Path) -> None:
    [alone] = run_world(1, taught, folder)
    corpus, config = Corpus.open(f"{folder}/corpus"), load(TrainConfig, settings(folder))
    tuples = plan_tuples(corpus.manifest, config.tuples, 0, 0)
    ids = tuples.steps(np.zeros((len(tuples.queries), 3), np.int64))[0]  # (T, 2 + N)
    step = next(load_steps(corpus, ids.reshape(1, -1), config.images, epoch=0, seed=0, loader=config.loader))
    teacher = network(7).eval()
    rows = torch.empty(ids.size, teacher.dim)
    for group, places in zip(step.groups, step.places, strict=True):
        rows[places] = teacher(teacher.contract.normalize(group)).detach()
    x = rows.reshape(*ids.shape, -1)
    expected = torch.stack([sequence(x[:, 0], x[:, 2:], ranking) for ranking in ("euclidean", "cosine")]).numpy()
    for found in (alone, run_world(2, taught, folder)[0]):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)


def test_a_teacher_must_be_a_weights_file(folder: Path) -> None:
    with pytest.raises(UserError, match="there is no weights file"):
        Teacher(folder / "none.safetensors", "euclidean", World(0, 1, 0, 1, torch.device("cpu"), None), "fp32")


@pytest.mark.slow
def test_a_published_teacher_whitens_and_expands(folder: Path, tmp_path: Path) -> None:
    """Its sequence by hand: each query with its two nearest images added, against the descriptors of the negatives."""
    net = network(7)
    rows = np.random.default_rng(0).standard_normal((50, net.dim))
    whitening = PCAWhitening.fit(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    write_folder(tmp_path / "model", Contents(net, DescriptorConfig(size=32, dim=8, whitening="pca"), whitening), "")
    queries, ids = np.array([1, 9]), np.array([[1, 2, 8, 12, 16], [9, 10, 0, 4, 20]])
    step = Step([], [], ids.ravel(), ids.ravel(), [])
    with alone() as world:
        lrml = ["loss.name=lrml", f"loss.teacher={tmp_path / 'model'}", "loss.teacher_neighbors=2", f"runs={tmp_path}", "name=r"]
        taught = planner(world, settings(folder, *lrml)).teacher
        assert isinstance(taught, PublishedTeacher)
        taught.prepare(queries)
        found = taught.distances(step, 2).numpy()
        kept = sorted(tmp_path.glob("r/teacher/*/*.npy"))
        described = np.concatenate([np.load(file) for file in kept])
    assert described.shape == (24, 8)
    for query, own, distances in zip(queries, ids, found, strict=True):
        others = np.delete(described, query, axis=0)
        expanded = expand_queries(described[[query]], others, 2)
        np.testing.assert_allclose(distances, np.linalg.norm(expanded - described[own[2:]], axis=1), rtol=1e-4)
    files = [f"loss.teacher={folder}/teacher.safetensors", "loss.teacher_neighbors=2"]
    with alone() as world, pytest.raises(UserError, match="is none: give one"):
        planner(world, settings(folder, "loss.name=lrml", *files))


def nearest(world: World, folder: Path) -> np.ndarray:
    """The positives that the network chooses."""
    own = planner(world, settings(folder, "tuples.positive=descriptor", f"runs={folder}/{world.size}"))
    tuples = plan_tuples(own.miner.corpus.manifest, own.config, 0, 0)
    query = np.arange(4, 8)  # every other image of a label may be the positive
    tuples = replace(tuples, queries=query, candidates=np.array([[5, 6, 7], [4, 6, -1], [7, 4, 5], [5, -1, -1]]))
    chooser = NearestPositives(own.miner)
    chosen = chooser.choose(network(3), tuples, 0, 0, resumed=False)
    again = chooser.choose(network(4), tuples, 0, 0, resumed=True)  # read back, not chosen by another network
    assert chosen is not None
    assert again is not None
    assert (again.positives == chosen.positives).all()
    with pytest.raises(UserError, match=r"positives-000001-000009\.npy is gone"):
        chooser.choose(network(3), tuples, 1, 9, resumed=True)
    path = own.miner.generations.directory / "positives-000000-000000.npy"
    for strange in (np.array([5, 4, 7, -1]), np.array([5, 4, 7, 1]), np.array([5, 4])):
        world.decide(lambda strange=strange: write_array(path, strange))
        with pytest.raises(UserError, match=r"positives-000000-000000\.npy does not choose from the candidates"):
            chooser.choose(network(3), tuples, 0, 0, resumed=True)
    return chosen.positives


@pytest.mark.slow
@pytest.mark.distributed
def test_the_nearest_candidate_is_the_positive(folder: Path) -> None:
    [positives] = run_world(1, nearest, folder)
    corpus, config = Corpus.open(f"{folder}/corpus"), load(TrainConfig, settings(folder))
    step = next(load_steps(corpus, np.arange(24)[None], config.images, epoch=0, seed=0, loader=config.loader))
    net, x = network(3).eval(), torch.empty(24, network(3).dim)
    for group, places in zip(step.groups, step.places, strict=True):
        x[places] = net(net.contract.normalize(group)).detach()
    expected = [min(own, key=lambda i: float((x[q] - x[i]).norm())) for q, own in ((4, [5, 6, 7]), (5, [4, 6]), (6, [7, 4, 5]))]
    assert positives.tolist() == [*expected, 5]
    for own in run_world(2, nearest, folder):
        assert (own == positives).all()


@pytest.mark.slow
def test_a_run_with_teacher_and_chosen_positives(folder: Path) -> None:
    lrml = ["loss.name=lrml", f"loss.teacher={folder}/teacher.safetensors", "tuples.positive=descriptor", "name=lrml"]
    run_alone(settings(folder, *lrml, "tracking.every=1", "engine.gradient_accumulation=2"))
    losses = [line["train/loss"] for line in lines(folder / "lrml") if "train/loss" in line]
    assert len(losses) == 6
    assert np.isfinite(losses).all()
    assert (folder / "lrml/negatives/positives-000000-000000.npy").exists()
    kept = load_network(folder / "lrml/weights/step-000006.safetensors")[0]
    assert {name.split(".")[0] for name in kept.state_dict()} == {"backbone", "pool"}


def test_the_service_has_no_network_for_positives() -> None:
    with pytest.raises(UserError, match=r"use mining\.home=inline"):
        load(TrainConfig, ["tuples.positive=descriptor", "mining.home=service"])


def test_one_image_of_a_label_leaves_nothing_to_compare() -> None:
    load(TrainConfig, ["loss.name=class_anchor", "model.normalize=false", "batches.images_per_class=1"])
    with pytest.raises(UserError, match=r"batches\.images_per_class=1 with loss\.name=batch_hard: it compares images of a label"):
        load(TrainConfig, ["loss.name=batch_hard", "batches.images_per_class=1"])
