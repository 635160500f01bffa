"""What stochastic depth leaves out does not depend on processes, on parts of a step, or on what is computed again."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.backbones.stochastic_depth import DropPath, drawn_for
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.training.engine.build import build_engine
from largescale.training.engine.recompute import recompute
from largescale.training.engine.step_module import StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig
from tests.training.small import ProxyLoss, SmallNet, train
from tests.world import run_world

Outcome = tuple[list[float], dict[str, np.ndarray]]
"""Losses and norms of gradients; weights."""


class _Deep(SmallNet):
    """Two branches that are left out of some images."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Conv2d(7, 7, 1), nn.Conv2d(7, 7, 1)])
        self.drops = nn.ModuleList([DropPath(0.5, 0), DropPath(0.5, 1)])

    def forward(self, images: Tensor) -> Tensor:
        x = self.backbone(images)
        for branch, drop in zip(self.branches, self.drops, strict=True):
            x = x + drop(branch(x))
        return nn.functional.normalize(self.projection(self.pool(x.abs())))


def _weights(world: World, loss: Callable[[], nn.Module], parts: int = 1, chunk: int | None = None) -> Outcome:
    torch.manual_seed(3)
    module = StepModule(_Deep(), loss(), world)
    config = EngineConfig(gradient_accumulation=parts, gradcache_chunk=chunk)
    engine = build_engine(config, OptimConfig(lr=1e-2), module)
    numbers = train(engine, range(3), parts)
    return numbers, {name: x.numpy() for name, x in engine.state().items() if name.startswith("model.")}


def _ways(world: World) -> list[Outcome]:
    labels, tuples = ProxyLoss, partial(ContrastiveLoss, 0.7)
    return [_weights(world, labels), _weights(world, labels, chunk=3), _weights(world, tuples), _weights(world, tuples, parts=2)]


@pytest.mark.slow
@pytest.mark.distributed
def test_equal_for_each_world_and_split() -> None:
    [alone] = run_world(1, _ways)
    for found in run_world(2, _ways):
        for (numbers, weights), (expected, wanted) in zip(found, [alone[0], alone[0], alone[2], alone[2]], strict=True):
            np.testing.assert_allclose(numbers, expected, rtol=2e-5)
            for name, value in wanted.items():
                np.testing.assert_allclose(weights[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


def _gradient(net: nn.Module, groups: list[Tensor]) -> list[Tensor]:
    """Of two groups, of which the first is computed again after the second has run."""
    rows = []
    for number, images in enumerate(groups):
        with drawn_for(net, torch.arange(len(images)) + 4 * number, 7):
            rows.append(net(images))
    torch.cat(rows)[:, :3].square().sum().backward()
    return [parameter.grad for parameter in net.parameters() if parameter.grad is not None]


@pytest.mark.slow
def test_what_is_computed_again_leaves_out_the_same() -> None:
    torch.manual_seed(0)
    plain = build_network(ModelConfig(backbone="timm:test_vit", weights="none", pooling="class_token", drop_path=0.5))
    saving, groups = copy.deepcopy(plain), [torch.randn(4, 3, 64, 64), torch.randn(4, 3, 64, 80)]
    recompute(saving.backbone)
    assert all(torch.equal(a, b) for a, b in zip(_gradient(plain, groups), _gradient(saving, groups), strict=True))


def test_draws_follow_from_step_image_and_layer() -> None:
    net, ones = nn.Sequential(nn.Linear(1, 1), DropPath(0.25, 0), DropPath(0.25, 1)), torch.ones(4000, 1)

    def kept(images: Tensor, seed: int, layer: int) -> Tensor:
        with drawn_for(net, images, seed):
            return net[1 + layer](ones[: len(images)])[:, 0]

    images = torch.arange(4000)
    first = kept(images, 0, 0)
    assert first.unique().tolist() == pytest.approx([0, 4 / 3])
    assert abs(float(first.mean()) - 1) < 0.03
    assert torch.equal(kept(images.flip(0), 0, 0), first.flip(0))
    for other in (kept(images, 1, 0), kept(images, 0, 1), kept(images + 4000, 0, 0)):
        assert 0.5 < float((other == first).float().mean()) < 0.75  # 0.625 by chance
    assert torch.equal(net.eval()[1](ones), ones)


def test_windows_of_an_image_are_left_out_together() -> None:
    net = nn.Sequential(nn.Linear(1, 1), DropPath(0.5, 0))
    with drawn_for(net, torch.arange(6), 0):
        whole, windows = net[1](torch.ones(6, 1)), net[1](torch.ones(24, 2, 2))
    assert torch.equal(windows[:, 0, 0].reshape(6, 4), whole.expand(6, 4))


def test_every_layer_of_timm_has_its_own_draw() -> None:
    net = build_network(ModelConfig(backbone="timm:test_vit", weights="none", pooling="class_token", drop_path=0.2))
    drops = [module for module in net.modules() if isinstance(module, DropPath)]
    assert [drop.layer for drop in drops] == list(range(len(drops)))
    assert max(drop.share for drop in drops) == pytest.approx(0.2)
    assert not [module for module in net.modules() if type(module).__name__ == "DropPath" and not isinstance(module, DropPath)]
