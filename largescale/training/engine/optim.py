"""Parameter groups, optimizers and learning-rate schedules."""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from largescale.models.pooling import GeM
from largescale.training.settings.config import OptimConfig, ScheduleConfig


@dataclass(frozen=True)
class Layers:
    """The layers of a backbone in a module that learns."""

    numbers: Mapping[str, int] = field(default_factory=dict)
    """Of the parameters of the backbone, by their names in the module: 0 is nearest to the image."""
    undecayed: Set[str] = frozenset()
    """Of those, the ones that are not decayed whatever their dimensions: positions and tokens."""
    late: int = 0
    """The first so many layers learn later than the others."""
    first_update: int = 0
    """From which they do."""

    def scale(self, name: str, decay: float | None) -> float:
        """The factor on a parameter's rate under layer-wise decay (as timm's)."""
        top = max(self.numbers.values(), default=0)
        return 1.0 if decay is None or name not in self.numbers else decay ** (top - self.numbers[name])

    def starts(self, name: str) -> int:
        """The update from which a parameter learns."""
        number = self.numbers.get(name)
        return self.first_update if number is not None and (number < self.late or self.late < 0) else 0


ONE_LAYER = Layers()


def parameter_groups(module: nn.Module, config: OptimConfig, layers: Layers = ONE_LAYER) -> list[dict[str, Any]]:
    """Groups with their own rate and decay; every parameter that learns is in exactly one.

    The GeM exponent has a rate of its own and its own decay (cirtorch: 10 times the rate, no decay), the projection and the
    loss's parameters have rates of their own, and with layer-wise decay each layer of the backbone. Parameters of one dimension
    (biases, scales and shifts of normalization) are not decayed, nor are positions and tokens.
    """
    rules = {
        "exponent": (config.gem_lr_mult, config.gem_weight_decay),
        "projection": (config.head_lr_mult, config.weight_decay),
        "loss": (config.loss_lr_mult, config.loss_weight_decay),
        "backbone": (1.0, config.weight_decay),
    }
    groups: dict[tuple[str, bool, float, int], list[nn.Parameter]] = {}
    exponents = {id(layer.p) for layer in module.modules() if isinstance(layer, GeM)}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            role = "exponent" if id(parameter) in exponents else _role(name)
            flat = name in layers.undecayed or (parameter.ndim < 2 and role in ("projection", "backbone"))
            key = (role, flat, layers.scale(name, config.layer_decay), layers.starts(name))
            groups.setdefault(key, []).append(parameter)
    groups = groups or {("backbone", False, 1.0, 0): []}  # an optimizer wants one
    return [_group(*key, parameters, config.lr, *rules[key[0]]) for key, parameters in groups.items()]


def _role(name: str) -> str:
    if name.startswith("loss."):
        return "loss"
    return "projection" if name.startswith("net.projection.") else "backbone"


def _group(
    role: str, flat: bool, scale: float, starts: int, parameters: list[nn.Parameter], lr: float, rate: float, decay: float
) -> dict[str, Any]:
    name = f"{role} without decay" if flat else role
    rates = {"lr": lr * rate * scale, "base_lr": lr * rate * scale, "first_update": starts}
    return {"name": name, "params": parameters, "weight_decay": 0.0 if flat else decay, **rates}


def build_optimizer(module: nn.Module, config: OptimConfig, layers: Layers = ONE_LAYER) -> torch.optim.Optimizer:
    groups = parameter_groups(module, config, layers)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    adam = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return adam(groups, lr=config.lr, betas=config.betas, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, factor: float, updates: int = 0) -> None:
    """Every group's learning rate becomes `factor` times its base; that of a group which learns later stays 0 until then.

    Args:
        updates: how many there were.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor if updates >= group["first_update"] else 0.0


def rate_factor(config: ScheduleConfig, step: int, epoch_steps: int, total_steps: int) -> float:
    """The factor on every learning rate at `step` (0 is the first) of a run of `total_steps`."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return warmup * _decayed(config, step, step // epoch_steps, total_steps)


def _decayed(config: ScheduleConfig, step: int, epoch: int, total_steps: int) -> float:
    if config.name == "step":
        return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    if config.name == "exponential":
        return math.exp(-config.decay * epoch)
    if config.name == "cosine":
        progress = (step - config.warmup_steps) / max(1, total_steps - 1 - config.warmup_steps)
        return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    if config.name == "range":
        return config.floor ** (1 - step / max(1, total_steps - 1))
    return 1.0
