"""Stored negatives in a step: the gradient of the plain computation with constants, in every world; resumed, the same losses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from largescale.config import load
from largescale.corpus.corpus import Corpus
from largescale.corpus.plan import TuplePlanConfig, plan_tuples
from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.losses.tuples.triplet import TripletLoss
from largescale.mining.miner import excluded_clusters
from largescale.mining.search.select import cluster_keys
from largescale.mining.stored import StoredPool
from largescale.settings import UserError
from largescale.training.engine.gradcache import passes
from largescale.training.engine.step_module import Batch, StepModule
from largescale.training.planning.stored_negatives import StoredNegatives
from largescale.training.settings.recipe import TrainConfig
from tests.corpora import make_corpus
from tests.distributed.runs import lines, losses
from tests.training.engine.test_step_module import _all_descriptors
from tests.training.small import TUPLES, WIDTH, SmallNet, images, tuple_batches
from tests.training.test_trainer import SignalAt, train
from tests.world import run_world

LOSSES = {"contrastive": ContrastiveLoss, "triplet": TripletLoss, "sum": lambda: ContrastiveLoss(0.7, "sum")}
CPU = torch.device("cpu")


def bank() -> tuple[Tensor, Tensor]:
    """Descriptors `(M, D)` and the rows of each tuple `(TUPLES, K)`."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.nn.functional.normalize(torch.randn(60, 5, generator=generator))
    return rows, torch.stack([torch.randperm(60, generator=generator)[:40] for _ in range(TUPLES)])


def plain_gradient(kind: str) -> dict[str, np.ndarray]:
    """One process, one image at a time, the stored descriptors as further negatives without a gradient."""
    torch.manual_seed(3)
    net, (rows, further) = SmallNet(), bank()
    x = _all_descriptors(net, 0).reshape(TUPLES, WIDTH, -1)
    value = LOSSES[kind]()(x[:, 0], x[:, 1], torch.cat([x[:, 2:], rows[further].detach()], 1))
    value.backward()
    return {name: p.grad.numpy() for name, p in net.named_parameters() if p.requires_grad} | {"value": value.detach().numpy()}


def gradient(world: World, kind: str, parts: int, size: int | None) -> dict[str, np.ndarray]:
    """Of the step module: the objective in `parts`, images in chunks of `size`."""
    torch.manual_seed(3)
    module, (rows, further) = StepModule(SmallNet(), LOSSES[kind](), world), bank()
    [whole] = tuple_batches(world, 0)
    batches = replace(whole, stored=rows, further=further[world.share(TUPLES)]).split(parts)
    value = torch.zeros(())
    for batch, _ in passes(module, world, batches, size, lambda batch: batch.to(CPU)):
        part = module(batch)
        part.backward()
        value += part.detach() if batch.pull is None else 0
    averaged = {name: p.grad for name, p in module.net.named_parameters() if p.requires_grad} | {"value": value}
    for tensor in averaged.values():
        torch.distributed.all_reduce(tensor)
    return {name: (tensor / world.size).numpy() for name, tensor in averaged.items()}


def gradients(world: World, ways: list[tuple[str, int, int | None]]) -> list[dict[str, np.ndarray]]:
    return [gradient(world, *way) for way in ways]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [1, 2, 4])
def test_gradient_is_that_of_the_plain_computation_in_every_world(size: int) -> None:
    ways = [(kind, 1, None) for kind in LOSSES] + [("contrastive", 1, 3)]
    ways += [("contrastive", 2, None), ("sum", 2, 3)] if size < 4 else []
    for way, found in zip(ways, run_world(size, gradients, ways)[0], strict=True):
        expected = plain_gradient(way[0])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=f"{way} {name}")


def test_stored_negatives_matter() -> None:
    torch.manual_seed(3)
    module = StepModule(SmallNet(), ContrastiveLoss(), World(0, 1, 0, 1, CPU, None))
    rows, further = bank()
    batch = Batch.of_tuples(images(0, range(TUPLES * WIDTH)), TUPLES, TUPLES, 0)
    assert module(replace(batch, stored=rows, further=further)) > module(batch)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("stored") / "corpus", labels=8, per_label=4, shards=3, size=48, unlabeled=4)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "expected"), [(10, 10), (1000, 16)])
def test_each_query_takes_the_first_of_other_clusters(corpus: Path, count: int, expected: int) -> None:
    manifest = Corpus.open(str(corpus)).manifest
    tuples = plan_tuples(manifest, TuplePlanConfig(per_step=4, per_epoch=16), 0, 0)
    ids = np.random.default_rng(0).permutation(36)[:20]
    ids = np.concatenate([ids, np.setdiff1d(np.flatnonzero(manifest.label == tuples.query_labels[3]), ids)])
    stored = StoredPool(np.arange(len(ids)), ids, np.zeros((len(ids), 2), np.float16))
    negatives = StoredNegatives(stored, manifest, tuples, count, CPU)
    keys, excluded = cluster_keys(manifest.label[ids], ids), excluded_clusters(tuples)
    fewest = min(sum(key not in pair for key in keys.tolist()) for pair in excluded.tolist())
    assert negatives.count == min(count, fewest)
    assert (negatives.count == count) == (count == expected)
    for row, taken in zip(range(4, 12), negatives.rows(np.arange(4, 12)).tolist(), strict=True):
        assert taken == [place for place, key in enumerate(keys.tolist()) if key not in excluded[row].tolist()][: negatives.count]


@pytest.fixture(scope="module")
def settings(corpus: Path) -> list[str]:
    plan = ["tuples={per_step: 4, per_epoch: 16}", "mining={negatives: 2, stored: 12}", "epochs=2"]
    model = ["model={backbone: 'timm:test_resnet', weights: none}", "images.size=48", "loader.workers=0"]
    return [f"corpus={corpus}", *plan, *model, "optim={name: sgd, lr: 1e-3}", "tracking={wandb: 'off', every: 1}"]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_resumes_in_the_middle_of_an_epoch_and_on_another_world(settings: list[str], tmp_path: Path) -> None:
    def go(size: int, name: str, *last: Any) -> dict[int, float]:
        run_world(size, train, [*settings, f"runs={tmp_path}", f"name={name}"], [], list(last))
        return losses(tmp_path / name)

    whole = go(1, "whole")
    assert [line["mining/stored"] for line in lines(tmp_path / "whole") if "mining/stored" in line] == [12, 12]
    assert len(go(1, "parts", SignalAt("step", 5))) == 6
    assert go(2, "parts") == pytest.approx(whole, rel=1e-3)


def test_losses_that_cannot_use_them_are_refused(tmp_path: Path) -> None:
    for arguments, said in (
        (["loss.name=quadruplet"], "it compares every two negatives of a tuple"),
        (["loss={name: lrml, teacher: t.safetensors}"], "the teacher orders images"),
    ):
        with pytest.raises(UserError, match=said):
            load(TrainConfig, [*arguments, "mining.stored=1000"])
