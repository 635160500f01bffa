"""The layers of a backbone in the order in which images pass them: the stem, then stages or blocks; and what of them learns."""

import re
from collections.abc import Collection
from typing import Any

from torch import nn

from largescale.models.backbones.probe import idle_parameters
from largescale.models.backbones.timm_backbones import TimmBackbone
from largescale.models.network import RetrievalNet
from largescale.settings import UserError

OF_TORCHVISION = {"class_token", "pos_embedding", "relative_position_bias_table"}
NUMBERED = re.compile(r"^.*?[._]\d+(?=\.)")
"""The name of a parameter up to its first number: `layer1.0`, `encoder.layers.encoder_layer_3`."""


def layers_of(backbone: nn.Module) -> dict[str, int]:
    """`{name of a parameter: number of its layer}`, by timm's own grouping where it has one."""
    if isinstance(backbone, TimmBackbone) and hasattr(backbone.model, "group_matcher"):
        return {f"model.{name}": number for name, number in _by_timm(backbone.model).items()}
    return _by_name([name for name, _ in backbone.named_parameters()])


def undecayed(backbone: nn.Module) -> set[str]:
    """Names of parameters that are not decayed, whatever their dimensions: positions and tokens, as timm lists and torchvision
    names them."""
    if isinstance(backbone, TimmBackbone):
        return {f"model.{name}" for name in _undecayed_by_timm(backbone.model)}
    return {name for name, _ in backbone.named_parameters() if name.split(".")[-1] in OF_TORCHVISION}


def freeze_layers(net: RetrievalNet, count: int) -> int:
    """The first `count` layers of the backbone do not learn; -1: none of them does. The number of layers.

    Raises:
        UserError: the backbone has fewer layers.
    """
    numbers = layers_of(net.backbone)
    total = max(numbers.values(), default=-1) + 1
    if count > total:
        raise UserError(f"model.freeze={count}: {net.config.backbone} has {total} layers (stem, blocks); -1 freezes them all")
    for name, parameter in net.backbone.named_parameters():
        if count < 0 or numbers[name] < count:
            parameter.requires_grad_(False)
    return total


def freeze_idle(net: RetrievalNet) -> list[str]:
    """Freeze the parameters that no descriptor depends on, for which engines would wait in vain; their names."""
    idle = set(idle_parameters(net, net.contract))
    for name, parameter in net.named_parameters():
        if name in idle:
            parameter.requires_grad_(False)
    return sorted(idle)


def _by_timm(model: Any) -> dict[str, int]:
    from timm.models import group_parameters

    found = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    numbers = {number: place for place, number in enumerate(sorted(set(found.values())))}
    return {name: numbers[number] for name, number in found.items()}


def _undecayed_by_timm(model: Any) -> set[str]:
    """What it leaves out of weight decay, biases and scales included."""
    from timm.optim import param_groups_weight_decay

    listed: Collection[str] = getattr(model, "no_weight_decay", tuple)()
    groups = param_groups_weight_decay(model, 1.0, no_weight_decay_list=listed)
    kept = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in kept}


def _by_name(names: list[str]) -> dict[str, int]:
    """Consecutive names with the same number belong together; those without one to what stands before them."""
    numbers: dict[str, int] = {}
    last, key = 0, ""
    for name in names:
        match = NUMBERED.match(name)
        if match and match[0] != key:
            last, key = last + bool(numbers), match[0]
        numbers[name] = last
    return numbers
