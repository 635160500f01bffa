"""One small model of each family of timm: two steps on two ranks, an export, and the same descriptors from the file."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.build import build_network, load_network
from largescale.models.config import ModelConfig
from largescale.models.layers import freeze_idle
from largescale.models.network import RetrievalNet
from largescale.models.weights import save_weights
from largescale.training.build import layers_in
from largescale.training.engine.build import build_engine
from largescale.training.engine.ema import WeightAverage
from largescale.training.engine.step_module import Batch, StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig
from tests.world import run_world

FAMILIES = (
    *("byobnet", "coatnet", "convnext", "efficientnet", "efficientnet_gn", "mambaout", "maxvit", "nfnet", "resnet"),
    *("vit", "vit2", "vit3", "vit4", "vit_relpos"),
)
LATE = {"freeze": -1, "unfreeze_at": 1}
SETTINGS = {
    **{f"test_{name}": {} for name in FAMILIES},
    "statistics": {"backbone": "timm:test_resnet", "freeze_batchnorm": False},
    "frozen": {"backbone": "timm:test_vit", "freeze": 4, "pooling": "class_mean", "projection": 8},
    "late": {"backbone": "timm:test_vit", "drop_path": 0.2, **LATE},
    "late statistics": {"backbone": "timm:test_resnet", "pooling": "spoc", "freeze_batchnorm": False, **LATE},
    "adapters": {"backbone": "timm:test_vit", "lora": {"rank": 4}},
    "adapters of weights that attention reads": {"backbone": "timm:eva02_tiny_patch14_224", "lora": {"rank": 4}, "freeze": 10},
}


def _batch(net: RetrievalNet, world: World, step: int) -> Batch:
    """A tuple of a query, a positive and two negatives on each rank, of two shapes where the network bears them."""
    contract, random = net.contract, torch.Generator().manual_seed(10 * step + world.rank)
    side = contract.borne(32)
    shapes = [(side, side), (side, side + contract.multiple)] if not contract.fixed else [(side, side)] * 2
    groups = tuple(torch.randint(256, (2, 3, *shape), generator=random, dtype=torch.uint8) for shape in shapes)
    places = (torch.tensor([0, 2]), torch.tensor([1, 3]))
    return Batch(groups, places, tuple(4 * world.rank + place for place in places), step, tuples=1, total=world.size)


def _two_steps(world: World, folder: Path, names: list[str]) -> dict[str, float]:
    """The largest difference between a descriptor of the trained network and of the file that was exported."""
    differences = {}
    for name in names:
        torch.manual_seed(0)
        net = build_network(ModelConfig(**{"backbone": f"timm:{name}"} | SETTINGS[name]))
        freeze_idle(net)
        module = StepModule(net, ContrastiveLoss(0.9), world, layers=layers_in(net))
        engine = build_engine(EngineConfig(), OptimConfig(lr=1e-3, layer_decay=0.7), module)
        average = WeightAverage(engine.network(), 0.5)
        before = {key: x.clone() for key, x in net.state_dict().items() if x.is_floating_point()}
        for step in range(2):
            engine.backward([_batch(net, world, step)])
            assert not engine.step(1.0).skipped
            average.update(engine.network())
            if name.startswith("late") and step == 0:
                assert all(net.state_dict()[key].equal(x) for key, x in before.items())
        moved = [key for key, x in before.items() if not net.state_dict()[key].equal(x)]
        assert moved
        assert any("running_mean" in key for key in moved) == ("statistics" in name)
        path, images = folder / f"{name}-{world.rank}.safetensors", _batch(net, world, 5).groups[1]
        differences[name] = max(
            _exported(network, path, images) for network in ((net, average.network) if "adapters" in name else (net,))
        )
    return differences


@torch.no_grad()
def _exported(net: RetrievalNet, path: Path, images: torch.Tensor) -> float:
    save_weights(net, path, {})
    again, pixels = load_network(path)[0], net.contract.normalize(images)
    assert again.config.lora is None
    return float((again.eval()(pixels) - net.eval()(pixels)).abs().max())


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    first, second = run_world(2, _two_steps, tmp_path_factory.mktemp("families"), list(SETTINGS), timeout_s=300)
    assert first.keys() == second.keys() == SETTINGS.keys()
    return first


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", SETTINGS)
def test_two_steps_and_an_export(name: str, differences: dict[str, float]) -> None:
    np.testing.assert_allclose(differences[name], 0, atol=1e-5 if "adapters" in name else 1e-6)


def _said(world: World) -> list[str]:
    """What torch warns of in a step of a network with class tokens."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        net = build_network(ModelConfig(backbone="timm:crossvit_tiny_240"))
        engine = build_engine(EngineConfig(), OptimConfig(), StepModule(net, ContrastiveLoss(0.9), world))
        for step in range(2):
            engine.backward([_batch(net, world, step)])
            engine.step(1.0)
    return [str(warning.message) for warning in said]


@pytest.mark.slow
@pytest.mark.distributed
def test_class_tokens_make_no_warning() -> None:
    for said in run_world(2, _said):
        assert not [text for text in said if "strides" in text]
