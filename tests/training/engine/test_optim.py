"""Parameter groups and schedules."""

import itertools
import math

import pytest
import timm.optim
import torch
from torch.optim import SGD, lr_scheduler

from largescale.distributed import World
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.layers import layers_of
from largescale.models.network import RetrievalNet
from largescale.training.build import layers_in
from largescale.training.engine.optim import build_optimizer, parameter_groups, rate_factor, set_rates
from largescale.training.engine.step_module import StepModule
from largescale.training.settings.config import OptimConfig, ScheduleConfig
from tests.training.small import ProxyLoss

ALONE = World(0, 1, 0, 1, torch.device("cpu"), None)


@pytest.fixture(scope="module")
def module() -> StepModule:
    module = StepModule(build_network(ModelConfig(backbone="resnet18", projection=32)), ProxyLoss(), ALONE)
    module.net.backbone.conv1.weight.requires_grad_(False)
    return module


@pytest.mark.slow
def test_groups_follow_the_rules(module: StepModule) -> None:
    config = OptimConfig(lr=1e-3, weight_decay=0.2, gem_lr_mult=10, head_lr_mult=3, loss_lr_mult=7, loss_weight_decay=0.4)
    groups = {group["name"]: group for group in parameter_groups(module, config)}
    rates = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert rates == {
        "backbone": (1e-3, 0.2),
        "backbone without decay": (1e-3, 0.0),
        "exponent": (1e-2, 0.0),
        "projection": (pytest.approx(3e-3), 0.2),
        "projection without decay": (pytest.approx(3e-3), 0.0),
        "loss": (7e-3, 0.4),
    }
    assert groups["exponent"]["params"] == [module.net.pool.p]
    assert groups["loss"]["params"] == [module.loss.proxies]
    backbone = module.net.backbone
    assert any(parameter is backbone.layer1[0].conv1.weight for parameter in groups["backbone"]["params"])
    assert any(parameter is backbone.layer1[0].bn1.weight for parameter in groups["backbone without decay"]["params"])


def test_each_learning_parameter_is_in_one_group(module: StepModule) -> None:
    grouped = [id(parameter) for group in parameter_groups(module, OptimConfig()) for parameter in group["params"]]
    learning = [id(parameter) for parameter in module.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(learning)
    assert id(module.net.backbone.conv1.weight) not in grouped


def test_schedule_scales_every_rate(module: StepModule) -> None:
    optimizer = build_optimizer(module, OptimConfig(name="sgd", lr=1e-2))
    set_rates(optimizer, 0.5)
    set_rates(optimizer, 0.25)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups}["exponent"] == pytest.approx(0.25 * 10 * 1e-2)


def _torch_factors(make: object, count: int) -> list[float]:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(count):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("config", "make"),
    [
        (ScheduleConfig(), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (ScheduleConfig(name="step", milestones=(2, 5), gamma=0.3), lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.3)),
        (ScheduleConfig(name="exponential"), lambda o: lr_scheduler.ExponentialLR(o, gamma=math.exp(-0.01))),
        (ScheduleConfig(name="cosine", floor=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=7, eta_min=0.1)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_schedules_equal_those_of_torch(config: ScheduleConfig, make: object) -> None:
    """One step per epoch, where torch's schedulers and ours have the same clock; exponential is as cirtorch's train.py."""
    factors = [rate_factor(config, step, 1, 8) for step in range(8)]
    assert factors == pytest.approx(_torch_factors(make, 8))


def test_epochs_last_many_steps() -> None:
    config = ScheduleConfig(name="step", milestones=(1,), gamma=0.1)
    assert [rate_factor(config, step, 3, 6) for step in range(6)] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1])


def test_warmup_grows_into_the_schedule() -> None:
    config = ScheduleConfig(name="cosine", warmup_steps=3)
    factors = [rate_factor(config, step, 10, 10) for step in range(10)]
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[3:]))
    assert factors[-1] == pytest.approx(0.0)


def test_milestones_need_their_schedule() -> None:
    with pytest.raises(ValueError, match="milestones"):
        ScheduleConfig(name="cosine", milestones=(3,))
    with pytest.raises(ValueError, match="milestones"):
        ScheduleConfig(name="step")


def _ours(net: RetrievalNet, decay: float) -> dict[str, float]:
    """The factor on the rate of each parameter of timm's model, by its name there."""
    module = StepModule(net, ProxyLoss(), ALONE, layers=layers_in(net))
    groups = parameter_groups(module, OptimConfig(lr=1.0, layer_decay=decay), module.layers)
    factors = {id(parameter): group["base_lr"] for group in groups for parameter in group["params"]}
    return {name: factors[id(x)] for name, x in net.backbone.model.named_parameters() if x.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_layers_decay_by_timms_own_grouping(name: str) -> None:
    net = build_network(ModelConfig(backbone=f"timm:{name}"))
    model, found = net.backbone.model, _ours(net, 0.7)
    theirs = timm.optim.param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.7)
    factors = {id(parameter): group["lr_scale"] for group in theirs for parameter in group["params"]}
    assert found == pytest.approx({name: factors[id(parameter)] for name, parameter in model.named_parameters()})
    assert len({*found.values()}) == max(layers_of(net.backbone).values()) + 1 > 3
    assert max(found.values()) == 1


@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "swin_tiny_patch4_window7_224", "test_convnext"])
def test_what_is_decayed_is_what_timm_decays(name: str) -> None:
    net = build_network(ModelConfig(backbone=f"timm:{name}"))
    model, config = net.backbone.model, OptimConfig(weight_decay=0.1)
    theirs = timm.optim.param_groups_weight_decay(model, 0.1, no_weight_decay_list=getattr(model, "no_weight_decay", tuple)())
    wanted = {id(parameter): group["weight_decay"] for group in theirs for parameter in group["params"]}
    ours = parameter_groups(StepModule(net, ProxyLoss(), ALONE), config, layers_in(net))
    found = {id(parameter): group["weight_decay"] for group in ours for parameter in group["params"]}
    assert {name: found[id(parameter)] for name, parameter in model.named_parameters()} == {
        name: wanted[id(parameter)] for name, parameter in model.named_parameters()
    }
    assert {*wanted.values()} == {0.0, 0.1}


def test_positions_and_tokens_of_torchvision_are_not_decayed() -> None:
    net = build_network(ModelConfig(backbone="vit_b_16"))
    groups = parameter_groups(StepModule(net, ProxyLoss(), ALONE), OptimConfig(weight_decay=0.1), layers_in(net))
    kept = {id(parameter) for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}
    assert id(net.backbone.class_token) in kept
    assert id(net.backbone.encoder.pos_embedding) in kept
    assert id(net.backbone.encoder.layers[0].mlp[0].weight) not in kept
