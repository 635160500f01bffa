"""Batch normalization that learns sees the images of the whole step: over their shapes, over ranks, on both engines."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from largescale.distributed import World
from largescale.models.backbones.contract import Contract
from largescale.training.engine.batch_statistics import learning_layers, run_together
from largescale.training.engine.build import build_engine
from largescale.training.engine.step_module import StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig
from tests.training.small import ProxyLoss, label_batches, train
from tests.world import run_world

STEPS = range(3)


class _Net(nn.Module):
    """Two layers, one of timm's kind, on two branches."""

    contract = Contract()

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 7, 3), BatchNormAct2d(7)
        self.second, self.other = nn.Conv2d(7, 5, 1), nn.BatchNorm2d(5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.first(images))
        return nn.functional.normalize((self.other(self.second(x)) + x[:, :5]).mean((2, 3)))


class _Module(StepModule):
    """In double precision."""

    def _run(self, images: Tensor, ids: Tensor, seed: int) -> Tensor:
        return self.net(self.contract.normalize(images, torch.float64))


def _module(world: World) -> StepModule:
    torch.manual_seed(3)
    return _Module(_Net().double(), ProxyLoss().double(), world)


def _gradient(world: World) -> dict[str, np.ndarray]:
    """Of the first step, averaged over ranks as engines do; and the running statistics after it."""
    module = _module(world)
    [batch] = label_batches(world, 0)
    module(batch).backward()
    found = {name: parameter.grad for name, parameter in module.named_parameters()}
    for gradient in found.values():
        torch.distributed.all_reduce(gradient)
        gradient /= world.size
    return {name: x.numpy() for name, x in (found | dict(module.net.named_buffers())).items()}


def _plain() -> dict[str, np.ndarray]:
    """One process and no module: every activation of the 20 images, of both shapes, as one list of pixels."""
    torch.manual_seed(3)
    net, loss = _Net().double(), ProxyLoss().double()
    world = World(0, 1, 0, 1, torch.device("cpu"), None)
    [batch] = label_batches(world, 0)
    maps = [net.first(net.contract.normalize(group, torch.float64)) for group in batch.groups]
    maps = [x.relu() for x in _normalized(net.norm, maps)]
    outs = _normalized(net.other, [net.second(x) for x in maps])
    rows = torch.cat([nn.functional.normalize((y + x[:, :5]).mean((2, 3))) for x, y in zip(maps, outs, strict=True)])
    loss(rows[torch.cat(batch.places).argsort()], batch.labels).backward()
    found = {f"net.{name}": parameter.grad for name, parameter in net.named_parameters()}
    return {name: x.numpy() for name, x in (found | {"loss.proxies": loss.proxies.grad} | dict(net.named_buffers())).items()}


def _normalized(layer: nn.modules.batchnorm._BatchNorm, maps: list[Tensor]) -> list[Tensor]:
    pixels = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in maps])  # (pixels of all images, C)
    done = nn.functional.batch_norm(
        pixels, layer.running_mean, layer.running_var, layer.weight, layer.bias, True, layer.momentum, layer.eps
    )
    layer.num_batches_tracked += 1
    parts = done.split([x.numel() // x.shape[1] for x in maps])
    return [part.unflatten(0, (len(x), *x.shape[2:])).permute(0, 3, 1, 2) for part, x in zip(parts, maps, strict=True)]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [1, 2, 4])
def test_gradient_and_statistics_are_those_of_the_whole_step(size: int) -> None:
    expected = _plain()
    for found in run_world(size, _gradient):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-13, err_msg=name)


def both_engines(world: World, file: Path) -> list[dict[str, np.ndarray]]:
    """The state after some steps with DDP, and with DeepSpeed at two stages."""
    states = []
    for kind, stage in (("ddp", 1), ("deepspeed", 0), ("deepspeed", 2)):
        torch.manual_seed(3)
        module = StepModule(_Net(), ProxyLoss(), world)
        config = EngineConfig(kind=kind, zero_stage=stage, deepspeed_config=file if kind == "deepspeed" else None)
        engine = build_engine(config, OptimConfig(lr=1e-2), module)
        train(engine, STEPS)
        states.append({name: x.numpy() for name, x in engine.state().items() if name.startswith("model.")})
    return states


def _failing(world: World) -> str:
    def run(images: Tensor) -> Tensor:
        if images.shape[2] == 6:
            raise ValueError("a kernel fails")
        return net(images)

    net = _Net()
    try:
        groups = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 6, 10), torch.zeros(1, 3, 9, 9)
        run_together([partial(run, images) for images in groups], learning_layers(net), world.device)
    except ValueError as error:
        return str(error)
    return "nothing"


@pytest.mark.slow
@pytest.mark.distributed
def test_a_group_that_fails_ends_the_step() -> None:
    assert run_world(1, _failing) == ["a kernel fails"]


GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")])


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_of_any_type_are_normalized_by_statistics_in_fp32(device: str, dtype: str) -> None:
    """Against torch's own batch normalization in double precision, forth and back, far from zero where rounding hurts."""
    [(found, expected)] = run_world(1, _one_layer, device, dtype)
    rounding = 2**-6 if dtype == "bfloat16" else 1e-4
    for name, ours in found.items():
        closer = 1e-5 if name == "running" else rounding
        np.testing.assert_allclose(ours, expected[name], atol=closer * np.abs(expected[name]).max(), rtol=0, err_msg=name)


def _one_layer(world: World, device: str, dtype: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    torch.manual_seed(0)
    images, pull = ((torch.randn(6, 5, 9, 11) + mean).to(getattr(torch, dtype)).to(device) for mean in (3, 0))
    ours, plain = nn.BatchNorm2d(5).to(device), nn.BatchNorm2d(5).double().to(device)

    def together(x: Tensor) -> Tensor:
        return run_together([partial(ours, x)], [ours], x.device)[0]

    found = _forth_and_back(ours, together, images.contiguous(memory_format=torch.channels_last), pull)
    return found, _forth_and_back(plain, plain, images.double(), pull.double())


def _forth_and_back(
    layer: nn.BatchNorm2d, run: Callable[[Tensor], Tensor], images: Tensor, pull: Tensor
) -> dict[str, np.ndarray]:
    x = images.clone().requires_grad_()
    out = run(x)
    out.backward(pull)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    running = torch.stack([layer.running_mean, layer.running_var])
    values = {"out": out, "images": x.grad, "running": running, "scale": layer.weight.grad, "shift": layer.bias.grad}
    return {name: y.detach().double().cpu().numpy() for name, y in values.items() if y is not None}
