"""Low-rank adapters on the linear layers of a backbone (LoRA, Hu 2021); merged into plain weights at export.

Layers that are called have those of peft; weights that attention reads without calling their layer, ours.
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

from largescale.models.backbones.contract import Contract
from largescale.models.backbones.probe import called_layers, idle_parameters
from largescale.models.config import LoRAConfig
from largescale.settings import UserError

ADAPTER = re.compile(r"(?P<layer>.*?)(\.parametrizations\.(?P<read>\w+)\.0)?\.lora_(?P<part>[AB])(\.default\.weight)?")
"""What an adapter learns: A of peft's is `LAYER.lora_A.default.weight`, of ours `LAYER.parametrizations.WEIGHT.0.lora_A`."""
ADAPTED = re.compile(r"\.base_layer(\.\w+)$|\.parametrizations(\.\w+)\.original$")
"""Weights that they are added to; what they put into the name is around that of the weight."""


class LowRank(nn.Module):
    """Adds a product of rank r to a weight `(out, in)` wherever it is read; at first it is zero."""

    def __init__(self, weight: torch.Tensor, config: LoRAConfig) -> None:
        super().__init__()
        self.scale = config.alpha / config.rank
        self.lora_A = nn.Parameter(weight.new_empty(config.rank, weight.shape[1]))
        self.lora_B = nn.Parameter(weight.new_zeros(weight.shape[0], config.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as peft's

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.scale * (self.lora_B @ self.lora_A)


def add_adapters(backbone: nn.Module, contract: Contract, config: LoRAConfig) -> None:
    """Give every weight of attention and MLP that is used and not frozen an adapter; all else in the backbone learns no more.

    Raises:
        UserError: peft is not installed, or the backbone has no such weight.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("model.lora needs peft, which is not installed; install it: pip install 'largescale[lora]'") from None
    weights = _weights(backbone, contract)
    if not weights:
        raise UserError("model.lora: the backbone has no linear layers that learn; adapters are made for transformers")
    called = called_layers(backbone, contract) & {layer for layer, weight in weights if weight == "weight"}
    backbone.requires_grad_(False)
    if called:
        settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=sorted(called))
        inject_adapter_in_model(settings, backbone)
    for layer, weight in weights:
        if layer not in called:
            module = backbone.get_submodule(layer)
            parametrize.register_parametrization(module, weight, LowRank(getattr(module, weight), config))


def merged(state: Mapping[str, torch.Tensor], config: LoRAConfig) -> dict[str, torch.Tensor]:
    """The state dict of a network with adapters as that of one without, which gives the same descriptors."""
    adapters = {name: match for name in state if (match := ADAPTER.fullmatch(name))}
    plain = {ADAPTED.sub(r"\1\2", name): x for name, x in state.items() if name not in adapters}
    for name, match in adapters.items():
        if match["part"] == "A":
            weight = f"{match['layer']}.{match['read'] or 'weight'}"
            other = name[: match.start("part")] + "B" + name[match.end("part") :]
            product = state[other].double() @ state[name].double()
            plain[weight] = (plain[weight].double() + config.alpha / config.rank * product).to(plain[weight].dtype)
    return plain


def _weights(backbone: nn.Module, contract: Contract) -> list[tuple[str, str]]:
    """(layer, name) of the weights of linear layers and of attention's three in one that learn and have a gradient."""
    idle = idle_parameters(backbone, contract)
    learning = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad and name not in idle]
    linear = {f"{layer}.weight" for layer, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    found = (name.rpartition(".") for name in learning if name in linear or name.endswith(".in_proj_weight"))
    return [(layer, weight) for layer, _, weight in found]
