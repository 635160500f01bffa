"""Steps larger than memory: the gradient of the plain computation, with random layers and uneven shares."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from largescale.distributed import World, gather_with_gradient
from largescale.training.engine.gradcache import passes
from largescale.training.engine.step_module import Batch, StepModule
from tests.training.small import CLASSES, ProxyLoss, SmallNet, images, label_batches
from tests.world import run_world

SIZE = 3


class _Dropping(SmallNet):
    """Draws random numbers, and notes how many images it sees with a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen += [len(images)] if torch.is_grad_enabled() else []
        return nn.functional.dropout(super().forward(images), 0.3)


def _module(world: World) -> StepModule:
    torch.manual_seed(3)
    return StepModule(_Dropping(), ProxyLoss(), world)


def _gradients(module: StepModule) -> dict[str, np.ndarray]:
    return {name: parameter.grad.numpy() for name, parameter in module.named_parameters() if parameter.grad is not None}


def _in_chunks(world: World, batch: Batch) -> dict[str, np.ndarray]:
    module = _module(world)
    for part, _ in passes(module, world, [batch], SIZE, lambda part: part):
        torch.rand(world.rank + 1)  # whatever draws between two passes
        graphs = len(module.net.seen)
        module(part).backward()
        assert sum(module.net.seen[graphs:]) <= SIZE
    assert sum(module.net.seen) == len(batch)
    return _gradients(module)


def _at_once(world: World, batch: Batch) -> dict[str, np.ndarray]:
    """With the graphs of all chunks kept."""
    module = _module(world)
    chunks = batch.chunks(4)
    x = torch.cat([module.embed(chunk) for chunk in chunks])
    everyone = gather_with_gradient(x[torch.cat([chunk.rows for chunk in chunks]).argsort()])
    module.loss(everyone, batch.labels).backward()
    return _gradients(module)


def _both(world: World) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    [batch] = label_batches(world, 0)
    return _in_chunks(world, batch), _at_once(world, batch)


@pytest.mark.slow
@pytest.mark.distributed
def test_random_layers_draw_the_same_twice() -> None:
    for found, expected in run_world(2, _both):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 8])
def test_chunks_cover_each_image_once(count: int) -> None:
    """Images of two shapes; more chunks than images leave some without any, and the network still runs."""
    batch = Batch.of_labels(images(0, range(10, 16)), torch.arange(6) % CLASSES, 0)
    chunks = batch.chunks(count)
    assert len(chunks) == count
    assert torch.cat([chunk.rows for chunk in chunks]).sort().values.tolist() == list(range(6))
    assert max(len(chunk) for chunk in chunks) == -(-6 // count)
    assert len({chunk.seed for chunk in chunks}) == count
    assert all(chunk.groups for chunk in chunks)
    module = StepModule(SmallNet(), ProxyLoss(), World(0, 1, 0, 1, torch.device("cpu"), None))
    assert [len(module.embed(chunk)) for chunk in chunks] == [len(chunk) for chunk in chunks]
