"""A network, losses and steps small enough for many processes. T tuples, N negatives, B images, D dimensions."""

from typing import Any

import numpy as np
import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

from largescale.corpus.batches.batches import Step
from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.backbones.contract import Contract
from largescale.models.pooling import GeM
from largescale.precision import Resolved
from largescale.training.engine.build import build_engine
from largescale.training.engine.engine import Engine
from largescale.training.engine.step_module import Batch, StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig

TUPLES, WIDTH, CLASSES = 5, 4, 3
SHAPES = [(8, 8)] * 12 + [(6, 10), (8, 8)] * 4
"""Of two ranks, the first has images of one shape, the second of two."""


class SmallNet(nn.Module):
    contract = Contract()

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7).eval(), nn.ReLU())
        self.pool = GeM()
        self.projection = nn.Linear(7, 5)
        self.backbone[0].bias.requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.projection(self.pool(self.backbone(images))))

    def train(self, mode: bool = True) -> "SmallNet":
        self.backbone[1].eval()
        return self


@register_model
def short_vit(**settings: Any) -> nn.Module:
    """timm's test_vit with two of its six blocks: DeepSpeed takes its time for each."""
    return timm.create_model("test_vit", depth=2, **settings)


SHORT_VIT = "timm:short_vit"


class ProxyLoss(nn.Module):
    """Cross entropy over learned proxies and the other images of the batch, so that every row matters to every other."""

    def __init__(self) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(CLASSES, 5))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        others = (x @ x.T).exp().sum(1).log().mean()
        return nn.functional.cross_entropy(x @ self.proxies.T, labels) + 0.3 * others


def build_module(world: World, loss: nn.Module | None = None, precision: Resolved = "fp32") -> StepModule:
    torch.manual_seed(3)
    return StepModule(SmallNet(), loss or ContrastiveLoss(0.7), world, precision)


def images(step: int, rows: range) -> Step:
    """Some of the 20 images of a step, in groups of equal shape as the loader gives them."""
    pixels = torch.Generator().manual_seed(step)
    everyone = [torch.randint(0, 256, (3, *shape), generator=pixels, dtype=torch.uint8) for shape in SHAPES]
    places = [[place for place, row in enumerate(rows) if SHAPES[row] == shape] for shape in dict.fromkeys(SHAPES)]
    groups = [torch.stack([everyone[rows[p]] for p in own]) for own in places if own]
    return Step(groups, [torch.tensor(own) for own in places if own], np.array(rows), np.array(rows), [])


def tuple_batches(world: World, step: int, parts: int = 1) -> list[Batch]:
    own = range(TUPLES)[world.share(TUPLES)]
    rows = range(own.start * WIDTH, own.stop * WIDTH)
    return Batch.of_tuples(images(step, rows), len(own), TUPLES, step).split(parts)


def label_batches(world: World, step: int) -> list[Batch]:
    rows = range(TUPLES * WIDTH)[world.share(TUPLES * WIDTH)]
    return [Batch.of_labels(images(step, rows), torch.arange(TUPLES * WIDTH) % CLASSES, step)]


def train(engine: Engine, steps: range, parts: int = 1) -> list[float]:
    """Loss and gradient norm of each step."""
    numbers, world = [], engine.module.world
    for step in steps:
        labels = isinstance(engine.module.loss, ProxyLoss)
        loss = engine.backward(label_batches(world, step) if labels else tuple_batches(world, step, parts))
        numbers += [float(loss), engine.step(1.0 / (1 + step)).norm]
    return numbers


def small_engine(
    world: World,
    config: EngineConfig | None = None,
    loss: nn.Module | None = None,
    precision: Resolved = "fp32",
    **optim: object,
) -> Engine:
    config = config or EngineConfig()
    optim = {"lr": 1e-2, "weight_decay": 0.1} | optim
    return build_engine(config, OptimConfig(**optim), build_module(world, loss, precision))
