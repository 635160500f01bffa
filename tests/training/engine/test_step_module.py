"""The objective of a step: what it is, and that nobody can see how many processes computed it."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.training.engine.step_module import Batch, StepModule
from tests.training.small import CLASSES, TUPLES, WIDTH, ProxyLoss, SmallNet, images, label_batches, tuple_batches
from tests.world import run_world

LOSSES = {
    "mean": lambda: ContrastiveLoss(0.7),
    "sum": lambda: ContrastiveLoss(0.7, "sum"),
    "labels": ProxyLoss,
}


def _all_descriptors(net: nn.Module, step: int) -> Tensor:
    """Of the 20 images of a step, one at a time, in order."""
    rows = [images(step, range(row, row + 1)).groups[0] for row in range(TUPLES * WIDTH)]
    return torch.cat([net(net.contract.normalize(row)) for row in rows])


def _plain_gradient(kind: str) -> dict[str, np.ndarray]:
    """One process, one image at a time, no module: the formula."""
    torch.manual_seed(3)
    net = SmallNet()
    loss = LOSSES[kind]()
    x = _all_descriptors(net, 0)
    if kind == "labels":
        value = loss(x, torch.arange(len(x)) % CLASSES)
    else:
        tuples = x.reshape(TUPLES, WIDTH, -1)
        value = loss(tuples[:, 0], tuples[:, 1], tuples[:, 2:])
    value.backward()
    gradients = {f"net.{name}": p.grad.numpy() for name, p in net.named_parameters() if p.requires_grad}
    return gradients | {f"loss.{name}": p.grad.numpy() for name, p in loss.named_parameters()} | {"value": value.detach().numpy()}


def _gradient(world: World, kind: str, parts: int) -> dict[str, np.ndarray]:
    torch.manual_seed(3)
    module = StepModule(SmallNet(), LOSSES[kind](), world)
    batches = label_batches(world, 0) if kind == "labels" else tuple_batches(world, 0, parts)
    values = [module(batch) for batch in batches]
    sum(values).backward()
    averaged = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.requires_grad}
    averaged["value"] = sum(values).detach()
    for tensor in averaged.values():
        torch.distributed.all_reduce(tensor)
    return {name: (tensor / world.size).numpy() for name, tensor in averaged.items()}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [1, 2, 4])
def test_objective_does_not_depend_on_world(size: int) -> None:
    """Five tuples over 1, 2 and 4 ranks: the shares are uneven."""
    for kind, found in zip(LOSSES, run_world(size, _gradients)[0], strict=True):
        expected = _plain_gradient(kind)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=f"{kind} {name}")


def _gradients(world: World) -> list[dict[str, np.ndarray]]:
    return [_gradient(world, kind, parts=1) for kind in LOSSES]


def _split_gradients(world: World) -> list[dict[str, np.ndarray]]:
    return [_gradient(world, "mean", parts=2), _gradient(world, "sum", parts=2)]


@pytest.mark.slow
@pytest.mark.distributed
def test_objective_does_not_depend_on_the_split() -> None:
    for kind, found in zip(["mean", "sum"], run_world(2, _split_gradients)[0], strict=True):
        for name, value in _plain_gradient(kind).items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=f"{kind} {name}")


class _Random(nn.Module):
    """A loss that looks at a random row."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return x[torch.randint(len(x), ())].sum()


class _Dropping(SmallNet):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(images))


def _draws(world: World) -> list[float]:
    [batch] = label_batches(world, 5)
    module = StepModule(_Dropping(), _Random(), world)
    values = []
    for noise in (world.rank, world.rank + 7):
        torch.manual_seed(noise)
        values.append(float(module(batch)))
    return values


@pytest.mark.slow
@pytest.mark.distributed
def test_random_numbers_follow_from_the_step() -> None:
    """Whatever was drawn before: losses draw the same on all ranks, and layers the same in a repeated step."""
    values = [value for own in run_world(2, _draws) for value in own]
    assert len(set(values)) == 1


def test_split_covers_each_tuple_once() -> None:
    """Parts may be as small as one tuple, and images of all shapes stay with their tuple."""
    everyone = images(0, range(TUPLES * WIDTH))
    batch = Batch.of_tuples(everyone, TUPLES, TUPLES, 0)
    for parts in (2, 3, TUPLES):
        split = batch.split(parts)
        assert sum(part.tuples for part in split) == TUPLES
        assert all(sorted(torch.cat(part.places).tolist()) == list(range(part.tuples * WIDTH)) for part in split)
        assert all(part.total == TUPLES for part in split)


def test_draws_are_those_of_the_seed() -> None:
    module = StepModule(SmallNet(), ContrastiveLoss(0.7), World(0, 1, 0, 1, torch.device("cpu"), None))
    torch.manual_seed(2**32 + 7)
    expected = torch.rand(3)
    module._draw_from(2**32 + 7)
    assert torch.equal(torch.rand(3), expected)
