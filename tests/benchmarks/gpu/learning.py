"""Losses and the gradients of a training step on a GPU beside those of the CPU. D dimensions."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from largescale.corpus.config import LoaderConfig
from largescale.corpus.loading import load_steps
from largescale.distributed import World
from largescale.losses.build import LOSSES, build_loss
from largescale.losses.labels.base import LabelLoss
from largescale.losses.settings.ranking import BlackboxAPConfig
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.precision import Resolved, autocast
from largescale.training.engine.build import build_engine
from largescale.training.engine.step_module import Batch, StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig
from tests.benchmarks.gpu.measure import Place, Row, at_most
from tests.benchmarks.gpu.pictures import corpus_of, images_of

CPU = torch.device("cpu")
TUPLES, WIDTH, DIM = 2, 8, 64
PRECISIONS: tuple[Resolved, ...] = ("fp32", "bf16")
STEPS = {"a step": False, "a step with batch normalization that learns": True}
AS_THE_CPU = 4
"""A GPU's gradient may be so many times as far from that in fp64 as the CPU's in the same numbers: a network with random weights
magnifies what is rounded."""
WITHOUT_CHANCE = {BlackboxAPConfig: {"margin": 0.0}}
"""Devices draw different numbers."""


def gradients(place: Place, world: World) -> Iterator[Row]:
    """Of the first step of an engine, and of torch alone on the CPU, beside that in fp64."""
    for name, learns in STEPS.items():
        exact = _gradient_by_torch(place, learns, torch.float64)
        for precision in PRECISIONS:
            with autocast(precision, CPU):
                expected = _gradient_by_torch(place, learns, torch.float32)
            found = _gradient_by_engine(place, world, learns, precision)
            apart, usual = (float((gradient - exact).norm() / exact.norm()) for gradient in (found, expected))
            yield at_most(f"gradient of {name} in {precision}, apart from that in fp64", apart, AS_THE_CPU * usual)


def _gradient_by_torch(place: Place, learns: bool, kind: torch.dtype) -> Tensor:
    network, batch = _network(place, learns).to(kind), _batch(place)
    x = network(network.contract.normalize(batch.groups[0]).to(kind))[batch.places[0].argsort()].reshape(TUPLES, WIDTH, -1)
    ContrastiveLoss(0.7)(x[:, 0], x[:, 1], x[:, 2:]).backward()
    return _gradient(network)


def _gradient_by_engine(place: Place, world: World, learns: bool, precision: Resolved) -> Tensor:
    module = StepModule(_network(place, learns), ContrastiveLoss(0.7), world, precision)
    engine = build_engine(EngineConfig(), OptimConfig(), module)
    engine.backward([_batch(place)])
    return _gradient(module.net)


def _gradient(network: nn.Module) -> Tensor:
    return torch.cat(
        [parameter.grad.flatten().cpu().double() for parameter in network.parameters() if parameter.grad is not None]
    )


def _batch(place: Place) -> Batch:
    side = place.size.sides[0]
    corpus, ids = corpus_of(place, side), np.arange(TUPLES * WIDTH)
    [step] = load_steps(corpus, ids[None], images_of(side), epoch=0, seed=0, loader=LoaderConfig(workers=0))
    return Batch.of_tuples(step, TUPLES, TUPLES, seed=0)


def losses(place: Place) -> Iterator[Row]:
    """Every loss, its value and the gradient of the descriptors."""
    worst: dict[str, float] = {}
    for config in LOSSES:
        torch.manual_seed(0)
        loss = build_loss(config(**WITHOUT_CHANCE.get(config, {})), num_classes=8, dim=DIM)
        (value, gradient), (expected, exact) = _of_loss(loss, place.device), _of_loss(loss, CPU)
        scale = float(exact.norm()) or 1.0
        worst[config.__name__] = max(abs(value - expected) / max(abs(expected), 1e-6), float((gradient - exact).norm()) / scale)
    name = max(worst, key=lambda name: worst[name])
    yield at_most(f"{len(worst)} losses and their gradients, most apart from the CPU's ({name})", worst[name], 1e-3)


def _of_loss(loss: nn.Module, device: torch.device) -> tuple[float, Tensor]:
    """The value, and the gradient of `(64, D)` descriptors."""
    x = torch.randn(64, DIM, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
    unit, loss = nn.functional.normalize(x), loss.to(device)
    query, positive, negatives = unit.reshape(8, 8, DIM).split([1, 1, 6], dim=1)
    labels = torch.arange(64, device=device) // 8
    value = loss(unit, labels) if isinstance(loss, LabelLoss) else loss(query[:, 0], positive[:, 0], negatives)
    value.backward()
    assert x.grad is not None
    return value.item(), x.grad.cpu()


def _network(place: Place, learns: bool) -> RetrievalNet:
    torch.manual_seed(0)
    return build_network(ModelConfig(backbone=place.size.learner, weights="none", freeze_batchnorm=not learns))
