"""One small model of each family of timm: two steps on two ranks, an export, and the same descriptors from the file."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.layers import freeze_idle
from largescale.training.engine.average import WeightAverage
from largescale.training.engine.build import build_engine
from largescale.training.engine.step_module import StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig
from largescale.training.trial import reload_difference, trial_batch, trial_engine
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


def _two_steps(world: World, folder: Path, names: list[str]) -> dict[str, float]:
    """The largest difference between a descriptor of the trained network and of the file that was exported."""
    differences = {}
    for name in names:
        torch.manual_seed(0)
        net = build_network(ModelConfig(**{"backbone": f"timm:{name}"} | SETTINGS[name]))
        freeze_idle(net)
        engine = trial_engine(net, world)
        average = WeightAverage(engine.network(), 0.5)
        before = {key: x.clone() for key, x in net.state_dict().items() if x.is_floating_point()}
        for step in range(2):
            engine.backward([trial_batch(net, world, step)])
            assert not engine.step(1.0).skipped
            average.update(engine.network())
            if name.startswith("late") and step == 0:
                assert all(net.state_dict()[key].equal(x) for key, x in before.items())
        moved = [key for key, x in before.items() if not net.state_dict()[key].equal(x)]
        assert moved
        assert any("running_mean" in key for key in moved) == ("statistics" in name)
        path, images = folder / f"{name}-{world.rank}.safetensors", trial_batch(net, world, 5).groups[1]
        differences[name] = max(
            reload_difference(network, path, images) for network in ((net, average.network) if "adapters" in name else (net,))
        )
    return differences


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
            engine.backward([trial_batch(net, world, step)])
            engine.step(1.0)
    return [str(warning.message) for warning in said]


@pytest.mark.slow
@pytest.mark.distributed
def test_class_tokens_make_no_warning() -> None:
    for said in run_world(2, _said):
        assert not [text for text in said if "strides" in text]
