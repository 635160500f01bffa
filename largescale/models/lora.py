"""Low-rank adapters on the linear layers of a backbone (LoRA, Hu 2021), by peft; merged into plain weights at export."""

from collections.abc import Mapping

import torch
from torch import nn

from largescale.models.config import LoRAConfig
from largescale.settings import UserError

A, B, BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer."


def add_adapters(backbone: nn.Module, config: LoRAConfig) -> None:
    """Give every linear layer of attention and MLP that is not frozen an adapter; all else in the backbone learns no more.

    Raises:
        UserError: peft is not installed, or the backbone has no such layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("model.lora needs peft, which is not installed; install it: pip install 'largescale[lora]'") from None
    inside = {f"{name}.{part}" for name, module in backbone.named_modules() for part in _of_attention(module)}
    linear = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in linear.items() if name not in inside and module.weight.requires_grad]
    if not names:
        raise UserError("model.lora: the backbone has no linear layers that learn; adapters are made for transformers")
    settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=names)
    inject_adapter_in_model(settings, backbone)


def merged(state: Mapping[str, torch.Tensor], config: LoRAConfig) -> dict[str, torch.Tensor]:
    """The state dict of a network with adapters as that of one without, which gives the same descriptors."""
    plain = {name.replace(BASE, "."): x for name, x in state.items() if not name.endswith((A, B))}
    for name, rows in state.items():
        if name.endswith(A):
            layer = name.removesuffix(A)
            weight, product = plain[f"{layer}.weight"], state[f"{layer}{B}"].double() @ rows.double()
            plain[f"{layer}.weight"] = (weight.double() + config.alpha / config.rank * product).to(weight.dtype)
    return plain


def _of_attention(module: nn.Module) -> list[str]:
    """Layers whose weights torch's attention takes without calling them."""
    return ["out_proj"] if isinstance(module, nn.MultiheadAttention) else []
