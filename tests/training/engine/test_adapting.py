"""What learns of a backbone, from when and how fast: with both engines the same, and to the last bit after a stop.

Its tests are those of `test_deepspeed`, in whose world they run.
"""

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.layers import freeze_idle
from largescale.models.network import RetrievalNet
from largescale.training.build import layers_in
from largescale.training.engine.build import build_engine
from largescale.training.engine.engine import Engine
from largescale.training.engine.optimizer_state import Tensors
from largescale.training.engine.step_module import StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig
from tests.laws import same
from tests.training.engine.test_recompute import two_tuples
from tests.training.small import SHORT_VIT

STEPS, UNFREEZE_AT = 4, 2


class Way(NamedTuple):
    """Settings of the network, and the steps after which the run is stopped."""

    model: Mapping[str, Any]
    stops: tuple[int, ...]


WAYS = {
    "late and dropped": Way({"freeze": 2, "unfreeze_at": UNFREEZE_AT, "drop_path": 0.5}, (1, 3)),
    "adapters and dropped": Way({"freeze": 1, "lora": {"rank": 2}, "drop_path": 0.5}, (2,)),
}
"""Both with layer-wise decay. The late ones stop before and after the update from which all layers learn."""


@cache
def _network(way: str) -> RetrievalNet:
    torch.manual_seed(0)
    net = build_network(ModelConfig(backbone=SHORT_VIT, pooling="class_token", **WAYS[way].model))
    freeze_idle(net)
    return net


def _engine(world: World, way: str, settings: Mapping[str, Any], other: float = 0.0) -> Engine:
    """Of a network with its first weights, or with others."""
    net = copy.deepcopy(_network(way))
    for parameter in net.parameters():
        parameter.data += other
    module = StepModule(net, ContrastiveLoss(0.9), world, layers=layers_in(net))
    return build_engine(EngineConfig(**settings), OptimConfig(lr=1e-3, layer_decay=0.7), module)


def _train(engine: Engine, steps: range) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    numbers = []
    for step in steps:
        loss = engine.backward([two_tuples(engine.module.world, step)])
        numbers.append((float(loss), engine.step(1.0 / (1 + step)).norm))
    return numbers


def _outcome(world: World, way: str, **settings: Any) -> tuple[list[tuple[float, float]], Tensors]:
    """Of a run that goes on to the same bits wherever it is stopped, also in a network that began with other weights."""
    engine, numbers, states = _engine(world, way, settings), [], {}
    for step in range(STEPS):
        if step in (UNFREEZE_AT, *WAYS[way].stops):
            states[step] = engine.state()
        numbers += _train(engine, range(step, step + 1))
    whole = engine.state()
    _assert_learns(engine, way, states[UNFREEZE_AT], whole)
    for stop in WAYS[way].stops:
        again = _engine(world, way, settings, other=0.1)
        again.load(states[stop])
        assert _train(again, range(stop, STEPS)) == numbers[stop:]
        assert same(again.state(), whole)
    return numbers, whole


def _assert_learns(engine: Engine, way: str, before: Tensors, whole: Tensors) -> None:
    """What is frozen does not, and what learns later only then."""
    first, layers = _network(way).state_dict(), engine.module.layers
    for name, parameter in _network(way).named_parameters():
        found = [state[f"model.net.{name}"].equal(first[name]) for state in (before, whole)]
        late = layers.starts(f"net.{name}") == UNFREEZE_AT
        assert found == ([late, False] if parameter.requires_grad else [True, True]), name


def assert_stages_equal(world: World, file: Path) -> None:
    """Each way at each stage of DeepSpeed ends as with DDP."""
    for way in WAYS:
        numbers, state = _outcome(world, way)
        for stage in (0, 1, 2, 3):
            found, ended = _outcome(world, way, kind="deepspeed", zero_stage=stage, deepspeed_config=file)
            np.testing.assert_allclose(found, numbers, rtol=2e-5)
            assert ended.keys() == state.keys()
            for name, value in state.items():
                _assert_near(ended[name], value, name)


def _assert_near(found: Tensor, expected: Tensor, name: str) -> None:
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=2e-5, atol=2e-6, err_msg=name)
