"""The average of weights."""

import pytest
import torch
from torch import nn

from largescale.training.engine.average import WeightAverage
from largescale.training.settings.config import Averaging
from tests.training.small import SmallNet


def _walk(network: nn.Module, steps: int) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += steps


@pytest.mark.parametrize("kind", [0.9, "mean"])
def test_average_is_the_recursion_or_the_mean_and_survives_a_resume(kind: Averaging) -> None:
    network = SmallNet()
    average = WeightAverage(network, kind)
    expected, seen = None, []
    for step in range(5):
        _walk(network, step)
        weight = network.projection.weight.detach().clone()
        seen.append(weight)
        expected = weight if expected is None else 0.9 * expected + 0.1 * weight
        average.update(network)
        if step == 2:
            resumed = WeightAverage(SmallNet(), kind)
            resumed.load(average.state())
            average = resumed
    torch.testing.assert_close(average.network.projection.weight, torch.stack(seen).mean(0) if kind == "mean" else expected)
    assert not average.network.projection.weight.requires_grad


def test_buffers_follow_the_network() -> None:
    network = SmallNet()
    average = WeightAverage(network, 0.9)
    network.backbone[1].running_mean += 3
    average.update(network)
    assert torch.equal(average.network.backbone[1].running_mean, network.backbone[1].running_mean)
