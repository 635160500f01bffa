"""Adapters: each learns, and the merged weights are those of a plain network with the same descriptors."""

import pytest
import torch
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer

from largescale.models.backbones.contract import Contract
from largescale.models.backbones.torchvision_backbones import TorchvisionTransformer
from largescale.models.build import build_network
from largescale.models.config import LoRAConfig, ModelConfig
from largescale.models.layers import layers_of
from largescale.models.lora import add_adapters, merged
from largescale.settings import UserError

CONFIG = LoRAConfig(rank=2)
CONTRACT = Contract(multiple=8)


class _Patches(nn.Module):
    """torch's own attention, and a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.unused = nn.Linear(8, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).mT
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].mT[..., None]


def _swin() -> nn.Module:
    model = SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=2)
    return nn.Sequential(model.features, model.norm, model.permute)


def _vit() -> nn.Module:
    return TorchvisionTransformer(VisionTransformer(32, 8, 2, 2, 16, 32), "class_token")


ADAPTED = {_Patches: 2, _swin: 9, _vit: 8}
"""Weights that get an adapter: of a swin block q, k and v, what follows them, two of the MLP, and one between the stages."""


@pytest.mark.parametrize("make", ADAPTED)
def test_each_adapter_learns_and_is_merged(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network, images = make().eval(), torch.randn(2, 3, 32, 32)
    names, expected = set(network.state_dict()), network(images)
    add_adapters(network, CONTRACT, CONFIG)
    torch.testing.assert_close(network(images), expected)
    learning = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert len(learning) == 2 * ADAPTED[make]
    for parameter in learning.values():
        nn.init.normal_(parameter, std=0.1)
    found = network(images)
    found.square().sum().backward()
    assert [name for name, parameter in learning.items() if parameter.grad is None or not parameter.grad.any()] == []
    plain, state = make().eval(), merged(network.state_dict(), CONFIG)
    assert state.keys() == names
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(images), found)
    assert not torch.allclose(found, expected)


@pytest.mark.slow
def test_an_adapter_is_of_the_layer_of_its_weight() -> None:
    """So it learns at the rate of that layer."""
    plain, adapted = (
        layers_of(build_network(ModelConfig(backbone="timm:test_vit", lora=lora)).backbone) for lora in (None, CONFIG)
    )
    found = {name: number for name, number in adapted.items() if ".lora_" in name}
    assert len(found) == 2 * 4 * 6  # two matrices of two weights of attention and two of the MLP, in each block
    assert found == {name: plain[f"{name.partition('.lora_')[0]}.weight"] for name in found}
    assert max(adapted.values()) == max(plain.values())


def test_nothing_to_adapt() -> None:
    with pytest.raises(UserError, match="no linear layers that learn"):
        add_adapters(nn.Conv2d(3, 8, 8, 8), CONTRACT, CONFIG)
    with pytest.raises(UserError, match="no linear layers that learn"):
        add_adapters(_vit().requires_grad_(False), CONTRACT, CONFIG)
